//! An engine, driven tick by tick, with everything that it says.

use std::collections::BTreeMap;

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{
    FinishReason, FromWorker, Generate, News, Part, Prompt, RequestFailure, Sampling, TokenLogprob,
};
use hearth_worker::{Engine, Loaded, Preparer};

use crate::golden::Case;

#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) ids: Vec<u32>,
    pub(crate) text: String,
    pub(crate) finish: Option<FinishReason>,
    pub(crate) counts: (u32, u32),
    pub(crate) cached: u32,
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) failure: Option<RequestFailure>,
}

/// An engine with everything that it has said, by request.
pub(crate) struct Driver {
    pub(crate) engine: Engine,
    pub(crate) preparer: Preparer,
    pub(crate) answers: BTreeMap<RequestId, Answer>,
    /// Every choice after a request's first.
    pub(crate) others: BTreeMap<(RequestId, u32), Answer>,
}

impl Driver {
    pub(crate) fn new(loaded: Loaded) -> Self {
        Self {
            engine: loaded.engine,
            preparer: loaded.preparer,
            answers: BTreeMap::new(),
            others: BTreeMap::new(),
        }
    }

    pub(crate) fn admit(&mut self, id: u64, request: Generate) {
        let prepared = self.preparer.prepare(RequestId(id), request).unwrap();
        self.engine.admit(prepared).unwrap();
    }

    pub(crate) fn tick(&mut self) {
        for message in self.engine.tick() {
            match message {
                FromWorker::Step(news) => news.iter().for_each(|news| self.note(news)),
                FromWorker::Failed { id, reason } => self.answer(id).failure = Some(reason),
                other => panic!("an engine does not say {other:?}"),
            }
        }
        let tokens: Vec<_> = self.engine.last_tokens().collect();
        for (id, choice, token) in tokens {
            self.choice(id, choice).ids.push(token);
        }
    }

    pub(crate) fn note(&mut self, news: &News) {
        let answer = self.choice(news.id, news.choice);
        assert_eq!(answer.finish, None, "news after the end");
        for part in &news.parts {
            match part {
                Part::Text(text) => answer.text += text,
                other => panic!("an answer without tools and thoughts has no {other:?}"),
            }
        }
        answer.counts.1 += news.tokens;
        answer.logprobs.extend_from_slice(&news.logprobs);
        if let Some(finish) = news.finish {
            answer.finish = Some(finish.reason);
            assert_eq!(finish.completion_tokens, answer.counts.1);
            answer.cached = finish.cached_tokens;
            answer.counts.0 = finish.prompt_tokens;
        }
    }

    pub(crate) fn choice(&mut self, id: RequestId, choice: u32) -> &mut Answer {
        match choice {
            0 => self.answer(id),
            _ => self.others.entry((id, choice)).or_default(),
        }
    }

    pub(crate) fn answer(&mut self, id: RequestId) -> &mut Answer {
        self.answers.entry(id).or_default()
    }

    pub(crate) fn finish(&mut self) {
        while !self.engine.is_idle() {
            self.tick();
        }
    }
}

pub(crate) fn request(prompt: Prompt, max_tokens: u32, sampling: Sampling) -> Generate {
    Generate { sampling, max_tokens: Some(max_tokens), ..Generate::new(prompt) }
}

pub(crate) fn greedy() -> Sampling {
    Sampling { temperature: 0.0, ..Sampling::default() }
}

/// A case as a request that ends where the golden does.
pub(crate) fn case_request(case: &Case) -> Generate {
    let max_tokens = u32::try_from(case.greedy_ids.len()).unwrap();
    request(case.prompt(), max_tokens, greedy())
}

pub(crate) fn check(case: &Case, answer: &Answer) {
    let expected = case.answer();
    // The last token ends the sequence, and an engine forgets those with it.
    let (_, all_but_last) = expected.split_last().unwrap();
    assert_eq!(answer.ids, all_but_last, "{}: ids", case.name);
    assert_eq!(answer.text, case.text, "{}: text", case.name);
    assert_eq!(answer.finish, Some(case.finish_reason()), "{}", case.name);
    let counts = (case.prompt_ids.len(), expected.len());
    let found = (answer.counts.0, answer.counts.1);
    assert_eq!(found, (u32::try_from(counts.0).unwrap(), u32::try_from(counts.1).unwrap()));
}
