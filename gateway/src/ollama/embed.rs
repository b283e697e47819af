//! `POST /api/embed` and the older `/api/embeddings`: texts → vectors.
//!
//! Nothing to embed means: load the model, or unload it with a `keep_alive` of 0.

use std::time::Duration;

use hearth_shared::protocol::{Embed, EmbedInput};
use hyper::Response;
use serde_json::{Map, Value, json};

use super::{fields, options, warm};
use crate::app::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::{Ask, find_model};
use crate::http;
use crate::known::{self, Ignored};
use crate::metrics::{Outcome, RequestMeter};
use crate::oneshot::{Call, Encoded};
use crate::server::ReadBody;
use crate::stream::Body;

const INPUTS_MAX: usize = 2048;

/// Serves one request to `/api/embed`.
///
/// # Errors
/// [`ApiError`]
pub async fn embed(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let meter = RequestMeter::start("/api/embed");
    let arrived = meter.arrived();
    let read = |body: &[u8]| known::read(body, fields::EMBED, parse_new);
    let (ask, vectors, ignored) = answer(app, meter, request_body, read).await?;
    let answer = match vectors {
        None => json!({ "model": ask.model, "embeddings": [] }),
        Some(Encoded { items, prompt_tokens, waited }) => json!({
            "model": ask.model,
            "embeddings": items,
            "total_duration": nanoseconds(arrived.elapsed()),
            "load_duration": nanoseconds(waited),
            "prompt_eval_count": prompt_tokens,
        }),
    };
    Ok(known::mark(http::json(&answer), ignored))
}

/// Serves one request to `/api/embeddings`.
///
/// # Errors
/// [`ApiError`]
pub async fn embeddings(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let meter = RequestMeter::start("/api/embeddings");
    let read = |body: &[u8]| known::read(body, fields::EMBEDDINGS, parse_older);
    let (_, vectors, ignored) = answer(app, meter, request_body, read).await?;
    let first = vectors.and_then(|vectors| vectors.items.into_iter().next());
    let answer = http::json(&json!({ "embedding": first.unwrap_or_default() }));
    Ok(known::mark(answer, ignored))
}

/// Whether these are the fields of a request.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check(map: &Map<String, Value>) -> Result<(), ApiError> {
    parse_new(map).map(drop)
}

/// Whether these are the fields of a request.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check_older(map: &Map<String, Value>) -> Result<(), ApiError> {
    parse_older(map).map(drop)
}

/// `None` where there was nothing to embed, only to load or unload.
async fn answer(
    app: &App,
    mut meter: RequestMeter,
    request_body: ReadBody,
    read: impl FnOnce(&[u8]) -> Result<(Parsed, Ignored), ApiError>,
) -> Result<(Ask, Option<Encoded<Vec<f32>>>, Ignored), ApiError> {
    let parsed = read(request_body.as_ref());
    drop(request_body);
    let ((ask, body), ignored) = meter.check(parsed)?;
    let Some(body) = body else {
        let done = warm::load_or_unload(app, &ask, &mut meter).await;
        meter.check(done)?;
        meter.set_outcome(Outcome::Ok);
        return Ok((ask, None, ignored));
    };
    let model = meter.check(find_model(app, &ask.model).await)?;
    let call = Call::new(app, model, ask.keep_alive, meter);
    Ok((ask, Some(call.embed(body).await?), ignored))
}

/// Without texts where there is only to load or unload.
type Parsed = (Ask, Option<Embed>);

pub(super) fn parse_new(map: &Map<String, Value>) -> Result<Parsed, ApiError> {
    let fields = Fields::new(map);
    fields::check(fields, fields::EMBED)?;
    parse(fields, inputs(fields)?)
}

pub(super) fn parse_older(map: &Map<String, Value>) -> Result<Parsed, ApiError> {
    let fields = Fields::new(map);
    fields::check(fields, fields::EMBEDDINGS)?;
    parse(fields, prompt(fields)?)
}

fn parse(fields: Fields<'_>, texts: Vec<String>) -> Result<Parsed, ApiError> {
    let ask = options::ask(fields)?;
    // None of them means anything to an encoder.
    fields.object("options", "options.")?;
    if texts.is_empty() {
        return Ok((ask, None));
    }
    let body = Embed {
        inputs: texts.into_iter().map(EmbedInput::Text).collect(),
        dimensions: fields.positive("dimensions")?,
        truncate: fields.flag("truncate")?.unwrap_or(true),
    };
    Ok((ask, Some(body)))
}

/// A lone empty string is nothing to embed.
fn inputs(fields: Fields<'_>) -> Result<Vec<String>, ApiError> {
    let texts = fields.texts("input", INPUTS_MAX)?;
    let nothing = fields.text("input").is_ok_and(|text| text.is_none_or(str::is_empty));
    Ok(if nothing { Vec::new() } else { texts })
}

fn prompt(fields: Fields<'_>) -> Result<Vec<String>, ApiError> {
    let text = fields.text("prompt")?.filter(|text| !text.is_empty());
    Ok(text.map(str::to_owned).into_iter().collect())
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(
        value: &Value,
        parse: impl FnOnce(&Map<String, Value>) -> Result<Parsed, ApiError>,
    ) -> Result<Option<Embed>, String> {
        let parsed = parse(value.as_object().unwrap());
        parsed.map(|(_, body)| body).map_err(|error| error.to_string())
    }

    fn texts(body: Option<Embed>) -> Vec<EmbedInput> {
        body.unwrap().inputs
    }

    #[test]
    fn one_text_and_many_are_read_and_cut_unless_told_otherwise() {
        let text = |text: &str| EmbedInput::Text(text.to_owned());
        let body = json!({"model": "m", "input": "a", "options": {"num_ctx": 9}});
        let one = parsed(&body, parse_new).unwrap();
        assert!(one.as_ref().unwrap().truncate);
        assert_eq!(texts(one), [text("a")]);
        let body = json!({"model": "m", "input": ["a", ""], "truncate": false, "dimensions": 4});
        let many = parsed(&body, parse_new).unwrap();
        let many = many.unwrap();
        assert_eq!((many.truncate, many.dimensions), (false, Some(4)));
        assert_eq!(many.inputs, [text("a"), text("")]);
        let body = json!({"model": "m", "prompt": "a"});
        assert_eq!(texts(parsed(&body, parse_older).unwrap()), [text("a")]);
    }

    #[test]
    fn nothing_to_embed_is_a_wish_to_load() {
        for body in [
            json!({"model": "m"}),
            json!({"model": "m", "input": ""}),
            json!({"model": "m", "input": []}),
        ] {
            assert_eq!(parsed(&body, parse_new), Ok(None), "{body}");
        }
        assert_eq!(parsed(&json!({"model": "m", "prompt": ""}), parse_older), Ok(None));
    }

    #[test]
    fn a_wrong_field_is_named() {
        let body = json!({"model": "m", "input": [[1]]});
        assert_eq!(
            parsed(&body, parse_new).unwrap_err(),
            "`input` must be a string or an array of strings, not an array"
        );
        let body = json!({"model": "m", "input": "a", "dimensions": 0});
        assert_eq!(parsed(&body, parse_new).unwrap_err(), "`dimensions` must be at least 1, not 0");
    }
}
