//! (method, path) → [`Route`]. Pure. The one list of what is served where.

use hyper::Method;
use percent_encoding::percent_decode_str;

use crate::error::ApiError;

/// Everything that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `POST /v1/chat/completions`
    ChatCompletions,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/rerank` or `/rerank`: which of them, for the metrics.
    Rerank(&'static str),
    /// `POST /tokenize`
    Tokenize,
    /// `POST /detokenize`
    Detokenize,
    /// `POST /v1/responses`
    Responses,
    /// `GET` or `DELETE /v1/responses/{id}`
    Response(String),
    /// `GET /v1/responses/{id}/input_items`
    ResponseInputItems(String),
    /// `POST /v1/responses/{id}/cancel`
    ResponseCancel(String),
    /// `POST /v1/responses/input_tokens`
    ResponseInputTokens,
    /// `GET /openapi.json`
    OpenApi,
    /// `GET /v1/models`
    Models,
    /// `GET /v1/models/{id}`; ids may hold `/` and `:`.
    Model(String),
    /// `DELETE /v1/models/{id}`
    DeleteModel(String),
    /// `GET` or `HEAD /`: Ollama's clients look here first.
    Root,
    /// `GET /api/version`
    Version,
    /// `GET /api/tags`
    Tags,
    /// `GET /api/ps`
    Ps,
    /// `GET /api/events`
    Events,
    /// `POST /api/load`
    Load,
    /// `POST /api/unload`
    Unload,
    /// `POST /api/chat`
    OllamaChat,
    /// `POST /api/generate`
    OllamaGenerate,
    /// `POST /api/show`
    Show,
    /// `POST /api/copy`
    Copy,
    /// `DELETE /api/delete`
    Delete,
    /// `POST /api/pull`
    Pull,
    /// `POST /api/create`
    Create,
    /// `HEAD /api/blobs/{digest}`
    HasBlob(String),
    /// `POST /api/blobs/{digest}`
    PutBlob(String),
    /// `POST /api/embed`
    OllamaEmbed,
    /// `POST /api/embeddings`: Ollama's older way.
    OllamaEmbeddings,
    /// `GET /metrics`
    Metrics,
    /// `GET /healthz`: the process is there.
    Health,
    /// `GET /readyz`: it takes requests.
    Ready,
}

impl Route {
    /// Whether it changes which models there are, or shows what they are made of.
    #[must_use]
    pub fn manages(&self) -> bool {
        matches!(
            self,
            Self::Copy
                | Self::Delete
                | Self::DeleteModel(_)
                | Self::Pull
                | Self::Create
                | Self::HasBlob(_)
                | Self::PutBlob(_)
        )
    }
}

/// Which of the two shapes errors take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `{"error":{"message",…}}`
    OpenAi,
    /// `{"error":"…"}`
    Ollama,
}

impl Dialect {
    /// By the path alone, because errors come before routing too.
    #[must_use]
    pub fn of(path: &str) -> Self {
        if path.starts_with("/api/") { Self::Ollama } else { Self::OpenAi }
    }
}

/// The field of a request to this path that holds what the model reads, for errors about it.
#[must_use]
pub fn prompt_field(path: &str) -> &'static str {
    match path {
        "/v1/completions" => "prompt",
        "/v1/embeddings" | "/v1/responses" | "/v1/responses/input_tokens" => "input",
        "/v1/rerank" | "/rerank" => "documents",
        _ => "messages",
    }
}

const GET: &str = "GET, HEAD";
const POST: &str = "POST";
const DELETE: &str = "DELETE";
const GET_OR_POST: &str = "GET, HEAD, POST";
const BLOBS: &str = "/api/blobs/";
const GET_DELETE: &str = "GET, HEAD, DELETE";

/// Finds the route.
///
/// # Errors
/// [`ApiError::NotFound`] and [`ApiError::MethodNotAllowed`].
pub fn find(method: &Method, path: &str) -> Result<Route, ApiError> {
    let (route, allow) = match path {
        "/" => (Route::Root, GET),
        "/v1/chat/completions" => (Route::ChatCompletions, POST),
        "/v1/embeddings" => (Route::Embeddings, POST),
        "/v1/rerank" => (Route::Rerank("/v1/rerank"), POST),
        "/rerank" => (Route::Rerank("/rerank"), POST),
        "/tokenize" => (Route::Tokenize, POST),
        "/detokenize" => (Route::Detokenize, POST),
        "/v1/completions" => (Route::Completions, POST),
        "/v1/responses" => (Route::Responses, POST),
        "/v1/responses/input_tokens" => (Route::ResponseInputTokens, POST),
        "/openapi.json" => (Route::OpenApi, GET),
        "/v1/models" => (Route::Models, GET),
        "/api/version" => (Route::Version, GET),
        "/api/tags" => (Route::Tags, GET),
        "/api/ps" => (Route::Ps, GET),
        "/api/events" => (Route::Events, GET),
        "/api/load" => (Route::Load, POST),
        "/api/unload" => (Route::Unload, POST),
        "/api/chat" => (Route::OllamaChat, POST),
        "/api/generate" => (Route::OllamaGenerate, POST),
        "/api/show" => (Route::Show, POST),
        "/api/copy" => (Route::Copy, POST),
        "/api/delete" => (Route::Delete, DELETE),
        "/api/pull" => (Route::Pull, POST),
        "/api/create" => (Route::Create, POST),
        "/api/embed" => (Route::OllamaEmbed, POST),
        "/api/embeddings" => (Route::OllamaEmbeddings, POST),
        "/metrics" => (Route::Metrics, GET),
        "/healthz" => (Route::Health, GET),
        "/readyz" => (Route::Ready, GET),
        _ if path.starts_with(BLOBS) => (blob(method, &path[BLOBS.len()..]), GET_OR_POST),
        _ => response(path)
            .or_else(|| model(method, path))
            .ok_or_else(|| ApiError::NotFound { path: shown(path) })?,
    };
    if allow.split(", ").any(|allowed| method == allowed) {
        return Ok(route);
    }
    let method = shown(method.as_str());
    Err(ApiError::MethodNotAllowed { path: shown(path), method, allow })
}

fn blob(method: &Method, digest: &str) -> Route {
    let digest = percent_decode_str(digest).decode_utf8_lossy().into_owned();
    if method == Method::POST { Route::PutBlob(digest) } else { Route::HasBlob(digest) }
}

fn model(method: &Method, path: &str) -> Option<(Route, &'static str)> {
    let id = path.strip_prefix("/v1/models/").filter(|id| !id.is_empty())?;
    let id = percent_decode_str(id).decode_utf8().ok()?.into_owned();
    let route = if method == Method::DELETE { Route::DeleteModel(id) } else { Route::Model(id) };
    Some((route, GET_DELETE))
}

fn response(path: &str) -> Option<(Route, &'static str)> {
    let rest = path.strip_prefix("/v1/responses/")?;
    let (id, what) = rest.split_once('/').map_or((rest, ""), |(id, what)| (id, what));
    let id = percent_decode_str(id).decode_utf8().ok()?.into_owned();
    if id.is_empty() {
        return None;
    }
    match what {
        "" if !rest.ends_with('/') => Some((Route::Response(id), GET_DELETE)),
        "input_items" => Some((Route::ResponseInputItems(id), GET)),
        "cancel" => Some((Route::ResponseCancel(id), POST)),
        _ => None,
    }
}

/// A client's text, short enough for an error message.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_ids_hold_slashes_colons_and_escapes() {
        let model = |path| find(&Method::GET, path).unwrap();
        assert_eq!(model("/v1/models/a/b:q4"), Route::Model("a/b:q4".to_owned()));
        assert_eq!(model("/v1/models/a%2Fb%3Aq4"), Route::Model("a/b:q4".to_owned()));
        let deleted = find(&Method::DELETE, "/v1/models/a/b:q4").unwrap();
        assert_eq!(deleted, Route::DeleteModel("a/b:q4".to_owned()));
        assert!(deleted.manages());
    }

    #[test]
    fn a_response_has_what_is_below_it() {
        let id = || "resp_1".to_owned();
        let get = |path| find(&Method::GET, path).unwrap();
        assert_eq!(get("/v1/responses/resp_1"), Route::Response(id()));
        assert_eq!(get("/v1/responses/resp_1/input_items"), Route::ResponseInputItems(id()));
        let post = |path| find(&Method::POST, path).unwrap();
        assert_eq!(post("/v1/responses/resp_1/cancel"), Route::ResponseCancel(id()));
        assert_eq!(post("/v1/responses/input_tokens"), Route::ResponseInputTokens);
        let deleted = find(&Method::DELETE, "/v1/responses/resp_1").unwrap();
        assert_eq!(deleted, Route::Response(id()));
        for path in
            ["/v1/responses/", "/v1/responses/a/", "/v1/responses/a/b", "/v1/responses//cancel"]
        {
            assert!(matches!(find(&Method::GET, path), Err(ApiError::NotFound { .. })), "{path}");
        }
    }

    #[test]
    fn tricks_with_paths_find_nothing() {
        for path in
            ["//v1/models", "/v1/../v1/models", "/V1/models", "/v1/models/", "/%2e", "", "*"]
        {
            assert!(matches!(find(&Method::GET, path), Err(ApiError::NotFound { .. })), "{path}");
        }
    }

    #[test]
    fn a_wrong_method_is_told_the_right_one() {
        let error = find(&Method::DELETE, "/v1/chat/completions").unwrap_err();
        assert_eq!(error.to_string(), "/v1/chat/completions takes POST, not DELETE");
        assert_eq!(find(&Method::HEAD, "/").unwrap(), Route::Root);
    }
}
