//! A request for embeddings or scores → tokens, ready for the encoder.
//!
//! The preparing thread does this. What is refused is refused here, before it shares a run with
//! other requests: a token that the model lacks would fail them all.

use std::sync::Arc;

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{Embed, EmbedInput, Prompt, RequestFailure, Rerank, Work};

use crate::generate::count;
use crate::model::{EncoderModel, Task};
use crate::tokenizer::bounded::Bounded;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// What it takes to prepare requests for one encoder.
#[derive(Debug)]
pub struct EncodePreparer {
    pub(crate) tokenizer: Arc<Tokenizer>,
    reranks: bool,
    tokens_max: usize,
    vocabulary: u32,
    prompt: String,
    lower_case: bool,
    /// How long vectors are.
    size: usize,
}

/// A request that an encoder can run.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodeJob {
    pub(crate) id: RequestId,
    pub(super) inputs: Vec<Bounded>,
    pub(super) answer: Answer,
}

impl EncodeJob {
    /// The tokens of every input, special ones included.
    pub fn input_ids(&self) -> impl Iterator<Item = &[u32]> {
        self.inputs.iter().map(|input| input.ids.as_slice())
    }
}

/// What a request wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Vectors, of so many dimensions if not all.
    Vectors {
        dimensions: Option<usize>,
    },
    Scores,
}

impl EncodePreparer {
    pub(crate) fn new(
        model: &EncoderModel,
        tokenizer: Arc<Tokenizer>,
        (tokens_max, size): (usize, usize),
    ) -> Self {
        Self {
            tokenizer,
            reranks: model.task == Task::Rerank,
            tokens_max,
            vocabulary: model.vocabulary.unwrap_or(u32::MAX),
            prompt: model.prompt.clone(),
            lower_case: model.lower_case,
            size,
        }
    }

    /// Prepares a request.
    ///
    /// # Errors
    /// [`RequestFailure::Unsupported`] for work of another kind, [`RequestFailure::ContextOverflow`]
    /// for an input that is too long and must not be cut, [`RequestFailure::Invalid`] for one
    /// without tokens or with some that the model lacks.
    pub fn prepare(&self, id: RequestId, work: &Work) -> Result<EncodeJob, RequestFailure> {
        let (inputs, answer) = match (work, self.reranks) {
            (Work::Embed(request), false) => self.embed(request)?,
            (Work::Rerank(request), true) => self.rerank(request)?,
            (Work::Embed(_), true) => {
                return Err(unsupported("this model ranks documents; it makes no embeddings"));
            }
            (Work::Rerank(_), false) => {
                return Err(unsupported("this model makes embeddings; it does not rank documents"));
            }
            (Work::Generate(_) | Work::Tokenize(_) | Work::Detokenize(_), true) => {
                return Err(unsupported("this model ranks documents; it generates no text"));
            }
            (Work::Generate(_) | Work::Tokenize(_) | Work::Detokenize(_), false) => {
                return Err(unsupported("this model makes embeddings; it generates no text"));
            }
        };
        if inputs.is_empty() {
            return Err(invalid("there is no input".to_owned()));
        }
        for (index, input) in inputs.iter().enumerate() {
            if input.ids.is_empty() {
                return Err(invalid(format!("input {index} is empty")));
            }
            if let Some(id) = input.ids.iter().find(|&&id| id >= self.vocabulary) {
                return Err(invalid(format!("input {index}: the model has no token {id}")));
            }
        }
        Ok(EncodeJob { id, inputs, answer })
    }

    /// A prompt's tokens, whole.
    ///
    /// # Errors
    /// [`RequestFailure::NoTemplate`] for a conversation.
    pub(crate) fn prompt_ids(&self, prompt: &Prompt) -> Result<Vec<u32>, RequestFailure> {
        match prompt {
            Prompt::Tokens(ids) => Ok(ids.clone()),
            Prompt::Text { text, add_special_tokens: true } => {
                self.tokenizer.encode_with_special(&self.lower(text)).map_err(cant_encode)
            }
            Prompt::Text { text, add_special_tokens: false } => {
                self.tokenizer.encode(&self.lower(text)).map_err(cant_encode)
            }
            Prompt::Chat(_) | Prompt::Infill { .. } => Err(RequestFailure::NoTemplate),
        }
    }

    fn embed(&self, request: &Embed) -> Result<(Vec<Bounded>, Answer), RequestFailure> {
        let dimensions = match request.dimensions {
            None => None,
            Some(wanted) => match usize::try_from(wanted) {
                Ok(wanted) if (1..=self.size).contains(&wanted) => Some(wanted),
                Ok(_) | Err(_) => {
                    let size = self.size;
                    return Err(invalid(format!("`dimensions` goes from 1 to {size}")));
                }
            },
        };
        let inputs = request.inputs.iter().map(|input| {
            let encoded = match input {
                EmbedInput::Text(text) => {
                    let text = self.lower(&format!("{}{text}", self.prompt));
                    self.tokenizer.encode_bounded(&text, self.tokens_max).map_err(cant_encode)?
                }
                EmbedInput::Tokens(ids) => Bounded {
                    ids: ids.iter().copied().take(self.tokens_max).collect(),
                    types: Vec::new(),
                    whole: ids.len(),
                },
            };
            self.checked(encoded, request.truncate)
        });
        Ok((inputs.collect::<Result<_, _>>()?, Answer::Vectors { dimensions }))
    }

    fn rerank(&self, request: &Rerank) -> Result<(Vec<Bounded>, Answer), RequestFailure> {
        let query = self.tokenizer.encode_half(&self.lower(&request.query)).map_err(cant_encode)?;
        let read_max =
            request.document_tokens_max.map(|max| usize::try_from(max).unwrap_or(usize::MAX));
        let inputs = request.documents.iter().map(|document| {
            let document = self.lower(document);
            let mut document = self.tokenizer.encode_half(&document).map_err(cant_encode)?;
            if let Some(max) = read_max {
                document.truncate(max, 0, tokenizers::TruncationDirection::Right);
            }
            let pair = self.tokenizer.encode_pair(query.clone(), document, self.tokens_max);
            self.checked(pair.map_err(cant_encode)?, request.truncate)
        });
        Ok((inputs.collect::<Result<_, _>>()?, Answer::Scores))
    }

    fn lower(&self, text: &str) -> String {
        if self.lower_case { text.to_lowercase() } else { text.to_owned() }
    }

    fn checked(&self, input: Bounded, truncate: bool) -> Result<Bounded, RequestFailure> {
        if input.whole > self.tokens_max && !truncate {
            return Err(RequestFailure::ContextOverflow {
                prompt_tokens: count(input.whole),
                context_length: count(self.tokens_max),
            });
        }
        Ok(input)
    }
}

fn unsupported(message: &str) -> RequestFailure {
    RequestFailure::Unsupported { message: message.to_owned() }
}

fn invalid(message: String) -> RequestFailure {
    RequestFailure::Invalid { message }
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
fn cant_encode(error: TokenizerError) -> RequestFailure {
    invalid(error.to_string())
}
