//! A GGUF file as a model: what `crate::gguf` read from it, in the loader's words.
//!
//! The graph is built later, when there is a session to build it for.

use std::path::Path;

use super::{CacheKind, GraphSource, Model, ModelError, Names, SpecialTokens, TokenizerSource};
use crate::gguf::{self, GgufError};

/// Whether `path` is a file with this layout's suffix.
pub(super) fn is_at(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("gguf")) && path.is_file()
}

/// Reads the file.
///
/// # Errors
/// [`ModelError`], with what is wrong in it.
pub(super) fn read(path: &Path) -> Result<Model, ModelError> {
    let (model, vocabulary) = gguf::open(path).map_err(|error| refusal(path, error))?;
    let special = [("bos_token", vocabulary.bos_text), ("eos_token", vocabulary.eos_text)];
    let special = special.into_iter().filter_map(|(role, text)| Some((role.to_owned(), text?)));
    let facts = &model.facts;
    Ok(Model {
        cache: CacheKind::InPlace,
        architecture: facts.architecture.clone(),
        tokenizer: TokenizerSource::Built(Box::new(vocabulary.tokenizer)),
        template: model.chat_template.clone(),
        special: SpecialTokens(special.collect()),
        bos: vocabulary.bos,
        ends: vocabulary.ends,
        context_length: u32::try_from(facts.context_length).unwrap_or(u32::MAX),
        // As `gguf::build_graph` gives them.
        names: Names::of_hugging_face(),
        head_size: Some(facts.head_dim),
        kv_heads: Some(facts.kv_heads),
        vocabulary: Some(facts.vocab_size),
        window: None,
        graph: GraphSource::Gguf(Box::new(model)),
    })
}

fn refusal(path: &Path, error: GgufError) -> ModelError {
    match error {
        GgufError::Open { path, source } => ModelError::Read { path, source },
        GgufError::Architecture { .. }
        | GgufError::Unsupported { .. }
        | GgufError::Tokenizer { .. }
        | GgufError::Version { .. } => ModelError::Unsupported(error.to_string()),
        GgufError::NotGguf { .. }
        | GgufError::Truncated { .. }
        | GgufError::Count { .. }
        | GgufError::NotUtf8 { .. }
        | GgufError::ValueType { .. }
        | GgufError::Duplicate { .. }
        | GgufError::MissingKey { .. }
        | GgufError::BadValue { .. }
        | GgufError::Tensor { .. }
        | GgufError::MissingTensor { .. }
        | GgufError::Vocabulary { .. }
        | GgufError::HandOver { .. } => {
            ModelError::Broken { path: path.to_owned(), reason: error.to_string() }
        }
    }
}
