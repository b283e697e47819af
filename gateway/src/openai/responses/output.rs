//! The parts of an answer → the items of a response, and the events that tell of them. Pure but for
//! ids.
//!
//! One machine for both forms: a whole response is what is left when nobody listens to the events.

use std::mem;

use hearth_shared::protocol::{News, Part};
use serde_json::{Value, json};

use crate::generation::new_call_id;
use crate::http;
use crate::openai::chat::token_logprobs;

/// The output of one response, growing.
#[derive(Debug)]
pub(super) struct Output {
    items: Vec<Value>,
    open: Option<Open>,
    with_logprobs: bool,
    /// Of tokens whose text has not come yet.
    logprobs: Vec<Value>,
}

/// The item that is being written.
#[derive(Debug)]
struct Open {
    id: String,
    kind: Kind,
    text: String,
    logprobs: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Message,
    Reasoning,
    Call { call_id: String, name: String, index: u32 },
}

/// Where events go: the type, and the rest of it.
pub(super) type Events = Vec<(&'static str, Value)>;

impl Output {
    pub(super) fn new(with_logprobs: bool) -> Self {
        Self { items: Vec::new(), open: None, with_logprobs, logprobs: Vec::new() }
    }

    /// Takes news in.
    pub(super) fn push(&mut self, news: News, events: &mut Events) {
        if self.with_logprobs {
            let told = serde_json::to_value(token_logprobs(&news.logprobs)).unwrap_or_default();
            self.logprobs.extend(told.as_array().into_iter().flatten().cloned());
        }
        for part in news.parts {
            match part {
                Part::Text(text) => self.say(&Kind::Message, &text, events),
                Part::Reasoning(text) => self.say(&Kind::Reasoning, &text, events),
                Part::ToolCall { index, name } => {
                    self.begin(Kind::Call { call_id: new_call_id(), name, index }, events);
                }
                Part::ToolArguments { index: of, json } => {
                    let open = self.open.as_ref().map(|open| &open.kind);
                    // Arguments of a call that is over belong to nothing.
                    if matches!(open, Some(Kind::Call { index, .. }) if *index == of) {
                        self.more(&json, events);
                    }
                }
            }
        }
    }

    /// The events of items that are there already, each told in one piece.
    pub(super) fn retold(items: &[Value]) -> Events {
        let (mut output, mut events) = (Self::new(false), Vec::new());
        for item in items {
            let Some((open, text, logprobs)) = Open::of(item) else { continue };
            output.open(open, &mut events);
            output.logprobs = logprobs;
            output.more(&text, &mut events);
            output.close(item["status"].as_str().unwrap_or("completed"), &mut events);
        }
        events
    }

    /// Ends the output; gives its items. `status` is that of the last one.
    pub(super) fn end(&mut self, status: &str, events: &mut Events) -> Vec<Value> {
        self.close(status, events);
        mem::take(&mut self.items)
    }

    fn say(&mut self, kind: &Kind, text: &str, events: &mut Events) {
        if self.open.as_ref().is_none_or(|open| open.kind != *kind) {
            self.begin(kind.clone(), events);
        }
        self.more(text, events);
    }

    fn begin(&mut self, kind: Kind, events: &mut Events) {
        let id = http::new_id(match kind {
            Kind::Message => "msg_",
            Kind::Reasoning => "rs_",
            Kind::Call { .. } => "fc_",
        });
        self.open(Open { id, kind, text: String::new(), logprobs: Vec::new() }, events);
    }

    fn open(&mut self, open: Open, events: &mut Events) {
        self.close("completed", events);
        let place = self.items.len();
        let item = open.item("in_progress", None);
        events.push(("response.output_item.added", json!({"output_index": place, "item": item})));
        if let Some(part) = open.part() {
            events.push(("response.content_part.added", open.at(place, json!({"part": part}))));
        }
        self.open = Some(open);
    }

    fn more(&mut self, text: &str, events: &mut Events) {
        let place = self.items.len();
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let (name, rest) = match open.kind {
            Kind::Message => {
                let logprobs = mem::take(&mut self.logprobs);
                open.logprobs.extend(logprobs.iter().cloned());
                ("response.output_text.delta", json!({"delta": text, "logprobs": logprobs}))
            }
            Kind::Reasoning => ("response.reasoning_text.delta", json!({"delta": text})),
            Kind::Call { .. } => ("response.function_call_arguments.delta", json!({"delta": text})),
        };
        events.push((name, open.at(place, rest)));
    }

    fn close(&mut self, status: &str, events: &mut Events) {
        let Some(mut open) = self.open.take() else { return };
        let place = self.items.len();
        if let Kind::Message = open.kind {
            open.logprobs.append(&mut self.logprobs);
        }
        let text = &open.text;
        let (name, rest) = match &open.kind {
            Kind::Message => {
                ("response.output_text.done", json!({"text": text, "logprobs": open.logprobs}))
            }
            Kind::Reasoning => ("response.reasoning_text.done", json!({"text": text})),
            Kind::Call { name, .. } => (
                "response.function_call_arguments.done",
                json!({"name": name, "arguments": open.arguments()}),
            ),
        };
        events.push((name, open.at(place, rest)));
        let part = open.part();
        if let Some(part) = &part {
            events.push(("response.content_part.done", open.at(place, json!({"part": part}))));
        }
        let item = open.item(status, part);
        events.push(("response.output_item.done", json!({"output_index": place, "item": item})));
        self.items.push(item);
    }
}

impl Open {
    /// An item as it was when it began, the text that came after, and the probabilities of that.
    fn of(item: &Value) -> Option<(Self, String, Vec<Value>)> {
        let text_of = |value: &Value| value.as_str().map(str::to_owned);
        let content = &item["content"][0];
        let (kind, text) = match item["type"].as_str()? {
            "message" => (Kind::Message, &content["text"]),
            "reasoning" => (Kind::Reasoning, &content["text"]),
            "function_call" => {
                let (call_id, name) = (text_of(&item["call_id"])?, text_of(&item["name"])?);
                (Kind::Call { call_id, name, index: 0 }, &item["arguments"])
            }
            _ => return None,
        };
        let logprobs = content["logprobs"].as_array().cloned().unwrap_or_default();
        let id = text_of(&item["id"])?;
        let open = Self { id, kind, text: String::new(), logprobs: Vec::new() };
        Some((open, text_of(text).unwrap_or_default(), logprobs))
    }

    /// An event about this item, which stands at `place`.
    fn at(&self, place: usize, rest: Value) -> Value {
        let mut event = json!({"item_id": self.id, "output_index": place});
        if !matches!(self.kind, Kind::Call { .. }) {
            event["content_index"] = json!(0);
        }
        if let (Value::Object(event), Value::Object(rest)) = (&mut event, rest) {
            event.extend(rest);
        }
        event
    }

    fn part(&self) -> Option<Value> {
        match self.kind {
            Kind::Message => Some(json!({
                "type": "output_text", "text": self.text, "annotations": [],
                "logprobs": self.logprobs,
            })),
            Kind::Reasoning => Some(json!({"type": "reasoning_text", "text": self.text})),
            Kind::Call { .. } => None,
        }
    }

    fn item(&self, status: &str, part: Option<Value>) -> Value {
        let content: Vec<Value> = part.into_iter().collect();
        match &self.kind {
            Kind::Message => json!({
                "id": self.id, "type": "message", "status": status, "role": "assistant",
                "content": content,
            }),
            Kind::Reasoning => json!({
                "id": self.id, "type": "reasoning", "status": status, "summary": [],
                "content": content,
            }),
            Kind::Call { call_id, name, .. } => {
                let arguments = if status == "in_progress" { "" } else { self.arguments() };
                json!({
                    "id": self.id, "type": "function_call", "status": status, "call_id": call_id,
                    "name": name, "arguments": arguments,
                })
            }
        }
    }

    /// A call without arguments has an empty object of them.
    fn arguments(&self) -> &str {
        if self.text.is_empty() { "{}" } else { &self.text }
    }
}

#[cfg(test)]
mod tests {
    use hearth_shared::ids::RequestId;

    use super::*;

    fn news(part: Part) -> News {
        let (logprobs, finish) = (Vec::new(), None);
        let (parts, context) = (vec![part], Vec::new());
        News { id: RequestId(1), choice: 0, parts, tokens: 1, logprobs, context, finish }
    }

    #[test]
    fn every_item_is_added_told_and_done_in_the_order_that_clients_expect() {
        let (mut output, mut events) = (Output::new(false), Vec::new());
        for part in [
            Part::Reasoning("hm".to_owned()),
            Part::Text("a".to_owned()),
            Part::Text("b".to_owned()),
            Part::ToolCall { index: 0, name: "f".to_owned() },
            Part::ToolArguments { index: 0, json: "{\"x\":1}".to_owned() },
            Part::ToolCall { index: 1, name: "g".to_owned() },
        ] {
            output.push(news(part), &mut events);
        }
        let items = output.end("completed", &mut events);
        let names: Vec<&str> =
            events.iter().map(|(name, _)| name.strip_prefix("response.").unwrap()).collect();
        assert_eq!(
            names,
            [
                "output_item.added",
                "content_part.added",
                "reasoning_text.delta",
                "reasoning_text.done",
                "content_part.done",
                "output_item.done",
                "output_item.added",
                "content_part.added",
                "output_text.delta",
                "output_text.delta",
                "output_text.done",
                "content_part.done",
                "output_item.done",
                "output_item.added",
                "function_call_arguments.delta",
                "function_call_arguments.done",
                "output_item.done",
                "output_item.added",
                "function_call_arguments.done",
                "output_item.done",
            ]
        );
        let types: Vec<&Value> = items.iter().map(|item| &item["type"]).collect();
        assert_eq!(types, ["reasoning", "message", "function_call", "function_call"]);
        assert_eq!(items[0]["content"], json!([{"type": "reasoning_text", "text": "hm"}]));
        assert_eq!(items[1]["content"][0]["text"], "ab");
        assert_eq!(
            (&items[2]["arguments"], &items[3]["arguments"]),
            (&json!("{\"x\":1}"), &json!("{}"))
        );
        let retold = Output::retold(&items);
        // They are the same but for the deltas, of which each item has one now.
        let without = |events: &Events| -> Events {
            events.iter().filter(|(name, _)| !name.ends_with("delta")).cloned().collect()
        };
        assert_eq!(without(&retold), without(&events));
        let deltas = retold.iter().filter(|(name, _)| name.ends_with("delta"));
        let deltas: Vec<&Value> = deltas.map(|(_, rest)| &rest["delta"]).collect();
        assert_eq!(deltas, ["hm", "ab", "{\"x\":1}", "{}"]);
        let done = &events[12].1;
        assert_eq!((&done["output_index"], &done["item"]), (&json!(1), &items[1]));
    }
}
