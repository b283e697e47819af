//! `POST /api/copy` and `DELETE /api/delete`: the models directory, changed through Ollama's dialect.

use std::path::PathBuf;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use hyper::{Response, StatusCode};

use super::options;
use crate::app::App;
use crate::error::ApiError;
use crate::fields::{Fields, parse_object};
use crate::generation::find_model;
use crate::http;
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
    let map = parse_object(request_body.as_ref())?;
    drop(request_body);
    let fields = Fields::new(&map);
    let missing = |name| ApiError::invalid(name, format!("`{name}` is missing"));
    let source = fields.text("source")?.ok_or_else(|| missing("source"))?;
    let destination = fields.text("destination")?.ok_or_else(|| missing("destination"))?;
    let destination = new_name("destination", destination)?;
    let model = find_model(app, source).await?;
    adopt(app, model.path.clone(), destination).await?;
    Ok(http::status(StatusCode::OK, ""))
}

/// Serves one request to delete.
///
/// # Errors
/// [`ApiError`]
pub async fn delete(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let map = parse_object(request_body.as_ref())?;
    drop(request_body);
    let ask = options::ask(Fields::new(&map))?;
    let model = find_model(app, &ask.model).await?;
    // Its worker holds the files open, and would go on with a model that is no longer there.
    app.fleet.unload(&model.name).await;
    if tokio::time::timeout(LEAVE_TIMEOUT, app.fleet.gone(&model.name)).await.is_err() {
        return Err(ApiError::ModelInUse(model.name.clone()));
    }
    let name = model.name.clone();
    change(app, move |store| store.remove(&name)).await?;
    tracing::info!(model = %model.name, "deleted");
    Ok(http::status(StatusCode::OK, ""))
}

/// A name for a model that is to be made.
pub(super) fn new_name(field: &str, text: &str) -> Result<ModelName, ApiError> {
    text.parse().map_err(|error| ApiError::invalid(field, format!("`{text}`: {error}")))
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
