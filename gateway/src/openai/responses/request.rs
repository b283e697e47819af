//! The body of a response's creation → what the worker needs. Pure. `fields.rs` says what becomes of
//! each field; here is what the honoured ones mean.

use hearth_shared::protocol::{Chat, Generate, JsonText, Prompt};
use serde_json::{Map, Value, json};

use super::fields::{COUNTED, FIELDS};
use super::items;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::Ask;
use crate::keep_alive::KeepAlive;
use crate::known;
use crate::messages;
use crate::openai::{decoding, format, thinking};
use crate::tools::Tools;

const TOP_LOGPROBS_MAX: i64 = 20;

/// A request for a response. What it continues is still to be looked up.
#[derive(Debug)]
pub(super) struct ResponseRequest {
    pub(super) ask: Ask,
    pub(super) stream: bool,
    pub(super) store: bool,
    pub(super) background: bool,
    pub(super) previous: Option<String>,
    pub(super) turn: Turn,
    /// Everything but the prompt.
    pub(super) body: Generate,
    /// What the response repeats of its request.
    pub(super) echo: Map<String, Value>,
}

/// What is said in this turn, and with which tools.
#[derive(Debug)]
pub(super) struct Turn {
    /// The input, each with an id.
    pub(super) items: Vec<Value>,
    instructions: Option<String>,
    tools: Tools,
    template_variables: Option<JsonText>,
}

impl Turn {
    /// Reads the fields that make up a prompt.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] that names the field.
    pub(super) fn read(fields: Fields<'_>) -> Result<Self, ApiError> {
        let input =
            fields.get("input").ok_or_else(|| ApiError::invalid("input", "`input` is missing"))?;
        let items = items::of_input(input)?;
        // Wrong ones are told before anything is waited for.
        normalised(&items::messages(&items)?)?;
        Ok(Self {
            items,
            instructions: fields.text("instructions")?.map(str::to_owned),
            tools: Tools::read(fields)?,
            template_variables: thinking::template_variables(fields)?,
        })
    }

    /// The whole conversation: what came `before`, and this turn.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] that names `input`.
    pub(super) fn prompt(&self, before: &[Value]) -> Result<Prompt, ApiError> {
        let instructions = self.instructions.iter();
        let mut all: Vec<Value> =
            instructions.map(|text| json!({"role": "system", "content": text})).collect();
        all.extend(items::messages(&[before, &self.items].concat())?);
        let messages = JsonText(Value::Array(normalised(&all)?).to_string());
        Ok(Prompt::Chat(Chat {
            tools: self.tools.json(),
            tool_choice: self.tools.choice.clone(),
            parallel_tool_calls: self.tools.parallel,
            template_variables: self.template_variables.clone(),
            ..Chat::new(messages)
        }))
    }
}

fn normalised(all: &[Value]) -> Result<Vec<Value>, ApiError> {
    // Its path would count messages, and the client counts items.
    messages::normalise(all).map_err(|error| ApiError::invalid("input", error.to_string()))
}

/// A request to count what a response would read.
#[derive(Debug)]
pub(super) struct CountRequest {
    pub(super) model: Option<String>,
    pub(super) previous: Option<String>,
    pub(super) keep_alive: Option<KeepAlive>,
    pub(super) turn: Turn,
}

pub(super) fn parse_count(map: &Map<String, Value>) -> Result<CountRequest, ApiError> {
    let fields = Fields::new(map);
    known::refuse(fields, COUNTED)?;
    Ok(CountRequest {
        model: fields.text("model")?.map(str::to_owned),
        previous: fields.text("previous_response_id")?.map(str::to_owned),
        keep_alive: fields.keep_alive()?,
        turn: Turn::read(fields)?,
    })
}

pub(super) fn parse(map: &Map<String, Value>) -> Result<ResponseRequest, ApiError> {
    let fields = Fields::new(map);
    let ask = Ask { model: fields.model()?, keep_alive: fields.keep_alive()? };
    known::refuse(fields, FIELDS)?;
    let turn = Turn::read(fields)?;
    let text = fields.object("text", "text.")?;
    let constraint = match text.and_then(|text| text.get("format")) {
        Some(value) => format::of_format(value, "text.format")?,
        None => None,
    };
    let logprobs = logprobs(fields)?;
    // The prompt is put in once the conversation is known.
    let plain = decoding::read(fields, Prompt::raw(""))?;
    let body =
        Generate { constraint, logprobs, max_tokens: fields.count("max_output_tokens")?, ..plain };
    let echo = echo(fields)?;
    let store = fields.flag("store")?.unwrap_or(true);
    let background = fields.flag("background")?.unwrap_or(false);
    if background && !store {
        let message = "`background` needs `store`: what is kept nowhere can't be asked for later";
        return Err(ApiError::invalid("background", message));
    }
    Ok(ResponseRequest {
        ask,
        stream: fields.flag("stream")?.unwrap_or(false),
        store,
        background,
        previous: fields.text("previous_response_id")?.map(str::to_owned),
        turn,
        body,
        echo,
    })
}

fn logprobs(fields: Fields<'_>) -> Result<Option<u32>, ApiError> {
    let top = match fields.integer("top_logprobs")? {
        Some(top) if !(0..=TOP_LOGPROBS_MAX).contains(&top) => {
            let message =
                format!("`top_logprobs` must be between 0 and {TOP_LOGPROBS_MAX}, not {top}");
            return Err(ApiError::invalid("top_logprobs", message));
        }
        top => top.and_then(|top| u32::try_from(top).ok()),
    };
    let included = fields.array("include")?.unwrap_or_default();
    let wanted = included.iter().any(|name| name == "message.output_text.logprobs");
    Ok(top.filter(|top| *top > 0).or(wanted.then_some(0)))
}

/// What a response has of its request, absent fields with what holds for them.
fn echo(fields: Fields<'_>) -> Result<Map<String, Value>, ApiError> {
    if let Some(metadata) = fields.get("metadata").filter(|value| !value.is_object()) {
        let found = crate::fields::kind_of(metadata);
        let message = format!("`metadata` must be an object, not {found}");
        return Err(ApiError::invalid("metadata", message));
    }
    let effort = fields.object("reasoning", "reasoning.")?.and_then(|given| given.get("effort"));
    let format = fields.object("text", "text.")?.and_then(|given| given.get("format"));
    let text = json!({"format": format.unwrap_or(&json!({"type": "text"}))});
    let given = [
        ("background", json!(false)),
        ("instructions", json!(null)),
        ("max_output_tokens", json!(null)),
        ("metadata", json!({})),
        ("parallel_tool_calls", json!(true)),
        ("previous_response_id", json!(null)),
        ("store", json!(true)),
        ("temperature", json!(0.8)),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
        ("top_p", json!(0.9)),
        ("truncation", json!("disabled")),
    ];
    let mut echo: Map<String, Value> = given
        .into_iter()
        .map(|(name, absent)| (name.to_owned(), fields.get(name).cloned().unwrap_or(absent)))
        .collect();
    // Whatever was asked for, nothing is ever cut off.
    echo.insert("truncation".to_owned(), json!("disabled"));
    echo.insert("reasoning".to_owned(), json!({"effort": effort, "summary": null}));
    echo.insert("text".to_owned(), text);
    Ok(echo)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Value {
        json!({"model": "m", "input": "hi"})
    }

    #[test]
    fn anything_is_taken_or_refused_by_its_name() {
        known::tests::check_any(FIELDS, &base(), parse);
    }

    #[test]
    fn every_row_of_the_table_for_counting_is_true() {
        let parse = |map: &Map<String, Value>| {
            let mut request = parse_count(map)?;
            for item in &mut request.turn.items {
                item["id"] = json!("drawn");
            }
            Ok(request)
        };
        known::tests::check_each(COUNTED, &base(), parse);
        known::tests::check_any(COUNTED, &base(), parse);
    }

    #[test]
    fn every_row_of_the_table_is_true() {
        // Ids are drawn anew each time.
        let parse = |map: &Map<String, Value>| {
            let mut request = parse(map)?;
            for item in &mut request.turn.items {
                item["id"] = json!("id");
            }
            Ok(request)
        };
        known::tests::check_each(FIELDS, &base(), parse);
    }

    #[test]
    fn a_turn_continues_what_came_before_under_new_instructions() {
        let mut map = base();
        map["instructions"] = json!("be brief");
        let request = parse(map.as_object().unwrap()).unwrap();
        let before = [json!({"role": "user", "content": "first"})];
        let Prompt::Chat(chat) = request.turn.prompt(&before).unwrap() else { panic!("a chat") };
        assert_eq!(
            chat.messages.0,
            r#"[{"role":"system","content":"be brief"},{"role":"user","content":"first"},{"role":"user","content":"hi"}]"#
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (extra, param) in [
            (json!({"input": null}), "input"),
            (json!({"input": [{"role": "oracle"}]}), "input"),
            (json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}), "input"),
            (json!({"top_logprobs": 21}), "top_logprobs"),
            (json!({"text": {"format": {"type": "x"}}}), "text.format.type"),
            (json!({"text": "x"}), "text"),
            (json!({"metadata": 5}), "metadata"),
            (json!({"include": "x"}), "include"),
            (json!({"store": "x"}), "store"),
            (json!({"background": "x"}), "background"),
            (json!({"background": true, "store": false}), "background"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        ] {
            let mut map = base();
            map.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let error = parse(map.as_object().unwrap()).unwrap_err();
            assert_eq!(error.openai_body()["error"]["param"], param, "{extra}");
        }
    }
}
