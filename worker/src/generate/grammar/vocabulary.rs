//! A tokenizer as `llguidance` wants it: a trie over the bytes of all tokens.
//!
//! Built once for a model, when the first constraint comes. Special tokens are in it under names
//! that no text can spell, so that a grammar of text never lets one through.

use std::collections::HashSet;
use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::tokenizer::Tokenizer;

/// The trie keeps ten bits for a token's length; longer ones can't be constrained, and are left out.
const TOKEN_BYTES_MAX: usize = 512;

/// The trie, with the tokenizer that it was made from.
struct Vocabulary {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
    /// Whether encoding a text gives tokens that spell exactly this text.
    faithful: bool,
}

/// Builds the trie; `ends` are the tokens that end an answer.
///
/// # Errors
/// What is wrong with the vocabulary.
pub(super) fn build(tokenizer: Arc<Tokenizer>, ends: &[u32]) -> Result<TokEnv, String> {
    let words = words(&tokenizer);
    let length = u32::try_from(words.len()).map_err(|error| error.to_string())?;
    let ends: Vec<u32> = ends.iter().copied().filter(|&id| id < length).collect();
    let Some(&end) = ends.first() else {
        return Err("no token of its vocabulary ends an answer".to_owned());
    };
    let trie = TokTrie::from(&TokRxInfo::new(length, end), &words).with_eos_tokens(&ends);
    let faithful = spelled(&trie, &tokenizer.encode("a b").unwrap_or_default()) == b"a b";
    Ok(Arc::new(Vocabulary { trie, tokenizer, faithful }))
}

/// Every token's bytes by its id; none for ids that don't exist.
fn words(tokenizer: &Tokenizer) -> Vec<Vec<u8>> {
    let mut words = vec![Vec::new(); tokenizer.vocabulary_length()];
    let mut seen = HashSet::new();
    // From the last one down: bytes that are no characters come first where they are tokens of
    // their own, and a word that spells the same shall be the one that is used.
    let count = u32::try_from(words.len()).unwrap_or(u32::MAX);
    for (id, place) in (0..count).rev().zip(words.iter_mut().rev()) {
        let mut word = tokenizer.bytes(id);
        if tokenizer.is_special(id) {
            word.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
        }
        if word.len() <= TOKEN_BYTES_MAX && seen.insert(word.clone()) {
            *place = word;
        }
    }
    words
}

fn spelled(trie: &TokTrie, ids: &[TokenId]) -> Vec<u8> {
    ids.iter().flat_map(|&id| trie.token(id)).copied().collect()
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let encoded = std::str::from_utf8(bytes).ok().and_then(|text| {
            let ids = self.tokenizer.encode(text).ok()?;
            // Composed characters and names of special tokens don't come back as they were.
            (spelled(&self.trie, &ids) == bytes).then_some(ids)
        });
        encoded.unwrap_or_else(|| self.trie.greedy_tokenize(bytes))
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.faithful
    }
}
