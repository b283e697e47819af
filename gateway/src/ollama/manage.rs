//! `POST /api/copy` and `DELETE /api/delete`: the models directory, changed through Ollama's dialect.

use std::path::PathBuf;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use hyper::{Response, StatusCode};
use serde_json::{Map, Value};

use super::{fields, options};
use crate::app::App;
use crate::catalog::Offer;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::{Ask, find_model, find_offer};
use crate::http;
use crate::hub::without_host;
use crate::known;
use crate::server::ReadBody;
use crate::store::{Store, StoreError};
use crate::stream::Body;

/// A model that is to be deleted has this long to finish what it does.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves one request to copy.
///
/// # Errors
/// [`ApiError`]
pub async fn copy(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let ((source, destination), ignored) =
        known::read(request_body.as_ref(), fields::COPY, parse_copy)?;
    drop(request_body);
    check_is_free(app, &destination).await?;
    let Offer { model, derived, .. } = find_offer(app, &source).await?;
    match derived {
        None => adopt(app, model.path.clone(), destination).await?,
        Some(derived) => {
            let text = derived.recipe.to_text()?;
            change(app, move |store| store.copy_recipe(&text, &destination)).await?;
        }
    }
    Ok(known::mark(http::status(StatusCode::OK, ""), ignored))
}

/// Whether these are the fields of a request.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check_copy(map: &Map<String, Value>) -> Result<(), ApiError> {
    parse_copy(map).map(drop)
}

pub(super) fn parse_copy(map: &Map<String, Value>) -> Result<(String, ModelName), ApiError> {
    let fields = Fields::new(map);
    fields::check(fields, fields::COPY)?;
    let missing = |name| ApiError::invalid(name, format!("`{name}` is missing"));
    let source = fields.text("source")?.ok_or_else(|| missing("source"))?;
    let destination = fields.text("destination")?.ok_or_else(|| missing("destination"))?;
    Ok((source.to_owned(), new_name("destination", destination)?))
}

/// Serves one request to delete.
///
/// # Errors
/// [`ApiError`]
pub async fn delete(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let (ask, ignored) = known::read(request_body.as_ref(), fields::DELETE, parse_delete)?;
    drop(request_body);
    remove(app, &ask.model).await?;
    Ok(known::mark(http::status(StatusCode::OK, ""), ignored))
}

/// Whether these are the fields of a request.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check_delete(map: &Map<String, Value>) -> Result<(), ApiError> {
    parse_delete(map).map(drop)
}

pub(super) fn parse_delete(map: &Map<String, Value>) -> Result<Ask, ApiError> {
    let fields = Fields::new(map);
    fields::check(fields, fields::DELETE)?;
    options::ask(fields)
}

/// Deletes the model that a client means by what it wrote, in whichever dialect. It may not work any
/// more by then: its worker is told to go first.
///
/// # Errors
/// [`ApiError`]; the model is still there.
pub async fn remove(app: &App, written: &str) -> Result<ModelName, ApiError> {
    let names = app.catalog.names().await?;
    let name = match without_host(written).parse::<ModelName>() {
        Ok(name) if names.aliases.contains_key(&name) => return Err(ApiError::IsAlias(name)),
        // Also one whose model is gone, which nobody finds any more.
        Ok(name) if names.derived.contains_key(&name) && !names.models.contains_key(&name) => name,
        Ok(_) | Err(_) => {
            let model = find_model(app, written).await?;
            let needed_by = names.made_of(&model.name);
            if !needed_by.is_empty() {
                return Err(ApiError::ModelNeeded { model: model.name.clone(), needed_by });
            }
            leave(app, &model.name).await?;
            model.name.clone()
        }
    };
    let removed = name.clone();
    change(app, move |store| store.remove(&removed)).await?;
    tracing::info!(model = %name, "is deleted");
    Ok(name)
}

/// Waits until its worker is gone, which holds the files open, and would go on with a model that is
/// no longer there.
async fn leave(app: &App, model: &ModelName) -> Result<(), ApiError> {
    app.fleet.unload(model).await;
    let gone = tokio::time::timeout(LEAVE_TIMEOUT, app.fleet.gone(model)).await;
    gone.map_err(|_elapsed| ApiError::ModelInUse(model.clone()))
}

/// A name for a model that is to be made.
pub(super) fn new_name(field: &str, text: &str) -> Result<ModelName, ApiError> {
    text.parse().map_err(|error| ApiError::invalid(field, format!("`{text}`: {error}")))
}

/// Whether no alias has the name: a model of it could not be asked for.
pub(super) async fn check_is_free(app: &App, name: &ModelName) -> Result<(), ApiError> {
    if app.catalog.names().await?.aliases.contains_key(name) {
        return Err(ApiError::IsAlias(name.clone()));
    }
    Ok(())
}

/// Gives the model at a path a name of ours.
pub(super) async fn adopt(app: &App, source: PathBuf, name: ModelName) -> Result<(), ApiError> {
    change(app, move |store| store.adopt(&source, &name)).await
}

/// Changes the models directory, and lets the next look at it see that.
pub(super) async fn change<T: Send + 'static>(
    app: &App,
    change: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ApiError> {
    let store = Store::new(app.catalog.root());
    let changed = tokio::task::spawn_blocking(move || change(&store)).await;
    app.catalog.forget().await;
    let changed = changed.unwrap_or_else(|panic| Err(std::io::Error::other(panic).into()));
    changed.map_err(|error| {
        if let StoreError::Io(error) = &error {
            tracing::error!(%error, "the models directory can't be changed");
        }
        error.into()
    })
}
