//! `think`: whether a model thinks before it answers, and how hard. Pure.

use hearth_shared::protocol::JsonText;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::fields::Fields;

const LEVELS: [&str; 4] = ["low", "medium", "high", "max"];

/// What a request wants of thoughts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Think {
    /// For the chat template.
    pub(super) variables: Option<JsonText>,
    /// A model that can't think is the wrong one.
    pub(super) must_think: bool,
}

/// # Errors
/// [`ApiError::Invalid`] for anything but a boolean or a level.
pub(super) fn read(fields: Fields<'_>) -> Result<Think, ApiError> {
    let (variables, must_think) = match fields.get("think") {
        None => (None, false),
        Some(Value::Bool(think)) => (Some(json!({ "enable_thinking": think })), *think),
        Some(Value::String(level)) if LEVELS.contains(&level.as_str()) => {
            (Some(json!({ "enable_thinking": true, "reasoning_effort": level })), true)
        }
        Some(_) => {
            let message = "`think` must be true, false, or one of low, medium, high and max";
            return Err(ApiError::invalid("think", message));
        }
    };
    Ok(Think { variables: variables.map(|variables| JsonText(variables.to_string())), must_think })
}
