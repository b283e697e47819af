//! `GET /api/tags`: the catalogue, newest first.

use hearth_shared::protocol::ModelKind;
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
    capabilities: [&'static str; 1],
}

/// Every model.
///
/// # Errors
/// [`ApiError::Catalog`].
pub async fn list(app: &App) -> Result<Response<Body>, ApiError> {
    let mut models = app.models().await?;
    models.sort_by_key(|model| std::cmp::Reverse(model.modified));
    let models = models.iter().map(|model| Tag {
        name: model.name.with_tag(),
        model: model.name.with_tag(),
        modified_at: date(model.modified),
        size: model.size_bytes,
        digest: &model.digest,
        details: Details::of(model),
        capabilities: [match model.facts.kind {
            ModelKind::Generate => "completion",
            ModelKind::Embed => "embedding",
            ModelKind::Rerank => "rerank",
        }],
    });
    Ok(http::json(&Tags { models: models.collect() }))
}
