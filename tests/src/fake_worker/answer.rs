//! What the fake worker answers, token by token. Pure.

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{Finish, FromWorker, Generate, News, Part, Token, TokenLogprob};

use super::script::Script;

/// Tokens in every prompt.
const PROMPT_TOKENS: u32 = 7;

/// An answer on its way; all its choices go on together.
pub(crate) struct Answer {
    pub(crate) id: RequestId,
    /// How many tokens each choice has had.
    pub(crate) done: u32,
    choices: u32,
    logprobs: Option<u32>,
    before: Vec<u32>,
    tells_context: bool,
}

impl Answer {
    pub(crate) fn new(id: RequestId, generate: &Generate) -> Self {
        Self {
            id,
            done: 0,
            choices: generate.choices,
            logprobs: generate.logprobs,
            before: generate.before.clone(),
            tells_context: generate.tells_context,
        }
    }

    /// An answer to what was never asked.
    pub(crate) fn of_nobody(id: RequestId) -> Self {
        Self { id, done: 0, choices: 1, logprobs: None, before: Vec::new(), tells_context: false }
    }

    /// The next token of every choice; text of others than the first says which it is.
    pub(crate) fn token(&mut self, script: &Script) -> FromWorker {
        let index = self.done;
        self.done += 1;
        let news = (0..self.choices).map(|choice| {
            let part = match script.part(index) {
                Part::Text(text) if choice > 0 => Part::Text(format!("{choice}:{text}")),
                part => part,
            };
            let logprobs = self.logprobs.map(|top| logprob(&part, index, top));
            News {
                id: self.id,
                choice,
                parts: vec![part],
                tokens: 1,
                logprobs: logprobs.into_iter().collect(),
                context: Vec::new(),
                finish: None,
            }
        });
        FromWorker::Step(news.collect())
    }

    /// The end of every choice.
    pub(crate) fn end(&self, script: &Script) -> FromWorker {
        let finish = Finish {
            reason: script.finish(),
            prompt_tokens: PROMPT_TOKENS,
            cached_tokens: 0,
            completion_tokens: script.tokens(),
            reasoning_tokens: script.reasoning_tokens(),
            prefill_us: 1,
            decode_us: 1,
        };
        let news = (0..self.choices).map(|choice| News {
            id: self.id,
            choice,
            parts: Vec::new(),
            tokens: 0,
            logprobs: Vec::new(),
            context: self.context(script),
            finish: Some(finish),
        });
        FromWorker::Step(news.collect())
    }

    /// What came before, the prompt's tokens counted from 100, the answer's from 200.
    fn context(&self, script: &Script) -> Vec<u32> {
        if !self.tells_context {
            return Vec::new();
        }
        let (prompt, answer) = (100..100 + PROMPT_TOKENS, 200..200 + script.tokens());
        self.before.iter().copied().chain(prompt).chain(answer).collect()
    }
}

/// As likely as its place: the first token has -0, the second -1; others are ten times less likely.
fn logprob(part: &Part, index: u32, top: u32) -> TokenLogprob {
    let text = match part {
        Part::Text(text) | Part::Reasoning(text) => text,
        Part::ToolCall { name, .. } => name,
        Part::ToolArguments { json, .. } => json,
    };
    let token = |id: u32, text: &str| Token { id, bytes: text.as_bytes().to_vec() };
    let likely = |place: u32| -f32::from(u16::try_from(index + 10 * place).expect("few tokens"));
    let top = (0..top).map(|place| match place {
        0 => (token(index, text), likely(0)),
        place => (token(1000 + place, &format!("other{place}")), likely(place)),
    });
    TokenLogprob { token: token(index, text), logprob: likely(0), top: top.collect() }
}
