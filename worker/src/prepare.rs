//! A request from the gateway → token ids and limits, ready for the engine.
//!
//! The preparing thread does this, so that a long prompt's rendering and encoding holds up neither
//! the link nor the sequences that run.

use std::sync::Arc;

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{Chat, Generate, Prompt, RequestFailure, Sampling};

use crate::generate::count;
use crate::prompt::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// What it takes to prepare requests for one model.
#[derive(Debug)]
pub struct Preparer {
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// `Err` says why a template that is there can't be used.
    pub(crate) template: Option<Result<ChatTemplate, String>>,
    /// What stands in for a prompt of no tokens.
    pub(crate) bos: Option<u32>,
    pub(crate) context_length: u32,
}

/// A request that the engine can run.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    pub(crate) id: RequestId,
    pub(crate) prompt: Vec<u32>,
    pub(crate) sampling: Sampling,
    pub(crate) stop: Vec<String>,
    pub(crate) tokens_max: u32,
}

impl Prepared {
    /// The prompt's tokens.
    #[must_use]
    pub fn prompt_ids(&self) -> &[u32] {
        &self.prompt
    }
}

impl Preparer {
    /// The prompt as text: a conversation rendered, or what the request holds.
    ///
    /// # Errors
    /// [`RequestFailure::NoTemplate`], [`RequestFailure::Template`] or
    /// [`RequestFailure::Invalid`].
    pub fn prompt_text(&self, prompt: &Prompt) -> Result<String, RequestFailure> {
        match prompt {
            Prompt::Text { text, .. } => Ok(text.clone()),
            Prompt::Tokens(ids) => Ok(self.tokenizer.decode(ids)),
            Prompt::Chat(Chat { messages, tools, .. }) => match &self.template {
                Some(Ok(template)) => {
                    template.render(&messages.0, tools.as_ref().map(|tools| tools.0.as_str()))
                }
                Some(Err(message)) => Err(RequestFailure::Template { message: message.clone() }),
                None => Err(RequestFailure::NoTemplate),
            },
        }
    }

    /// The prompt as tokens; never none.
    pub(crate) fn prompt_ids(&self, prompt: &Prompt) -> Result<Vec<u32>, RequestFailure> {
        let invalid = |message: String| RequestFailure::Invalid { message };
        let encoded = match prompt {
            Prompt::Tokens(ids) => Ok(ids.clone()),
            Prompt::Text { text, add_special_tokens: true } => {
                self.tokenizer.encode_with_special(text)
            }
            Prompt::Chat(_) | Prompt::Text { .. } => {
                self.tokenizer.encode(&self.prompt_text(prompt)?)
            }
        };
        let mut ids = encoded.map_err(|error| invalid(error.to_string()))?;
        if ids.is_empty() {
            ids.extend(self.bos);
        }
        if ids.is_empty() {
            return Err(invalid("the prompt is empty".to_owned()));
        }
        Ok(ids)
    }

    /// Prepares a request.
    ///
    /// # Errors
    /// As [`Preparer::prompt_text`], and [`RequestFailure::ContextOverflow`] if the prompt leaves
    /// no room for a token.
    pub fn prepare(&self, id: RequestId, request: Generate) -> Result<Prepared, RequestFailure> {
        check_sampling(&request.sampling)?;
        let prompt = self.prompt_ids(&request.prompt)?;
        let prompt_tokens = count(prompt.len());
        let room = self.context_length.saturating_sub(prompt_tokens);
        if room == 0 {
            return Err(RequestFailure::ContextOverflow {
                prompt_tokens,
                context_length: self.context_length,
            });
        }
        Ok(Prepared {
            id,
            prompt,
            sampling: request.sampling,
            stop: request.stop,
            tokens_max: request.max_tokens.unwrap_or(room).min(room),
        })
    }
}

/// The gateway has checked these; a number that is none would spoil every logit in silence.
fn check_sampling(sampling: &Sampling) -> Result<(), RequestFailure> {
    let rules = [
        ("repetition_penalty", sampling.repetition_penalty > 0.0, sampling.repetition_penalty),
        ("presence_penalty", true, sampling.presence_penalty),
        ("frequency_penalty", true, sampling.frequency_penalty),
        ("temperature", sampling.temperature >= 0.0, sampling.temperature),
        ("top_p", sampling.top_p >= 0.0, sampling.top_p),
        ("min_p", sampling.min_p <= 1.0, sampling.min_p),
    ];
    match rules.iter().find(|(_, sound, value)| !sound || !value.is_finite()) {
        None => Ok(()),
        Some((name, _, value)) => {
            Err(RequestFailure::Invalid { message: format!("`{name}` can't be {value}") })
        }
    }
}
