//! What Ollama's requests have in common: `model`, `keep_alive`, `stream`, `options`. Pure.

use hearth_shared::protocol::{Constraint, Generate, JsonText, Prompt, Sampling};
use serde_json::Value;

use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::Ask;
use crate::sampling::{self, Spelling};

const STOP_MAX: usize = 64;
const TOP_LOGPROBS_MAX: u32 = 20;

/// Ollama's fields.
const SPELLING: Spelling = Spelling { repetition_penalty: "repeat_penalty", temperature_max: 10.0 };

/// `options`, or what a recipe says in their place.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) sampling: Sampling,
    pub(crate) stop: Vec<String>,
    max_tokens: Option<u32>,
    context_max: Option<u32>,
}

/// The model, and how long to keep it.
pub(super) fn ask(fields: Fields<'_>) -> Result<Ask, ApiError> {
    let model = match (fields.text("model")?, fields.text("name")?) {
        (Some(model), _) | (None, Some(model)) if !model.is_empty() => model.to_owned(),
        _ => {
            return Err(ApiError::invalid("model", "`model` is missing: say which model to use"));
        }
    };
    Ok(Ask { model, keep_alive: fields.keep_alive()? })
}

/// A request for an answer to the prompt, as `options` and the fields beside it that say the same
/// sort of thing want it made.
pub(super) fn generate(fields: Fields<'_>, prompt: Prompt) -> Result<Generate, ApiError> {
    let empty = serde_json::Map::new();
    let given = fields.object("options", "options.")?.unwrap_or(Fields::new(&empty));
    let Options { sampling, stop, max_tokens, context_max } = read(given)?;
    Ok(Generate {
        sampling,
        stop,
        max_tokens,
        context_max,
        constraint: format(fields)?,
        logprobs: logprobs(fields)?,
        ..Generate::new(prompt)
    })
}

/// Options over Ollama's defaults.
///
/// One that is not read here changes nothing; `fields` knows which of them are Ollama's.
///
/// # Errors
/// [`ApiError::Invalid`] that names the option.
pub(crate) fn read(given: Fields<'_>) -> Result<Options, ApiError> {
    let mut sampling = sampling::read(given, SPELLING)?;
    // -1 is "random", as absent is.
    sampling.seed = sampling.seed.filter(|seed| *seed != u64::MAX);
    Ok(Options {
        sampling,
        stop: given.texts("stop", STOP_MAX)?,
        max_tokens: given.count("num_predict")?,
        context_max: num_ctx(given)?,
    })
}

/// The most tokens that prompt and answer may have; 0 says nothing.
pub(crate) fn num_ctx(given: Fields<'_>) -> Result<Option<u32>, ApiError> {
    Ok(given.count("num_ctx")?.filter(|tokens| *tokens > 0))
}

/// `format`: `json`, or a schema.
fn format(fields: Fields<'_>) -> Result<Option<Constraint>, ApiError> {
    match fields.get("format") {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if text == "json" => Ok(Some(Constraint::JsonObject)),
        Some(schema @ Value::Object(_)) => {
            Ok(Some(Constraint::JsonSchema(JsonText(schema.to_string()))))
        }
        Some(_) => {
            let message = "`format` must be \"json\" or a JSON schema";
            Err(ApiError::invalid("format", message))
        }
    }
}

fn logprobs(fields: Fields<'_>) -> Result<Option<u32>, ApiError> {
    let top = fields.integer("top_logprobs")?.unwrap_or(0);
    let top = u32::try_from(top).ok().filter(|top| *top <= TOP_LOGPROBS_MAX).ok_or_else(|| {
        let message = format!("`top_logprobs` must be from 0 to {TOP_LOGPROBS_MAX}, not {top}");
        ApiError::invalid("top_logprobs", message)
    })?;
    Ok(fields.flag("logprobs")?.unwrap_or(false).then_some(top))
}

/// Whether to stream, which Ollama does unless told not to.
pub(super) fn stream(fields: Fields<'_>) -> Result<bool, ApiError> {
    Ok(fields.flag("stream")?.unwrap_or(true))
}

/// Refuses pictures by the name of the field that holds them.
pub(crate) fn refuse_images(fields: Fields<'_>, path: &str) -> Result<(), ApiError> {
    match fields.get("images") {
        None => Ok(()),
        Some(Value::Array(images)) if images.is_empty() => Ok(()),
        Some(_) => Err(ApiError::invalid(path, "this model reads text only, no images")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_lie_over_ollamas_defaults() {
        let value =
            json!({"options": {"temperature": 0, "num_predict": -1, "seed": 7, "stop": "x"}});
        let of =
            |value: &Value| generate(Fields::new(value.as_object().unwrap()), Prompt::raw("x"));
        let body = of(&value).unwrap();
        let sampling = body.sampling;
        assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.0, 40, 0.9));
        assert_eq!((sampling.seed, body.max_tokens), (Some(7), None));
        assert_eq!(body.stop, ["x"]);
        for (num_ctx, context_max) in [(64, Some(64)), (0, None), (-1, None)] {
            let body = of(&json!({"options": {"num_ctx": num_ctx}})).unwrap();
            assert_eq!(body.context_max, context_max);
        }
    }

    #[test]
    fn ttl_is_another_name_of_keep_alive() {
        let value = json!({"model": "m", "ttl": 5});
        let ask = ask(Fields::new(value.as_object().unwrap())).unwrap();
        assert_eq!(ask.keep_alive.unwrap().as_seconds(), 5.0);
    }

    #[test]
    fn a_wrong_option_is_named_with_its_path() {
        let value = json!({"options": {"top_p": 2}});
        let fields = Fields::new(value.as_object().unwrap());
        let error = generate(fields, Prompt::raw("x")).unwrap_err();
        assert_eq!(error.to_string(), "`options.top_p` must be between 0 and 1, not 2");
    }
}
