//! What an answer's text means: thoughts, text, calls of tools.
//!
//! The preparing thread decides how an answer is to be read ([`Reading`]), the engine puts its text
//! through a [`Reader`] piece by piece. Pure, and character by character, so that the parts are the
//! same however the text is cut. Never says half a marker: what may be the beginning of one is held
//! back, and comes out as text if it was none.

mod call;
mod dialect;
mod forced;
mod json;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use hearth_shared::protocol::Part;

use call::{CallReader, News};
use json::is_space;

pub(crate) use dialect::{CallFormat, Dialect, ThoughtTags};
pub(crate) use forced::{Tool, calls_grammar};

/// How an answer is to be read. By default everything is text.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Reading {
    pub(crate) thoughts: Option<ThoughtTags>,
    /// Whether the prompt ends within thoughts.
    pub(crate) thinks_already: bool,
    pub(crate) calls: Option<Calls>,
}

/// How calls are to be read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Calls {
    pub(crate) format: CallFormat,
    /// The tools there are; a call of another is text.
    pub(crate) names: Arc<[String]>,
    /// Whether the answer is over after one call.
    pub(crate) single: bool,
}

/// What looks like the beginning of a call is held no longer than this.
const HELD_BYTES_MAX: usize = 16 * 1024;
/// What stands between a name and its arguments, where names come first.
const BETWEEN_BYTES_MAX: usize = 64;

/// Reads one answer.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    reading: Reading,
    mode: Mode,
    /// What came and can't be told yet.
    held: String,
    parts: Vec<Part>,
    /// Whether any text is out.
    said: bool,
    has_thought: bool,
    /// Whether white space leads up to nothing: it follows thoughts or calls.
    in_gap: bool,
    calls: u32,
}

#[derive(Debug, Clone)]
enum Mode {
    /// Within thoughts; `fresh` before the first of them.
    Thoughts {
        fresh: bool,
    },
    Outside,
    /// After the marker of calls, before an object.
    Opened {
        in_list: bool,
        name: String,
        between: String,
    },
    Inside {
        in_list: bool,
        call: CallReader,
    },
    /// A call whose arguments stopped being JSON: they are passed on as they come.
    Broken,
    /// After a call, where another may follow.
    Between {
        in_list: bool,
    },
    Over,
}

impl Reader {
    pub(crate) fn new(reading: Reading) -> Self {
        let thinks = reading.thinks_already && reading.thoughts.is_some();
        Self {
            reading,
            mode: if thinks { Mode::Thoughts { fresh: true } } else { Mode::Outside },
            held: String::new(),
            parts: Vec::new(),
            said: false,
            has_thought: false,
            in_gap: false,
            calls: 0,
        }
    }

    /// Takes the next piece of text; gives what is certain now.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Part> {
        if self.reading.thoughts.is_none() && self.reading.calls.is_none() {
            self.say(text);
            return std::mem::take(&mut self.parts);
        }
        let mut queue: VecDeque<char> = text.chars().collect();
        while let Some(character) = queue.pop_front() {
            self.step(character, &mut queue);
        }
        std::mem::take(&mut self.parts)
    }

    /// The answer is over; gives what was held back.
    pub(crate) fn finish(&mut self) -> Vec<Part> {
        let held = std::mem::take(&mut self.held);
        match &self.mode {
            Mode::Thoughts { .. } => self.think(held.trim_end_matches(is_space)),
            Mode::Outside | Mode::Opened { .. } => self.say_held(&held),
            Mode::Inside { call, .. } if !call.has_begun() => self.say_held(&held),
            Mode::Broken => self.add(&held),
            Mode::Inside { .. } | Mode::Between { .. } | Mode::Over => {}
        }
        std::mem::take(&mut self.parts)
    }

    /// Whether the answer is in the middle of thoughts.
    pub(crate) fn is_thinking(&self) -> bool {
        matches!(self.mode, Mode::Thoughts { .. })
    }

    /// Whether nothing more is wanted of the answer.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.mode, Mode::Over)
    }

    /// Whether anything was called.
    pub(crate) fn has_calls(&self) -> bool {
        self.calls > 0
    }

    fn step(&mut self, character: char, queue: &mut VecDeque<char>) {
        match &mut self.mode {
            Mode::Thoughts { .. } => self.thoughts(character, queue),
            Mode::Outside => self.outside(character, queue),
            Mode::Opened { .. } => self.opened(character, queue),
            Mode::Inside { .. } => self.inside(character, queue),
            Mode::Broken => self.broken(character, queue),
            Mode::Between { .. } => self.between(character, queue),
            Mode::Over => {}
        }
    }

    fn thoughts(&mut self, character: char, queue: &mut VecDeque<char>) {
        let (Some(tags), Mode::Thoughts { fresh }) = (self.reading.thoughts, &mut self.mode) else {
            return;
        };
        self.held.push(character);
        let (space, tag) = split_space(&self.held);
        if tag == tags.close {
            self.held.clear();
            self.mode = Mode::Outside;
            self.in_gap = true;
            self.has_thought = true;
        } else if *fresh && tag == tags.open {
            // The prompt had opened them, and the model did again.
            self.held.clear();
        } else if !(tags.close.starts_with(tag) || *fresh && tags.open.starts_with(tag)) {
            let kept = if *fresh { "" } else { space }.to_owned();
            *fresh = false;
            let mut rest = tag.chars();
            let first = rest.next();
            requeue(queue, rest.as_str());
            let said: String = kept.chars().chain(first).collect();
            self.held.clear();
            self.think(&said);
        }
    }

    fn outside(&mut self, character: char, queue: &mut VecDeque<char>) {
        self.held.push(character);
        let (_, begun) = split_space(&self.held);
        let first = !self.said && self.calls == 0;
        // It thinks once.
        if let Some(tags) = self.reading.thoughts.filter(|_| first && !self.has_thought) {
            if begun == tags.open {
                self.held.clear();
                self.mode = Mode::Thoughts { fresh: true };
                return;
            }
            if tags.open.starts_with(begun) {
                return;
            }
        }
        if let Some(Calls { format, .. }) = self.reading.calls {
            if begun == format.open() {
                self.mode = opened(false);
                return;
            }
            if first && format.is_bare() && begun == "{" {
                self.mode = opened(false);
                // The object is read from its first character on.
                self.held.pop();
                queue.push_front('{');
                return;
            }
            if format.open().starts_with(begun) {
                return;
            }
        }
        if begun.is_empty() && self.in_gap {
            return;
        }
        self.give_up(queue);
    }

    fn opened(&mut self, character: char, queue: &mut VecDeque<char>) {
        let (Some(calls), Mode::Opened { in_list, name, between }) =
            (&self.reading.calls, &mut self.mode)
        else {
            return;
        };
        self.held.push(character);
        let named = calls.format.names_first() && !*in_list;
        match character {
            '{' if name.is_empty() => {
                let call = CallReader::object(Arc::clone(&calls.names));
                self.mode = Mode::Inside { in_list: *in_list, call };
                self.held.pop();
                queue.push_front('{');
            }
            '{' if calls.names.contains(name) => {
                let (name, names) = (std::mem::take(name), Arc::clone(&calls.names));
                let call = CallReader::arguments(name.clone(), names);
                self.mode = Mode::Inside { in_list: false, call };
                self.begin(name);
                queue.push_front('{');
            }
            '[' if name.is_empty() && !*in_list && self.calls == 0 => *in_list = true,
            _ if is_space(character) && between.is_empty() => {}
            _ if named && between.is_empty() && is_name(character) => name.push(character),
            _ if named
                && (character == '[' || !between.is_empty())
                && between.len() < BETWEEN_BYTES_MAX =>
            {
                between.push(character);
            }
            _ => self.give_up(queue),
        }
    }

    fn inside(&mut self, character: char, queue: &mut VecDeque<char>) {
        let Mode::Inside { in_list, call } = &mut self.mode else {
            return;
        };
        let in_list = *in_list;
        let had_begun = call.has_begun();
        if !had_begun {
            self.held.push(character);
        }
        let mut news = Vec::new();
        let read = call.push(character, &mut news);
        let has_begun = call.has_begun();
        for news in news {
            match news {
                News::Begun(name) => self.begin(name),
                News::Arguments(json) => self.add(&json),
            }
        }
        match read {
            Ok(true) => self.called(in_list),
            Ok(false) if has_begun || self.held.len() <= HELD_BYTES_MAX => {}
            Err(_) if has_begun => {
                self.mode = Mode::Broken;
                queue.push_front(character);
            }
            Ok(false) | Err(_) => self.give_up(queue),
        }
    }

    fn called(&mut self, in_list: bool) {
        self.held.clear();
        let single = self.reading.calls.as_ref().is_some_and(|calls| calls.single);
        self.mode = if single { Mode::Over } else { Mode::Between { in_list } };
    }

    fn broken(&mut self, character: char, queue: &mut VecDeque<char>) {
        let close = self.reading.calls.as_ref().and_then(|calls| calls.format.close());
        self.held.push(character);
        match close {
            Some(close) if self.held == close => {
                requeue(queue, close);
                self.called(false);
            }
            Some(close) if close.starts_with(&self.held) => {}
            _ => {
                let held = std::mem::take(&mut self.held);
                let mut rest = held.chars();
                let first: String = rest.next().into_iter().collect();
                requeue(queue, rest.as_str());
                self.add(&first);
            }
        }
    }

    fn between(&mut self, character: char, queue: &mut VecDeque<char>) {
        let (Some(calls), Mode::Between { in_list }) = (&self.reading.calls, &mut self.mode) else {
            return;
        };
        self.held.push(character);
        let begun = self.held.trim_start_matches(is_space);
        let close = calls.format.close().unwrap_or_default();
        match begun {
            "" => {}
            "," if *in_list => {
                self.held.clear();
                self.mode = opened(true);
            }
            "]" if *in_list => {
                self.held.clear();
                *in_list = false;
            }
            "{" if !*in_list => {
                self.held.clear();
                self.mode = opened(false);
                queue.push_front('{');
            }
            ";" if calls.format.is_bare() => self.held.clear(),
            _ if begun == close => {
                self.held.clear();
                self.mode = Mode::Outside;
                self.in_gap = true;
            }
            _ if close.starts_with(begun) => {}
            _ => {
                requeue(queue, begun);
                self.held.clear();
                self.mode = Mode::Outside;
                self.in_gap = true;
            }
        }
    }

    /// What is held is text up to its first character that is no space; the rest is read again.
    fn give_up(&mut self, queue: &mut VecDeque<char>) {
        let held = std::mem::take(&mut self.held);
        let (space, rest) = split_space(&held);
        let mut rest = rest.chars();
        let first: String = rest.next().into_iter().collect();
        requeue(queue, rest.as_str());
        self.mode = Mode::Outside;
        if first.is_empty() {
            // White space alone may lead up to a call.
            self.held = held;
            return;
        }
        if !self.in_gap {
            self.say(space);
        }
        self.in_gap = false;
        self.said = true;
        self.say(&first);
    }

    fn say_held(&mut self, held: &str) {
        let text = if self.in_gap { held.trim_start_matches(is_space) } else { held };
        self.say(text);
    }

    fn say(&mut self, text: &str) {
        match self.parts.last_mut() {
            Some(Part::Text(last)) => last.push_str(text),
            _ if text.is_empty() => {}
            _ => self.parts.push(Part::Text(text.to_owned())),
        }
    }

    fn think(&mut self, text: &str) {
        match self.parts.last_mut() {
            Some(Part::Reasoning(last)) => last.push_str(text),
            _ if text.is_empty() => {}
            _ => self.parts.push(Part::Reasoning(text.to_owned())),
        }
    }

    fn begin(&mut self, name: String) {
        self.held.clear();
        self.parts.push(Part::ToolCall { index: self.calls, name });
        self.calls += 1;
    }

    fn add(&mut self, text: &str) {
        match self.parts.last_mut() {
            Some(Part::ToolArguments { json, .. }) => json.push_str(text),
            _ if text.is_empty() => {}
            _ => {
                let index = self.calls.saturating_sub(1);
                self.parts.push(Part::ToolArguments { index, json: text.to_owned() });
            }
        }
    }
}

fn opened(in_list: bool) -> Mode {
    Mode::Opened { in_list, name: String::new(), between: String::new() }
}

/// The white space that a text begins with, and the rest.
fn split_space(text: &str) -> (&str, &str) {
    let rest = text.trim_start_matches(is_space);
    (&text[..text.len() - rest.len()], rest)
}

/// Puts text back to where it came from.
fn requeue(queue: &mut VecDeque<char>, text: &str) {
    for character in text.chars().rev() {
        queue.push_front(character);
    }
}

/// What names of tools are made of.
fn is_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '-' | '.')
}
