//! The documentation names tests as its proof: every one of them has to exist.
//!
//! A word in backticks with three underscores or more is taken for a test's name, or a setting's or a
//! metric's; all of them are somewhere in the code if they are anywhere.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should panic")]

use std::{
    fs,
    path::{Path, PathBuf},
};

const UNDERSCORES_MIN: usize = 3;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All code and all tests as one text, this file left out.
fn code() -> String {
    let mut text = String::new();
    for crate_name in ["gateway", "shared", "worker", "tests"] {
        for part in ["src", "tests", "examples"] {
            gather(&root().join(crate_name).join(part), &mut text);
        }
    }
    text
}

fn gather(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let kind = path.extension().and_then(|kind| kind.to_str());
        if path.is_dir() {
            gather(&path, text);
        } else if matches!(kind, Some("rs" | "py" | "mjs")) && !path.ends_with(file!()) {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

fn named_in(page: &str) -> Vec<&str> {
    let quoted = page.split('`').skip(1).step_by(2);
    let last = quoted.filter_map(|word| word.rsplit("::").next());
    let is_name = |word: &&str| {
        word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && word.matches('_').count() >= UNDERSCORES_MIN
    };
    last.filter(is_name).collect()
}

#[test]
fn every_test_that_the_documentation_names_exists() {
    let code = code();
    let mut names = 0;
    let mut absent = Vec::new();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        let page = fs::read_to_string(&path).unwrap();
        for name in named_in(&page) {
            names += 1;
            if !code.contains(name) {
                absent.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(absent.is_empty(), "{absent:#?}");
    assert!(names > 100, "only {names} names were found: is the rule still right?");
}
