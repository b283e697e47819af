//! Reading a JSON request field by field, with errors that name the field. Pure.
//!
//! Both dialects parse through here instead of into one big structure, because real clients are
//! sloppy in ways that a derived parser answers with "data did not match any variant": a `null`
//! for absent, `16.0` for `16`. What a field means is the dialect's business.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::keep_alive::KeepAlive;

/// A JSON object and where in the request it stands.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// `""`, or `"options."` for the object in `options`.
    prefix: &'static str,
}

/// Reads a body, which has to be a JSON object.
///
/// # Errors
/// [`ApiError::NotJson`] or [`ApiError::Invalid`].
pub fn parse_object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    match serde_json::from_slice(body).map_err(ApiError::NotJson)? {
        Value::Object(map) => Ok(map),
        other => Err(ApiError::Invalid {
            message: format!("the body must be a JSON object, not {}", kind_of(&other)),
            param: None,
        }),
    }
}

/// What sort of value this is, for an error message.
#[must_use]
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

impl<'a> Fields<'a> {
    /// The request's own fields.
    #[must_use]
    pub fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, prefix: "" }
    }

    /// A field that is there and not null.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// The names of all fields that are there.
    pub fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.map.keys().map(String::as_str)
    }

    /// The name under which a client knows the field.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn wrong(&self, name: &str, expected: &str, found: &Value) -> ApiError {
        let path = self.path(name);
        ApiError::invalid(&path, format!("`{path}` must be {expected}, not {}", kind_of(found)))
    }

    /// The model to use.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] if none is named.
    pub fn model(&self) -> Result<String, ApiError> {
        match self.text("model")? {
            Some(model) if !model.is_empty() => Ok(model.to_owned()),
            _ => Err(ApiError::invalid("model", "`model` is missing: say which model to use")),
        }
    }

    /// # Errors
    /// [`ApiError::Invalid`] for anything but a string.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, "a string", other)),
        }
    }

    /// # Errors
    /// [`ApiError::Invalid`] for anything but a boolean.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(name, "true or false", other)),
        }
    }

    /// # Errors
    /// [`ApiError::Invalid`] for anything but a number in the range.
    pub fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = value.as_f64().ok_or_else(|| self.wrong(name, "a number", value))?;
        if !range.contains(&number) {
            let path = self.path(name);
            let message = format!(
                "`{path}` must be between {} and {}, not {number}",
                range.start(),
                range.end()
            );
            return Err(ApiError::invalid(&path, message));
        }
        #[expect(clippy::cast_possible_truncation, reason = "sampling is done in f32")]
        Ok(Some(number as f32))
    }

    /// A whole number. `16.0` is one.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] for anything else.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let whole = value.as_i64().or_else(|| {
            let number = value.as_f64().filter(|n| n.fract() == 0.0)?;
            #[expect(clippy::cast_possible_truncation, reason = "whole, and what is more is most")]
            Some(number as i64)
        });
        whole.map(Some).ok_or_else(|| self.wrong(name, "a whole number", value))
    }

    /// A number of things. Negative is "no limit" to clients that can't leave a field out.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] for anything but a whole number.
    pub fn count(&self, name: &str) -> Result<Option<u32>, ApiError> {
        let whole = self.integer(name)?;
        Ok(whole.filter(|n| *n >= 0).map(|n| u32::try_from(n).unwrap_or(u32::MAX)))
    }

    /// A number of things of which there has to be one.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] for anything but a whole number above 0.
    pub fn positive(&self, name: &str) -> Result<Option<u32>, ApiError> {
        let Some(number) = self.integer(name)? else {
            return Ok(None);
        };
        if number < 1 {
            let path = self.path(name);
            let message = format!("`{path}` must be at least 1, not {number}");
            return Err(ApiError::invalid(&path, message));
        }
        Ok(Some(u32::try_from(number).unwrap_or(u32::MAX)))
    }

    /// One string or an array of strings.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] for anything else, and for more than `max`.
    pub fn texts(&self, name: &str, max: usize) -> Result<Vec<String>, ApiError> {
        let texts = match self.get(name) {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(items)) => {
                let strings_only = "a string or an array of strings";
                let text = |item: &Value| {
                    let text = item.as_str().map(str::to_owned);
                    text.ok_or_else(|| self.wrong(name, strings_only, item))
                };
                items.iter().map(text).collect::<Result<_, _>>()?
            }
            Some(other) => return Err(self.wrong(name, "a string or an array of strings", other)),
        };
        if texts.len() > max {
            let path = self.path(name);
            let message = format!("`{path}` may hold at most {max} strings, not {}", texts.len());
            return Err(ApiError::invalid(&path, message));
        }
        Ok(texts)
    }

    /// The object in a field; an absent one is empty.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] for anything but an object.
    pub fn object(&self, name: &str, prefix: &'static str) -> Result<Option<Self>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { map, prefix })),
            Some(other) => Err(self.wrong(name, "an object", other)),
        }
    }

    /// The elements of an array field.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] for anything but an array.
    pub fn array(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(self.wrong(name, "an array", other)),
        }
    }

    /// `keep_alive`, or LM Studio's name for it, `ttl`.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] for anything that is none.
    pub fn keep_alive(&self) -> Result<Option<KeepAlive>, ApiError> {
        let named = ["keep_alive", "ttl"].map(|name| self.get(name).map(|value| (name, value)));
        let Some((name, value)) = named.into_iter().flatten().next() else {
            return Ok(None);
        };
        KeepAlive::from_json(value).map_err(|error| ApiError::invalid(name, error.to_string()))
    }

    /// Refuses a field by name unless it asks for nothing.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] if the field is there and not one of the harmless values.
    pub fn refuse(&self, name: &str, harmless: &[Value]) -> Result<(), ApiError> {
        match self.get(name) {
            None => Ok(()),
            Some(value) if harmless.contains(value) => Ok(()),
            Some(_) => {
                let path = self.path(name);
                let message = format!("`{path}` is not supported by this server; leave it out");
                Err(ApiError::invalid(&path, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with<T>(
        value: Value,
        read: impl Fn(Fields<'_>) -> Result<T, ApiError>,
    ) -> Result<T, String> {
        let map = Map::from_iter([("f".to_owned(), value)]);
        read(Fields::new(&map)).map_err(|error| error.to_string())
    }

    #[test]
    fn sloppy_values_are_taken_for_what_they_mean() {
        assert_eq!(with(json!(null), |f| f.count("f")), Ok(None));
        assert_eq!(with(json!(16.0), |f| f.count("f")), Ok(Some(16)));
        assert_eq!(with(json!(-1), |f| f.count("f")), Ok(None));
        assert_eq!(with(json!(1e12), |f| f.count("f")), Ok(Some(u32::MAX)));
        assert_eq!(with(json!("x"), |f| f.texts("f", 4)), Ok(vec!["x".to_owned()]));
    }

    #[test]
    fn an_error_names_the_field_and_what_it_must_be() {
        let number = |value| with(value, |f| f.number("f", 0.0..=2.0)).unwrap_err();
        assert_eq!(number(json!("hot")), "`f` must be a number, not a string");
        assert_eq!(number(json!(2.5)), "`f` must be between 0 and 2, not 2.5");
        let count = |value| with(value, |f| f.count("f")).unwrap_err();
        assert_eq!(count(json!(1.5)), "`f` must be a whole number, not a number");
        assert_eq!(
            with(json!(["a", 1]), |f| f.texts("f", 4)).unwrap_err(),
            "`f` must be a string or an array of strings, not a number"
        );
        assert_eq!(
            with(json!(["a", "b"]), |f| f.texts("f", 1)).unwrap_err(),
            "`f` may hold at most 1 strings, not 2"
        );
    }
}
