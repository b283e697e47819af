//! `POST /api/show`: what a model's files say of it. Nothing is loaded for it.

use hyper::Response;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Details, date, options};
use crate::app::App;
use crate::describe::{Arrays, read};
use crate::error::ApiError;
use crate::fields::{Fields, parse_object};
use crate::generation::find_model;
use crate::http;
use crate::server::ReadBody;
use crate::stream::Body;

#[derive(Serialize)]
struct Show<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    license: Option<&'a str>,
    modelfile: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<&'a str>,
    details: Details<'a>,
    model_info: &'a Map<String, Value>,
    capabilities: Vec<&'static str>,
    modified_at: String,
}

/// Serves one request.
///
/// # Errors
/// [`ApiError`]
pub async fn serve(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let map = parse_object(request_body.as_ref())?;
    drop(request_body);
    let fields = Fields::new(&map);
    let ask = options::ask(fields)?;
    let model = find_model(app, &ask.model).await?;
    let description = if fields.flag("verbose")?.unwrap_or(false) {
        read(&model, Arrays::Whole).await.into()
    } else {
        app.shelf.describe(&model).await
    };
    Ok(http::json(&Show {
        license: description.license.as_deref(),
        modelfile: modelfile(&model.name.with_tag(), description.template.as_deref()),
        template: description.template.as_deref(),
        details: Details::of(&model, &description),
        model_info: &description.info,
        capabilities: description.capabilities(model.facts.kind),
        modified_at: date(model.modified),
    }))
}

/// What Ollama would make the same model from.
fn modelfile(name: &str, template: Option<&str>) -> String {
    let mut file = format!("FROM {name}\n");
    if let Some(template) = template {
        file.push_str(&format!("TEMPLATE \"\"\"{template}\"\"\"\n"));
    }
    file
}
