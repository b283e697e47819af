//! What a client calls a repository. Pure.

use hearth_shared::ids::ModelName;

/// How the hub is called in Ollama's names, and in its own addresses.
const HOSTS: [&str; 4] = ["hf.co/", "huggingface.co/", "https://hf.co/", "https://huggingface.co/"];

/// A repository of the hub, and which of its models is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoName {
    /// `owner/name`, or `owner/name:tag`: also what the model is called here.
    local: ModelName,
}

impl RepoName {
    /// Reads `owner/name`, with a host of the hub before it or not, and with a tag or not.
    #[must_use]
    pub fn parse(written: &str) -> Option<Self> {
        let local: ModelName = without_host(written).parse().ok()?;
        (local.base().split('/').count() == 2).then_some(Self { local })
    }

    /// What the model is called once it is here.
    #[must_use]
    pub fn local(&self) -> &ModelName {
        &self.local
    }

    /// `owner/name`.
    #[must_use]
    pub fn path(&self) -> String {
        self.local.base().to_owned()
    }

    /// What stands after the colon: a quantization, a variant, or a file.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.local.variant()
    }
}

/// A name without the hub before it: models that were pulled are called so here.
#[must_use]
pub fn without_host(written: &str) -> &str {
    HOSTS.iter().find_map(|host| written.strip_prefix(host)).unwrap_or(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_repository_is_one_name() {
        for written in ["o/r:Q4", "hf.co/o/r:Q4", "huggingface.co/o/r:Q4", "https://hf.co/o/r:Q4"] {
            let name = RepoName::parse(written).unwrap();
            assert_eq!((name.path().as_str(), name.tag()), ("o/r", Some("Q4")), "{written}");
            assert_eq!(name.local().as_str(), "o/r:Q4");
        }
        assert_eq!(RepoName::parse("o/r:latest").unwrap().tag(), None);
        for none in ["r", "r:Q4", "a/b/c", "hf.co/r", "/o/r", "o/../r", "o/r:a:b", "ftp://o/r"] {
            assert_eq!(RepoName::parse(none), None, "{none}");
        }
    }
}
