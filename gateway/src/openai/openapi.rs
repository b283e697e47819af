//! `GET /openapi.json`: everything that is served, in both dialects. Pure.
//!
//! The fields of requests are those of the tables that the parsers read, so that the description can't
//! say something else than the server does. What is refused is left out.

use hyper::Response;
use serde_json::{Map, Value, json};

use super::{chat, completions, fields, responses};
use crate::known::{Known, Treatment};
use crate::ollama::fields as ollama;
use crate::stream::Body;
use crate::{control, http};

/// One thing that can be asked.
#[derive(Clone, Copy)]
struct Operation {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    request: Request,
    /// What a stream comes as, if the answer can be one.
    stream: Option<&'static str>,
}

/// What has to be sent.
#[derive(Clone, Copy)]
enum Request {
    Nothing,
    /// An object with the fields of a table, of which these are needed.
    Table(&'static [Known], &'static [&'static str]),
}

const SSE: Option<&str> = Some("text/event-stream");
const NDJSON: Option<&str> = Some("application/x-ndjson");

const fn get(path: &'static str, summary: &'static str) -> Operation {
    Operation { method: "get", path, summary, request: Request::Nothing, stream: None }
}

const fn post(path: &'static str, summary: &'static str, request: Request) -> Operation {
    Operation { method: "post", path, summary, request, stream: None }
}

const fn streams(operation: Operation, stream: Option<&'static str>) -> Operation {
    Operation { stream, ..operation }
}

const NEEDED: &[&str] = &["model"];
/// Which of the two shapes it has, the documents' name tells; most clients send the first.
const RERANK: Request = Request::Table(fields::RERANK, &["query"]);

/// Everything.
const OPERATIONS: &[Operation] = &[
    streams(
        post(
            "/v1/chat/completions",
            "Answer a conversation",
            Request::Table(chat::FIELDS, &["model", "messages"]),
        ),
        SSE,
    ),
    streams(
        post(
            "/v1/completions",
            "Continue a prompt",
            Request::Table(completions::FIELDS, &["model", "prompt"]),
        ),
        SSE,
    ),
    streams(
        post(
            "/v1/responses",
            "Answer, and keep the answer for the next turn",
            Request::Table(responses::FIELDS, &["model", "input"]),
        ),
        SSE,
    ),
    get("/v1/responses/{id}", "A response that is kept"),
    Operation { method: "delete", ..get("/v1/responses/{id}", "Forget a response") },
    get("/v1/responses/{id}/input_items", "What a response was an answer to"),
    post(
        "/v1/responses/{id}/cancel",
        "Give up a response that is made in the background",
        Request::Nothing,
    ),
    post(
        "/v1/responses/input_tokens",
        "How many tokens a response would read",
        Request::Table(responses::COUNTED, &["input"]),
    ),
    post(
        "/v1/embeddings",
        "Texts to vectors",
        Request::Table(fields::EMBEDDINGS, &["model", "input"]),
    ),
    post("/v1/rerank", "Judge documents by a query", RERANK),
    post("/rerank", "Judge documents by a query", RERANK),
    post("/tokenize", "A prompt to tokens", Request::Table(fields::TOKENIZE, &[])),
    post("/detokenize", "Tokens to text", Request::Table(fields::DETOKENIZE, &["tokens"])),
    get("/v1/models", "Every model"),
    get("/v1/models/{id}", "One model; its id may hold slashes"),
    Operation { method: "delete", ..get("/v1/models/{id}", "Remove a model") },
    streams(post("/api/chat", "Ollama's chat", Request::Table(ollama::CHAT, NEEDED)), NDJSON),
    streams(
        post("/api/generate", "Ollama's completion", Request::Table(ollama::GENERATE, NEEDED)),
        NDJSON,
    ),
    post("/api/embed", "Ollama's embeddings", Request::Table(ollama::EMBED, NEEDED)),
    post(
        "/api/embeddings",
        "Ollama's older embeddings",
        Request::Table(ollama::EMBEDDINGS, NEEDED),
    ),
    post("/api/show", "What is known of a model", Request::Table(ollama::SHOW, NEEDED)),
    post(
        "/api/copy",
        "A model under another name",
        Request::Table(ollama::COPY, &["source", "destination"]),
    ),
    Operation {
        method: "delete",
        ..post("/api/delete", "Remove a model", Request::Table(ollama::DELETE, NEEDED))
    },
    streams(post("/api/pull", "Bring a model", Request::Table(ollama::PULL, NEEDED)), NDJSON),
    streams(post("/api/create", "Make a model", Request::Table(ollama::CREATE, NEEDED)), NDJSON),
    get("/api/version", "Ollama's version"),
    get("/api/tags", "Every model, as Ollama lists them"),
    get("/api/ps", "What is loaded, and until when"),
    streams(get("/api/events", "Every change of a worker, as it happens"), SSE),
    post("/api/load", "Load a model", Request::Table(control::LOADED, NEEDED)),
    post("/api/unload", "Unload a model", Request::Table(control::UNLOADED, NEEDED)),
    get("/", "That somebody is here"),
    get("/metrics", "Prometheus's metrics"),
    get("/healthz", "Whether the process is there"),
    get("/readyz", "Whether it takes requests"),
    get("/openapi.json", "This document"),
];

/// The document.
#[must_use]
pub fn serve() -> Response<Body> {
    http::json(&document())
}

fn document() -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = describe(operation);
    }
    let error = json!({
        "type": "object",
        "required": ["error"],
        "properties": { "error": {
            "description": "an object with message, type, param and code; on /api/ a string",
        }},
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hearth",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Local language models behind the OpenAI and Ollama APIs.",
        },
        "security": [{}, { "bearer": [] }, { "key": [] }],
        "paths": paths,
        "components": {
            "schemas": { "Error": error },
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "key": { "type": "apiKey", "in": "header", "name": "x-api-key" },
            },
        },
    })
}

fn describe(operation: &Operation) -> Value {
    let mut described = json!({
        "summary": operation.summary,
        "responses": answers(operation),
    });
    if operation.path.contains("{id}") {
        described["parameters"] = json!([{
            "name": "id", "in": "path", "required": true,
            "schema": { "type": "string", "minLength": 1 },
        }]);
    }
    let schema = match operation.request {
        Request::Nothing => return described,
        Request::Table(table, required) => of_table(table, required),
    };
    described["requestBody"] =
        json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    described
}

/// Every answer that there can be. A GET can't be invalid in its body, or wait for a worker.
fn answers(operation: &Operation) -> Value {
    let plain = matches!(operation.path, "/" | "/metrics" | "/healthz" | "/readyz");
    let kind = if plain { "text/plain" } else { "application/json" };
    let mut content = json!({ kind: {} });
    if let Some(stream) = operation.stream {
        content[stream] = json!({});
    }
    let mut answers = json!({ "200": { "description": "the answer", "content": content } });
    let statuses: &[u16] = match operation.request {
        Request::Nothing => &[400, 401, 403, 404, 415, 429, 503],
        Request::Table(..) => &[400, 401, 403, 404, 408, 409, 413, 415, 429, 500, 502, 503, 504],
    };
    for status in statuses {
        answers[status.to_string()] = json!({
            "description": "what is wrong",
            "content": {
                "application/json": { "schema": { "$ref": "#/components/schemas/Error" } },
            },
        });
    }
    answers
}

fn of_table(table: &[Known], required: &[&str]) -> Value {
    let taken = table.iter().filter(|known| !matches!(known.treatment, Treatment::Refused(_)));
    let properties: Map<String, Value> = taken
        .map(|known| {
            let example: Value = serde_json::from_str(known.example).expect("a table holds JSON");
            let example = &example[known.name];
            let mut property = json!({ "examples": [example] });
            if known.name == "messages" {
                property["items"] = json!({
                    "type": "object",
                    "required": ["role"],
                    "properties": {
                        "role": { "enum": ["system", "developer", "user", "assistant", "tool"] },
                        "content": { "type": ["string", "array", "null"] },
                    },
                });
            }
            if let Some(kind) = kind(known.name, example) {
                property["type"] = json!([kind, "null"]);
            }
            if required.contains(&known.name) && property["type"].is_array() {
                property["type"] = property["type"][0].clone();
            }
            let note = match known.treatment {
                Treatment::Ignored if known.note.is_empty() => "taken and ignored".to_owned(),
                Treatment::Ignored => format!("taken and ignored: {}", known.note),
                Treatment::Honoured | Treatment::Refused(_) => known.note.to_owned(),
            };
            if !note.is_empty() {
                property["description"] = Value::from(note);
            }
            (known.name.to_owned(), property)
        })
        .collect();
    json!({ "type": "object", "required": required, "properties": properties })
}

/// The type of a field, unless it may have several.
fn kind(name: &str, example: &Value) -> Option<&'static str> {
    const SEVERAL: [&str; 12] = [
        "stop",
        "prompt",
        "input",
        "keep_alive",
        "ttl",
        "tool_choice",
        "function_call",
        "guided_json",
        "moderation",
        "format",
        "think",
        "license",
    ];
    if SEVERAL.contains(&name) {
        return None;
    }
    match example {
        Value::Bool(_) => Some("boolean"),
        Value::String(_) => Some("string"),
        Value::Array(_) => Some("array"),
        Value::Object(_) => Some("object"),
        Value::Number(number) if number.is_f64() => Some("number"),
        Value::Number(_) => Some(if name.ends_with("penalty") { "number" } else { "integer" }),
        Value::Null => None,
    }
}

#[cfg(test)]
mod tests {
    use hyper::Method;

    use super::*;
    use crate::route;

    #[test]
    fn what_is_described_is_served() {
        for operation in OPERATIONS {
            let method: Method = operation.method.to_uppercase().parse().unwrap();
            let path = operation.path.replace("{id}", "x");
            assert!(route::find(&method, &path).is_ok(), "{method} {path}");
        }
    }

    /// The router's own source says what it serves: a route that nobody describes is found there.
    #[test]
    fn what_is_served_is_described() {
        let source = include_str!("../route.rs");
        let source = &source[source.find("pub fn find").unwrap()..];
        let arms =
            source.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" => "));
        let paths: Vec<&str> =
            arms.map(|(path, _)| path).filter(|path| path.starts_with('/')).collect();
        assert!(paths.len() > 15, "{paths:?}");
        for path in paths {
            assert!(OPERATIONS.iter().any(|operation| operation.path == path), "{path}");
        }
    }

    /// What both dialects take in is described field by field, whichever endpoint it is sent to.
    #[test]
    fn every_body_is_described_by_its_fields() {
        let document = document();
        for operation in OPERATIONS {
            let body = &document["paths"][operation.path][operation.method]["requestBody"];
            if matches!(operation.request, Request::Nothing) {
                assert_eq!(body, &json!(null), "{}", operation.path);
                continue;
            }
            let schema = &body["content"]["application/json"]["schema"];
            let properties = schema["properties"].as_object().unwrap();
            assert!(!properties.is_empty(), "{}", operation.path);
            for needed in schema["required"].as_array().unwrap() {
                assert!(properties.contains_key(needed.as_str().unwrap()), "{}", operation.path);
            }
        }
        let schema = |path: &str| {
            let body = &document["paths"][path]["post"]["requestBody"];
            body["content"]["application/json"]["schema"]["properties"].clone()
        };
        assert_eq!(schema("/api/chat")["options"]["type"], json!(["object", "null"]));
        assert_eq!(schema("/api/generate")["images"], json!(null));
        assert_eq!(schema("/api/generate")["raw"]["type"], json!(["boolean", "null"]));
        assert_eq!(schema("/rerank")["top_n"]["type"], json!(["integer", "null"]));
    }

    #[test]
    fn fields_have_the_types_of_their_examples_and_refused_ones_are_left_out() {
        let document = document();
        let chat = &document["paths"]["/v1/chat/completions"]["post"];
        let schema = &chat["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(schema["required"], json!(["model", "messages"]));
        let properties = &schema["properties"];
        assert_eq!(properties["model"]["type"], "string");
        assert_eq!(properties["stream"]["type"], json!(["boolean", "null"]));
        assert_eq!(properties["temperature"]["type"], json!(["number", "null"]));
        assert_eq!(properties["stop"]["type"], json!(null));
        assert_eq!(properties["web_search_options"], json!(null));
        assert_eq!(properties["store"]["description"], "taken and ignored: nothing is stored");
    }
}
