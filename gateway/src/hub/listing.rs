//! What the hub says of a repository. Pure.
//!
//! It is not trusted: paths become paths on our disk, and hashes names of files.

use serde::Deserialize;

/// A repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Which one.
    pub commit: String,
    /// What the hub takes the model to be for: `text-generation`, `feature-extraction`, …
    pub task: Option<String>,
    /// Every file whose name is harmless.
    pub files: Vec<RemoteFile>,
}

/// One file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path in the repository.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// What it holds.
    pub content: Content,
}

/// What tells a file's contents from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The SHA-256 of a large file, 64 hex digits.
    Sha256(String),
    /// The id of a small file in git, which is no plain hash of it.
    Git(String),
}

impl Content {
    /// As progress names it, and with a dash instead of the colon as a file is called.
    #[must_use]
    pub fn digest(&self) -> String {
        match self {
            Self::Sha256(hash) => format!("sha256:{hash}"),
            Self::Git(id) => format!("git:{id}"),
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    pipeline_tag: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    blob_id: Option<String>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// # Errors
/// What is wrong with it.
pub(super) fn parse(body: &[u8]) -> Result<Listing, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if !is_hex(&answer.sha, 40) {
        return Err("its commit is no hash".to_owned());
    }
    let files = answer.siblings.into_iter().filter_map(file).collect();
    Ok(Listing { commit: answer.sha, task: answer.pipeline_tag, files })
}

/// `None` for one that could not be fetched or kept safely; no model needs such a file.
fn file(sibling: Sibling) -> Option<RemoteFile> {
    let Sibling { rfilename: path, size, blob_id, lfs } = sibling;
    let harmless = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| {
                !c.is_control() && !matches!(c, '\\' | ':' | '"' | '<' | '>' | '|' | '*' | '?')
            })
    };
    if !path.split('/').all(harmless) {
        return None;
    }
    let (size, content) = match (lfs, blob_id) {
        (Some(Lfs { sha256, size }), _) if is_hex(&sha256, 64) => (size, Content::Sha256(sha256)),
        (None, Some(id)) if is_hex(&id, 40) => (size?, Content::Git(id)),
        _ => return None,
    };
    Some(RemoteFile { path, size, content })
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_are_told_with_what_they_hold() {
        let (commit, id, hash) = ("c".repeat(40), "b".repeat(40), "a".repeat(64));
        let body = json!({
            "id": "o/r", "sha": commit, "pipeline_tag": "text-generation", "siblings": [
                {"rfilename": "config.json", "size": 5, "blobId": id},
                {"rfilename": "onnx/model.onnx", "size": 9, "blobId": id,
                 "lfs": {"sha256": hash, "size": 9, "pointerSize": 1}},
            ],
        });
        let listing = parse(body.to_string().as_bytes()).unwrap();
        assert_eq!((listing.commit, listing.task.as_deref()), (commit, Some("text-generation")));
        let config =
            RemoteFile { path: "config.json".to_owned(), size: 5, content: Content::Git(id) };
        let content = Content::Sha256(hash);
        let graph = RemoteFile { path: "onnx/model.onnx".to_owned(), size: 9, content };
        assert_eq!(listing.files, [config, graph]);
    }

    #[test]
    fn what_could_do_harm_is_no_file() {
        let hostile = [
            "../x", "/etc/x", "a/../x", "a//x", ".git/x", "a\\x", "c:x", "a\u{0}", "", "a/", "a\nb",
        ];
        let id = "b".repeat(40);
        let mut siblings: Vec<_> = hostile
            .iter()
            .map(|path| json!({"rfilename": path, "size": 1, "blobId": id}))
            .collect();
        siblings.push(json!({"rfilename": "x", "size": 1, "blobId": "../../x"}));
        siblings.push(json!({"rfilename": "x", "size": 1, "lfs": {"sha256": "../x", "size": 1}}));
        siblings.push(json!({"rfilename": "x", "blobId": id}));
        let body = json!({"sha": "c".repeat(40), "siblings": siblings}).to_string();
        assert_eq!(parse(body.as_bytes()).unwrap().files, []);
        assert!(parse(br#"{"sha": "main/../.."}"#).is_err());
        assert!(parse(b"<html>").is_err());
    }
}
