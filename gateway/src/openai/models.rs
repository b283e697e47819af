//! `GET /v1/models`, `GET` and `DELETE /v1/models/{id}`: the catalogue in OpenAI's shape.

use async_openai::types::models::{DeleteModelResponse, ListModelResponse, Model as OpenAiModel};
use hyper::Response;

use crate::app::App;
use crate::catalog::Offer;
use crate::error::ApiError;
use crate::generation::find_offer;
use crate::http;
use crate::ollama::manage;
use crate::stream::Body;

/// Every model, and every name of one.
///
/// # Errors
/// [`ApiError::Catalog`].
pub async fn list(app: &App) -> Result<Response<Body>, ApiError> {
    let data = app.offers().await?.iter().map(describe).collect();
    Ok(http::json(&ListModelResponse { object: "list".to_owned(), data }))
}

/// One model.
///
/// # Errors
/// [`ApiError::UnknownModel`] and [`ApiError::Catalog`].
pub async fn get(app: &App, id: &str) -> Result<Response<Body>, ApiError> {
    Ok(http::json(&describe(&find_offer(app, id).await?)))
}

/// Deletes one, by the same rules as Ollama's way.
///
/// # Errors
/// [`ApiError`]; the model is still there.
pub async fn delete(app: &App, id: &str) -> Result<Response<Body>, ApiError> {
    let name = manage::remove(app, id).await?;
    Ok(http::json(&DeleteModelResponse {
        id: name.to_string(),
        object: "model".to_owned(),
        deleted: true,
    }))
}

fn describe(offer: &Offer) -> OpenAiModel {
    OpenAiModel {
        id: offer.name.to_string(),
        object: "model".to_owned(),
        created: u32::try_from(offer.modified().as_second()).unwrap_or(0),
        // Who made the files is not known; the part before a slash is as near as it gets.
        owned_by: offer
            .name
            .base()
            .split_once('/')
            .map_or("library", |(owner, _)| owner)
            .to_owned(),
        shutdown_date: None,
    }
}
