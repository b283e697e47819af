//! `POST /v1/rerank` and `/rerank`: a query and documents → the documents by relevance.
//!
//! Two shapes share the paths. With `documents` it is Jina's and Cohere's, which vLLM took over; with
//! `texts` it is that of text-embeddings-inference, whose answer is a bare array.

use hearth_shared::protocol::Rerank;
use hyper::Response;
use serde::Serialize;
use serde_json::{Map, Value};

use super::fields::{RERANK, RERANK_TEXTS};
use crate::app::App;
use crate::error::ApiError;
use crate::fields::{Fields, kind_of, parse_object};
use crate::http;
use crate::keep_alive::KeepAlive;
use crate::known::{self, Known};
use crate::metrics::RequestMeter;
use crate::oneshot::{Call, Encoded, find_or_only};
use crate::server::ReadBody;
use crate::stream::Body;

const DOCUMENTS_MAX: usize = 2048;

/// Serves one request that came in on `path`.
///
/// # Errors
/// [`ApiError`]
pub async fn serve(
    app: &App,
    path: &'static str,
    request_body: ReadBody,
) -> Result<Response<Body>, ApiError> {
    let mut meter = RequestMeter::start(path);
    let parsed = parse_object(request_body.as_ref()).and_then(|map| {
        let request = parse(&map)?;
        let ignored = known::ignored_of(&map, request.shape.fields());
        Ok((request, ignored))
    });
    drop(request_body);
    let (Request { model, keep_alive, top, shape, body }, ignored) = meter.check(parsed)?;
    let found = meter.check(find_or_only(app, model.as_deref()).await)?.model;
    let name = model.unwrap_or_else(|| found.name.to_string());
    // Only a client that wants its texts back needs a second copy of them.
    let texts = shape.with_texts().then(|| body.documents.clone());
    let call = Call::new(app, found, keep_alive, meter);
    let Encoded { items, prompt_tokens, .. } = call.rerank(body).await?;
    let mut ranked = ranked(items, shape);
    ranked.truncate(top);
    let text_of = |index: usize| texts.as_ref().map(|texts| texts[index].as_str());
    let answer = match shape {
        Shape::Documents { .. } => http::json(&Answer {
            id: http::new_id("rerank-"),
            model: &name,
            results: ranked
                .into_iter()
                .map(|(index, relevance_score)| {
                    let document = text_of(index).map(|text| Document { text });
                    Relevance { index, relevance_score, document }
                })
                .collect(),
            usage: Usage { prompt_tokens, total_tokens: prompt_tokens },
        }),
        Shape::Texts { .. } => {
            let rank = |(index, score)| Rank { index, score, text: text_of(index) };
            http::json(&ranked.into_iter().map(rank).collect::<Vec<_>>())
        }
    };
    Ok(known::mark(answer, ignored))
}

/// Whether these are the fields of a request.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check(map: &Map<String, Value>) -> Result<(), ApiError> {
    parse(map).map(drop)
}

#[derive(Debug)]
pub(super) struct Request {
    model: Option<String>,
    keep_alive: Option<KeepAlive>,
    /// How many of the best are told.
    top: usize,
    shape: Shape,
    body: Rerank,
}

/// How it was asked, and so how it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Jina's and Cohere's.
    Documents { return_documents: bool },
    /// That of text-embeddings-inference.
    Texts { raw_scores: bool, return_text: bool },
}

impl Shape {
    fn fields(self) -> &'static [Known] {
        match self {
            Self::Documents { .. } => RERANK,
            Self::Texts { .. } => RERANK_TEXTS,
        }
    }

    fn with_texts(self) -> bool {
        match self {
            Self::Documents { return_documents } => return_documents,
            Self::Texts { return_text, .. } => return_text,
        }
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    id: String,
    model: &'a str,
    results: Vec<Relevance<'a>>,
    usage: Usage,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
}

#[derive(Serialize)]
struct Relevance<'a> {
    index: usize,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Document<'a>>,
}

#[derive(Serialize)]
struct Document<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct Rank<'a> {
    index: usize,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

/// The best first; equal ones in the order in which they were sent. Scores are between 0 and 1
/// unless the model's own were asked for.
fn ranked(logits: Vec<f32>, shape: Shape) -> Vec<(usize, f32)> {
    let raw = matches!(shape, Shape::Texts { raw_scores: true, .. });
    let mut ranked: Vec<(usize, f32)> = logits.into_iter().enumerate().collect();
    // By the logits: far out, different ones are squashed into the same score.
    ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    if !raw {
        for (_, score) in &mut ranked {
            *score = 1.0 / (1.0 + (-*score).exp());
        }
    }
    ranked
}

pub(super) fn parse(map: &Map<String, Value>) -> Result<Request, ApiError> {
    let fields = Fields::new(map);
    let query = fields.text("query")?.filter(|query| !query.is_empty());
    let query = query
        .ok_or_else(|| ApiError::invalid("query", "`query` is missing: say what to look for"))?;
    let flag = |name, default| Ok::<_, ApiError>(fields.flag(name)?.unwrap_or(default));
    let (shape, field, truncate) = if fields.get("texts").is_some() {
        let raw_scores = flag("raw_scores", false)?;
        let shape = Shape::Texts { raw_scores, return_text: flag("return_text", false)? };
        (shape, "texts", flag("truncate", false)?)
    } else {
        let shape = Shape::Documents { return_documents: flag("return_documents", true)? };
        (shape, "documents", flag("truncation", flag("truncate", true)?)?)
    };
    let documents = documents(fields, field)?;
    let body = Rerank {
        query: query.to_owned(),
        documents,
        document_tokens_max: fields.positive("max_tokens_per_doc")?,
        truncate,
    };
    Ok(Request {
        model: fields.text("model")?.map(str::to_owned),
        keep_alive: fields.keep_alive()?,
        top: fields.positive("top_n")?.map_or(usize::MAX, |top| top as usize),
        shape,
        body,
    })
}

/// Strings, or objects with a `text`.
fn documents(fields: Fields<'_>, name: &str) -> Result<Vec<String>, ApiError> {
    let items = fields.array(name)?.unwrap_or_default();
    if items.is_empty() {
        let message = format!("`{name}` must hold at least one text");
        return Err(ApiError::invalid(name, message));
    }
    if items.len() > DOCUMENTS_MAX {
        let given = items.len();
        let message = format!("`{name}` may hold at most {DOCUMENTS_MAX} texts, not {given}");
        return Err(ApiError::invalid(name, message));
    }
    let text = |(index, item): (usize, &Value)| {
        let text = item.as_str().or_else(|| item.get("text")?.as_str());
        text.map(str::to_owned).ok_or_else(|| {
            let path = format!("{name}[{index}]");
            let found = kind_of(item);
            let message =
                format!("`{path}` must be a string or an object with a `text`, not {found}");
            ApiError::invalid(&path, message)
        })
    };
    items.iter().enumerate().map(text).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(extra: Value) -> Result<Request, ApiError> {
        let Value::Object(map) = extra else { panic!("an object") };
        parse(&map)
    }

    #[test]
    fn the_shape_follows_the_name_of_the_documents() {
        let jina = parsed(json!({
            "model": "m", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1,
            "max_tokens_per_doc": 9,
        }))
        .unwrap();
        assert_eq!(jina.shape, Shape::Documents { return_documents: true });
        assert_eq!((jina.top, jina.model.as_deref()), (1, Some("m")));
        let expected = Rerank {
            query: "q".to_owned(),
            documents: vec!["a".to_owned(), "b".to_owned()],
            document_tokens_max: Some(9),
            truncate: true,
        };
        assert_eq!(jina.body, expected);
        let tei = parsed(json!({"query": "q", "texts": ["a"], "raw_scores": true})).unwrap();
        assert_eq!(tei.shape, Shape::Texts { raw_scores: true, return_text: false });
        assert_eq!((tei.top, tei.model, tei.body.truncate), (usize::MAX, None, false));
    }

    #[test]
    fn the_best_comes_first_and_equals_keep_their_order() {
        let squashed = Shape::Documents { return_documents: false };
        assert_eq!(
            ranked(vec![-200.0, 0.0, 40.0, 50.0, 0.0], squashed),
            [(3, 1.0), (2, 1.0), (1, 0.5), (4, 0.5), (0, 0.0)]
        );
        let raw = Shape::Texts { raw_scores: true, return_text: false };
        assert_eq!(ranked(vec![-3.5, 2.0], raw), [(1, 2.0), (0, -3.5)]);
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (extra, param) in [
            (json!({"documents": ["a"]}), "query"),
            (json!({"query": "", "documents": ["a"]}), "query"),
            (json!({"query": "q"}), "documents"),
            (json!({"query": "q", "documents": "a"}), "documents"),
            (json!({"query": "q", "documents": ["a", {"title": "b"}]}), "documents[1]"),
            (json!({"query": "q", "documents": vec!["a"; 2049]}), "documents"),
            (json!({"query": "q", "texts": []}), "texts"),
            (json!({"query": "q", "texts": ["a"], "return_text": 1}), "return_text"),
            (json!({"query": "q", "documents": ["a"], "top_n": 0}), "top_n"),
        ] {
            let error = parsed(extra.clone()).unwrap_err();
            assert_eq!(error.openai_body()["error"]["param"], param, "{extra}");
        }
    }
}
