//! `POST /api/copy` and `DELETE /api/delete`: the models directory, changed through Ollama's dialect.

use std::path::PathBuf;
use std::time::Duration;

use hearth_shared::ids::ModelName;
use hyper::{Response, StatusCode};

use super::options;
use crate::app::App;
use crate::catalog::Offer;
use crate::error::ApiError;
use crate::fields::{Fields, parse_object};
use crate::generation::{find_model, find_offer};
use crate::http;
use crate::hub::without_host;
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
    let destination = new_name(app, "destination", destination).await?;
    let Offer { model, derived, .. } = find_offer(app, source).await?;
    match derived {
        None => adopt(app, model.path.clone(), destination).await?,
        Some(derived) => {
            let text = derived.recipe.to_text()?;
            change(app, move |store| store.copy_recipe(&text, &destination)).await?;
        }
    }
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
    let names = app.catalog.names().await?;
    let name = match without_host(&ask.model).parse::<ModelName>() {
        Ok(name) if names.aliases.contains_key(&name) => return Err(ApiError::IsAlias(name)),
        // Also one whose model is gone, which nobody finds any more.
        Ok(name) if names.derived.contains_key(&name) && !names.models.contains_key(&name) => name,
        Ok(_) | Err(_) => {
            let model = find_model(app, &ask.model).await?;
            let needed_by = names.made_of(&model.name);
            if !needed_by.is_empty() {
                return Err(ApiError::ModelNeeded { model: model.name.clone(), needed_by });
            }
            leave(app, &model.name).await?;
            model.name.clone()
        }
    };
    tracing::info!(model = %name, "is deleted");
    change(app, move |store| store.remove(&name)).await?;
    Ok(http::status(StatusCode::OK, ""))
}

/// Waits until its worker is gone, which holds the files open, and would go on with a model that is
/// no longer there.
async fn leave(app: &App, model: &ModelName) -> Result<(), ApiError> {
    app.fleet.unload(model).await;
    let gone = tokio::time::timeout(LEAVE_TIMEOUT, app.fleet.gone(model)).await;
    gone.map_err(|_elapsed| ApiError::ModelInUse(model.clone()))
}

/// A name for a model that is to be made.
pub(super) async fn new_name(app: &App, field: &str, text: &str) -> Result<ModelName, ApiError> {
    let name: ModelName =
        text.parse().map_err(|error| ApiError::invalid(field, format!("`{text}`: {error}")))?;
    // A model of this name could not be asked for.
    if app.catalog.names().await?.aliases.contains_key(&name) {
        return Err(ApiError::IsAlias(name));
    }
    Ok(name)
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
