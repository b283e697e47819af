//! Text to token ids and back.
//!
//! The preparing thread encodes prompts, the engine decodes answers piece by piece
//! ([`pieces::Pieces`]); both share one [`Tokenizer`]. It adds special tokens only where it is
//! asked to: what a conversation starts with is the chat template's business.

pub(crate) mod bounded;
mod bytes;
pub(crate) mod pieces;

use std::collections::HashSet;

use crate::model::TokenizerSource;

use bytes::Spelling;

/// Why a tokenizer can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenizerError {
    /// `tokenizer.json` can't be understood.
    #[error("tokenizer.json is broken: {0}")]
    Broken(String),
    /// A text can't be encoded.
    #[error("the prompt can't be encoded: {0}")]
    Encode(String),
}

/// A model's tokenizer.
#[derive(Debug)]
pub(crate) struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Tokens that are structure and not text.
    special: HashSet<u32>,
    /// Those of them that answers keep, for who reads them.
    shown: HashSet<u32>,
    spelling: Spelling,
}

impl Tokenizer {
    /// Makes the tokenizer that a model's files hold.
    ///
    /// # Errors
    /// [`TokenizerError::Broken`].
    pub(crate) fn of(source: TokenizerSource) -> Result<Self, TokenizerError> {
        match source {
            TokenizerSource::Json(json) => Self::from_json(&json),
            TokenizerSource::Built(built) => Ok(Self::built(*built)),
        }
    }

    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError::Broken`].
    pub(crate) fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        let broken = |error: tokenizers::Error| TokenizerError::Broken(error.to_string());
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(broken)?;
        // Some files carry the truncation and padding of their training.
        inner.with_truncation(None).map_err(broken)?;
        inner.with_padding(None);
        Ok(Self::built(inner))
    }

    fn built(inner: tokenizers::Tokenizer) -> Self {
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let spelling = Spelling::of(inner.get_decoder());
        Self { inner, special, shown: HashSet::new(), spelling }
    }

    /// Encodes a text; special tokens in it are recognised, none are added.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        ids(self.inner.encode_fast(text, false))
    }

    /// As [`Tokenizer::encode`], with the special tokens that the model wants around any text.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub(crate) fn encode_with_special(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        ids(self.inner.encode_fast(text, true))
    }

    /// The id of a token by its text.
    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Lets answers keep this token though it is special: it says where thoughts or calls begin.
    pub(crate) fn show(&mut self, token: &str) {
        self.shown.extend(self.id(token));
    }

    /// Whether the token is structure and not text.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Whether answers leave the token out.
    pub(crate) fn is_hidden(&self, id: u32) -> bool {
        self.is_special(id) && !self.shown.contains(&id)
    }

    /// Decodes ids that are not special; bytes that are no UTF-8 become U+FFFD.
    pub(crate) fn decode(&self, ids: &[u32]) -> String {
        // The library fails on nothing that a decoder of a `tokenizer.json` can do to known
        // tokens, and unknown ids are left out.
        self.inner.decode(ids, false).unwrap_or_default()
    }
}

fn ids(encoded: tokenizers::Result<tokenizers::Encoding>) -> Result<Vec<u32>, TokenizerError> {
    match encoded {
        Ok(encoding) => Ok(encoding.get_ids().to_vec()),
        Err(error) => Err(TokenizerError::Encode(error.to_string())),
    }
}
