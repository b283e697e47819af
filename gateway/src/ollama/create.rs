//! `POST /api/create`: a model from a file that was uploaded, from another model, or from a path on
//! this machine; and what a Modelfile would lay over it, as a recipe.
//!
//! A recipe is a small file that names the model whose weights it uses. Where files that come with the
//! request shall have one, they become `NAME:weights`, and the recipe `NAME` is made of that.

use std::path::{Path, PathBuf};

use hearth_shared::ids::ModelName;
use hearth_shared::protocol::{Chat, JsonText, ModelKind, Prompt};
use hyper::Response;
use serde_json::{Map, Value, json};

use super::{blobs, fields, manage, options, pull};
use crate::app::App;
use crate::catalog::{Model, Offer};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::find_offer;
use crate::known;
use crate::metrics::RequestMeter;
use crate::oneshot::Call;
use crate::recipe::Recipe;
use crate::server::ReadBody;
use crate::stream::Body;

/// Where the weights are.
enum Source {
    /// In the catalogue already.
    Here(Box<Offer>),
    /// At a path of the server's.
    Path(PathBuf),
    /// Uploaded for this.
    Blob(PathBuf),
}

/// Serves one request.
///
/// # Errors
/// [`ApiError`]; there is no new model.
pub async fn serve(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let (request, ignored) = known::read(request_body.as_ref(), fields::CREATE, parse)?;
    let Request { name, streamed, base, recipe } = request;
    drop(request_body);
    manage::check_is_free(app, &name).await?;
    let source = source(app, base).await?;
    let from = match &source {
        Source::Here(offer) => offer.model.name.clone(),
        Source::Path(_) | Source::Blob(_) => weights_of(&name),
    };
    let recipe = Recipe { from, ..recipe };
    match source {
        Source::Here(offer) => derive(app, &offer, recipe, name).await?,
        Source::Path(path) => take_in(app, path, recipe, name).await?,
        Source::Blob(blob) => {
            take_in(app, blob.clone(), recipe, name).await?;
            // The model has it now; under its digest nobody needs it any more.
            drop(tokio::fs::remove_file(blob).await);
        }
    }
    Ok(known::mark(pull::done(streamed), ignored))
}

/// Whether these are the fields of a request.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check(map: &Map<String, Value>) -> Result<(), ApiError> {
    parse(map).map(drop)
}

/// A model to be made.
#[derive(Debug)]
pub(super) struct Request {
    name: ModelName,
    streamed: bool,
    base: Base,
    /// What is laid over it. What it lies on shows only once that is found: until then its own name.
    recipe: Recipe,
}

/// What a model is made of.
#[derive(Debug)]
enum Base {
    /// What was uploaded under this digest.
    Uploaded(String),
    /// Another model, or a path.
    From(String),
}

pub(super) fn parse(map: &Map<String, Value>) -> Result<Request, ApiError> {
    let fields = Fields::new(map);
    let ask = options::ask(fields)?;
    let streamed = options::stream(fields)?;
    let name = manage::new_name("model", &ask.model)?;
    fields::check(fields, fields::CREATE)?;
    let base = match (uploaded(fields)?, fields.text("from")?.filter(|from| !from.is_empty())) {
        (Some(digest), None) => Base::Uploaded(digest.to_owned()),
        (None, Some(from)) => Base::From(from.to_owned()),
        (Some(_), Some(_)) | (None, None) => {
            let message = "say either what the model is made `from`, or which uploaded `files`";
            return Err(ApiError::invalid("from", message));
        }
    };
    let recipe = Recipe::read(fields, name.clone())?;
    Ok(Request { name, streamed, base, recipe })
}

async fn source(app: &App, base: Base) -> Result<Source, ApiError> {
    match base {
        Base::Uploaded(digest) => Ok(Source::Blob(blobs::place(app, &digest).await?)),
        Base::From(from) if Path::new(&from).is_absolute() => {
            app.caller.check_may_name_paths()?;
            Ok(Source::Path(PathBuf::from(from)))
        }
        Base::From(from) => Ok(Source::Here(Box::new(find_offer(app, &from).await?))),
    }
}

/// The digest of the one file that a model is made of.
fn uploaded(fields: Fields<'_>) -> Result<Option<&str>, ApiError> {
    let wrong = || {
        let message = "`files` must hold one GGUF file as {\"name.gguf\": \"sha256:…\"}; other \
                       formats are not converted";
        ApiError::invalid("files", message)
    };
    match fields.get("files") {
        None => Ok(None),
        Some(Value::Object(files)) if files.is_empty() => Ok(None),
        Some(Value::Object(files)) => {
            let mut files = files.iter();
            match (files.next(), files.next()) {
                (Some((name, Value::String(digest))), None) if name.ends_with(".gguf") => {
                    Ok(Some(digest))
                }
                _ => Err(wrong()),
            }
        }
        Some(_) => Err(wrong()),
    }
}

/// What files are called whose name a recipe has.
fn weights_of(name: &ModelName) -> ModelName {
    let text = match name.variant() {
        Some(_) => format!("{name}-weights"),
        None => format!("{name}:weights"),
    };
    // Only a name that is as long as names may be grows too long.
    text.parse().unwrap_or_else(|_too_long| name.clone())
}

/// A recipe over a model that is here; what lays nothing over it is another name for its files.
async fn derive(app: &App, offer: &Offer, recipe: Recipe, name: ModelName) -> Result<(), ApiError> {
    let Some(below) = offer.recipe() else {
        if recipe.is_plain() {
            return manage::adopt(app, offer.model.path.clone(), name).await;
        }
        return keep(app, &offer.model, recipe, name).await;
    };
    keep(app, &offer.model, recipe.over(below), name).await
}

/// Files that were not here, and a recipe over them if the request has one.
async fn take_in(
    app: &App,
    path: PathBuf,
    recipe: Recipe,
    name: ModelName,
) -> Result<(), ApiError> {
    if recipe.is_plain() {
        return manage::adopt(app, path, name).await;
    }
    let weights = recipe.from.clone();
    if weights == name {
        return Err(ApiError::invalid("model", format!("`{name}` is too long for what it gets")));
    }
    manage::adopt(app, path, weights.clone()).await?;
    let kept = match app.catalog.find(&weights).await? {
        Some(Offer { model, .. }) => keep(app, &model, recipe, name).await,
        None => Err(ApiError::NotServable(weights.clone())),
    };
    if kept.is_err() {
        // Nothing of it stays; what failed is told, whatever comes of this.
        drop(manage::change(app, move |store| store.remove(&weights)).await);
    }
    kept
}

async fn keep(app: &App, model: &Model, recipe: Recipe, name: ModelName) -> Result<(), ApiError> {
    if recipe.is_for_chats() {
        model.can(ModelKind::Generate).map_err(ApiError::Worker)?;
    }
    if let Some(template) = &recipe.template {
        render(app, model, template).await?;
    }
    let text = recipe.to_text()?;
    tracing::info!(model = %name, from = %recipe.from, "a derived model is kept");
    manage::change(app, move |store| store.write_recipe(&text, &name)).await
}

/// Lets the model's worker write a conversation with the template: whether that works depends on the
/// model's own tokens too, and nobody else knows.
async fn render(app: &App, model: &Model, template: &str) -> Result<(), ApiError> {
    let messages = json!([{ "role": "user", "content": "hello" }]);
    let template = Some(template.to_owned());
    let prompt = Prompt::Chat(Chat { template, ..Chat::new(JsonText(messages.to_string())) });
    let meter = RequestMeter::start("/api/create");
    let call = Call::new(app, model.clone().into(), None, meter);
    call.tokenize(prompt).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_a_variant_of_the_name() {
        let of = |text: &str| weights_of(&text.parse().unwrap()).to_string();
        assert_eq!(of("me/helper"), "me/helper:weights");
        assert_eq!(of("helper:v2"), "helper:v2-weights");
        let longest = "a".repeat(hearth_shared::ids::MODEL_NAME_BYTES_MAX);
        assert_eq!(of(&longest), longest);
    }
}
