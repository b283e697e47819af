//! One request: the door, the route, the body, the handler; then the headers of every answer.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

use super::body::{self, ReadBody};
use crate::app::App;
use crate::error::ApiError;
use crate::guard::cors;
use crate::route::{self, Dialect, Route};
use crate::stream::{self, Body};
use crate::{control, http, metrics, ollama, openai};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// From the request's head to the answer's.
const OPENAI_PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");
/// The version of OpenAI's API that ours follows. There has been one.
const OPENAI_VERSION: HeaderName = HeaderName::from_static("openai-version");
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Prometheus's text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers one request that came in on our address `local`.
pub(super) async fn handle(app: &App, request: Request<Incoming>, local: IpAddr) -> Response<Body> {
    let path = request.uri().path();
    let (dialect, prompt) = (Dialect::of(path), route::prompt_field(path));
    let arrived = Instant::now();
    let id = request_id(request.headers());
    let page = app.guard.listed_origin(request.headers());
    let mut response = match serve(app, request, local).await {
        Ok(response) => response,
        Err(error) => {
            let status = error.status();
            tracing::debug!(request = id.to_str().unwrap_or(""), %status, %error, "refused");
            http::failure(&error, dialect, prompt)
        }
    };
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id);
    if dialect == Dialect::OpenAi {
        let took = u64::try_from(arrived.elapsed().as_millis()).unwrap_or(u64::MAX);
        headers.insert(OPENAI_PROCESSING_MS, HeaderValue::from(took));
        headers.insert(OPENAI_VERSION, HeaderValue::from_static("2020-10-01"));
    }
    if let Some(origin) = page {
        cors::mark(response.headers_mut(), origin);
    }
    response
}

async fn serve(
    app: &App,
    request: Request<Incoming>,
    local: IpAddr,
) -> Result<Response<Body>, ApiError> {
    let (parts, incoming) = request.into_parts();
    let caller = app.guard.check(&parts, local).inspect_err(|turned| {
        metrics::refused(turned.code());
    })?;
    if cors::is_preflight(&parts) {
        return Ok(cors::preflight());
    }
    // Looking is free; what works counts from here until its answer has been sent.
    let place = if parts.method == Method::POST { caller.enter()? } else { None };
    let app = app.of(caller, place);
    let response = answer(&app, &parts, incoming).await?;
    Ok(response.map(|body| stream::holding(body, app.place)))
}

async fn answer(app: &App, parts: &Parts, incoming: Incoming) -> Result<Response<Body>, ApiError> {
    let route = route::find(&parts.method, parts.uri.path())?;
    if route.manages() {
        app.caller.check_may_manage()?;
    }
    match route {
        Route::ChatCompletions => openai::chat::serve(app, read(app, incoming).await?).await,
        Route::Completions => openai::completions::serve(app, read(app, incoming).await?).await,
        Route::Responses => openai::responses::create(app, read(app, incoming).await?).await,
        Route::ResponseInputTokens => {
            openai::responses::input_tokens(app, read(app, incoming).await?).await
        }
        Route::Response(id) if parts.method == Method::DELETE => {
            openai::responses::delete(app, &id)
        }
        Route::Response(id) => openai::responses::get(app, &id, parts.uri.query()),
        Route::ResponseInputItems(id) => {
            openai::responses::input_items(app, &id, parts.uri.query())
        }
        Route::ResponseCancel(id) => openai::responses::cancel(app, &id).await,
        Route::OllamaChat => ollama::chat::serve(app, read(app, incoming).await?).await,
        Route::OllamaGenerate => ollama::generate::serve(app, read(app, incoming).await?).await,
        Route::Show => ollama::show::serve(app, read(app, incoming).await?).await,
        Route::Copy => ollama::manage::copy(app, read(app, incoming).await?).await,
        Route::Delete => ollama::manage::delete(app, read(app, incoming).await?).await,
        Route::Pull => ollama::pull::serve(app, read(app, incoming).await?).await,
        Route::Create => ollama::create::serve(app, read(app, incoming).await?).await,
        Route::HasBlob(digest) => ollama::blobs::head(app, &digest).await,
        Route::PutBlob(digest) => ollama::blobs::post(app, &digest, incoming).await,
        Route::OllamaEmbed => ollama::embed::embed(app, read(app, incoming).await?).await,
        Route::OllamaEmbeddings => ollama::embed::embeddings(app, read(app, incoming).await?).await,
        Route::Embeddings => openai::embeddings::serve(app, read(app, incoming).await?).await,
        Route::Rerank(path) => openai::rerank::serve(app, path, read(app, incoming).await?).await,
        Route::Tokenize => openai::tokenize::tokenize(app, read(app, incoming).await?).await,
        Route::Detokenize => openai::tokenize::detokenize(app, read(app, incoming).await?).await,
        Route::OpenApi => Ok(openai::openapi::serve()),
        Route::Models => openai::models::list(app).await,
        Route::Model(id) => openai::models::get(app, &id).await,
        Route::DeleteModel(id) => openai::models::delete(app, &id).await,
        Route::Root => Ok(http::text("text/plain; charset=utf-8", "Ollama is running")),
        Route::Version => Ok(ollama::version()),
        Route::Tags => ollama::tags::list(app).await,
        Route::Ps => ollama::ps::list(app).await,
        Route::Events => Ok(control::events::stream(app)),
        Route::Load => control::load(app, read(app, incoming).await?).await,
        Route::Unload => control::unload(app, read(app, incoming).await?).await,
        Route::Metrics => Ok(render_metrics(app)),
        Route::Health => Ok(http::text("text/plain; charset=utf-8", "ok\n")),
        Route::Ready => Ok(if app.fleet.snapshot().draining {
            http::status(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n")
        } else {
            http::text("text/plain; charset=utf-8", "ready\n")
        }),
    }
}

async fn read(app: &App, incoming: Incoming) -> Result<ReadBody, ApiError> {
    body::read(&app.room, incoming).await
}

fn render_metrics(app: &App) -> Response<Body> {
    metrics::observe(&app.fleet.snapshot(), app.connections.load(Ordering::Relaxed));
    http::text(METRICS_TYPE, app.metrics.render())
}

/// The client's own id if it is harmless to repeat, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let harmless = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    headers.get(X_REQUEST_ID).filter(harmless).cloned().unwrap_or_else(|| {
        HeaderValue::try_from(http::new_id("req_")).expect("hex digits are a header value")
    })
}
