//! Grammars over a small vocabulary, and over two real ones: byte-level, and SentencePiece with
//! byte fallback.

use std::path::{Path, PathBuf};

use hearth_shared::protocol::JsonText;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::*;
use crate::model::TokenizerSource;
use crate::tokenizer::Tokenizer;
use hearth_shared::protocol::Constraint;
use std::sync::Arc;

const REAL: [&str; 2] = ["smollm2-vocabulary.gguf", "mistral-vocabulary.gguf"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// A model's vocabulary, and what is compiled for it.
struct Model {
    grammars: Grammars,
    tokenizer: Arc<Tokenizer>,
    /// Every token's bytes.
    words: Vec<Vec<u8>>,
    end: u32,
}

impl Model {
    fn real(fixture: &str) -> Self {
        let (_, vocabulary) = crate::gguf::open(&fixtures().join("gguf").join(fixture)).unwrap();
        let source = TokenizerSource::Built(Box::new(vocabulary.tokenizer));
        Self::of(Tokenizer::of(source).unwrap(), 2)
    }

    fn small() -> Self {
        let path = fixtures().join("tiny-llama-genai-fp32/tokenizer.json");
        let tokenizer = Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap();
        let end = tokenizer.id("<|im_end|>").unwrap();
        Self::of(tokenizer, end)
    }

    fn of(tokenizer: Tokenizer, end: u32) -> Self {
        let tokenizer = Arc::new(tokenizer);
        let ids = (0_u32..).zip(0..tokenizer.vocabulary_length());
        let words = ids.map(|(id, _)| tokenizer.bytes(id)).collect();
        Self { grammars: Grammars::new(Arc::clone(&tokenizer), vec![end]), tokenizer, words, end }
    }

    fn word(&self, id: u32) -> &[u8] {
        &self.words[usize::try_from(id).unwrap()]
    }

    /// The token that spells this, special ones aside.
    fn id(&self, word: &str) -> u32 {
        let ids = (0_u32..).zip(&self.words);
        let mut found = ids.filter(|(_, bytes)| bytes.as_slice() == word.as_bytes());
        found.find(|&(id, _)| !self.tokenizer.is_special(id)).unwrap().0
    }

    /// What may come next.
    fn allowed(&self, walk: &mut Walk) -> Vec<u32> {
        let mut logits = vec![0.0; self.words.len() + 50];
        walk.constrain(&mut logits).unwrap();
        let open = (0_u32..).zip(logits).filter(|&(_, logit)| logit > f32::NEG_INFINITY);
        open.map(|(id, _)| id).collect()
    }

    /// Follows an answer with the longest tokens that may come: how much of it the grammar lets
    /// through, and whether an answer may end there.
    fn follow(&self, shape: &Shape, answer: &str) -> (String, bool) {
        let mut walk = self.grammars.compile(shape).unwrap().begin();
        let mut rest = answer.as_bytes();
        loop {
            let passed = || answer[..answer.len() - rest.len()].to_owned();
            let allowed = self.allowed(&mut walk);
            let fits = |id: &&u32| !self.word(**id).is_empty() && rest.starts_with(self.word(**id));
            let longest = allowed.iter().filter(fits).max_by_key(|id| self.word(**id).len());
            let Some(&id) = longest else {
                return (passed(), allowed.contains(&self.end));
            };
            rest = &rest[self.word(id).len()..];
            if walk.take(id).unwrap() == Progress::Complete {
                return (answer[..answer.len() - rest.len()].to_owned(), true);
            }
        }
    }

    /// Chooses among the allowed tokens by lot until the grammar is complete.
    fn wander(&self, shape: &Shape, seed: u64) -> String {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut walk = self.grammars.compile(shape).unwrap().begin();
        let mut bytes = Vec::new();
        for _ in 0..2000 {
            let allowed = self.allowed(&mut walk);
            let index = random.next_u64() % u64::try_from(allowed.len()).unwrap();
            let id = allowed[usize::try_from(index).unwrap()];
            if id != self.end {
                assert!(!self.tokenizer.is_special(id), "{id}");
                bytes.extend(self.word(id));
            }
            if walk.take(id).unwrap() == Progress::Complete {
                return String::from_utf8(bytes).unwrap();
            }
        }
        panic!("no end after {}", String::from_utf8_lossy(&bytes));
    }
}

fn schema(json: &str) -> Shape {
    Shape::text(Constraint::JsonSchema(JsonText(json.to_owned())))
}

fn regex(pattern: &str) -> Shape {
    Shape::text(Constraint::Regex(pattern.to_owned()))
}

fn lark(grammar: &str) -> Shape {
    Shape::text(Constraint::Lark(grammar.to_owned()))
}

#[test]
fn whatever_is_chosen_satisfies_the_schema() {
    let shape = schema(
        r##"{"type": "object", "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 3}
        }, "required": ["name", "age", "tags"], "$defs": {"tag": {"enum": ["a", "é", 1, null]}}}"##,
    );
    for fixture in REAL {
        let model = Model::real(fixture);
        for seed in 0..20 {
            let text = model.wander(&shape, seed);
            let value: serde_json::Value = serde_json::from_str(&text).expect(&text);
            let keys: Vec<_> = value.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["name", "age", "tags"], "{text}");
            assert!(value["name"].as_str().unwrap().chars().count() <= 12, "{text}");
            assert!(value["age"].as_u64().unwrap() <= 150, "{text}");
            let tags = value["tags"].as_array().unwrap();
            let known = serde_json::json!(["a", "é", 1, null]);
            assert!(
                tags.len() <= 3 && tags.iter().all(|tag| known.as_array().unwrap().contains(tag))
            );
        }
    }
}

#[test]
fn text_is_followed_to_where_it_leaves_the_grammar() {
    let object = Shape::text(Constraint::JsonObject);
    let cases = [
        (
            &object,
            r#"{"a": [1, {"b": "é😀"}], "c": null}"#,
            true,
            r#"{"a": [1, {"b": "é😀"}], "c": null}"#,
        ),
        (&object, "[1]", false, ""),
        (&object, r#"{"a": true3}"#, false, r#"{"a": true"#),
        (&schema("{\"enum\": [\"Paris\", \"Pau\"]}"), "\"Pau", false, "\"Pau"),
        (&regex("[0-9]{2,3}(st|nd)?"), "12", true, "12"),
        (&regex("[0-9]{2,3}(st|nd)?"), "1234", true, "123"),
        (&lark("start: \"a\" b\nb: \"(\" b \")\" | \"x\""), "a((x))", true, "a((x))"),
        (&lark("start: \"a\" b\nb: \"(\" b \")\" | \"x\""), "a((y))", false, "a(("),
    ];
    for fixture in REAL {
        let model = Model::real(fixture);
        for (shape, answer, may_end, passed) in &cases {
            let followed = model.follow(shape, answer);
            assert_eq!(followed, ((*passed).to_owned(), *may_end), "{fixture}: {answer}");
        }
    }
}

#[test]
fn white_space_between_the_parts_of_json_comes_to_an_end() {
    let model = Model::small();
    let object = Shape::text(Constraint::JsonObject);
    assert_eq!(model.follow(&object, "{\n  \"a\": 1}").0, "{\n  \"a\": 1}");
    assert_eq!(model.follow(&object, "{  \"a\": 1}").0, "{ ");
    assert_eq!(model.follow(&object, "{\n\n").0, "{\n");
}

#[test]
fn what_follows_the_end_is_not_allowed() {
    let model = Model::small();
    let mut walk = model.grammars.compile(&schema(r#"{"const": 7}"#)).unwrap().begin();
    assert_eq!(model.allowed(&mut walk), [model.id("7")]);
    assert_eq!(walk.take(model.id("7")).unwrap(), Progress::Complete);
}

#[test]
fn ids_that_the_tokenizer_does_not_know_are_impossible() {
    let model = Model::small();
    let mut walk = model.grammars.compile(&regex("(?s:.*)")).unwrap().begin();
    let allowed = model.allowed(&mut walk);
    assert!(allowed.iter().all(|&id| usize::try_from(id).unwrap() < model.words.len()));
    assert!(allowed.len() > model.words.len() / 2, "{}", allowed.len());
}

#[test]
fn choices_go_their_own_ways() {
    let model = Model::small();
    let grammar = model.grammars.compile(&regex("a[xy]|c[zw]")).unwrap();
    let (mut first, mut second) = (grammar.begin(), grammar.begin());
    first.take(model.id("a")).unwrap();
    second.take(model.id("c")).unwrap();
    let next = [model.allowed(&mut first), model.allowed(&mut second)];
    let mut expected = [vec![model.id("x"), model.id("y")], vec![model.id("w"), model.id("z")]];
    expected.iter_mut().for_each(|ids| ids.sort_unstable());
    assert_eq!(next, expected);
}

#[test]
fn a_token_that_can_not_come_fails_its_sequence() {
    let model = Model::small();
    let mut walk = model.grammars.compile(&regex("ab")).unwrap().begin();
    for _ in 0..2 {
        let refused = walk.take(model.id("b"));
        assert!(matches!(refused, Err(RequestFailure::Constraint { .. })), "{refused:?}");
    }
}

#[test]
fn a_grammar_that_comes_again_is_not_compiled_again() {
    let model = Model::small();
    let shapes: Vec<_> = (0..20).map(|number| regex(&format!("{number}"))).collect();
    for shape in shapes.iter().chain(&shapes) {
        model.grammars.compile(shape).unwrap();
    }
    assert_eq!(model.grammars.kept_count(), 8);
    assert_eq!(model.follow(&shapes[19], "19"), ("19".to_owned(), true));
}

#[test]
fn thoughts_come_before_what_is_constrained() {
    let thoughts =
        |opened| Thoughts { opened, open: "<think>".to_owned(), close: "</think>".to_owned() };
    let shape =
        |opened| Shape { thoughts: Some(thoughts(opened)), ..Shape::text(Constraint::JsonObject) };
    let model = Model::small();
    let follow = |opened, answer| model.follow(&shape(opened), answer);
    let passes = |answer: &str| (answer.to_owned(), true);
    assert_eq!(
        follow(true, "Hm {1}?</think>\n\n{\"a\": 1}"),
        passes("Hm {1}?</think>\n\n{\"a\": 1}")
    );
    assert_eq!(follow(true, "</think>{}"), passes("</think>{}"));
    assert_eq!(follow(true, "Hm</think>no"), ("Hm</think>".to_owned(), false));
    assert_eq!(follow(false, "<think>\nHm</think>\n{}"), passes("<think>\nHm</think>\n{}"));
    assert_eq!(follow(false, "{}"), passes("{}"));
    assert_eq!(follow(false, "Hm"), (String::new(), false));
}

#[test]
fn a_number_of_things_may_have_a_decimal_point() {
    let ones = schema(r#"{"type": "array", "items": {"const": 1}, "maxItems": 2.0}"#);
    let (passed, _) = Model::small().follow(&ones, "[1,1,1]");
    assert_eq!(passed, "[1,1");
}

#[test]
fn what_can_not_be_enforced_is_refused_in_words() {
    let model = Model::small();
    let deep = format!("{}1{}", "{\"items\":".repeat(60), "}".repeat(60));
    let nested = format!("start: {}\"a\"{}", "(".repeat(100), ")".repeat(100));
    let long = format!("{{\"enum\": [\"{}\"]}}", "x".repeat(200_000));
    let cases = [
        (
            schema(r#"{"properties": {"a": {"not": {}}}}"#),
            "`not` can't be enforced (in `#/properties/a`)",
        ),
        (
            schema(r#"{"uniqueItems": true}"#),
            "`uniqueItems` can't be enforced (in the JSON schema)",
        ),
        (
            schema(r#"{"oneOf": [{"type": "string"}, {"minLength": 2}]}"#),
            "`oneOf` can't be enforced unless its options exclude each other",
        ),
        (schema(r#"{"type": "string", "format": "iri"}"#), "the format `iri` can't be enforced"),
        (schema(r#"{"$ref": "https://example.com/x"}"#), "`$ref` must be a plain path"),
        (schema(r##"{"$ref": "#/$defs/x"}"##), "not found"),
        (schema(r#"{"type": "text"}"#), "Invalid type: text"),
        (schema(r#"{"type": "string", "pattern": "("}"#), "regex"),
        (
            schema(r#"{"type": "string", "minLength": 5, "maxLength": 2}"#),
            "nothing can satisfy the schema",
        ),
        (schema("[1]"), "the JSON schema is no schema"),
        (schema("{"), "its JSON schema is no JSON"),
        (schema(&deep), "nested deeper than 48"),
        (schema(&long), "131072 are the most"),
        (schema(r#"{"multipleOf": 99999989}"#), "`multipleOf` 99999989 can't be enforced"),
        (
            schema(r#"{"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}"#),
            "come together to more than 10000",
        ),
        (schema(r##"{"$ref": "#"}"##), "nothing can follow it"),
        (regex(""), "its regular expression is empty"),
        (regex("a(b"), "regex"),
        (lark("begin: \"a\""), "no start"),
        (lark(&nested), "nested deeper than 64"),
    ];
    for (shape, expected) in cases {
        match model.grammars.compile(&shape) {
            Err(RequestFailure::Constraint { message }) => {
                assert!(message.contains(expected), "{shape:?}: {message}");
                assert!(message.len() < 500 && !message.contains('<'), "{message}");
            }
            other => panic!("{shape:?}: {other:?}"),
        }
    }
}

#[test]
fn annotations_and_formats_of_others_are_no_obstacle() {
    let model = Model::small();
    let shape = schema(
        r#"{"$schema": "http://json-schema.org/draft-07/schema#", "title": "T", "nullable": true,
            "type": "string", "format": "password", "uniqueItems": false}"#,
    );
    assert_eq!(model.follow(&shape, "\"x\""), ("\"x\"".to_owned(), true));
}

#[test]
fn objects_have_no_properties_that_nobody_named() {
    let model = Model::small();
    let cases = [
        (r#"{"properties": {"a": {}}}"#, r#"{"b"#, "{\""),
        (r#"{"properties": {"a": {}}, "additionalProperties": true}"#, r#"{"b"#, r#"{"b"#),
        (r#"{"properties": {"a": {}}, "required": ["b"]}"#, r#"{"b"#, r#"{"b"#),
        (
            r#"{"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}"#,
            r#"{"b"#,
            r#"{"b"#,
        ),
        (r#"{"type": "object"}"#, r#"{"b"#, r#"{"b"#),
    ];
    for (json, answer, passed) in cases {
        assert_eq!(model.follow(&schema(json), answer).0, passed, "{json}");
    }
}
