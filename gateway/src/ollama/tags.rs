//! `GET /api/tags`: everything that can be asked for, newest first. Sizes are those of the files, which
//! derived models and other names share.

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
    digest: String,
    details: Details<'a>,
    capabilities: Vec<&'static str>,
}

/// Every model, and every name of one.
///
/// # Errors
/// [`ApiError::Catalog`].
pub async fn list(app: &App) -> Result<Response<Body>, ApiError> {
    let offers = app.offers().await?;
    let mut described = Vec::with_capacity(offers.len());
    for offer in &offers {
        described.push((offer, app.shelf.describe_offer(offer).await));
    }
    described.sort_by_key(|(offer, _)| std::cmp::Reverse(offer.modified()));
    let models = described.iter().map(|(offer, description)| Tag {
        name: offer.name.with_tag(),
        model: offer.name.with_tag(),
        modified_at: date(offer.modified()),
        size: offer.model.size_bytes,
        digest: offer.digest(),
        details: Details::of_offer(offer, description),
        capabilities: description.capabilities(offer.model.facts.kind),
    });
    Ok(http::json(&Tags { models: models.collect() }))
}
