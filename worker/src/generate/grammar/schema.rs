//! What of a JSON schema can be enforced; the rest is refused by name.
//!
//! `true` and annotations are left as they are. Objects that list their properties and say nothing
//! of others get no others: what comes out still satisfies the schema, and comes to an end.

use serde_json::{Map, Value};

const TEXT_BYTES_MAX: usize = 128 * 1024;
/// Schemas within schemas.
const DEPTH_MAX: usize = 48;

/// Keywords that say something about values which can't be enforced token by token.
const REFUSED: [&str; 18] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
    "extends",
    "disallow",
];

/// The digits of `multipleOf`, and the least common multiple of several where schemas are put
/// together: numbers are followed remainder by remainder.
const MULTIPLE_MAX: u64 = 10_000;

/// Keywords whose value is a number of things.
const COUNTS: [&str; 6] =
    ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"];

/// Formats that are enforced.
const FORMATS: [&str; 10] =
    ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// Formats that JSON Schema defines and that are not enforced. Any other is somebody's own word,
/// and says nothing to a validator either.
const FORMATS_REFUSED: [&str; 9] = [
    "idn-email",
    "idn-hostname",
    "uri-reference",
    "iri",
    "iri-reference",
    "uri-template",
    "json-pointer",
    "relative-json-pointer",
    "regex",
];

/// # Errors
/// The schema is too long.
pub(super) fn check_length(text: &str) -> Result<(), String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!(
            "its JSON schema has {} bytes; {TEXT_BYTES_MAX} are the most",
            text.len()
        ));
    }
    Ok(())
}

/// Gives the schema as it can be enforced.
///
/// # Errors
/// What can't be enforced, and where it stands.
pub(super) fn check(mut schema: Value) -> Result<Value, String> {
    let mut findings = Findings { composes: false, common_multiple: 1 };
    visit(&mut schema, &mut Vec::new(), &mut |keywords, path| findings.check(keywords, path))?;
    if findings.composes && findings.common_multiple > MULTIPLE_MAX {
        return Err(format!("`multipleOf`s come together to more than {MULTIPLE_MAX}"));
    }
    if !findings.composes {
        visit(&mut schema, &mut Vec::new(), &mut |keywords, _path| {
            close(keywords);
            Ok(())
        })?;
    }
    Ok(schema)
}

/// Calls `look` with every schema in it that is an object, and with the path to it.
fn visit(
    schema: &mut Value,
    path: &mut Vec<String>,
    look: &mut impl FnMut(&mut Map<String, Value>, &[String]) -> Result<(), String>,
) -> Result<(), String> {
    if path.len() > DEPTH_MAX {
        return Err(format!("its JSON schema is nested deeper than {DEPTH_MAX}"));
    }
    let keywords = match schema {
        Value::Object(keywords) => keywords,
        Value::Bool(_) => return Ok(()),
        _ => return Err(format!("{} is no schema: neither an object nor a boolean", place(path))),
    };
    look(keywords, path)?;
    for (keyword, value) in keywords {
        path.push(keyword.clone());
        match (keyword.as_str(), value) {
            (
                "properties" | "patternProperties" | "$defs" | "definitions",
                Value::Object(schemas),
            ) => {
                for (name, schema) in schemas {
                    path.push(name.clone());
                    visit(schema, path, look)?;
                    path.pop();
                }
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                for (index, schema) in schemas.iter_mut().enumerate() {
                    path.push(index.to_string());
                    visit(schema, path, look)?;
                    path.pop();
                }
            }
            ("items" | "additionalItems" | "additionalProperties", schema) => {
                visit(schema, path, look)?;
            }
            _ => {}
        }
        path.pop();
    }
    Ok(())
}

fn place(path: &[String]) -> String {
    format!("`#/{}`", path.join("/")).replace("`#/`", "the JSON schema")
}

struct Findings {
    /// Whether schemas are put together from several, so that closing one would close others out.
    composes: bool,
    /// Of all that `multipleOf` says, decimal points left out.
    common_multiple: u64,
}

impl Findings {
    fn check(&mut self, keywords: &mut Map<String, Value>, path: &[String]) -> Result<(), String> {
        // The library's own settings are not the client's.
        keywords.shift_remove("x-guidance");
        if keywords.get("uniqueItems") == Some(&Value::Bool(false)) {
            keywords.shift_remove("uniqueItems");
        }
        if let Some(word) = REFUSED.iter().find(|&&word| keywords.contains_key(word)) {
            return Err(format!("`{word}` can't be enforced (in {})", place(path)));
        }
        check_format(keywords, path)?;
        COUNTS.iter().for_each(|word| make_whole(keywords, word));
        if let Some(multiple) = keywords.get("multipleOf") {
            let Some(digits) =
                digits(multiple).filter(|digits| (1..=MULTIPLE_MAX).contains(digits))
            else {
                return Err(format!(
                    "`multipleOf` {multiple} can't be enforced: its digits make more than \
                     {MULTIPLE_MAX} or are none (in {})",
                    place(path)
                ));
            };
            let common = self.common_multiple;
            self.common_multiple = (common / divisor(common, digits)).saturating_mul(digits);
        }
        if let Some(reference) = keywords.get("$ref") {
            let text = reference.as_str().unwrap_or_default();
            if !(text == "#" || text.starts_with("#/")) || text.contains(['~', '%']) {
                return Err(format!(
                    "`$ref` must be a plain path within the schema, as `#/$defs/name`; \
                     {reference} is none (in {})",
                    place(path)
                ));
            }
        }
        let joins = ["anyOf", "oneOf", "$ref"].iter().any(|&word| keywords.contains_key(word));
        let states = ["properties", "required"].iter().any(|&word| keywords.contains_key(word));
        self.composes |= keywords.contains_key("allOf") || (joins && states);
        Ok(())
    }
}

/// To JSON Schema `2.0` is a whole number; to the compiler it is none.
fn make_whole(keywords: &mut Map<String, Value>, word: &str) {
    let Some(number) = keywords.get_mut(word).filter(|number| number.is_f64()) else { return };
    if let Some(whole) = number.to_string().strip_suffix(".0").and_then(|it| it.parse::<u64>().ok())
    {
        *number = whole.into();
    }
}

/// A number's digits as one integer, its decimal point left out.
fn digits(number: &Value) -> Option<u64> {
    number.to_string().replace('.', "").parse().ok()
}

/// The greatest common divisor.
fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

fn check_format(keywords: &mut Map<String, Value>, path: &[String]) -> Result<(), String> {
    let Some(format) = keywords.get("format").and_then(Value::as_str) else {
        return Ok(());
    };
    if FORMATS_REFUSED.contains(&format) {
        return Err(format!("the format `{format}` can't be enforced (in {})", place(path)));
    }
    if !FORMATS.contains(&format) {
        keywords.shift_remove("format");
    }
    Ok(())
}

/// Lets an object have no other properties than those that it lists.
fn close(keywords: &mut Map<String, Value>) {
    let Some(properties) = keywords.get("properties").and_then(Value::as_object) else {
        return;
    };
    let listed = |name: &Value| name.as_str().is_some_and(|name| properties.contains_key(name));
    let required = keywords.get("required").and_then(Value::as_array);
    let says_of_others = ["additionalProperties", "patternProperties", "minProperties"];
    if required.is_none_or(|names| names.iter().all(listed))
        && !says_of_others.iter().any(|&word| keywords.contains_key(word))
    {
        keywords.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
}
