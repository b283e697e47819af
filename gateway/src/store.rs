//! Changes to the models directory: what is put there, copied and removed.
//!
//! Called by Ollama's endpoints that manage models, on threads that may block. It is the one place
//! where a name becomes a path, and only a [`ModelName`] does, whose parts can't point anywhere else.
//! What is not whole yet lies under hidden names, which the catalogue passes over, and gets its own by
//! one rename at the end: there is never half a model, nor half a recipe. It never follows a link to remove anything.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hearth_shared::ids::ModelName;

use crate::http;
use crate::recipe;

/// Below the models directory: what is being made, and what has been uploaded for a model.
const PARTIAL: &str = ".partial";
const BLOBS: &str = ".blobs";
const GGUF: &str = ".gguf";
/// The catalogue looks no deeper.
const PARTS_MAX: usize = 2;
/// A folder that holds more than this is no model.
const COPIED_FILES_MAX: usize = 1_000;
const COPIED_DEPTH_MAX: usize = 4;

/// The models directory, as a place to write to.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// Why the models directory stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is a model of that name.
    #[error("there is a model '{0}' already; delete it first")]
    Taken(ModelName),
    /// The catalogue would not find it.
    #[error("'{0}' has too many parts; a model is called `name` or `owner/name`")]
    TooDeep(ModelName),
    /// There is no entry that is the model and nothing else.
    #[error(
        "'{0}' is no entry of its own in the models directory; delete the model that it is part of"
    )]
    NotAnEntry(ModelName),
    /// It went away while it was being removed: somebody else did that.
    #[error("there is no model '{0}' any more")]
    Gone(ModelName),
    /// The entry lies behind a link out of the models directory.
    #[error("'{0}' lies outside of the models directory; remove it there")]
    Outside(ModelName),
    /// What should become a model is none.
    #[error("there is no model at that path: neither a .gguf file nor a folder with an ONNX graph")]
    NoModel,
    /// The system refused.
    #[error("the models directory can't be changed: {0}")]
    Io(#[from] io::Error),
}

/// What sort of entry a model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// One `.gguf` file.
    File,
    /// A folder.
    Folder,
    /// A recipe over another model.
    Recipe,
}

impl Store {
    /// Of this directory.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where a model of this name belongs. A variant is set apart by `@`, because a colon is no
    /// part of a file's name everywhere; the catalogue reads it back.
    fn place(&self, name: &ModelName, entry: Entry) -> Result<PathBuf, StoreError> {
        if name.base().split('/').count() > PARTS_MAX {
            return Err(StoreError::TooDeep(name.clone()));
        }
        let mut relative = name.as_str().replacen(':', "@", 1);
        relative.push_str(match entry {
            Entry::File => GGUF,
            Entry::Folder => "",
            Entry::Recipe => recipe::SUFFIX,
        });
        Ok(self.root.join(relative))
    }

    /// The entry that is this model, a link perhaps.
    fn find(&self, name: &ModelName) -> Result<Option<PathBuf>, StoreError> {
        self.find_among(&[Entry::Folder, Entry::File, Entry::Recipe], name)
    }

    fn find_among(&self, sorts: &[Entry], name: &ModelName) -> Result<Option<PathBuf>, StoreError> {
        for &entry in sorts {
            let place = self.place(name, entry)?;
            match fs::symlink_metadata(&place) {
                Ok(_) => return Ok(Some(place)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// A place for what is being made, on the same file system as the models.
    ///
    /// # Errors
    /// [`StoreError::Io`]
    pub fn partial(&self) -> Result<PathBuf, StoreError> {
        let partial = self.root.join(PARTIAL);
        fs::create_dir_all(&partial)?;
        Ok(partial)
    }

    /// Where an upload with this hash of its contents belongs.
    ///
    /// # Errors
    /// [`StoreError::Io`]
    pub fn blob(&self, sha256: &str) -> Result<PathBuf, StoreError> {
        let blobs = self.root.join(BLOBS);
        fs::create_dir_all(&blobs)?;
        Ok(blobs.join(format!("sha256-{sha256}")))
    }

    /// Makes `staged`, which lies in [`Store::partial`], the model of this name.
    ///
    /// # Errors
    /// [`StoreError`]; `staged` stays where it is.
    pub fn publish(&self, staged: &Path, name: &ModelName, entry: Entry) -> Result<(), StoreError> {
        if self.find(name)?.is_some() {
            return Err(StoreError::Taken(name.clone()));
        }
        let place = self.place(name, entry)?;
        if let Some(owner) = place.parent() {
            fs::create_dir_all(owner)?;
        }
        fs::rename(staged, place)?;
        Ok(())
    }

    /// Makes a staged folder the model of this name. A variant becomes part of the folder that its
    /// model has already: the files that it lacks are put there, the graph last.
    ///
    /// # Errors
    /// [`StoreError`]; `staged` stays where it is.
    pub fn publish_folder(&self, staged: &Path, name: &ModelName) -> Result<(), StoreError> {
        let base: ModelName = name.base().parse().expect("a part of a name is a name");
        let place = self.place(&base, Entry::Folder)?;
        if !place.is_dir() {
            return self.publish(staged, &base, Entry::Folder);
        }
        let mut files = Vec::new();
        list(staged, COPIED_DEPTH_MAX, &mut files)?;
        files.sort_by_key(|file| file.extension().is_some_and(|suffix| suffix == "onnx"));
        for file in files {
            let relative = file.strip_prefix(staged).expect("it was found there");
            let to = place.join(relative);
            if !to.exists() {
                fs::create_dir_all(to.parent().unwrap_or(&place))?;
                fs::rename(&file, &to)?;
            }
        }
        discard(staged);
        Ok(())
    }

    /// Makes the model at `source` a model of this name too, by links to its files where the file
    /// system has them, else by copies.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is left behind.
    pub fn adopt(&self, source: &Path, name: &ModelName) -> Result<(), StoreError> {
        let entry = entry_at(source).ok_or(StoreError::NoModel)?;
        if self.find(name)?.is_some() {
            return Err(StoreError::Taken(name.clone()));
        }
        let staged = self.partial()?.join(http::new_id("copy-"));
        let done = match entry {
            Entry::File => link_or_copy(&source.canonicalize()?, &staged),
            Entry::Folder => copy_folder(source, &staged, COPIED_DEPTH_MAX, &mut 0),
            Entry::Recipe => unreachable!("no path is taken for one"),
        };
        let published = done.map_err(StoreError::from);
        let published = published.and_then(|()| self.publish(&staged, name, entry));
        if published.is_err() {
            discard(&staged);
        }
        published
    }

    /// Keeps a recipe under this name, in the place of an older one. What has files of its own is
    /// never replaced.
    ///
    /// # Errors
    /// [`StoreError`]; everything is as it was.
    pub fn write_recipe(&self, text: &str, name: &ModelName) -> Result<(), StoreError> {
        if self.find_among(&[Entry::Folder, Entry::File], name)?.is_some() {
            return Err(StoreError::Taken(name.clone()));
        }
        let place = self.place(name, Entry::Recipe)?;
        let staged = self.partial()?.join(http::new_id("recipe-"));
        let written = fs::write(&staged, text).and_then(|()| {
            fs::create_dir_all(place.parent().unwrap_or(&self.root))?;
            fs::rename(&staged, &place)
        });
        if written.is_err() {
            discard(&staged);
        }
        Ok(written?)
    }

    /// The same where nothing may have that name yet, not even a recipe.
    ///
    /// # Errors
    /// [`StoreError`]; everything is as it was.
    pub fn copy_recipe(&self, text: &str, name: &ModelName) -> Result<(), StoreError> {
        if self.find(name)?.is_some() {
            return Err(StoreError::Taken(name.clone()));
        }
        self.write_recipe(text, name)
    }

    /// Removes a model: its folder or file, or the link to it.
    ///
    /// # Errors
    /// [`StoreError`]; the model is still there.
    pub fn remove(&self, name: &ModelName) -> Result<(), StoreError> {
        let Some(place) = self.find(name)? else {
            return Err(StoreError::NotAnEntry(name.clone()));
        };
        let gone = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Gone(name.clone()),
            _ => StoreError::Io(error),
        };
        let owner = place.parent().unwrap_or(&self.root);
        if !owner.canonicalize().map_err(gone)?.starts_with(self.root.canonicalize()?) {
            return Err(StoreError::Outside(name.clone()));
        }
        let found = fs::symlink_metadata(&place).map_err(gone)?;
        if found.is_dir() {
            // Out of the catalogue in one step, then in peace.
            let removed = self.partial()?.join(http::new_id("removed-"));
            fs::rename(&place, &removed).map_err(gone)?;
            fs::remove_dir_all(&removed)?;
        } else {
            fs::remove_file(&place).map_err(gone)?;
        }
        if owner != self.root {
            // An owner without models is of no use; one with others stays.
            drop(fs::remove_dir(owner));
        }
        Ok(())
    }
}

/// What sort of model a path is, by its outside alone.
fn entry_at(path: &Path) -> Option<Entry> {
    if path.is_dir() {
        let has_graph = |dir: &Path| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries
                .take(COPIED_FILES_MAX)
                .any(|entry| entry.path().extension().is_some_and(|suffix| suffix == "onnx"))
        };
        return (has_graph(path)
            || has_graph(&path.join("onnx"))
            || path.join("genai_config.json").is_file())
        .then_some(Entry::Folder);
    }
    is_gguf(path).then_some(Entry::File)
}

/// Whether a file begins as GGUF files do.
#[must_use]
pub fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read =
        fs::File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut magic));
    read.is_ok() && &magic == b"GGUF"
}

fn copy_folder(from: &Path, to: &Path, depth: usize, files: &mut usize) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        *files += 1;
        if *files > COPIED_FILES_MAX || depth == 0 {
            return Err(io::Error::other("the folder is too large to be a model"));
        }
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if path.is_dir() {
            copy_folder(&path, &to.join(name), depth - 1, files)?;
        } else {
            link_or_copy(&path.canonicalize()?, &to.join(name))?;
        }
    }
    Ok(())
}

/// Every file below a folder.
fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.is_dir() {
            files.push(path);
        } else if depth > 0 {
            list(&path, depth - 1, files)?;
        }
    }
    Ok(())
}

/// Another name for a file where that is possible: models are large, and nobody writes into them.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_other_file_system| fs::copy(from, to).map(drop))
}

fn discard(staged: &Path) {
    let gone = if staged.is_dir() { fs::remove_dir_all(staged) } else { fs::remove_file(staged) };
    if let Err(error) = gone
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %staged.display(), %error, "can't be removed");
    }
}

#[cfg(test)]
mod tests;
