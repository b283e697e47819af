//! What becomes of each field of a request: one table per endpoint. Pure.
//!
//! The tables are what the parsers of both dialects start from, what the pages of `docs` show and what
//! tests go through row by row, so that none of the three can say something else than the others.

use hyper::Response;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::fields::{Fields, parse_object};
use crate::stream::Body;

/// Fields of the request that meant nothing to us.
const IGNORED_FIELDS: HeaderName = HeaderName::from_static("x-hearth-ignored-fields");
const NAMED_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 64;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// It does what it says.
    Honoured,
    /// It is taken and changes nothing that a client could see.
    Ignored,
    /// It gets a 400 by its name, except for these values, in JSON, which ask for nothing.
    Refused(&'static [&'static str]),
}

/// One field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// Its name.
    pub(crate) name: &'static str,
    /// What becomes of it.
    pub(crate) treatment: Treatment,
    /// A JSON object with the field, and with others that it needs.
    pub(crate) example: &'static str,
    /// What else there is to know, for users.
    pub(crate) note: &'static str,
}

/// A field that does what it says.
pub(crate) const fn honoured(
    name: &'static str,
    example: &'static str,
    note: &'static str,
) -> Known {
    Known { name, treatment: Treatment::Honoured, example, note }
}

/// A field that changes nothing.
pub(crate) const fn ignored(
    name: &'static str,
    example: &'static str,
    note: &'static str,
) -> Known {
    Known { name, treatment: Treatment::Ignored, example, note }
}

/// A field that is refused.
pub(crate) const fn refused(
    name: &'static str,
    harmless: &'static [&'static str],
    example: &'static str,
) -> Known {
    Known { name, treatment: Treatment::Refused(harmless), example, note: "" }
}

/// Refuses what a table says is refused.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn refuse(fields: Fields<'_>, table: &[Known]) -> Result<(), ApiError> {
    for known in table {
        if let Treatment::Refused(harmless) = known.treatment
            && fields.get(known.name).is_some()
        {
            fields.refuse(known.name, &values(harmless))?;
        }
    }
    Ok(())
}

/// What the header of an answer names, if anything.
pub(crate) type Ignored = Option<HeaderValue>;

/// Parses a request, and finds what is ignored of it.
///
/// # Errors
/// [`ApiError::NotJson`], and those of `parse`.
pub(crate) fn read<T>(
    body: &[u8],
    table: &[Known],
    parse: impl FnOnce(&Map<String, Value>) -> Result<T, ApiError>,
) -> Result<(T, Ignored), ApiError> {
    let map = parse_object(body)?;
    Ok((parse(&map)?, ignored_of(&map, table)))
}

/// Names the fields of a request that change nothing, whether a table says so or knows nothing of them.
/// They are ignored, as OpenAI's and Ollama's servers and clients expect of each other, but not in
/// silence: a header of the answer names them.
pub(crate) fn ignored_of(map: &Map<String, Value>, table: &[Known]) -> Ignored {
    in_a_header(&names_ignored(map, table))
}

/// The names alone.
pub(crate) fn names_ignored<'a>(map: &'a Map<String, Value>, table: &[Known]) -> Vec<&'a str> {
    names(map, |name| {
        let known = table.iter().find(|known| known.name == name);
        known.is_none_or(|known| known.treatment == Treatment::Ignored)
    })
}

/// The names of those that no table knows.
pub(crate) fn names_unknown<'a>(map: &'a Map<String, Value>, table: &[Known]) -> Vec<&'a str> {
    names(map, |name| !table.iter().any(|known| known.name == name))
}

fn names(map: &Map<String, Value>, wanted: impl Fn(&str) -> bool) -> Vec<&str> {
    let plain = |name: &str| {
        name.len() <= NAME_BYTES_MAX && name.bytes().all(|b| b.is_ascii_graphic() && b != b',')
    };
    map.keys()
        .map(String::as_str)
        .filter(|name| wanted(name))
        // Only names go into a header that could not be anything else there.
        .filter(|name| plain(name))
        .take(NAMED_MAX)
        .collect()
}

/// Names as the header has them.
pub(crate) fn in_a_header(names: &[impl AsRef<str>]) -> Ignored {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    let named = HeaderValue::try_from(names.join(", ")).ok();
    named.filter(|_| !names.is_empty())
}

/// Names in an answer's head what was ignored of its request.
pub(crate) fn mark(mut response: Response<Body>, ignored: Ignored) -> Response<Body> {
    if let Some(names) = ignored {
        response.headers_mut().insert(IGNORED_FIELDS, names);
    }
    response
}

fn values(json: &[&str]) -> Vec<Value> {
    json.iter().map(|text| serde_json::from_str(text).expect("a table holds JSON")).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;
    use serde_json::json;

    use super::*;
    use crate::parsing::tests::any_json;

    /// Goes through a table row by row: what is honoured must change what `parse` gives, what is
    /// ignored must not, and what is refused must be named.
    ///
    /// # Panics
    /// If a row is not true.
    pub(crate) fn check_each<T: Debug>(
        table: &[Known],
        base: &Value,
        parse: impl Fn(&Map<String, Value>) -> Result<T, ApiError>,
    ) {
        for known in table {
            let example: Value = serde_json::from_str(known.example).unwrap();
            let mut with = base.as_object().unwrap().clone();
            with.extend(example.as_object().unwrap().clone());
            let mut without = with.clone();
            let value = without.remove(known.name).expect("the example has the field");
            if let Some(of_base) = base.get(known.name) {
                without.insert(known.name.to_owned(), of_base.clone());
            }
            let said = |map| parse(map).map(|parsed| format!("{parsed:?}"));
            let (name, without) = (known.name, said(&without).map_err(|e| e.to_string()));
            match (known.treatment, said(&with)) {
                (Treatment::Honoured, Ok(with)) => assert_ne!(Ok(with), without, "{name}"),
                (Treatment::Ignored, Ok(with)) => assert_eq!(Ok(with), without, "{name}"),
                (Treatment::Refused(harmless), Err(error)) => {
                    assert_eq!(error.openai_body()["error"]["param"], name, "{name}");
                    for value in values(harmless) {
                        let mut map = base.as_object().unwrap().clone();
                        map.insert(name.to_owned(), value);
                        assert!(parse(&map).is_ok(), "{name}");
                    }
                }
                (treatment, other) => panic!("{name}: {value} is {treatment:?}, but {other:?}"),
            }
        }
    }

    /// Gives a parser anything: it must take it, or name the field that it does not take.
    ///
    /// # Panics
    /// If it does neither.
    pub(crate) fn check_any<T: Debug>(
        table: &[Known],
        base: &Value,
        parse: impl Fn(&Map<String, Value>) -> Result<T, ApiError>,
    ) {
        let names: Vec<&str> = table.iter().map(|known| known.name).collect();
        let field = (proptest::sample::select(names), any_json());
        let fields = proptest::collection::vec(field, 1..5);
        let checked = TestRunner::default().run(&fields, |fields| {
            let mut map = base.as_object().unwrap().clone();
            map.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
            if let Err(error) = parse(&map) {
                let named = error.openai_body()["error"]["param"].is_string();
                prop_assert!(error.status() == 400 && named, "{error:?} for {map:?}");
            }
            Ok(())
        });
        checked.unwrap();
    }

    #[test]
    fn what_is_ignored_is_named_if_it_can_be() {
        let table = [honoured("a", "{}", ""), ignored("i", "{}", ""), refused("r", &[], "{}")];
        let named = |value: Value| {
            let names = ignored_of(value.as_object().unwrap(), &table)?;
            Some(names.to_str().unwrap().to_owned())
        };
        assert_eq!(named(json!({"a": 1, "r": 1})), None);
        assert_eq!(named(json!({"a": 1, "i": 1})), Some("i".to_owned()));
        assert_eq!(named(json!({"b": 1, "a": 1, "c-d": null})), Some("b, c-d".to_owned()));
        assert_eq!(named(json!({"b\r\nset-cookie: x": 1, "é": 1, "x, y": 1})), None);
    }

    /// The rows of a table as documentation shows them.
    fn rows(table: &[Known]) -> String {
        let row = |known: &Known| {
            let becomes = match known.treatment {
                Treatment::Honoured => "honoured".to_owned(),
                Treatment::Ignored => "ignored".to_owned(),
                Treatment::Refused([]) => "refused".to_owned(),
                Treatment::Refused(harmless) => {
                    format!("refused, unless it is `{}`", harmless.join("` or `"))
                }
            };
            format!("| `{}` | {becomes} | {} |\n", known.name, known.note)
        };
        table.iter().map(row).collect()
    }

    /// Holds a page against the tables; with `HEARTH_BLESS` set, it is written anew.
    ///
    /// # Panics
    /// If the page says something else.
    #[expect(clippy::disallowed_methods, reason = "a test is told by who runs it to write")]
    pub(crate) fn check_page(page: &str, tables: &[(&str, &[Known])]) {
        let path = format!("{}/../docs/{page}", env!("CARGO_MANIFEST_DIR"));
        let mut document = std::fs::read_to_string(&path).unwrap();
        for (name, table) in tables {
            let begin = format!("<!-- fields of {name} -->\n");
            let (before, rest) = document.split_once(&begin).expect("a place for the table");
            let (shown, after) = rest.split_once("<!-- end -->\n").expect("an end of the table");
            let head = "| field | | |\n|---|---|---|\n";
            let expected = format!("{head}{}", rows(table));
            if std::env::var_os("HEARTH_BLESS").is_none() {
                assert_eq!(shown, expected, "{name}: run this test with HEARTH_BLESS=1");
            }
            document = format!("{before}{begin}{expected}<!-- end -->\n{after}");
        }
        if std::env::var_os("HEARTH_BLESS").is_some() {
            std::fs::write(path, document).unwrap();
        }
    }
}
