//! Small pieces of every HTTP answer: JSON, streams, errors, ids, dates.

use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::error::ApiError;
use crate::route::Dialect;
use crate::stream::{Body, whole};

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// 200 with a JSON body.
#[must_use]
pub fn json(value: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(value).expect("our own values are JSON, and memory takes all");
    with_type(StatusCode::OK, "application/json", whole(body))
}

/// 200 with a text body.
#[must_use]
pub fn text(content_type: &'static str, text: impl Into<bytes::Bytes>) -> Response<Body> {
    with_type(StatusCode::OK, content_type, whole(text))
}

/// 200 with a body that comes in parts.
#[must_use]
pub fn streamed(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = with_type(StatusCode::OK, content_type, body);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Some proxies hold streams back unless told otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A status with a text body.
#[must_use]
pub fn status(status: StatusCode, text: &'static str) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", whole(text))
}

/// A failure in the dialect that the client speaks; `prompt` is the field that holds what the model
/// reads.
#[must_use]
pub fn failure(error: &ApiError, dialect: Dialect, prompt: &str) -> Response<Body> {
    let body = match dialect {
        Dialect::OpenAi => error.openai_body_for(prompt),
        Dialect::Ollama => error.ollama_body(),
    };
    let mut response = with_type(error.status(), "application/json", whole(body.to_string()));
    let headers = response.headers_mut();
    if let Some(pause) = error.retry_after() {
        // Whole seconds, rounded up: sooner would be too soon.
        let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        headers.insert(RETRY_AFTER_MS, HeaderValue::from(millis));
    }
    if let Some(retry) = error.should_retry() {
        let value = if retry { "true" } else { "false" };
        headers.insert(X_SHOULD_RETRY, HeaderValue::from_static(value));
    }
    if error.status() == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let ApiError::MethodNotAllowed { allow, .. } = error {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    response
}

fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A new id that nobody can guess: the prefix and 24 hex digits.
#[must_use]
pub fn new_id(prefix: &str) -> String {
    let mut bytes = [0_u8; 12];
    if let Err(error) = getrandom::fill(&mut bytes) {
        // Ids tell answers apart; a clash harms nobody.
        tracing::warn!(%error, "no randomness for an id");
    }
    let mut id = prefix.to_owned();
    for byte in bytes {
        use std::fmt::Write as _;
        write!(id, "{byte:02x}").expect("a string takes all");
    }
    id
}

/// Now, as OpenAI dates things.
#[must_use]
pub fn unix_seconds() -> u32 {
    u32::try_from(crate::wall::now().as_second()).unwrap_or(u32::MAX)
}
