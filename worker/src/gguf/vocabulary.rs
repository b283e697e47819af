//! The tokenizer in the file, built with the `tokenizers` crate, and the tokens that mean something.
//!
//! `gguf::open` calls [`read`]. Two kinds are known: byte-level BPE (`gpt2`) and SentencePiece-style
//! BPE with byte fallback (`llama`). A pre-tokenizer that is not known is an error: a guess would
//! give wrong ids without a sign of it.

mod byte_level;
mod sentencepiece;

use tokenizers::{
    AddedToken, PostProcessorWrapper, Tokenizer, models::bpe::BPE,
    processors::template::TemplateProcessing,
};

use super::{GgufError, error::shown, reader::GgufFile};

/// Tokenizer and special tokens of one file.
#[derive(Debug)]
pub struct Vocabulary {
    /// Encodes and decodes. Encoding with special tokens adds `bos`, and `eos` where the file says so.
    pub tokenizer: Tokenizer,
    /// Begins a text, if there is one.
    pub bos: Option<u32>,
    /// Whether a text that is no chat begins with `bos`.
    pub adds_bos: bool,
    /// Tokens that end an answer, ascending.
    pub ends: Vec<u32>,
    /// The text of `bos`.
    pub bos_text: Option<String>,
    /// The text of `tokenizer.ggml.eos_token_id`.
    pub eos_text: Option<String>,
}

/// Tokens that end a turn in the common chat formats, where the file marks them as control tokens.
const TURN_ENDS: [&str; 6] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_turn|>", "<end_of_turn>"];

/// A token's kind, by its number in `tokenizer.ggml.token_type`.
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;

/// What both kinds of tokenizer are made from.
struct Tokens<'a> {
    texts: Vec<&'a str>,
    kinds: Vec<i128>,
}

/// Reads the vocabulary.
///
/// # Errors
/// [`GgufError::MissingKey`], [`GgufError::BadValue`], [`GgufError::Tokenizer`] or
/// [`GgufError::Vocabulary`].
pub(super) fn read(file: &GgufFile) -> Result<Vocabulary, GgufError> {
    let ask = file.ask();
    let tokens = Tokens::read(file)?;
    let (mut tokenizer, adds_bos_by_default) = match ask.string("tokenizer.ggml.model")? {
        None => {
            return Err(GgufError::MissingKey { key: "tokenizer.ggml.model".to_owned() });
        }
        Some("gpt2") => (byte_level::build(file, &tokens)?, false),
        Some("llama") => (sentencepiece::build(file, &tokens)?, true),
        Some(other) => return Err(GgufError::Tokenizer { name: shown(other) }),
    };
    add_special(&mut tokenizer, &tokens)?;
    let bos = tokens.id(file, "tokenizer.ggml.bos_token_id")?;
    let eos = tokens.id(file, "tokenizer.ggml.eos_token_id")?;
    let adds_bos = ask.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos_by_default)
        && bos.is_some();
    let adds_eos = ask.boolean("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    let frame = (bos.filter(|_| adds_bos), eos.filter(|_| adds_eos));
    if let Some(template) = tokens.template(frame)? {
        tokenizer.with_post_processor(Some(PostProcessorWrapper::Template(template)));
    }
    let text = |id: Option<u32>| id.and_then(|id| tokens.text(id)).map(str::to_owned);
    Ok(Vocabulary {
        bos,
        adds_bos,
        ends: tokens.ends(file, eos)?,
        bos_text: text(bos),
        eos_text: text(eos),
        tokenizer,
    })
}

impl<'a> Tokens<'a> {
    fn read(file: &'a GgufFile) -> Result<Self, GgufError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let missing = || GgufError::MissingKey { key: TOKENS.to_owned() };
        let texts = file.ask().string_array(TOKENS)?.ok_or_else(missing)?;
        if u32::try_from(texts.len()).is_err() {
            let problem = format!("{} tokens", texts.len());
            return Err(GgufError::Vocabulary { problem });
        }
        let kinds = file.ask().integer_array("tokenizer.ggml.token_type")?;
        let kinds = kinds.unwrap_or_else(|| vec![1; texts.len()]);
        if kinds.len() != texts.len() {
            let problem = format!("{} tokens, but {} token types", texts.len(), kinds.len());
            return Err(GgufError::Vocabulary { problem });
        }
        Ok(Self { texts, kinds })
    }

    /// Every token with its id. Ids fit, as was checked when they were read.
    fn with_ids(&self) -> impl Iterator<Item = (u32, &'a str)> {
        (0_u32..).zip(self.texts.iter().copied())
    }

    fn text(&self, id: u32) -> Option<&'a str> {
        usize::try_from(id).ok().and_then(|id| self.texts.get(id)).copied()
    }

    fn id(&self, file: &GgufFile, key: &str) -> Result<Option<u32>, GgufError> {
        let Some(id) = file.ask().unsigned(key)? else {
            return Ok(None);
        };
        match u32::try_from(id).ok().filter(|&id| self.text(id).is_some()) {
            Some(id) => Ok(Some(id)),
            None => Err(GgufError::BadValue {
                key: key.to_owned(),
                expected: "a token of the vocabulary",
            }),
        }
    }

    fn of_kind(&self, kind: i128) -> impl Iterator<Item = (u32, &'a str)> {
        self.with_ids().zip(&self.kinds).filter(move |(_, k)| **k == kind).map(|(token, _)| token)
    }

    fn ends(&self, file: &GgufFile, eos: Option<u32>) -> Result<Vec<u32>, GgufError> {
        let mut ends: Vec<u32> = eos.into_iter().collect();
        ends.extend(self.id(file, "tokenizer.ggml.eot_token_id")?);
        ends.extend(self.id(file, "tokenizer.ggml.eom_token_id")?);
        let turns = self.of_kind(CONTROL).filter(|(_, text)| TURN_ENDS.contains(text));
        ends.extend(turns.map(|(id, _)| id));
        ends.sort_unstable();
        ends.dedup();
        Ok(ends)
    }

    fn template(
        &self,
        (bos, eos): (Option<u32>, Option<u32>),
    ) -> Result<Option<TemplateProcessing>, GgufError> {
        if bos.is_none() && eos.is_none() {
            return Ok(None);
        }
        let mut single = vec!["$A".to_owned()];
        let mut special = Vec::new();
        // The template's own names, because a token's text may hold characters that it gives a meaning.
        if let Some((id, text)) = bos.and_then(|id| Some((id, self.text(id)?))) {
            single.insert(0, "bos".to_owned());
            special.push(("bos", id, text));
        }
        if let Some((id, text)) = eos.and_then(|id| Some((id, self.text(id)?))) {
            single.push("eos".to_owned());
            special.push(("eos", id, text));
        }
        let special = special
            .into_iter()
            .map(|(name, id, text)| {
                tokenizers::processors::template::SpecialToken::new(
                    name.to_owned(),
                    vec![id],
                    vec![text.to_owned()],
                )
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| broken(&*error))?;
        TemplateProcessing::builder()
            .try_single(single)
            .map_err(|problem| GgufError::Vocabulary { problem })?
            .special_tokens(special)
            .build()
            .map(Some)
            .map_err(|error| GgufError::Vocabulary { problem: error.to_string() })
    }
}

fn add_special(tokenizer: &mut Tokenizer, tokens: &Tokens<'_>) -> Result<(), GgufError> {
    let added = |special: bool| {
        move |(_, text): (u32, &str)| AddedToken::from(text, special).normalized(false)
    };
    let control = tokens.of_kind(CONTROL).filter(|(_, text)| !text.is_empty());
    tokenizer.add_special_tokens(control.map(added(true))).map_err(|error| broken(&*error))?;
    let user = tokens.of_kind(USER_DEFINED).filter(|(_, text)| !text.is_empty());
    tokenizer.add_tokens(user.map(added(false))).map_err(|error| broken(&*error))?;
    Ok(())
}

/// A BPE model, or what is wrong with its parts.
fn bpe(builder: tokenizers::models::bpe::BpeBuilder) -> Result<BPE, GgufError> {
    builder.build().map_err(|error| broken(&*error))
}

fn broken(error: &(dyn std::error::Error + Send + Sync)) -> GgufError {
    GgufError::Vocabulary { problem: shown(&error.to_string()) }
}
