//! Ollama's dialect: request JSON → the shared request; replies → response JSON.
//!
//! One file per endpoint, and `fields` says what becomes of each field. Field names, their order and the words are Ollama's, because its own
//! client and others parse them; what we add stands after them.

pub mod chat;
pub mod embed;
pub mod generate;
pub mod show;
pub mod manage;
pub mod pull;
pub mod blobs;
pub mod create;
pub mod ps;
pub mod tags;
pub mod warm;
mod answer;
pub(crate) mod fields;
pub(crate) mod options;
mod think;

use std::borrow::Cow;

use hearth_shared::ids::ModelName;
use hyper::Response;
use serde::Serialize;
use serde_json::json;

use crate::catalog::{Model, Offer};
use crate::describe::Description;
use crate::http;
use crate::stream::Body;

/// `GET /api/version`. Open WebUI splits it into numbers.
#[must_use]
pub fn version() -> Response<Body> {
    http::json(&json!({ "version": env!("CARGO_PKG_VERSION") }))
}

/// `details` of a model.
#[derive(Debug, Serialize)]
struct Details<'a> {
    /// What it is made of or another name of, as clients write it.
    parent_model: String,
    format: &'static str,
    family: &'a str,
    families: [&'a str; 1],
    parameter_size: Cow<'a, str>,
    quantization_level: &'a str,
}

impl<'a> Details<'a> {
    /// With the size from the description where the catalogue has none.
    fn of(model: &'a Model, description: &Description) -> Self {
        let counted = description.parameters.map(in_words).map(Cow::Owned);
        let told = Cow::Borrowed(model.facts.parameter_size.as_str());
        let size = if told.is_empty() { counted.unwrap_or(told) } else { told };
        Self { parameter_size: size, ..Self::plain(model) }
    }

    /// Of what a name stands for.
    fn of_offer(offer: &'a Offer, description: &Description) -> Self {
        let parent_model = offer.parent().map_or_else(String::new, ModelName::with_tag);
        Self { parent_model, ..Self::of(&offer.model, description) }
    }

    /// What the catalogue knows alone.
    fn plain(model: &'a Model) -> Self {
        Self {
            parent_model: String::new(),
            format: model.facts.format,
            family: &model.facts.family,
            families: [&model.facts.family],
            parameter_size: Cow::Borrowed(&model.facts.parameter_size),
            quantization_level: &model.facts.quantization_level,
        }
    }
}

/// A number of parameters as people say it: `135M`, `1.24B`.
fn in_words(parameters: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let number = parameters as f64;
    match parameters {
        1_000_000_000.. => format!("{:.2}B", number / 1e9),
        1_000_000.. => format!("{:.2}M", number / 1e6),
        _ => format!("{:.2}K", number / 1e3),
    }
}

/// A date as every client of Ollama reads it: six digits of fraction and a numeric offset.
fn date(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_told_as_ollama_tells_them() {
        let words = [134_515_008, 1_240_000_000, 5_440].map(in_words);
        assert_eq!(words, ["134.52M", "1.24B", "5.44K"]);
    }

    #[test]
    fn dates_have_six_digits_and_a_numeric_offset() {
        let at = jiff::Timestamp::from_nanosecond(1_795_000_000_123_456_789).unwrap();
        assert_eq!(date(at), "2026-11-18T11:06:40.123456+00:00");
    }
}
