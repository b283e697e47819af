//! The store against real directories.

use tempfile::TempDir;

use super::*;

fn name(text: &str) -> ModelName {
    text.parse().unwrap()
}

fn with_models() -> (TempDir, Store) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path());
    fs::create_dir_all(root.path().join("owner/folder/onnx")).unwrap();
    fs::write(root.path().join("owner/folder/onnx/model.onnx"), "graph").unwrap();
    fs::write(root.path().join("owner/folder/config.json"), "{}").unwrap();
    fs::write(root.path().join("file.gguf"), "GGUF and so on").unwrap();
    (root, store)
}

/// Everything below a directory, sorted; what is hidden is left out unless it holds something.
fn tree(root: &Path) -> Vec<String> {
    fn walk(dir: &Path, prefix: &str, out: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{name}/"), out);
            } else {
                out.push(name);
            }
        }
    }
    let mut out = Vec::new();
    walk(root, "", &mut out);
    out.sort();
    out
}

#[test]
fn a_copy_is_a_model_of_its_own() {
    let (root, store) = with_models();
    store.adopt(&root.path().join("file.gguf"), &name("me/copy:q4")).unwrap();
    store.adopt(&root.path().join("owner/folder"), &name("twin")).unwrap();
    store.remove(&name("file")).unwrap();
    store.remove(&name("owner/folder")).unwrap();
    assert_eq!(tree(root.path()), ["me/copy@q4.gguf", "twin/config.json", "twin/onnx/model.onnx"]);
    assert_eq!(fs::read(root.path().join("me/copy@q4.gguf")).unwrap(), b"GGUF and so on");
    // An owner without models is gone as well.
    assert!(!root.path().join("owner").exists());
}

#[test]
fn a_name_that_is_taken_stays_what_it_was() {
    let (root, store) = with_models();
    let before = tree(root.path());
    let taken = store.adopt(&root.path().join("owner/folder"), &name("file"));
    assert!(matches!(taken, Err(StoreError::Taken(_))));
    let deep = store.adopt(&root.path().join("file.gguf"), &name("a/b/c"));
    assert!(matches!(deep, Err(StoreError::TooDeep(_))));
    assert_eq!(tree(root.path()), before);
}

#[test]
fn what_is_no_model_does_not_become_one() {
    let (root, store) = with_models();
    fs::write(root.path().join("note.gguf"), "a note").unwrap();
    for path in ["note.gguf", "owner", "nowhere"] {
        let refused = store.adopt(&root.path().join(path), &name("new"));
        assert!(matches!(refused, Err(StoreError::NoModel)), "{path}");
    }
}

#[test]
fn removing_what_is_not_there_removes_nothing() {
    let (root, store) = with_models();
    let before = tree(root.path());
    for absent in ["folder", "owner/folder:q4", "owner/other"] {
        let refused = store.remove(&name(absent));
        assert!(matches!(refused, Err(StoreError::NotAnEntry(_))), "{absent}");
    }
    assert_eq!(tree(root.path()), before);
}

#[cfg(unix)]
#[test]
fn of_two_who_remove_a_model_one_does_and_the_other_is_told_that_it_is_gone() {
    for round in 0..100 {
        let (root, store) = with_models();
        let both = if round % 2 == 0 { name("file") } else { name("owner/folder") };
        let start = std::sync::Barrier::new(2);
        let remove = || {
            start.wait();
            store.remove(&both)
        };
        let results = std::thread::scope(|scope| {
            let other = scope.spawn(remove);
            [remove(), other.join().unwrap()]
        });
        let (done, told): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(done.len(), 1, "{told:?}");
        let is_gone = matches!(told[0], Err(StoreError::Gone(_) | StoreError::NotAnEntry(_)));
        assert!(is_gone, "{told:?}");
        drop(root);
    }
}

#[test]
fn a_link_is_removed_and_what_it_points_to_stays() {
    let (root, store) = with_models();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("precious.gguf"), "GGUF").unwrap();
    let target = elsewhere.path().join("precious.gguf");
    std::os::unix::fs::symlink(&target, root.path().join("linked.gguf")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), root.path().join("linked-folder")).unwrap();
    store.remove(&name("linked")).unwrap();
    store.remove(&name("linked-folder")).unwrap();
    assert!(fs::symlink_metadata(root.path().join("linked.gguf")).is_err());
    assert!(fs::symlink_metadata(root.path().join("linked-folder")).is_err());
    assert_eq!(tree(elsewhere.path()), ["precious.gguf"]);
}

#[cfg(unix)]
#[test]
fn what_lies_behind_a_linked_owner_is_not_ours_to_remove() {
    let (root, store) = with_models();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("precious.gguf"), "GGUF").unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), root.path().join("shared")).unwrap();
    let refused = store.remove(&name("shared/precious"));
    assert!(matches!(refused, Err(StoreError::Outside(_))));
    assert_eq!(tree(elsewhere.path()), ["precious.gguf"]);
}

#[test]
fn a_recipe_takes_the_place_of_an_older_one_and_never_of_files() {
    let (root, store) = with_models();
    store.write_recipe("one", &name("me/helper:v2")).unwrap();
    store.write_recipe("two", &name("me/helper:v2")).unwrap();
    let place = root.path().join("me/helper@v2.model.toml");
    assert_eq!(fs::read_to_string(&place).unwrap(), "two");
    let taken = store.write_recipe("x", &name("file"));
    assert!(matches!(taken, Err(StoreError::Taken(_))));
    let taken = store.adopt(&root.path().join("file.gguf"), &name("me/helper:v2"));
    assert!(matches!(taken, Err(StoreError::Taken(_))));
    store.remove(&name("me/helper:v2")).unwrap();
    assert!(!place.exists());
}
