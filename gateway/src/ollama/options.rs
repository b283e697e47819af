//! What Ollama's requests have in common: `model`, `keep_alive`, `stream`, `options`. Pure.

use hearth_shared::protocol::Sampling;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::Ask;
use crate::sampling::{self, Spelling};

const STOP_MAX: usize = 64;

/// Ollama's fields.
const SPELLING: Spelling = Spelling { repetition_penalty: "repeat_penalty", temperature_max: 10.0 };

/// How a request wants its answer made.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) sampling: Sampling,
    pub(super) stop: Vec<String>,
    pub(super) max_tokens: Option<u32>,
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

/// Refuses what would change the answer and is not served.
pub(super) fn refuse_what_is_not_served(fields: Fields<'_>) -> Result<(), ApiError> {
    fields.refuse("format", &[json!("")])?;
    fields.refuse("think", &[json!(false)])?;
    fields.refuse("tools", &[json!([])])
}

/// `options`, on top of Ollama's defaults.
pub(super) fn options(fields: Fields<'_>) -> Result<Options, ApiError> {
    let empty = serde_json::Map::new();
    let given = fields.object("options", "options.")?.unwrap_or(Fields::new(&empty));
    let mut sampling = sampling::read(given, SPELLING)?;
    // -1 is "random", as absent is.
    sampling.seed = sampling.seed.filter(|seed| *seed != u64::MAX);
    Ok(Options {
        sampling,
        stop: given.texts("stop", STOP_MAX)?,
        max_tokens: given.count("num_predict")?,
    })
}

/// Whether to stream, which Ollama does unless told not to.
pub(super) fn stream(fields: Fields<'_>) -> Result<bool, ApiError> {
    Ok(fields.flag("stream")?.unwrap_or(true))
}

/// Refuses pictures by the name of the field that holds them.
pub(super) fn refuse_images(fields: Fields<'_>, path: &str) -> Result<(), ApiError> {
    match fields.get("images") {
        None => Ok(()),
        Some(Value::Array(images)) if images.is_empty() => Ok(()),
        Some(_) => Err(ApiError::invalid(path, "this model reads text only, no images")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_lie_over_ollamas_defaults() {
        let value =
            json!({"options": {"temperature": 0, "num_predict": -1, "seed": 7, "stop": "x"}});
        let options = options(Fields::new(value.as_object().unwrap())).unwrap();
        let sampling = options.sampling;
        assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.0, 40, 0.9));
        assert_eq!((sampling.seed, options.max_tokens), (Some(7), None));
        assert_eq!(options.stop, ["x"]);
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
        let error = options(Fields::new(value.as_object().unwrap())).unwrap_err();
        assert_eq!(error.to_string(), "`options.top_p` must be between 0 and 1, not 2");
    }
}
