//! The data root while a gateway uses it: its directories, its lock, and what the last one left.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use hearth_shared::endpoint::{SOCKET_PATH_BYTES_MAX, private_dir};

use crate::cli::{Exit, Failure};

/// Longer than any socket's name in the runtime directory.
const SOCKET_NAME_BYTES: usize = "/worker-18446744073709551615.sock".len();

/// Where a runtime directory elsewhere is noted, in the home's own.
const SHORT_DIR_NOTE: &str = "elsewhere";
const SHORT_DIR_PREFIX: &str = "hearth-";

/// A home that is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Home {
    models: PathBuf,
    run: RuntimeDir,
    /// Locked; the system lets go of it however we end.
    _lock: File,
}

impl Home {
    /// Makes what is missing and locks it.
    pub(super) fn open(root: &Path) -> Result<Self, Failure> {
        let models = root.join("models");
        make(&models)?;
        let own_run = root.join("run");
        private_dir(&own_run).map_err(|error| Failure::new(Exit::Config, error))?;
        let lock = lock(root, &own_run)?;
        remove_stale_sockets(&own_run);
        remove_stale_short_dir(&own_run);
        let run = RuntimeDir::new(own_run)?;
        Ok(Self { models, run, _lock: lock })
    }

    pub(super) fn models_dir(&self) -> &Path {
        &self.models
    }

    /// A directory that is ours alone, short enough for sockets.
    pub(super) fn run_dir(&self) -> &Path {
        self.run.path()
    }
}

fn make(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|error| {
        let path = path.display();
        Failure::new(
            Exit::Config,
            format!(
                "can't make {path}: {error}; set HEARTH_HOME to a place that can be written to"
            ),
        )
    })
}

fn lock(root: &Path, run: &Path) -> Result<File, Failure> {
    let path = run.join("lock");
    let failed = |error: &std::io::Error| {
        Failure::new(Exit::Config, format!("can't lock {}: {error}", path.display()))
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| failed(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let root = root.display();
            Err(Failure::new(
                Exit::Busy,
                format!(
                    "another gateway uses {root}; stop it, or set HEARTH_HOME to another directory"
                ),
            ))
        }
        Err(TryLockError::Error(error)) => Err(failed(&error)),
    }
}

/// Where sockets are.
#[derive(Debug)]
enum RuntimeDir {
    /// The home's own `run/`.
    OfHome(PathBuf),
    /// One for this process alone, gone with this value: sockets in the home would have names that
    /// are too long for the system.
    Short(PathBuf),
}

impl RuntimeDir {
    fn new(own: PathBuf) -> Result<Self, Failure> {
        if holds_sockets(&own) {
            return Ok(Self::OfHome(own));
        }
        // Unguessable, so that nobody can have taken the name. More digits would be too long for
        // some systems' temporary directories.
        let mut random = [0_u8; 5];
        getrandom::fill(&mut random).map_err(|error| Failure::new(Exit::Failed, error))?;
        let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let short = std::env::temp_dir().join(format!("{SHORT_DIR_PREFIX}{digits}"));
        if !holds_sockets(&short) {
            let (own, short) = (own.display(), short.display());
            let message = format!(
                "{own} and {short} are both too long for sockets; set HEARTH_HOME to a shorter path"
            );
            return Err(Failure::new(Exit::Config, message));
        }
        // Noted before it is made, so that the next gateway finds it however this one ends.
        let note = own.join(SHORT_DIR_NOTE);
        fs::write(&note, short.as_os_str().as_encoded_bytes()).map_err(|error| {
            Failure::new(Exit::Config, format!("can't write {}: {error}", note.display()))
        })?;
        private_dir(&short).map_err(|error| Failure::new(Exit::Config, error))?;
        Ok(Self::Short(short))
    }

    fn path(&self) -> &Path {
        match self {
            Self::OfHome(path) | Self::Short(path) => path,
        }
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        if let Self::Short(path) = self
            && let Err(error) = fs::remove_dir_all(&*path)
        {
            tracing::warn!(path = %path.display(), %error, "can't remove the runtime directory");
        }
    }
}

fn holds_sockets(dir: &Path) -> bool {
    dir.as_os_str().len() + SOCKET_NAME_BYTES <= SOCKET_PATH_BYTES_MAX
}

/// A gateway that was killed could not remove its sockets; we hold the lock, so they are nobody's.
fn remove_stale_sockets(run: &Path) {
    let Ok(entries) = fs::read_dir(run) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "sock")
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "a stale socket can't be removed");
        }
    }
}

/// The same for a runtime directory elsewhere. The note is in a directory of ours alone; all the
/// same nothing is removed but what can be such a directory.
fn remove_stale_short_dir(run: &Path) {
    let note = run.join(SHORT_DIR_NOTE);
    let Ok(path) = fs::read_to_string(&note) else {
        return;
    };
    let path = Path::new(&path);
    let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
    let ours = path.parent() == Some(&std::env::temp_dir()) && name.starts_with(SHORT_DIR_PREFIX);
    if ours && let Err(error) = fs::remove_dir_all(path) {
        tracing::debug!(path = %path.display(), %error, "a stale runtime directory is gone already");
    }
    if let Err(error) = fs::remove_file(&note) {
        tracing::warn!(path = %note.display(), %error, "a stale note can't be removed");
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_used_by_one_gateway_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let first = Home::open(root.path()).unwrap();
        let second = Home::open(root.path()).unwrap_err();
        assert_eq!(second.exit, Exit::Busy);
        assert!(second.message.starts_with("another gateway uses"), "{}", second.message);
        drop(first);
        Home::open(root.path()).unwrap();
    }

    #[test]
    fn sockets_of_a_gateway_that_was_killed_are_removed() {
        let root = tempfile::tempdir().unwrap();
        drop(Home::open(root.path()).unwrap());
        let stale = root.path().join("run/worker-1.sock");
        fs::write(&stale, "").unwrap();
        Home::open(root.path()).unwrap();
        assert!(!stale.exists());
    }

    #[test]
    fn the_runtime_directory_of_a_gateway_that_was_killed_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().join("x".repeat(100));
        let killed = Home::open(&root).unwrap();
        let run = killed.run_dir().to_owned();
        fs::write(run.join("1.sock"), "").unwrap();
        let Home { _lock: lock, run: still_there, .. } = killed;
        std::mem::forget(still_there);
        drop(lock);
        assert!(run.exists());
        let next = Home::open(&root).unwrap();
        assert!(!run.exists());
        drop(next);
    }

    #[test]
    fn a_home_with_a_long_name_gets_a_short_runtime_directory_of_its_own_for_its_time() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (root.path().join("x".repeat(100)), root.path().join("y".repeat(100)));
        let (one, two) = (Home::open(&one).unwrap(), Home::open(&two).unwrap());
        let run = one.run_dir().to_owned();
        assert!(holds_sockets(&run) && run.is_dir(), "{}", run.display());
        assert_ne!(run, two.run_dir());
        drop(one);
        assert!(!run.exists());
    }
}
