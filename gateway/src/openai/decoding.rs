//! The fields that say how an answer is decoded, which all generating endpoints have. Pure.

use hearth_shared::protocol::{Generate, Prompt};
use serde_json::Value;

use super::format;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::sampling::{self, Spelling};

/// More stop texts than OpenAI takes, because others take more.
const STOP_MAX: usize = 16;
const STOP_TOKENS_MAX: usize = 64;
const CHOICES_MAX: u32 = 8;
const BIASES_MAX: usize = 1024;
const BIAS_MAX: f64 = 100.0;

/// Everything of a [`Generate`] but its limit of tokens, its probabilities and its constraint.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(super) fn read(fields: Fields<'_>, prompt: Prompt) -> Result<Generate, ApiError> {
    // vLLM's name, and llama.cpp's where that one is absent.
    let repetition_penalty = ["repetition_penalty", "repeat_penalty"]
        .into_iter()
        .find(|name| fields.get(name).is_some())
        .unwrap_or("repetition_penalty");
    Ok(Generate {
        choices: choices(fields)?,
        sampling: sampling::read(fields, Spelling { repetition_penalty, temperature_max: 2.0 })?,
        logit_bias: logit_bias(fields)?,
        constraint: format::read(fields)?,
        stop: fields.texts("stop", STOP_MAX)?.into_iter().filter(|text| !text.is_empty()).collect(),
        stop_token_ids: token_ids(fields, "stop_token_ids", STOP_TOKENS_MAX)?,
        ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
        min_tokens: fields.count("min_tokens")?.unwrap_or(0),
        ..Generate::new(prompt)
    })
}

fn choices(fields: Fields<'_>) -> Result<u32, ApiError> {
    match fields.integer("n")? {
        None => Ok(1),
        Some(n) => match u32::try_from(n) {
            Ok(n) if (1..=CHOICES_MAX).contains(&n) => Ok(n),
            Ok(_) | Err(_) => {
                let message = format!("`n` must be between 1 and {CHOICES_MAX}, not {n}");
                Err(ApiError::invalid("n", message))
            }
        },
    }
}

fn logit_bias(fields: Fields<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let wrong = |message: String| Err(ApiError::invalid("logit_bias", message));
    let given = match fields.get("logit_bias") {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(_) => {
            return wrong("`logit_bias` must be an object from token ids to biases".to_owned());
        }
    };
    if given.len() > BIASES_MAX {
        return wrong(format!("`logit_bias` may hold at most {BIASES_MAX}, not {}", given.len()));
    }
    let mut biases = Vec::with_capacity(given.len());
    for (token, bias) in given {
        let shown: String = token.chars().take(20).collect();
        let Some(bias) = bias.as_f64().filter(|bias| bias.abs() <= BIAS_MAX) else {
            return wrong(format!(
                "the bias of `{shown}` must be a number from -{BIAS_MAX} to {BIAS_MAX}"
            ));
        };
        // What asks for nothing may name nothing.
        if bias == 0.0 {
            continue;
        }
        match token.parse() {
            #[expect(clippy::cast_possible_truncation, reason = "sampling is done in f32")]
            Ok(token) => biases.push((token, bias as f32)),
            Err(_) => return wrong(format!("`{shown}` is no token id")),
        }
    }
    Ok(biases)
}

/// An array of token ids.
///
/// # Errors
/// [`ApiError::Invalid`] for anything else, and for more than `max`.
fn token_ids(fields: Fields<'_>, name: &str, max: usize) -> Result<Vec<u32>, ApiError> {
    let given = fields.array(name)?.unwrap_or_default();
    let ids: Option<Vec<u32>> = given.iter().map(token_id).collect();
    ids.filter(|ids| ids.len() <= max).ok_or_else(|| {
        ApiError::invalid(name, format!("`{name}` must be an array of at most {max} token ids"))
    })
}

/// The token id that a value is.
pub(super) fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_value(value: &Value) -> Result<Generate, ApiError> {
        read(Fields::new(value.as_object().unwrap()), Prompt::raw("x"))
    }

    #[test]
    fn biases_are_by_token_and_those_of_nothing_are_none() {
        let body = read_value(&json!({"logit_bias": {"5": -100, "7": 1.5, "foo": 0}})).unwrap();
        assert_eq!(body.logit_bias, [(5, -100.0), (7, 1.5)]);
    }

    #[test]
    fn an_empty_stop_text_ends_nothing() {
        assert_eq!(read_value(&json!({"stop": ["", "a"]})).unwrap().stop, ["a"]);
        assert_eq!(read_value(&json!({"stop": ""})).unwrap().stop, [""; 0]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (request, param) in [
            (json!({"n": 0}), "n"),
            (json!({"n": 9}), "n"),
            (json!({"n": 1_000_000_000_000_u64}), "n"),
            (json!({"n": -1}), "n"),
            (json!({"logit_bias": [1]}), "logit_bias"),
            (json!({"logit_bias": {"foo": 1}}), "logit_bias"),
            (json!({"logit_bias": {"5": 101}}), "logit_bias"),
            (json!({"logit_bias": {"5": null}}), "logit_bias"),
            (json!({"stop_token_ids": [-1]}), "stop_token_ids"),
            (json!({"stop_token_ids": vec![1; 65]}), "stop_token_ids"),
            (json!({"stop": vec!["a"; 17]}), "stop"),
            (json!({"min_tokens": "a"}), "min_tokens"),
            (json!({"ignore_eos": 1}), "ignore_eos"),
            (json!({"repeat_penalty": 0}), "repeat_penalty"),
        ] {
            let error = read_value(&request).unwrap_err();
            assert_eq!(error.openai_body()["error"]["param"], param, "{request}");
        }
    }
}
