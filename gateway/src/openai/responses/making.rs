//! A response on its way: the news of its generation → the response itself, and the events that tell
//! of it.
//!
//! `responses.rs` answers with it, in one piece or as a stream; `background.rs` lets it run on for
//! nobody in particular.

use futures_util::stream;
use hearth_shared::protocol::FinishReason;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::object::{End, Frame, Numbered};
use super::output::{self, Output};
use super::store::Stored;
use crate::app::App;
use crate::error::ApiError;
use crate::generation::Generation;
use crate::stream::{self as body, Body};

/// A response on its way.
pub(super) struct Making {
    pub(super) generation: Generation,
    pub(super) frame: Frame,
    pub(super) output: Output,
    /// Where it is kept at its end, with what it came from; `None` if it is not, or is already.
    pub(super) keep: Option<(App, Vec<Value>, Vec<Value>)>,
}

impl Making {
    /// The response as a whole.
    pub(super) async fn whole(mut self) -> Result<Value, ApiError> {
        let (mut events, mut end) = (Vec::new(), End::Completed);
        while let Some(news) = self.generation.next().await? {
            end = news.finish.map_or(end, |finish| how(finish.reason));
            self.output.push(news, &mut events);
            events.clear();
        }
        Ok(self.finish(end, &mut events))
    }

    /// The response as it is at its end, and kept.
    fn finish(&mut self, end: End, events: &mut output::Events) -> Value {
        let items = self.output.end(end.status(), events);
        let response = self.frame.finished(end, &items, self.generation.usage());
        if let Some((app, input, before)) = self.keep.take() {
            let stored = Stored { response: response.clone(), input, before };
            app.responses.put(&self.frame.id, app.caller.name(), stored, Instant::now());
        }
        response
    }

    /// The response as a stream that is made while it is read.
    pub(super) fn streamed(self) -> Body {
        let mut first = Vec::new();
        let mut numbered = Numbered::default();
        numbered.push(
            &mut first,
            "response.created",
            json!({ "response": self.frame.in_progress() }),
        );
        let writing = Writing::new(self, numbered);
        body::parts(stream::unfold(Some((writing, first)), |state| async {
            let (mut writing, mut out) = state?;
            let goes_on = writing.push_next(&mut out).await;
            Some((out.into(), goes_on.then_some((writing, Vec::with_capacity(512)))))
        }))
    }
}

fn how(reason: FinishReason) -> End {
    match reason {
        FinishReason::Stop | FinishReason::ToolCalls => End::Completed,
        FinishReason::Length => End::Incomplete,
    }
}

/// A response that is written as it comes.
pub(super) struct Writing {
    making: Making,
    numbered: Numbered,
    begun: bool,
    end: End,
    /// The response as it ended.
    pub(super) over: Option<Value>,
}

impl Writing {
    /// Goes on where `numbered` is.
    pub(super) fn new(making: Making, numbered: Numbered) -> Self {
        Self { making, numbered, begun: false, end: End::Completed, over: None }
    }

    /// Writes what comes next; gives whether more will.
    ///
    /// # Cancel safety
    /// Safe: what was written is in `out`, and no news are lost.
    pub(super) async fn push_next(&mut self, out: &mut Vec<u8>) -> bool {
        if !self.begun {
            self.begun = true;
            let response = self.making.frame.in_progress();
            self.numbered.push(out, "response.in_progress", json!({ "response": response }));
        }
        let mut events = Vec::new();
        match self.making.generation.next().await {
            Ok(Some(news)) => {
                if let Some(finish) = news.finish {
                    self.end = how(finish.reason);
                }
                self.making.output.push(news, &mut events);
                self.push_all(out, events);
                true
            }
            Ok(None) => {
                let response = self.making.finish(self.end, &mut events);
                self.push_all(out, events);
                self.push_end(out, self.end.event(), response);
                false
            }
            Err(error) => {
                let items = self.making.output.end("incomplete", &mut events);
                self.push_all(out, events);
                let response = self.making.frame.failed(&items, &error);
                self.numbered.push_error(out, &error);
                self.push_end(out, "response.failed", response);
                false
            }
        }
    }

    /// Writes the end of a response that nobody wants any more. OpenAI has no event of its own for
    /// it: it is one that was not completed.
    pub(super) fn push_cancelled(&mut self, out: &mut Vec<u8>) {
        let mut events = Vec::new();
        let items = self.making.output.end("incomplete", &mut events);
        self.push_all(out, events);
        let response = self.making.frame.cancelled(&items);
        self.push_end(out, End::Incomplete.event(), response);
    }

    fn push_end(&mut self, out: &mut Vec<u8>, name: &str, response: Value) {
        self.numbered.push(out, name, json!({ "response": response }));
        self.over = Some(response);
    }

    fn push_all(&mut self, out: &mut Vec<u8>, events: output::Events) {
        for (name, rest) in events {
            self.numbered.push(out, name, rest);
        }
    }
}
