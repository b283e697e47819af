//! What chat templates expect of Python: `tojson`, `raise_exception`, `strftime_now`.
//!
//! Templates are written against Hugging Face's Jinja environment, and a model was trained on
//! exactly the characters that come out of it.

use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::Value as Json;

/// Adds the functions and the filter, which replaces the engine's own `tojson`.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
}

/// What a template raised by itself, as the error's cause.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
}

/// The message that the template itself raised, if that is what happened.
pub(super) fn raised(error: &Error) -> Option<&str> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(message);
        }
        cause = error.source();
    }
    None
}

fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::ZonedDateTime::now())
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// `{% generation %}` marks text for training; it renders as what stands inside. The tag stays a
/// tag, because its `-` and its line break trim what is around it.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        output.push_str(before);
        let inner = tag.trim_start_matches(['-', '+']);
        let word = inner.trim_start();
        let replaced = ["endgeneration", "generation"].into_iter().zip(["endif", "if true"]).find(
            |(name, _)| {
                let after = word.strip_prefix(name).map(|after| after.trim_start());
                after.is_some_and(|after| after.trim_start_matches(['-', '+']).starts_with("%}"))
            },
        );
        rest = tag;
        if let Some((name, replacement)) = replaced {
            output.push_str(&tag[..tag.len() - word.len()]);
            output.push_str(replacement);
            rest = &word[name.len()..];
        }
    }
    output.push_str(rest);
    output
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the template engine hands keyword arguments over by value"
)]
fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Accepted because Python's has them; nothing but the defaults is in use.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let json = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let mut text = String::new();
    write_json(&mut text, &json, indent, 0);
    Ok(Value::from_safe_string(text))
}

/// Python's `json.dumps(value, ensure_ascii=False)`.
pub(super) fn json_text(value: &Json) -> String {
    let mut text = String::new();
    write_json(&mut text, value, None, 0);
    text
}

fn write_json(text: &mut String, json: &Json, indent: Option<usize>, depth: usize) {
    match json {
        Json::Null => text.push_str("null"),
        Json::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Json::Number(number) => text.push_str(&python_number(number)),
        Json::String(string) => text.push_str(&quoted(string)),
        Json::Array(items) => {
            let write = |text: &mut String, item: &Json| write_json(text, item, indent, depth + 1);
            write_items(text, ('[', ']'), (indent, depth), items.iter(), write);
        }
        Json::Object(fields) => {
            let write = |text: &mut String, (key, value): (&String, &Json)| {
                text.push_str(&quoted(key));
                text.push_str(": ");
                write_json(text, value, indent, depth + 1);
            };
            write_items(text, ('{', '}'), (indent, depth), fields.iter(), write);
        }
    }
}

fn write_items<I: ExactSizeIterator>(
    text: &mut String,
    (open, close): (char, char),
    (indent, depth): (Option<usize>, usize),
    items: I,
    mut write: impl FnMut(&mut String, I::Item),
) {
    let line_break = |text: &mut String, depth: usize| {
        if let Some(width) = indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    let count = items.len();
    text.push(open);
    for (index, item) in items.enumerate() {
        line_break(text, depth + 1);
        write(text, item);
        if index + 1 < count {
            text.push_str(if indent.is_some() { "," } else { ", " });
        }
    }
    if count > 0 {
        line_break(text, depth);
    }
    text.push(close);
}

fn quoted(string: &str) -> String {
    // The same escapes as Python's without `ensure_ascii`.
    Json::from(string).to_string()
}

/// Integers as they are; floats as Python's `repr` writes them: always with a point or an
/// exponent, the latter below 1e-4 and from 1e16 on.
fn python_number(number: &serde_json::Number) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else {
        return number.to_string();
    };
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) || float == 0.0 {
        let plain = format!("{float}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}
