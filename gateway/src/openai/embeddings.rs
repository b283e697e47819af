//! `POST /v1/embeddings`: texts or tokens → vectors, as numbers or as the base64 that OpenAI's own
//! clients ask for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hearth_shared::protocol::{Embed, EmbedInput};
use hyper::Response;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::fields::EMBEDDINGS;
use crate::app::App;
use crate::error::ApiError;
use crate::fields::{Fields, kind_of};
use crate::generation::{Ask, find_model};
use crate::http;
use crate::known;
use crate::metrics::RequestMeter;
use crate::oneshot::Call;
use crate::server::ReadBody;
use crate::stream::Body;

/// As many as OpenAI takes.
const INPUTS_MAX: usize = 2048;

/// Serves one request.
///
/// # Errors
/// [`ApiError`]
pub async fn serve(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let mut meter = RequestMeter::start("/v1/embeddings");
    let parsed = known::read(request_body.as_ref(), EMBEDDINGS, parse);
    drop(request_body);
    let (Request { ask, form, body }, ignored) = meter.check(parsed)?;
    let model = meter.check(find_model(app, &ask.model).await)?;
    let encoded = Call::new(app, model, ask.keep_alive, meter).embed(body).await?;
    let vectors = encoded.items.iter().zip(0..);
    let data = vectors.map(|(vector, index)| Embedding {
        object: "embedding",
        index,
        embedding: Vector { numbers: vector, form },
    });
    let answer = http::json(&Answer {
        object: "list",
        data: data.collect(),
        model: &ask.model,
        usage: Usage { prompt_tokens: encoded.prompt_tokens, total_tokens: encoded.prompt_tokens },
    });
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
    ask: Ask,
    form: Form,
    body: Embed,
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Float,
    Base64,
}

#[derive(Serialize)]
struct Answer<'a> {
    object: &'static str,
    data: Vec<Embedding<'a>>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
}

#[derive(Serialize)]
struct Embedding<'a> {
    object: &'static str,
    index: u32,
    embedding: Vector<'a>,
}

struct Vector<'a> {
    numbers: &'a [f32],
    form: Form,
}

impl Serialize for Vector<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.form {
            Form::Float => self.numbers.serialize(serializer),
            Form::Base64 => {
                let bytes: Vec<u8> = self.numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
                serializer.serialize_str(&STANDARD.encode(bytes))
            }
        }
    }
}

pub(super) fn parse(map: &Map<String, Value>) -> Result<Request, ApiError> {
    let fields = Fields::new(map);
    let ask = Ask { model: model(fields)?, keep_alive: fields.keep_alive()? };
    let form = match fields.text("encoding_format")? {
        None | Some("float") => Form::Float,
        Some("base64") => Form::Base64,
        Some(_) => {
            let message = "`encoding_format` must be float or base64";
            return Err(ApiError::invalid("encoding_format", message));
        }
    };
    let body = Embed {
        inputs: inputs(fields)?,
        dimensions: fields.positive("dimensions")?,
        // OpenAI refuses what is too long; who wants it cut says so.
        truncate: fields.flag("truncate")?.unwrap_or(false),
    };
    Ok(Request { ask, form, body })
}

fn model(fields: Fields<'_>) -> Result<String, ApiError> {
    let model = fields.text("model")?.filter(|model| !model.is_empty());
    let missing = || ApiError::invalid("model", "`model` is missing: say which model to use");
    model.map(str::to_owned).ok_or_else(missing)
}

/// A string, strings, tokens, or arrays of tokens.
fn inputs(fields: Fields<'_>) -> Result<Vec<EmbedInput>, ApiError> {
    let wrong = |message: String| ApiError::invalid("input", message);
    let items = match fields.get("input") {
        None => return Err(wrong("`input` is missing: say what to embed".to_owned())),
        Some(Value::String(text)) => return Ok(vec![EmbedInput::Text(text.clone())]),
        Some(Value::Array(items)) if items.is_empty() => {
            return Err(wrong("`input` must hold at least one text".to_owned()));
        }
        Some(Value::Array(items)) => items,
        Some(other) => {
            let found = kind_of(other);
            return Err(wrong(format!(
                "`input` must be a string, or an array of strings or tokens, not {found}"
            )));
        }
    };
    if items[0].is_number() {
        return Ok(vec![EmbedInput::Tokens(tokens("input", items)?)]);
    }
    if items.len() > INPUTS_MAX {
        let given = items.len();
        return Err(wrong(format!("`input` may hold at most {INPUTS_MAX} texts, not {given}")));
    }
    let one = |(index, item): (usize, &Value)| match item {
        Value::String(text) => Ok(EmbedInput::Text(text.clone())),
        Value::Array(items) if !items.is_empty() => {
            Ok(EmbedInput::Tokens(tokens(&format!("input[{index}]"), items)?))
        }
        other => {
            let path = format!("input[{index}]");
            let found = kind_of(other);
            let message = format!("`{path}` must be a string or an array of tokens, not {found}");
            Err(ApiError::invalid(&path, message))
        }
    };
    items.iter().enumerate().map(one).collect()
}

/// Token ids, for the endpoints that take them.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field at `path`.
pub(super) fn tokens(path: &str, items: &[Value]) -> Result<Vec<u32>, ApiError> {
    let id = |item: &Value| {
        let id = item.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| {
            ApiError::invalid(path, format!("`{path}` must hold token ids, whole numbers from 0"))
        })
    };
    items.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(extra: Value) -> Result<Request, ApiError> {
        let mut value = json!({"model": "m"});
        let Value::Object(extra) = extra else { panic!("an object") };
        let map = value.as_object_mut().unwrap();
        map.extend(extra);
        parse(map)
    }

    fn text(text: &str) -> EmbedInput {
        EmbedInput::Text(text.to_owned())
    }

    #[test]
    fn every_form_of_input_is_read() {
        let inputs = |input: Value| parsed(json!({ "input": input })).unwrap().body.inputs;
        assert_eq!(inputs(json!("a")), [text("a")]);
        assert_eq!(inputs(json!(["a", ""])), [text("a"), text("")]);
        assert_eq!(inputs(json!([1, 2])), [EmbedInput::Tokens(vec![1, 2])]);
        let both = [EmbedInput::Tokens(vec![1]), EmbedInput::Tokens(vec![2, 3])];
        assert_eq!(inputs(json!([[1], [2, 3]])), both);
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (extra, param) in [
            (json!({}), "input"),
            (json!({"input": []}), "input"),
            (json!({"input": 5}), "input"),
            (json!({"input": [1, "a"]}), "input"),
            (json!({"input": [-1]}), "input"),
            (json!({"input": ["a", 5]}), "input[1]"),
            (json!({"input": [[1], []]}), "input[1]"),
            (json!({"input": [[1], [1.5]]}), "input[1]"),
            (json!({"input": vec!["a"; 2049]}), "input"),
            (json!({"input": "a", "encoding_format": "hex"}), "encoding_format"),
            (json!({"input": "a", "dimensions": 0}), "dimensions"),
            (json!({"input": "a", "dimensions": -1}), "dimensions"),
            (json!({"input": "a", "keep_alive": []}), "keep_alive"),
            (json!({"input": "a", "model": ""}), "model"),
        ] {
            let error = parsed(extra.clone()).unwrap_err();
            assert_eq!(error.openai_body()["error"]["param"], param, "{extra}");
        }
    }

    #[test]
    fn base64_is_little_endian_f32_and_numbers_keep_their_digits() {
        let written = |form| {
            let vector = Vector { numbers: &[1.0, -0.1], form };
            serde_json::to_string(&vector).unwrap()
        };
        assert_eq!(written(Form::Float), "[1.0,-0.1]");
        // 00 00 80 3f, cd cc cc bd
        assert_eq!(written(Form::Base64), "\"AACAP83MzL0=\"");
    }
}
