//! Hearth's own endpoints beside those of the dialects: load, unload, and what happens.
//!
//! Paths and errors are shaped as Ollama's, because they stand under `/api`. They decide nothing:
//! each is one order to the fleet, or a look at it.

pub mod events;

use std::time::Duration;

use hyper::Response;
use serde_json::json;

use crate::app::App;
use crate::error::ApiError;
use crate::fields::{Fields, parse_object};
use crate::generation::find_model;
use crate::http;
use crate::metrics::{Outcome, RequestMeter};
use crate::server::ReadBody;
use crate::stream::Body;

/// An unload is waited for no longer than this; the answer says that it is not over.
const UNLOAD_WAIT_MAX: Duration = Duration::from_secs(10 * 60);

/// `POST /api/load`: answers once the model is loaded.
///
/// # Errors
/// [`ApiError`] if there is no such model, or it can't be loaded.
pub async fn load(app: &App, body: ReadBody) -> Result<Response<Body>, ApiError> {
    let mut meter = RequestMeter::start("/api/load");
    let done = load_model(app, body.as_ref(), &mut meter).await;
    finish(meter, done)
}

async fn load_model(
    app: &App,
    body: &[u8],
    meter: &mut RequestMeter,
) -> Result<Response<Body>, ApiError> {
    let map = parse_object(body)?;
    let fields = Fields::new(&map);
    let (written, keep_alive) = (fields.model()?, app.caller.keep_alive(fields.keep_alive()?));
    let model = find_model(app, &written).await?;
    meter.set_model(&model.name);
    let refused = |refusal| ApiError::Refused { model: model.name.clone(), refusal };
    app.fleet.warm(&model, keep_alive).await.map_err(refused)?;
    let state = app.fleet.snapshot().word_of(&model.name);
    Ok(http::json(&json!({ "model": model.name.with_tag(), "state": state })))
}

/// `POST /api/unload`: the model leaves once it is unused; with `force` now, whoever uses it. With
/// `wait` the answer comes when its process is gone and its memory back.
///
/// # Errors
/// [`ApiError`] if there is no such model.
pub async fn unload(app: &App, body: ReadBody) -> Result<Response<Body>, ApiError> {
    let mut meter = RequestMeter::start("/api/unload");
    let done = unload_model(app, body.as_ref(), &mut meter).await;
    finish(meter, done)
}

async fn unload_model(
    app: &App,
    body: &[u8],
    meter: &mut RequestMeter,
) -> Result<Response<Body>, ApiError> {
    let map = parse_object(body)?;
    let fields = Fields::new(&map);
    let written = fields.model()?;
    let force = fields.flag("force")?.unwrap_or(false);
    let wait = fields.flag("wait")?.unwrap_or(false);
    // A model whose files are gone can still be in memory.
    let name = match find_model(app, &written).await {
        Ok(model) => model.name.clone(),
        Err(error) => match written.parse() {
            Ok(name)
                if app.caller.may_use(&name) && app.fleet.snapshot().worker_of(&name).is_some() =>
            {
                name
            }
            Ok(_) | Err(_) => return Err(error),
        },
    };
    meter.set_model(&name);
    let gone = app.fleet.gone(&name);
    if force {
        app.fleet.unload_by_force(&name).await;
    } else {
        app.fleet.unload(&name).await;
    }
    let unloaded = wait && tokio::time::timeout(UNLOAD_WAIT_MAX, gone).await.is_ok();
    let state = app.fleet.snapshot().word_of(&name);
    Ok(http::json(&json!({ "model": name.with_tag(), "state": state, "unloaded": unloaded })))
}

fn finish(
    mut meter: RequestMeter,
    done: Result<Response<Body>, ApiError>,
) -> Result<Response<Body>, ApiError> {
    let response = meter.check(done)?;
    meter.set_outcome(Outcome::Ok);
    Ok(response)
}
