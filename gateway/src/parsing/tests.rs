//! Any body is a request or is refused by the name of a field: tried with requests that are nearly
//! right.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use super::*;

/// A fault of the first of these may be told of the second, which depends on it.
const DEPENDENT: [(&str, &str); 4] = [
    ("logprobs", "top_logprobs"),
    ("tools", "tool_choice"),
    // Which of its shapes a request has, the one tells.
    ("texts", "documents"),
    ("messages", "prompt"),
];

/// Tries of each parser.
const CASES: u32 = 512;

fn run<S: Strategy>(strategy: &S, check: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(strategy, check).unwrap();
}

fn example(parser: &Parser) -> Value {
    serde_json::from_str(parser.example).unwrap()
}

/// The field of the request in which a path begins.
fn root(path: &str) -> &str {
    path.split(['.', '[']).next().unwrap_or(path)
}

/// Every place in a value, as a JSON pointer, itself excepted.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, child)| (key.clone(), child)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(i, c)| (i.to_string(), c)).collect(),
        _ => Vec::new(),
    };
    for (step, child) in children {
        let place = format!("{at}/{step}");
        places(child, &place, all);
        all.push(place);
    }
}

/// What a refusal says must be of use: which field, in the answer's `param` and in its words, which are
/// all that Ollama's clients get.
fn refusal(parser: &Parser, body: &Value) -> Result<Option<String>, TestCaseError> {
    let Err(error) = parser.check(body.to_string().as_bytes()) else { return Ok(None) };
    let (endpoint, told) = (parser.endpoint, error.openai_body());
    prop_assert!(error.status().is_client_error(), "{endpoint}: {error:?}");
    let Some(param) = told["error"]["param"].as_str() else {
        prop_assert!(!body.is_object(), "{endpoint}: {error}");
        return Ok(None);
    };
    let words = error.ollama_body()["error"].to_string();
    prop_assert!(words.contains(param), "{endpoint}: {param}: {words}");
    Ok(Some(root(param).to_owned()))
}

#[test]
fn the_examples_are_requests() {
    for parser in PARSERS {
        if let Err(error) = parser.check(parser.example.as_bytes()) {
            panic!("{}: {error}", parser.endpoint);
        }
    }
}

#[test]
fn anything_is_a_request_or_is_refused_by_the_name_of_a_field() {
    for parser in PARSERS {
        run(&any_json(), |body| refusal(&parser, &body).map(drop));
    }
}

#[test]
fn a_request_with_one_thing_wrong_is_refused_by_the_name_of_that() {
    for parser in PARSERS {
        let example = example(&parser);
        let mut all = Vec::new();
        places(&example, "", &mut all);
        let mutation = (proptest::sample::select(all), any_json());
        run(&mutation, |(place, value)| {
            let mut body = example.clone();
            *body.pointer_mut(&place).unwrap() = value;
            let changed = place.split('/').nth(1).unwrap();
            if let Some(named) = refusal(&parser, &body)? {
                let related = DEPENDENT.contains(&(changed, &named));
                prop_assert!(named == changed || related, "{}: {named}", parser.endpoint);
            }
            Ok(())
        });
    }
}

#[test]
fn a_request_with_one_thing_missing_names_it_or_does_without() {
    for parser in PARSERS {
        let Value::Object(example) = example(&parser) else { panic!("an object") };
        for name in example.keys() {
            for null in [false, true] {
                let mut body = example.clone();
                body.remove(name);
                if null {
                    body.insert(name.clone(), json!(null));
                }
                if let Some(named) = refusal(&parser, &Value::Object(body)).unwrap() {
                    let related = DEPENDENT.contains(&(name, &named));
                    assert!(named == *name || related, "{}: {name}: {named}", parser.endpoint);
                }
            }
        }
    }
}

/// JSON of the sort that clients send, and of no sort.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let word = proptest::sample::select(vec![
        "",
        "none",
        "auto",
        "function",
        "json_schema",
        "text",
        "user",
        "assistant",
        "tool",
        "5m",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3_i64..40).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    let key = proptest::sample::select(vec![
        "type",
        "role",
        "content",
        "name",
        "function",
        "tool_calls",
        "id",
        "arguments",
        "schema",
        "json_schema",
        "format",
        "effort",
        "text",
        "mode",
        "tools",
        "parameters",
    ]);
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..4).prop_map(|pairs| {
                let pairs = pairs.into_iter().map(|(key, value)| (key.to_owned(), value));
                Value::from(pairs.collect::<Map<_, _>>())
            }),
        ]
    })
}
