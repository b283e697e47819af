//! `POST /api/show`: what a model's files and its recipe say of it. Nothing is loaded for it.

use hyper::Response;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Details, date, fields, options};
use crate::app::App;
use crate::describe::read_offer;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::{Ask, find_offer};
use crate::http;
use crate::known;
use crate::recipe::{modelfile, parameters_text};
use crate::server::ReadBody;
use crate::stream::Body;

#[derive(Serialize)]
struct Show<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    license: Option<&'a str>,
    modelfile: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    parameters: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<&'a str>,
    details: Details<'a>,
    #[serde(skip_serializing_if = "<[Value]>::is_empty")]
    messages: &'a [Value],
    model_info: &'a Map<String, Value>,
    capabilities: Vec<&'static str>,
    modified_at: String,
}

/// Serves one request.
///
/// # Errors
/// [`ApiError`]
pub async fn serve(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let ((ask, verbose), ignored) = known::read(request_body.as_ref(), fields::SHOW, parse)?;
    drop(request_body);
    let offer = find_offer(app, &ask.model).await?;
    let description = if verbose {
        read_offer(&offer).await.into()
    } else {
        app.shelf.describe_offer(&offer).await
    };
    let recipe = offer.recipe();
    let from = recipe.map_or(&offer.model.name, |recipe| &recipe.from).with_tag();
    let shown = http::json(&Show {
        license: description.license.as_deref(),
        modelfile: modelfile(&from, description.template.as_deref(), recipe),
        parameters: recipe.map_or_else(String::new, |recipe| parameters_text(&recipe.parameters)),
        template: description.template.as_deref(),
        system: recipe.and_then(|recipe| recipe.system.as_deref()),
        details: Details::of_offer(&offer, &description),
        messages: recipe.map_or(&[], |recipe| &recipe.messages[..]),
        model_info: &description.info,
        capabilities: description.capabilities(offer.model.facts.kind),
        modified_at: date(offer.modified()),
    });
    Ok(known::mark(shown, ignored))
}

/// Whether these are the fields of a request.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check(map: &Map<String, Value>) -> Result<(), ApiError> {
    parse(map).map(drop)
}

pub(super) fn parse(map: &Map<String, Value>) -> Result<(Ask, bool), ApiError> {
    let fields = Fields::new(map);
    fields::check(fields, fields::SHOW)?;
    Ok((options::ask(fields)?, fields.flag("verbose")?.unwrap_or(false)))
}
