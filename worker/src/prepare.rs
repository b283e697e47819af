//! A request from the gateway → token ids and limits, ready for the engine.
//!
//! The preparing thread does this, so that a long prompt's rendering and encoding holds up neither
//! the link nor the sequences that run.

mod chat;
mod check;

use std::sync::Arc;

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{Generate, Prompt, RequestFailure, Sampling};

use crate::answer::Reading;
use crate::generate::count;
use crate::generate::grammar::{Grammar, Grammars, Shape};
use crate::prompt::ChatTemplate;
use crate::tokenizer::Tokenizer;

use chat::Plan;

/// What it takes to prepare requests for one model.
#[derive(Debug)]
pub struct Preparer {
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// `Err` says why a template that is there can't be used.
    pub(crate) template: Option<Result<ChatTemplate, String>>,
    /// What stands in for a prompt of no tokens.
    pub(crate) bos: Option<u32>,
    /// Tokens that end an answer.
    pub(crate) ends: Vec<u32>,
    /// Tokens that the model knows: all ids below this.
    pub(crate) vocabulary: usize,
    pub(crate) context_length: u32,
    pub(crate) grammars: Grammars,
}

/// A request that the engine can run.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub(crate) id: RequestId,
    pub(crate) prompt: Vec<u32>,
    /// How many answers; each is a sequence of its own.
    pub(crate) choices: u32,
    pub(crate) sampling: Sampling,
    pub(crate) logit_bias: Vec<(u32, f32)>,
    pub(crate) stop: Vec<String>,
    /// Tokens that end the answer and are not part of it.
    pub(crate) ends: Vec<u32>,
    /// Nothing but `tokens_max` ends the answer before this many tokens.
    pub(crate) tokens_min: u32,
    pub(crate) tokens_max: u32,
    /// How many of the likeliest tokens to tell with each token's own probability.
    pub(crate) logprobs: Option<usize>,
    /// How the answer is read.
    pub(crate) reading: Reading,
    /// What it must follow.
    pub(crate) grammar: Option<Grammar>,
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
            Prompt::Chat(chat) => Ok(self.plan(chat, None)?.prompt),
        }
    }

    /// The prompt as tokens; never none.
    pub(crate) fn prompt_ids(&self, prompt: &Prompt) -> Result<Vec<u32>, RequestFailure> {
        self.ids(prompt, None)
    }

    /// The same, of a conversation that may have been planned.
    fn ids(&self, prompt: &Prompt, plan: Option<&Plan>) -> Result<Vec<u32>, RequestFailure> {
        let invalid = |message: String| RequestFailure::Invalid { message };
        let encoded = match (prompt, plan) {
            (_, Some(plan)) => self.tokenizer.encode(&plan.prompt),
            (Prompt::Tokens(ids), None) => Ok(ids.clone()),
            (Prompt::Text { text, add_special_tokens: true }, None) => {
                self.tokenizer.encode_with_special(text)
            }
            (Prompt::Chat(_) | Prompt::Text { .. }, None) => {
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
        check::known(&ids, self.vocabulary, "the prompt")?;
        Ok(ids)
    }

    /// Prepares a request.
    ///
    /// # Errors
    /// As [`Preparer::prompt_text`], [`RequestFailure::ContextOverflow`] if the prompt leaves no
    /// room for a token, [`RequestFailure::Invalid`] for rules that make no sense, and
    /// [`RequestFailure::Constraint`] for those that can't be enforced.
    pub fn prepare(&self, id: RequestId, request: Generate) -> Result<Prepared, RequestFailure> {
        check::rules(&request, self.vocabulary)?;
        let plan = match &request.prompt {
            Prompt::Chat(chat) => Some(self.plan(chat, request.constraint.as_ref())?),
            Prompt::Text { .. } | Prompt::Tokens(_) => None,
        };
        let prompt = self.ids(&request.prompt, plan.as_ref())?;
        let prompt_tokens = count(prompt.len());
        let room = self.context_length.saturating_sub(prompt_tokens);
        if room == 0 {
            return Err(RequestFailure::ContextOverflow {
                prompt_tokens,
                context_length: self.context_length,
            });
        }
        let (reading, shape) = match plan {
            Some(plan) => (plan.reading, plan.shape),
            None => (Reading::default(), request.constraint.map(Shape::text)),
        };
        let grammar = shape.map(|shape| self.grammars.compile(&shape)).transpose()?;
        let mut ends = request.stop_token_ids;
        if !request.ignore_eos {
            ends.extend(&self.ends);
        }
        Ok(Prepared {
            id,
            prompt,
            choices: request.choices,
            sampling: request.sampling,
            logit_bias: request.logit_bias,
            stop: request.stop,
            ends,
            tokens_min: request.min_tokens,
            tokens_max: request.max_tokens.unwrap_or(room).min(room),
            logprobs: request.logprobs.map(crate::load::to_usize),
            reading,
            grammar,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Llama's way: a beginning before any text, none where the text has it already or is a chat.
    fn preparer() -> Preparer {
        let json = br#"{"version":"1.0","truncation":null,"padding":null,"normalizer":null,
            "pre_tokenizer":null,"decoder":null,
            "added_tokens":[{"id":3,"content":"<s>","single_word":false,"lstrip":false,
                "rstrip":false,"normalized":false,"special":true}],
            "post_processor":{"type":"TemplateProcessing",
                "single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
                "pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],
                "special_tokens":{"<s>":{"id":"<s>","ids":[3],"tokens":["<s>"]}}},
            "model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2},"merges":[]}}"#;
        let tokenizer = Arc::new(Tokenizer::from_json(json).unwrap());
        Preparer {
            grammars: Grammars::new(Arc::clone(&tokenizer), vec![2]),
            tokenizer,
            template: None,
            bos: Some(3),
            ends: vec![2],
            vocabulary: 4,
            context_length: 16,
        }
    }

    fn prepare(change: impl FnOnce(&mut Generate)) -> Result<Prepared, RequestFailure> {
        let mut request = Generate::new(Prompt::raw("ab"));
        change(&mut request);
        preparer().prepare(RequestId(1), request)
    }

    #[test]
    fn special_tokens_are_added_where_they_are_asked_for() {
        let text = |add_special_tokens| Prompt::Text { text: "ab".to_owned(), add_special_tokens };
        let ids = |prompt| prepare(|request| request.prompt = prompt).unwrap().prompt;
        assert_eq!(ids(text(true)), [3, 0, 1]);
        assert_eq!(ids(text(false)), [0, 1]);
        // Something has to be there to be continued.
        assert_eq!(ids(Prompt::raw("")), [3]);
    }

    #[test]
    fn the_models_ends_and_the_requests_own_end_an_answer() {
        let ends = |ignore_eos| {
            let prepared = prepare(|request| {
                request.stop_token_ids = vec![1];
                request.ignore_eos = ignore_eos;
            });
            prepared.unwrap().ends
        };
        assert_eq!(ends(false), [1, 2]);
        assert_eq!(ends(true), [1]);
    }

    #[test]
    fn rules_that_make_no_sense_are_refused_by_name() {
        let refusal = |change: fn(&mut Generate)| match prepare(change) {
            Err(RequestFailure::Invalid { message }) => message,
            other => panic!("not refused: {other:?}"),
        };
        let unknown = "names token 4; the model knows tokens 0 to 3";
        assert_eq!(
            refusal(|request| request.prompt = Prompt::Tokens(vec![0, 4])),
            format!("the prompt {unknown}")
        );
        assert_eq!(
            refusal(|request| request.logit_bias = vec![(3, 1.0), (4, 1.0)]),
            format!("`logit_bias` {unknown}")
        );
        assert_eq!(
            refusal(|request| request.stop_token_ids = vec![4]),
            format!("`stop_token_ids` {unknown}")
        );
        assert_eq!(
            refusal(|request| request.logit_bias = vec![(1, f32::NAN)]),
            "`logit_bias` can't be NaN"
        );
        assert_eq!(refusal(|request| request.sampling.typical_p = 0.0), "`typical_p` can't be 0");
        assert_eq!(
            refusal(|request| request.sampling.temperature = f32::INFINITY),
            "`temperature` can't be inf"
        );
        assert_eq!(refusal(|request| request.choices = 0), "choices can be 1 to 128, not 0");
        assert_eq!(refusal(|request| request.choices = 129), "choices can be 1 to 128, not 129");
        assert_eq!(
            refusal(|request| request.logprobs = Some(129)),
            "`logprobs` can be 0 to 128, not 129"
        );
    }
}
