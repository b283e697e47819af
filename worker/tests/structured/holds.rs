//! Whether a value satisfies a schema, for the keywords that the test's schemas use.
//!
//! Written for the test alone, and from JSON Schema's words; what it does not know it refuses.

use serde_json::{Map, Value};

/// `Err` says what does not hold, or what is not known.
pub(crate) fn holds(schema: &Value, value: &Value) -> Result<(), String> {
    within(schema, schema, value)
}

fn within(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let keywords = match schema {
        Value::Bool(true) => return Ok(()),
        Value::Bool(false) => return Err(format!("{value} is one too many")),
        _ => schema.as_object().ok_or("no schema")?,
    };
    for (keyword, wanted) in keywords {
        let sound = match keyword.as_str() {
            "$defs" => true,
            "$ref" => {
                let path = wanted.as_str().and_then(|path| path.strip_prefix('#'));
                within(root, root.pointer(path.ok_or("$ref")?).ok_or("$ref")?, value)?;
                true
            }
            "anyOf" => each(wanted).any(|option| within(root, option, value).is_ok()),
            "oneOf" => each(wanted).filter(|it| within(root, it, value).is_ok()).count() == 1,
            "const" => value == wanted,
            "enum" => each(wanted).any(|option| option == value),
            "type" if wanted.is_array() => each(wanted).any(|name| is(name, value)),
            "type" => is(wanted, value),
            _ => match value {
                Value::Number(_) => number(keyword, wanted, value)?,
                Value::String(text) => string(keyword, wanted, text)?,
                Value::Array(items) => array(root, keywords, keyword, items)?,
                Value::Object(fields) => object(root, keywords, keyword, fields)?,
                Value::Null | Value::Bool(_) => true,
            },
        };
        if !sound {
            return Err(format!("{keyword} {wanted}: {value}"));
        }
    }
    Ok(())
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn is(name: &Value, value: &Value) -> bool {
    match name.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}

fn number(keyword: &str, wanted: &Value, value: &Value) -> Result<bool, String> {
    let (number, wanted) = (value.as_f64().ok_or("number")?, wanted.as_f64().ok_or("wanted")?);
    Ok(match keyword {
        "minimum" => number >= wanted,
        "maximum" => number <= wanted,
        "exclusiveMinimum" => number > wanted,
        "exclusiveMaximum" => number < wanted,
        "multipleOf" => number % wanted == 0.0,
        _ => return Err(format!("{keyword} of numbers is not known")),
    })
}

fn string(keyword: &str, wanted: &Value, text: &str) -> Result<bool, String> {
    let length = text.chars().count();
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    Ok(match (keyword, wanted.as_str().unwrap_or_default()) {
        ("minLength", _) => Some(length) >= size(wanted),
        ("maxLength", _) => Some(length) <= size(wanted),
        ("pattern", "^[A-Z]{2}-[0-9]{3,4}$") => {
            text.split_once('-').is_some_and(|(left, right)| {
                left.len() == 2
                    && left.bytes().all(|byte| byte.is_ascii_uppercase())
                    && digits(right)
                    && matches!(right.len(), 3 | 4)
            })
        }
        ("pattern", "^(north|south)(east|west)?$") => {
            let rest = text.strip_prefix("north").or_else(|| text.strip_prefix("south"));
            matches!(rest, Some("" | "east" | "west"))
        }
        ("format", "date") => {
            let parts: Vec<_> = text.split('-').collect();
            parts.iter().map(|part| part.len()).eq([4, 2, 2])
                && parts.iter().all(|part| digits(part))
                && (1..=12).contains(&parts[1].parse().unwrap_or(0))
                && (1..=31).contains(&parts[2].parse().unwrap_or(0))
        }
        ("format", "time") => {
            let clock: Vec<_> = text.get(..8).unwrap_or_default().split(':').collect();
            clock.len() == 3
                && clock.iter().all(|part| part.len() == 2 && digits(part))
                && text.ends_with(|end: char| end.is_ascii_digit() || matches!(end, 'z' | 'Z'))
        }
        ("format", "ipv4") => {
            text.split('.').count() == 4 && text.split('.').all(|part| part.parse::<u8>().is_ok())
        }
        ("format", "uuid") => {
            text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
                && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
        }
        (_, wanted) => return Err(format!("{keyword} {wanted} of strings is not known")),
    })
}

fn size(wanted: &Value) -> Option<usize> {
    wanted.as_u64().and_then(|size| usize::try_from(size).ok())
}

fn array(
    root: &Value,
    keywords: &Map<String, Value>,
    keyword: &str,
    items: &[Value],
) -> Result<bool, String> {
    let wanted = &keywords[keyword];
    let before = keywords.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
    Ok(match keyword {
        "minItems" => Some(items.len()) >= size(wanted),
        "maxItems" => Some(items.len()) <= size(wanted),
        "items" => {
            let mut rest = items.iter().skip(before);
            rest.try_for_each(|item| within(root, wanted, item)).map(|()| true)?
        }
        "prefixItems" => {
            let mut pairs = each(wanted).zip(items);
            pairs.try_for_each(|(schema, item)| within(root, schema, item)).map(|()| true)?
        }
        _ => return Err(format!("{keyword} of arrays is not known")),
    })
}

fn object(
    root: &Value,
    keywords: &Map<String, Value>,
    keyword: &str,
    fields: &Map<String, Value>,
) -> Result<bool, String> {
    let wanted = &keywords[keyword];
    let listed = &keywords["properties"];
    Ok(match keyword {
        "required" => each(wanted).all(|name| fields.contains_key(name.as_str().unwrap_or(""))),
        "additionalProperties" => {
            *wanted == Value::Bool(false) && fields.keys().all(|name| listed.get(name).is_some())
        }
        "properties" => {
            let mut known = fields.iter().filter_map(|(name, it)| Some((wanted.get(name)?, it)));
            known.try_for_each(|(schema, it)| within(root, schema, it)).map(|()| true)?
        }
        _ => return Err(format!("{keyword} of objects is not known")),
    })
}
