//! `GET /api/tags`: the catalogue, newest first.

use hyper::Response;
use serde::Serialize;

use super::{Details, date};
use crate::app::App;
use crate::error::ApiError;
use crate::http;
use crate::stream::Body;

#[derive(Serialize)]
struct Tags<'a> {
    models: Vec<Tag<'a>>,
}

#[derive(Serialize)]
struct Tag<'a> {
    name: String,
    model: String,
    modified_at: String,
    size: u64,
    digest: &'a str,
    details: Details<'a>,
    capabilities: Vec<&'static str>,
}

/// Every model.
///
/// # Errors
/// [`ApiError::Catalog`].
pub async fn list(app: &App) -> Result<Response<Body>, ApiError> {
    let models = app.models().await?;
    let mut described = Vec::with_capacity(models.len());
    for model in &models {
        described.push((model, app.shelf.describe(model).await));
    }
    described.sort_by_key(|(model, _)| std::cmp::Reverse(model.modified));
    let models = described.iter().map(|(model, description)| Tag {
        name: model.name.with_tag(),
        model: model.name.with_tag(),
        modified_at: date(model.modified),
        size: model.size_bytes,
        digest: &model.digest,
        details: Details::of(model, description),
        capabilities: description.capabilities(model.facts.kind),
    });
    Ok(http::json(&Tags { models: models.collect() }))
}
