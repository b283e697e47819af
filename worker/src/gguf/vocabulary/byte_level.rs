//! Byte-level BPE, `gpt2` in GGUF: tokens and merges from the file, the splitting by its name.
//!
//! The file names how text is cut before merging; the patterns are the models' own.

use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
    models::bpe::{BPE, Vocab},
    normalizers::unicode::NFC,
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use super::{Tokens, bpe, broken};
use crate::gguf::{GgufError, error::shown, reader::GgufFile};

/// Llama 3: contractions in any case, at most three digits together.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen2: the same with single digits.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken: words split where case changes.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is cut before merging.
#[derive(Clone, Copy)]
enum Cut {
    /// GPT-2's pattern.
    Gpt2,
    /// Every digit alone, then GPT-2's pattern.
    DigitsThenGpt2,
    /// A pattern of the model's own.
    Pattern(&'static str),
}

struct Scheme {
    cut: Cut,
    /// A word that is a token as a whole is not merged piece by piece.
    whole_words: bool,
    /// Composed Unicode form first.
    composes: bool,
}

fn scheme(name: &str) -> Option<Scheme> {
    let plain = |cut| Scheme { cut, whole_words: false, composes: false };
    Some(match name {
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "jina-en" | "jina-es" | "jina-de" => plain(Cut::Gpt2),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" => {
            plain(Cut::DigitsThenGpt2)
        }
        "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" | "dbrx" => {
            Scheme { whole_words: true, ..plain(Cut::Pattern(LLAMA3)) }
        }
        "qwen2" | "deepseek-r1-qwen" => Scheme { composes: true, ..plain(Cut::Pattern(QWEN2)) },
        "stablelm2" => plain(Cut::Pattern(QWEN2)),
        "tekken" => Scheme { whole_words: true, ..plain(Cut::Pattern(TEKKEN)) },
        _ => return None,
    })
}

pub(super) fn build(file: &GgufFile, tokens: &Tokens<'_>) -> Result<Tokenizer, GgufError> {
    const PRE: &str = "tokenizer.ggml.pre";
    const MERGES: &str = "tokenizer.ggml.merges";
    let ask = file.ask();
    let missing = |key: &str| GgufError::MissingKey { key: key.to_owned() };
    let name = ask.string(PRE)?.ok_or_else(|| missing(PRE))?;
    let scheme = scheme(name)
        .ok_or_else(|| GgufError::Tokenizer { name: format!("gpt2 / {}", shown(name)) })?;
    let merges = ask.string_array(MERGES)?.ok_or_else(|| missing(MERGES))?;
    let vocab: Vocab = tokens.with_ids().map(|(id, text)| (text.to_owned(), id)).collect();
    let merges = merges.into_iter().map(|merge| pair(merge, &vocab));
    let merges = merges.collect::<Result<Vec<_>, GgufError>>()?;
    let builder = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(scheme.whole_words);
    let mut tokenizer = Tokenizer::new(bpe(builder)?);
    if scheme.composes {
        let composed = tokenizer.with_normalizer(Some(NormalizerWrapper::NFC(NFC)));
        composed.map_err(|error| broken(&*error))?;
    }
    tokenizer.with_pre_tokenizer(Some(cut(scheme.cut)?));
    tokenizer.with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::new(false, true, true))));
    Ok(tokenizer)
}

fn pair(merge: &str, vocab: &Vocab) -> Result<(String, String), GgufError> {
    let wrong = |what| {
        let problem = format!("merge `{}` {what}", shown(merge));
        Err(GgufError::Vocabulary { problem })
    };
    // A piece may begin with a space of its own only in vocabularies that are not byte-level.
    let Some((left, right)) = merge.split_once(' ') else {
        return wrong("is no pair");
    };
    // `tokenizers` writes the merged text to a buffer as long as the longest token, and panics where
    // two tokens together are longer.
    if !vocab.contains_key(&[left, right].concat()) {
        return wrong("makes no token");
    }
    Ok((left.to_owned(), right.to_owned()))
}

fn cut(cut: Cut) -> Result<PreTokenizerWrapper, GgufError> {
    let bytes = |splits| PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, splits));
    let sequence = |first| PreTokenizerWrapper::Sequence(Sequence::new(first));
    Ok(match cut {
        Cut::Gpt2 => bytes(true),
        Cut::DigitsThenGpt2 => {
            sequence(vec![PreTokenizerWrapper::Digits(Digits::new(true)), bytes(true)])
        }
        Cut::Pattern(pattern) => {
            let pattern = SplitPattern::Regex(pattern.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| broken(&*error))?;
            sequence(vec![PreTokenizerWrapper::Split(split), bytes(false)])
        }
    })
}
