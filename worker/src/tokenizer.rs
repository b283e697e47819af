//! Text to token ids and back.
//!
//! The preparing thread encodes prompts, the engine decodes answers piece by piece
//! ([`pieces::Pieces`]); both share one [`Tokenizer`]. It adds special tokens only where it is
//! asked to: what a conversation starts with is the chat template's business.

mod bytes;
pub(crate) mod pieces;

use std::collections::HashMap;

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
    /// Tokens beside the model's vocabulary, which are written as they read.
    added: HashMap<u32, Added>,
    spelling: Spelling,
}

#[derive(Debug)]
struct Added {
    text: String,
    /// Structure and not text.
    special: bool,
    /// Part of answers all the same, for who reads them.
    shown: bool,
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
        let added = inner.get_added_tokens_decoder().into_iter();
        let added = added
            .map(|(id, token)| {
                (id, Added { text: token.content, special: token.special, shown: false })
            })
            .collect();
        let spelling = Spelling::of(inner.get_decoder());
        Self { inner, added, spelling }
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

    /// Lets answers keep this token, though it is special: it says where thoughts or calls begin.
    pub(crate) fn show(&mut self, token: &str) {
        let id = self.id(token);
        if let Some(added) = id.and_then(|id| self.added.get_mut(&id)) {
            added.shown = true;
        }
    }

    /// Whether the token is structure and not text.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.added.get(&id).is_some_and(|added| added.special)
    }

    /// Whether answers leave the token out.
    pub(crate) fn is_hidden(&self, id: u32) -> bool {
        self.added.get(&id).is_some_and(|added| added.special && !added.shown)
    }

    /// One more than the highest id.
    pub(crate) fn vocabulary_length(&self) -> usize {
        let highest = self.inner.get_vocab(true).into_values().max();
        highest.map_or(0, |id| usize::try_from(id).unwrap_or(usize::MAX).saturating_add(1))
    }

    /// What a token spells, to the byte; nothing if it is unknown.
    pub(crate) fn token_bytes(&self, id: u32) -> Vec<u8> {
        match (self.added.get(&id), self.inner.id_to_token(id)) {
            (Some(added), _) => added.text.clone().into_bytes(),
            (None, Some(text)) => self.spelling.bytes(&text),
            (None, None) => Vec::new(),
        }
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
