//! The names that both sides of the socket use. Pure values: no I/O, no allocation of ids.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest model name accepted, in bytes.
pub const MODEL_NAME_BYTES_MAX: usize = 128;

/// A model's name in its one canonical spelling.
///
/// It is the model's path under `models/` without the suffix, optionally followed by `:variant`.
/// `name` and `name:latest` are the same model, so the canonical form drops `:latest`. A name is
/// a key into the catalogue and is never joined to a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName(String);

/// Why a text is no model name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelNameError {
    /// Nothing was given.
    #[error("a model name can't be empty")]
    Empty,
    /// More than [`MODEL_NAME_BYTES_MAX`] bytes.
    #[error("a model name has at most {MODEL_NAME_BYTES_MAX} bytes, this one has {bytes}")]
    TooLong {
        /// How many bytes were given.
        bytes: usize,
    },
    /// A part between slashes, or the variant, is not made of the characters allowed.
    #[error(
        "a model name's parts start with a letter or digit and hold letters, digits, `.`, `_` and `-`"
    )]
    Malformed,
}

impl ModelName {
    /// The canonical spelling, without `:latest`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The spelling that Ollama's clients show and compare: always with a tag.
    #[must_use]
    pub fn with_tag(&self) -> String {
        if self.variant().is_some() { self.0.clone() } else { format!("{}:latest", self.0) }
    }

    /// The name without its variant.
    #[must_use]
    pub fn base(&self) -> &str {
        self.0.split_once(':').map_or(&self.0, |(base, _)| base)
    }

    /// What stands after the colon, if anything does.
    #[must_use]
    pub fn variant(&self) -> Option<&str> {
        self.0.split_once(':').map(|(_, variant)| variant)
    }
}

impl FromStr for ModelName {
    type Err = ModelNameError;

    fn from_str(text: &str) -> Result<Self, ModelNameError> {
        if text.is_empty() {
            return Err(ModelNameError::Empty);
        }
        if text.len() > MODEL_NAME_BYTES_MAX {
            return Err(ModelNameError::TooLong { bytes: text.len() });
        }
        let (base, variant) = match text.split_once(':') {
            Some((base, variant)) => (base, Some(variant)),
            None => (text, None),
        };
        if !base.split('/').chain(variant).all(is_name_part) {
            return Err(ModelNameError::Malformed);
        }
        let canonical = if variant == Some("latest") { base } else { text };
        Ok(Self(canonical.to_owned()))
    }
}

fn is_name_part(part: &str) -> bool {
    part.starts_with(|c: char| c.is_ascii_alphanumeric())
        && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

impl TryFrom<String> for ModelName {
    type Error = ModelNameError;

    fn try_from(text: String) -> Result<Self, ModelNameError> {
        text.parse()
    }
}

impl From<ModelName> for String {
    fn from(name: ModelName) -> Self {
        name.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One request on one link. The gateway issues it; a worker may only repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_is_the_name_without_a_variant() {
        let plain: ModelName = "smollm2-135m-instruct".parse().unwrap();
        assert_eq!("smollm2-135m-instruct:latest".parse(), Ok(plain.clone()));
        assert_eq!(plain.with_tag(), "smollm2-135m-instruct:latest");
        assert_eq!((plain.base(), plain.variant()), ("smollm2-135m-instruct", None));
    }

    #[test]
    fn a_variant_is_part_of_the_name() {
        let q4: ModelName = "onnx-community/Qwen3-0.6B:q4".parse().unwrap();
        assert_eq!(q4.as_str(), "onnx-community/Qwen3-0.6B:q4");
        assert_eq!(q4.with_tag(), "onnx-community/Qwen3-0.6B:q4");
        assert_eq!((q4.base(), q4.variant()), ("onnx-community/Qwen3-0.6B", Some("q4")));
    }

    #[test]
    fn names_that_could_be_paths_are_refused() {
        for text in ["../x", "/etc", "a//b", "a/../b", "a/", ".hidden", "a\0b", "é", "a:b:c", "a b"]
        {
            assert_eq!(text.parse::<ModelName>(), Err(ModelNameError::Malformed), "{text:?}");
        }
        assert_eq!("".parse::<ModelName>(), Err(ModelNameError::Empty));
        let long = "a".repeat(MODEL_NAME_BYTES_MAX + 1);
        assert_eq!(long.parse::<ModelName>(), Err(ModelNameError::TooLong { bytes: 129 }));
    }
}
