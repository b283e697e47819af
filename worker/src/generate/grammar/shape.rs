//! What an answer as a whole looks like: thoughts, then what a constraint allows, or calls of tools.

use hearth_shared::protocol::Constraint;
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Value, json};

use super::schema;
use crate::tokenizer::Tokenizer;

/// Between the parts of JSON: nothing, a space, or a new line with its indentation. Without an end
/// to it a small model may go on with spaces for good.
const WHITESPACE: &str = r"( |\n[ \t]{0,20})";

/// The shape of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    pub(crate) thoughts: Option<Thoughts>,
    /// The text of an answer that calls nothing; `None` where it has to call.
    pub(crate) text: Option<Constraint>,
    /// Calls as a Lark grammar; `None` where none may come.
    pub(crate) calls: Option<String>,
}

/// Thoughts before the answer, which nothing constrains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thoughts {
    /// Whether the prompt has opened them; otherwise the model does, or does not.
    pub(crate) opened: bool,
    pub(crate) open: String,
    pub(crate) close: String,
}

impl Shape {
    /// An answer that is nothing but text of this kind.
    pub(crate) fn text(constraint: Constraint) -> Self {
        Self { thoughts: None, text: Some(constraint), calls: None }
    }

    /// The grammar of such answers.
    ///
    /// # Errors
    /// What is wrong with the constraint.
    pub(super) fn grammar(&self, tokenizer: &Tokenizer) -> Result<TopLevelGrammar, String> {
        let text = self.text.as_ref().map(of_constraint).transpose()?;
        let calls = self.calls.as_ref().map(|lark| GrammarWithLexer::from_lark(lark.clone()));
        let parts = [("text", text), ("calls", calls)];
        let mut parts: Vec<_> =
            parts.into_iter().filter_map(|(name, part)| Some((name, part?))).collect();
        if self.thoughts.is_none() && parts.len() == 1 {
            return Ok(TopLevelGrammar::from_grammar(parts.remove(0).1));
        }
        let names: Vec<_> = parts.iter().map(|(name, _)| format!("@{name}")).collect();
        let answer = format!("({})", names.join(" | "));
        let start = match &self.thoughts {
            None => format!("start: {answer}\n"),
            Some(thoughts) => thoughts.before(&answer, tokenizer),
        };
        let mut grammars = vec![GrammarWithLexer::from_lark(start)];
        for (name, mut part) in parts {
            part.name = Some(name.to_owned());
            grammars.push(part);
        }
        Ok(TopLevelGrammar { grammars, max_tokens: None })
    }
}

impl Thoughts {
    fn before(&self, answer: &str, tokenizer: &Tokenizer) -> String {
        let close = literal(tokenizer, &self.close);
        // The shortest text that ends with the closing tag; a tag that is a token ends it anyway.
        let thoughts = if is_token(&close) {
            format!("thoughts: FREE? {close}\nFREE: /(?s:.)+/\n")
        } else {
            format!("thoughts[suffix={close}]: /(?s:.*)/\n")
        };
        let start = if self.opened {
            format!("start: thoughts gap {answer}\n")
        } else {
            let open = literal(tokenizer, &self.open);
            format!("start: ({open} thoughts gap)? {answer}\n")
        };
        format!("{start}{thoughts}gap: (\"\\n\" | \"\\n\\n\")?\n")
    }
}

fn is_token(literal: &str) -> bool {
    literal.starts_with('<')
}

/// A marker in Lark: the special token of this name, or the text.
pub(crate) fn literal(tokenizer: &Tokenizer, marker: &str) -> String {
    match tokenizer.id(marker).filter(|&id| tokenizer.is_special(id)) {
        Some(id) => format!("<[{id}]>"),
        None => Value::from(marker).to_string(),
    }
}

/// A schema as part of a Lark grammar.
///
/// # Errors
/// What in it can't be enforced.
pub(crate) fn lark_of_schema(schema: Value) -> Result<String, String> {
    Ok(format!("%json {}", prepared(schema)?))
}

fn of_constraint(constraint: &Constraint) -> Result<GrammarWithLexer, String> {
    match constraint {
        Constraint::JsonObject => {
            Ok(GrammarWithLexer::from_json_schema(prepared(json!({"type": "object"}))?))
        }
        Constraint::JsonSchema(text) => {
            schema::check_length(&text.0)?;
            let schema = serde_json::from_str(&text.0)
                .map_err(|error| format!("its JSON schema is no JSON: {error}"))?;
            Ok(GrammarWithLexer::from_json_schema(prepared(schema)?))
        }
        Constraint::Regex(pattern) if pattern.is_empty() => {
            Err("its regular expression is empty".to_owned())
        }
        Constraint::Regex(pattern) => Ok(GrammarWithLexer::from_regex(pattern)),
        Constraint::Lark(grammar) => Ok(GrammarWithLexer::from_lark(grammar.clone())),
    }
}

/// A schema with the library's settings in it.
fn prepared(schema: Value) -> Result<Value, String> {
    let mut schema = schema::check(schema)?;
    if let Some(keywords) = schema.as_object_mut() {
        keywords.insert("x-guidance".to_owned(), json!({"whitespace_pattern": WHITESPACE}));
    }
    Ok(schema)
}
