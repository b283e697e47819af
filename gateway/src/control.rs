//! Hearth's own endpoints beside those of the dialects: load, unload, and what happens.
//!
//! Paths and errors are shaped as Ollama's, because they stand under `/api`. They decide nothing:
//! each is one order to the fleet, or a look at it.

pub mod events;

use std::time::Duration;

use hyper::Response;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::{Ask, find_model};
use crate::http;
use crate::known::{self, Known, honoured};
use crate::metrics::{Outcome, RequestMeter};
use crate::server::ReadBody;
use crate::stream::Body;

/// An unload is waited for no longer than this; the answer says that it is not over.
const UNLOAD_WAIT_MAX: Duration = Duration::from_secs(10 * 60);

const MODEL: Known = honoured("model", r#"{"model":"other"}"#, "");

/// What becomes of each field of `POST /api/load`.
pub(crate) const LOADED: &[Known] = &[
    MODEL,
    honoured("keep_alive", r#"{"keep_alive":"10s"}"#, "how long the model stays loaded"),
    honoured("ttl", r#"{"ttl":10}"#, "LM Studio's name of `keep_alive`"),
];

/// What becomes of each field of `POST /api/unload`.
pub(crate) const UNLOADED: &[Known] = &[
    MODEL,
    honoured("force", r#"{"force":true}"#, "now, whoever uses it"),
    honoured("wait", r#"{"wait":true}"#, "answers when its memory is back"),
];

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
    let (Ask { model: written, keep_alive }, ignored) = known::read(body, LOADED, parse_load)?;
    let keep_alive = app.caller.keep_alive(keep_alive);
    let model = find_model(app, &written).await?;
    meter.set_model(&model.name);
    let refused = |refusal| ApiError::Refused { model: model.name.clone(), refusal };
    app.fleet.warm(&model, keep_alive).await.map_err(refused)?;
    let state = app.fleet.snapshot().word_of(&model.name);
    let answer = http::json(&json!({ "model": model.name.with_tag(), "state": state }));
    Ok(known::mark(answer, ignored))
}

/// Whether these are the fields of a request.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check_load(map: &Map<String, Value>) -> Result<(), ApiError> {
    parse_load(map).map(drop)
}

fn parse_load(map: &Map<String, Value>) -> Result<Ask, ApiError> {
    let fields = Fields::new(map);
    Ok(Ask { model: fields.model()?, keep_alive: fields.keep_alive()? })
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
    let (unload, ignored) = known::read(body, UNLOADED, parse_unload)?;
    let Unload { model: written, force, wait } = unload;
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
    let answer = json!({ "model": name.with_tag(), "state": state, "unloaded": unloaded });
    Ok(known::mark(http::json(&answer), ignored))
}

/// Whether these are the fields of a request.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check_unload(map: &Map<String, Value>) -> Result<(), ApiError> {
    parse_unload(map).map(drop)
}

/// An order to unload.
#[derive(Debug)]
struct Unload {
    model: String,
    force: bool,
    wait: bool,
}

fn parse_unload(map: &Map<String, Value>) -> Result<Unload, ApiError> {
    let fields = Fields::new(map);
    let flag = |name| Ok::<_, ApiError>(fields.flag(name)?.unwrap_or(false));
    Ok(Unload { model: fields.model()?, force: flag("force")?, wait: flag("wait")? })
}

fn finish(
    mut meter: RequestMeter,
    done: Result<Response<Body>, ApiError>,
) -> Result<Response<Body>, ApiError> {
    let response = meter.check(done)?;
    meter.set_outcome(Outcome::Ok);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known::tests::{check_any, check_each};

    #[test]
    fn every_row_of_the_tables_is_true() {
        check_each(LOADED, &json!({"model": "m"}), parse_load);
        check_each(UNLOADED, &json!({"model": "m"}), parse_unload);
        check_any(LOADED, &json!({"model": "m"}), parse_load);
        check_any(UNLOADED, &json!({"model": "m"}), parse_unload);
    }
}
