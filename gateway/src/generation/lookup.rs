//! What a client wrote → a model of the catalogue, or an error that names what it may have meant.

use std::sync::Arc;

use hearth_shared::ids::{MODEL_NAME_BYTES_MAX, ModelName};
use serde_json::{Map, Value};

use crate::app::App;
use crate::catalog::{Model, Offer};
use crate::error::ApiError;
use crate::hub::without_host;

/// So many names are told where none is alike.
const TOLD_MAX: usize = 8;
/// So many of those that are.
const CLOSEST_MAX: usize = 3;
/// Names that are less alike than this are not what was meant.
const LIKENESS_MIN: f64 = 0.5;

/// Looks up the model that serves what a client wrote, where what a recipe says does not matter.
///
/// # Errors
/// As [`find_offer`].
pub async fn find_model(app: &App, written: &str) -> Result<Arc<Model>, ApiError> {
    Ok(find_offer(app, written).await?.model)
}

/// Looks up what a request names, before anything else of it is read: what a derived model says
/// counts where other fields are absent.
///
/// # Errors
/// As [`find_offer`]; a request without a name is refused by whoever reads it.
pub async fn find_named(app: &App, request: &Map<String, Value>) -> Result<Offer, ApiError> {
    let text = |name| request.get(name).and_then(Value::as_str);
    find_offer(app, text("model").or_else(|| text("name")).unwrap_or_default()).await
}

/// Looks up what a client wrote.
///
/// # Errors
/// [`ApiError::UnknownModel`], with the closest names there are; [`ApiError::Catalog`] if nobody
/// knows.
pub async fn find_offer(app: &App, written: &str) -> Result<Offer, ApiError> {
    let parsed = without_host(written).parse::<ModelName>().ok();
    if let Some(name) = &parsed
        && let Some(offer) = app.catalog.find(name).await?
        && app.may_use(&offer)
    {
        return Ok(offer);
    }
    let offers = app.offers().await?;
    let names: Vec<&str> = offers.iter().map(|offer| offer.name.as_str()).collect();
    let parsed = parsed.filter(|name| app.caller.may_use(name));
    let is_base =
        |offer: &&Offer| parsed.as_ref().is_some_and(|name| name.base() == offer.name.as_str());
    let why_not = match &parsed {
        Some(name) => app.catalog.names().await?.why_not(name),
        None => None,
    };
    let hint = if let Some(why_not) = why_not {
        why_not
    } else if let Some(Offer { model, derived: None, .. }) = offers.iter().find(is_base) {
        model.variants_hint()
    } else if names.is_empty() {
        format!("there are no models yet; put one into {}", app.catalog.root().display())
    } else {
        hint(written, &names)
    };
    let name = written.chars().take(MODEL_NAME_BYTES_MAX).collect();
    Err(ApiError::UnknownModel { name, hint })
}

fn hint(written: &str, names: &[&str]) -> String {
    let closest = closest(written, names);
    if closest.is_empty() {
        let told = &names[..names.len().min(TOLD_MAX)];
        let more = if names.len() > told.len() { ", …" } else { "" };
        format!("there is {}{more}", told.join(", "))
    } else {
        format!("did you mean {}?", closest.join(" or "))
    }
}

/// The names most like what was written, the likest first.
fn closest<'a>(written: &str, names: &[&'a str]) -> Vec<&'a str> {
    // What is too long to be a name is like none, and comparing takes the product of the lengths.
    if written.is_empty() || written.len() > MODEL_NAME_BYTES_MAX {
        return Vec::new();
    }
    let written = written.to_lowercase();
    let mut alike: Vec<(f64, &str)> = names
        .iter()
        .map(|name| (likeness(&written, &name.to_lowercase()), *name))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .collect();
    alike.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    alike.truncate(CLOSEST_MAX);
    alike.into_iter().map(|(_, name)| name).collect()
}

/// From 0 to 1. Who leaves the owner or a part of the name out still means it.
fn likeness(written: &str, name: &str) -> f64 {
    const PART_OF_IT: f64 = 0.9;
    let by_letters = strsim::normalized_damerau_levenshtein(written, name);
    let is_part = written.len() >= 3 && name.contains(written);
    if is_part { by_letters.max(PART_OF_IT) } else { by_letters }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] =
        ["all-minilm", "onnx-community/Qwen3-0.6B", "smollm2-135m", "smollm2-360m"];

    #[test]
    fn a_slip_of_the_pen_is_told_what_was_meant() {
        assert_eq!(hint("smolm2-135m", &NAMES), "did you mean smollm2-135m or smollm2-360m?");
        assert_eq!(hint("qwen3-0.6b", &NAMES), "did you mean onnx-community/Qwen3-0.6B?");
    }

    #[test]
    fn what_is_like_nothing_is_told_what_there_is() {
        let all = "there is all-minilm, onnx-community/Qwen3-0.6B, smollm2-135m, smollm2-360m";
        assert_eq!(hint("gpt-5.4", &NAMES), all);
        assert_eq!(hint(&"smollm2".repeat(1000), &NAMES), all);
        assert_eq!(hint("xyz", &["a"; 9]), "there is a, a, a, a, a, a, a, a, …");
    }
}
