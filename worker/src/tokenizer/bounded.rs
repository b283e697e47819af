//! Texts and pairs of texts → tokens with the model's special ones, no more than fit.
//!
//! For encoders: what doesn't fit is cut off before the special tokens are put around the rest, as
//! Hugging Face's tokenizers do, so that an input that was cut still ends as the model expects.

use tokenizers::{
    Encoding, PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy,
    truncate_encodings,
};

use super::{Tokenizer, TokenizerError};

/// One encoded input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bounded {
    pub(crate) ids: Vec<u32>,
    /// Which text of a pair each token belongs to.
    pub(crate) types: Vec<u32>,
    /// How many tokens there would be had nothing been cut.
    pub(crate) whole: usize,
}

impl Tokenizer {
    /// Encodes a text with special tokens around it, at most `max` in all.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub(crate) fn encode_bounded(&self, text: &str, max: usize) -> Result<Bounded, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false).map_err(cant_encode)?;
        self.bound(encoding, None, max)
    }

    /// Encodes a text alone, without special tokens, for [`Tokenizer::encode_pair`].
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub(crate) fn encode_half(&self, text: &str) -> Result<Encoding, TokenizerError> {
        self.inner.encode_fast(text, false).map_err(cant_encode)
    }

    /// Puts two texts together with special tokens around them, at most `max` in all; what is too
    /// much is taken from the longer one.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub(crate) fn encode_pair(
        &self,
        first: Encoding,
        second: Encoding,
        max: usize,
    ) -> Result<Bounded, TokenizerError> {
        self.bound(first, Some(second), max)
    }

    fn bound(
        &self,
        first: Encoding,
        second: Option<Encoding>,
        max: usize,
    ) -> Result<Bounded, TokenizerError> {
        let processor = self.inner.get_post_processor();
        let added = processor.map_or(0, |processor| processor.added_tokens(second.is_some()));
        let whole = first.len() + second.as_ref().map_or(0, Encoding::len) + added;
        let params = TruncationParams {
            max_length: max.saturating_sub(added),
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
            direction: TruncationDirection::Right,
        };
        let (first, second) = truncate_encodings(first, second, &params).map_err(cant_encode)?;
        let encoding = self.inner.post_process(first, second, true).map_err(cant_encode)?;
        let mut ids = encoding.get_ids().to_vec();
        let mut types = encoding.get_type_ids().to_vec();
        // A limit below what the special tokens take alone.
        ids.truncate(max);
        types.truncate(max);
        Ok(Bounded { ids, types, whole })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
fn cant_encode(error: tokenizers::Error) -> TokenizerError {
    TokenizerError::Encode(error.to_string())
}
