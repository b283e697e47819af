//! SentencePiece-style BPE with byte fallback, `llama` in GGUF: tokens have scores and no merges.
//!
//! The merges are found again from the scores: two tokens whose texts make a third may merge, and
//! the third one's score ranks it.

use std::{cmp::Ordering, collections::HashSet};

use tokenizers::{
    DecoderWrapper, NormalizerWrapper, Tokenizer,
    decoders::{
        byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence as Decoders, strip::Strip,
    },
    models::bpe::{BPE, Vocab},
    normalizers::{
        prepend::Prepend,
        replace::{Replace, ReplacePattern},
        utils::Sequence as Normalizers,
    },
};

use super::{Tokens, bpe, broken};
use crate::gguf::{GgufError, reader::GgufFile};

/// Stands for a space inside tokens.
const SPACE: &str = "\u{2581}";
/// Longer tokens are found whole or not at all; splitting them every way would cost their square.
const MERGED_BYTES_MAX: usize = 256;

pub(super) fn build(file: &GgufFile, tokens: &Tokens<'_>) -> Result<Tokenizer, GgufError> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let ask = file.ask();
    let missing = || GgufError::MissingKey { key: SCORES.to_owned() };
    let scores = ask.float_array(SCORES)?.ok_or_else(missing)?;
    if scores.len() != tokens.texts.len() {
        let problem = format!("{} tokens, but {} scores", tokens.texts.len(), scores.len());
        return Err(GgufError::Vocabulary { problem });
    }
    let vocab: Vocab = tokens.with_ids().map(|(id, text)| (text.to_owned(), id)).collect();
    let mut builder = BPE::builder()
        .vocab_and_merges(vocab, merges(tokens, &scores))
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(id) = tokens.id(file, "tokenizer.ggml.unknown_token_id")?
        && let Some(text) = tokens.text(id)
    {
        builder = builder.unk_token(text.to_owned());
    }
    let mut tokenizer = Tokenizer::new(bpe(builder)?);
    let prefixes = ask.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    tokenizer.with_normalizer(Some(normalizer(prefixes)?)).map_err(|error| broken(&*error))?;
    tokenizer.with_decoder(Some(decoder(prefixes)?));
    Ok(tokenizer)
}

fn merges(tokens: &Tokens<'_>, scores: &[f32]) -> Vec<(String, String)> {
    let known: HashSet<&str> = tokens.texts.iter().copied().collect();
    let mut found = Vec::new();
    for (&text, &score) in tokens.texts.iter().zip(scores) {
        if text.len() > MERGED_BYTES_MAX {
            continue;
        }
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if known.contains(left) && known.contains(right) {
                found.push((score, left, right));
            }
        }
    }
    // Where scores are equal, as those of long runs of spaces are, SentencePiece lets the leftmost
    // piece grow first; ranks can't say that, and the longest left side comes nearest.
    let lengths = |left: &str, right: &str| (left.chars().count(), right.chars().count());
    found.sort_by(|a, b| {
        let by_score = b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal);
        by_score.then_with(|| lengths(b.1, b.2).cmp(&lengths(a.1, a.2)))
    });
    found.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect()
}

fn replace(from: &str, to: &str) -> Result<Replace, GgufError> {
    Replace::new(ReplacePattern::String(from.to_owned()), to).map_err(|error| broken(&*error))
}

fn normalizer(prefixes: bool) -> Result<NormalizerWrapper, GgufError> {
    let mut steps = Vec::new();
    if prefixes {
        steps.push(NormalizerWrapper::Prepend(Prepend::new(SPACE.to_owned())));
    }
    steps.push(NormalizerWrapper::Replace(replace(" ", SPACE)?));
    Ok(NormalizerWrapper::Sequence(Normalizers::new(steps)))
}

fn decoder(prefixes: bool) -> Result<DecoderWrapper, GgufError> {
    let mut steps = vec![
        DecoderWrapper::Replace(replace(SPACE, " ")?),
        DecoderWrapper::ByteFallback(ByteFallback::new()),
        DecoderWrapper::Fuse(Fuse::new()),
    ];
    if prefixes {
        steps.push(DecoderWrapper::Strip(Strip::new(' ', 1, 0)));
    }
    Ok(DecoderWrapper::Sequence(Decoders::new(steps)))
}
