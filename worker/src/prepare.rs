//! A request from the gateway → token ids and limits, ready for the engine.
//!
//! The preparing thread does this, so that a long prompt's rendering and encoding holds up neither
//! the link nor the sequences that run.

mod chat;
mod check;
mod infill;

use std::sync::Arc;

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{Generate, Prompt, RequestFailure, Sampling};

use crate::answer::Reading;
use crate::generate::count;
use crate::generate::grammar::{Grammar, Grammars, Shape};
use crate::model::SpecialTokens;
use crate::prompt::ChatTemplate;
use crate::tokenizer::Tokenizer;

use chat::Plan;

/// What it takes to prepare requests for one model.
#[derive(Debug)]
pub struct Preparer {
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// `Err` says why a template that is there can't be used.
    pub(crate) template: Option<Result<ChatTemplate, String>>,
    /// What templates of requests may write too.
    pub(crate) special: SpecialTokens,
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
    /// Whether the last news tell all tokens.
    pub(crate) tells_context: bool,
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
    /// [`RequestFailure::NoTemplate`], [`RequestFailure::Template`],
    /// [`RequestFailure::Unsupported`] or [`RequestFailure::Invalid`].
    pub fn prompt_text(&self, prompt: &Prompt) -> Result<String, RequestFailure> {
        match prompt {
            Prompt::Text { text, .. } => Ok(text.clone()),
            Prompt::Tokens(ids) => Ok(self.tokenizer.decode(ids)),
            Prompt::Chat(chat) => Ok(self.plan(chat, None)?.prompt),
            Prompt::Infill { prefix, suffix } => infill::prompt(&self.tokenizer, prefix, suffix),
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
            (Prompt::Chat(_) | Prompt::Text { .. } | Prompt::Infill { .. }, None) => {
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

    /// The prompt with what came before it; a text begins once only.
    fn after(&self, before: Vec<u32>, prompt: Vec<u32>) -> Result<Vec<u32>, RequestFailure> {
        if before.is_empty() {
            return Ok(prompt);
        }
        check::known(&before, self.vocabulary, "`context`")?;
        let begins_again = prompt.len() > 1 && prompt.first().copied() == self.bos;
        let mut all = before;
        all.extend(&prompt[usize::from(begins_again)..]);
        Ok(all)
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
            Prompt::Text { .. } | Prompt::Tokens(_) | Prompt::Infill { .. } => None,
        };
        let prompt = self.ids(&request.prompt, plan.as_ref())?;
        let prompt = self.after(request.before, prompt)?;
        let prompt_tokens = count(prompt.len());
        let context_length = request.context_max.unwrap_or(u32::MAX).min(self.context_length);
        let room = context_length.saturating_sub(prompt_tokens);
        if room == 0 {
            return Err(RequestFailure::ContextOverflow { prompt_tokens, context_length });
        }
        let (reading, shape) = match plan {
            Some(plan) => (plan.reading, plan.shape),
            None => (Reading::default(), request.constraint.map(Shape::text)),
        };
        let grammar = shape.map(|shape| self.grammars.compile(&shape)).transpose()?;
        let mut ends = request.stop_token_ids;
        if !request.ignore_eos {
            ends.extend(&self.ends);
            if matches!(request.prompt, Prompt::Infill { .. }) {
                ends.extend(infill::ends(&self.tokenizer));
            }
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
            tells_context: request.tells_context,
        })
    }
}

#[cfg(test)]
mod tests {
    use hearth_shared::protocol::{Chat, JsonText};

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
            special: SpecialTokens(vec![("bos_token".to_owned(), "<s>".to_owned())]),
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
    fn what_came_before_stands_before_the_prompt_and_begins_once() {
        let before = |before: &[u32], prompt| {
            prepare(|request| {
                request.before = before.to_vec();
                request.prompt = prompt;
            })
        };
        let text = |text: &str| Prompt::Text { text: text.to_owned(), add_special_tokens: true };
        assert_eq!(before(&[3, 2], text("ab")).unwrap().prompt, [3, 2, 0, 1]);
        assert_eq!(before(&[3, 2], Prompt::raw("ab")).unwrap().prompt, [3, 2, 0, 1]);
        let Err(RequestFailure::Invalid { message }) = before(&[4], Prompt::raw("a")) else {
            panic!("token 4 is not known");
        };
        assert_eq!(message, "`context` names token 4; the model knows tokens 0 to 3");
    }

    #[test]
    fn a_request_may_have_less_of_the_context_and_never_more() {
        let limited = |max| prepare(|request| request.context_max = Some(max));
        assert_eq!(limited(5).unwrap().tokens_max, 3);
        assert_eq!(limited(99).unwrap().tokens_max, 14);
        assert_eq!(
            limited(2).unwrap_err(),
            RequestFailure::ContextOverflow { prompt_tokens: 2, context_length: 2 }
        );
    }

    #[test]
    fn a_conversation_is_written_with_the_template_of_its_request() {
        let chat = |template: Option<&str>| {
            let messages = JsonText(r#"[{"role":"user","content":"b"}]"#.to_owned());
            let template = template.map(str::to_owned);
            let prompt = Prompt::Chat(Chat { template, ..Chat::new(messages) });
            prepare(|request| request.prompt = prompt)
        };
        let template = "{{ bos_token }}a{{ messages[0].content }}";
        assert_eq!(chat(Some(template)).unwrap().prompt, [3, 0, 1]);
        assert_eq!(chat(None).unwrap_err(), RequestFailure::NoTemplate);
        let Err(RequestFailure::Template { message }) = chat(Some("{% if %}")) else {
            panic!("that is no template");
        };
        assert!(message.starts_with("chat template: syntax error"), "{message}");
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
