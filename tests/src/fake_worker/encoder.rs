//! What the fake worker makes of work that generates nothing. Pure, and easily told by a test.

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{Chat, EmbedInput, FromWorker, Prompt, RequestFailure, Token, Work};

/// Vectors and scores come in batches of so many.
const BATCH: usize = 2;
/// A template with this in it can't be rendered.
const BROKEN: &str = "{% broken %}";

/// Every reply to the work; `None` if it is a generation.
pub(crate) fn replies(id: RequestId, work: &Work) -> Option<Vec<FromWorker>> {
    match work {
        Work::Generate(_) => None,
        Work::Embed(embed) => Some(if embed.dimensions == Some(3) {
            let message = "this model has no shorter vectors".to_owned();
            vec![FromWorker::Failed { id, reason: RequestFailure::Unsupported { message } }]
        } else {
            let kept = embed.dimensions.map_or(usize::MAX, |kept| kept as usize);
            batches(&embed.inputs, |first, inputs, last| FromWorker::Embeddings {
                id,
                first,
                vectors: inputs.iter().map(|input| vector(input, kept)).collect(),
                prompt_tokens: inputs.iter().map(tokens_in).sum(),
                last,
            })
        }),
        Work::Rerank(rerank) => {
            Some(batches(&rerank.documents, |first, documents, last| FromWorker::Scores {
                id,
                first,
                scores: documents.iter().map(|text| length(text) - length(&rerank.query)).collect(),
                prompt_tokens: count(documents.len()),
                last,
            }))
        }
        Work::Tokenize(Prompt::Chat(Chat { template: Some(template), .. }))
            if template.contains(BROKEN) =>
        {
            let message = "the fake template refuses, as told".to_owned();
            Some(vec![FromWorker::Failed { id, reason: RequestFailure::Template { message } }])
        }
        Work::Tokenize(prompt) => Some(vec![FromWorker::Tokens { id, tokens: bytes_of(prompt) }]),
        Work::Detokenize(tokens) => {
            let text = tokens.iter().filter_map(|token| char::from_u32(*token)).collect();
            Some(vec![FromWorker::Text { id, text }])
        }
    }
}

fn batches<T>(inputs: &[T], reply: impl Fn(u32, &[T], bool) -> FromWorker) -> Vec<FromWorker> {
    let last = inputs.len().div_ceil(BATCH) - 1;
    let batches = inputs.chunks(BATCH).enumerate();
    batches.map(|(index, batch)| reply(count(index * BATCH), batch, index == last)).collect()
}

/// How long the input is, then a half and a quarter.
fn vector(input: &EmbedInput, kept: usize) -> Vec<f32> {
    let length = match input {
        EmbedInput::Text(text) => length(text),
        EmbedInput::Tokens(tokens) => tokens.iter().map(|_| 1.0).sum(),
    };
    [length, 0.5, 0.25].into_iter().take(kept).collect()
}

fn tokens_in(input: &EmbedInput) -> u32 {
    match input {
        EmbedInput::Text(text) => count(text.split_whitespace().count()) + 2,
        EmbedInput::Tokens(tokens) => count(tokens.len()),
    }
}

/// A token for each byte, and one in front where special tokens are wanted.
fn bytes_of(prompt: &Prompt) -> Vec<Token> {
    let (text, special) = match prompt {
        Prompt::Text { text, add_special_tokens } => (text.clone(), *add_special_tokens),
        Prompt::Chat(chat) => (chat.messages.0.clone(), true),
        Prompt::Tokens(tokens) => (format!("{tokens:?}"), false),
        Prompt::Infill { prefix, suffix } => (format!("{prefix}|{suffix}"), false),
    };
    let byte = |byte: &u8| Token { id: u32::from(*byte), bytes: vec![*byte] };
    let begin = special.then(|| Token { id: 1, bytes: b"<s>".to_vec() });
    begin.into_iter().chain(text.as_bytes().iter().map(byte)).collect()
}

fn length(text: &str) -> f32 {
    text.chars().map(|_| 1.0).sum()
}

fn count(count: usize) -> u32 {
    u32::try_from(count).expect("tests are small")
}
