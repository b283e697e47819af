//! Loading and unloading by an empty prompt: Ollama's way, and ours on `/v1` too.
//!
//! `keep_alive: 0` unloads once the model is unused, anything else loads. The answer is one JSON
//! object, also where a stream was asked for.

use hyper::Response;
use serde_json::{Value, json};

use super::date;
use crate::app::App;
use crate::error::ApiError;
use crate::generation::{Ask, find_model};
use crate::http;
use crate::metrics::{Outcome, RequestMeter};
use crate::stream::Body;

/// For an endpoint that answers with a message.
///
/// # Errors
/// [`ApiError`] if there is no such model, or it can't be loaded.
pub async fn chat(app: &App, ask: &Ask, meter: RequestMeter) -> Result<Response<Body>, ApiError> {
    let message = json!({ "role": "assistant", "content": "" });
    warm(app, ask, meter, ("message", message)).await
}

/// For an endpoint that answers with a text.
///
/// # Errors
/// [`ApiError`] if there is no such model, or it can't be loaded.
pub async fn generate(
    app: &App,
    ask: &Ask,
    meter: RequestMeter,
) -> Result<Response<Body>, ApiError> {
    warm(app, ask, meter, ("response", json!(""))).await
}

async fn warm(
    app: &App,
    ask: &Ask,
    mut meter: RequestMeter,
    (field, empty): (&str, Value),
) -> Result<Response<Body>, ApiError> {
    let done = load_or_unload(app, ask, &mut meter).await;
    let done = meter.check(done)?;
    meter.set_outcome(Outcome::Ok);
    Ok(http::json(&json!({
        "model": ask.model,
        "created_at": date(crate::wall::now()),
        field: empty,
        "done": true,
        "done_reason": done,
    })))
}

/// What both kinds of loading do; gives which it was, in Ollama's word.
///
/// # Errors
/// [`ApiError`] if there is no such model, or it can't be loaded.
pub(super) async fn load_or_unload(
    app: &App,
    ask: &Ask,
    meter: &mut RequestMeter,
) -> Result<&'static str, ApiError> {
    let model = find_model(app, &ask.model).await?;
    meter.set_model(&model.name);
    let keep_alive = app.caller.keep_alive(ask.keep_alive);
    if keep_alive.is_some_and(crate::keep_alive::KeepAlive::is_zero) {
        app.fleet.unload(&model.name).await;
        return Ok("unload");
    }
    let warm = app.fleet.warm(&model, keep_alive).await;
    warm.map_err(|refusal| ApiError::Refused { model: model.name.clone(), refusal })?;
    Ok("load")
}
