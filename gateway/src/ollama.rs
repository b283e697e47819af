//! Ollama's dialect: request JSON → the shared request; replies → response JSON.
//!
//! One file per endpoint. Field names, their order and the words are Ollama's, because its own
//! client and others parse them; what we add stands after them.

pub mod chat;
pub mod embed;
pub mod generate;
pub mod ps;
pub mod tags;
pub mod warm;
mod answer;
mod options;

use hyper::Response;
use serde::Serialize;
use serde_json::json;

use crate::catalog::Model;
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
    parent_model: &'static str,
    format: &'static str,
    family: &'a str,
    families: [&'a str; 1],
    parameter_size: &'a str,
    quantization_level: &'a str,
}

impl<'a> Details<'a> {
    fn of(model: &'a Model) -> Self {
        Self {
            parent_model: "",
            format: model.facts.format,
            family: &model.facts.family,
            families: [&model.facts.family],
            parameter_size: &model.facts.parameter_size,
            quantization_level: &model.facts.quantization_level,
        }
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
    fn dates_have_six_digits_and_a_numeric_offset() {
        let at = jiff::Timestamp::from_nanosecond(1_795_000_000_123_456_789).unwrap();
        assert_eq!(date(at), "2026-11-18T11:06:40.123456+00:00");
    }
}
