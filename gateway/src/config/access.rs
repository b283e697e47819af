//! The keys that clients may have: tables `[[keys]]`, each with a name and limits of its own.

use std::num::NonZeroU32;
use std::path::Path;

use hearth_shared::ids::ModelName;

use super::{ApiKey, ConfigError};

/// Every field of a table, for `hearth serve --help`.
pub const ACCESS_FIELDS: [(&str, &str); 6] = [
    ("name", "what the log calls whoever has it"),
    ("key", "what clients must send"),
    ("key_file", "a file that holds it, instead"),
    ("max_requests", "requests at once [no limit]"),
    ("models", "the models it may use; others do not exist for it [all]"),
    ("keep_alive_client", "obey or ignore the keep_alive of its requests [obey]"),
];

/// One client's key, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// What the log calls whoever has it.
    pub name: String,
    /// The secret.
    pub key: ApiKey,
    /// Requests at once; `None` is no limit.
    pub max_requests: Option<NonZeroU32>,
    /// The models that exist for it; `None` is all. A name without a variant means all of its.
    pub models: Option<Vec<ModelName>>,
    /// Whether the `keep_alive` of its requests means nothing.
    pub ignores_keep_alive: bool,
}

/// Reads `[[keys]]`.
///
/// # Errors
/// [`ConfigError::Access`], which names the table and never shows a key.
pub(super) fn read(tables: Option<toml::Value>) -> Result<Vec<AccessKey>, ConfigError> {
    let tables = match tables {
        None => return Ok(Vec::new()),
        Some(toml::Value::Array(tables)) => tables,
        Some(_) => return Err(wrong("keys", "begin each with a line [[keys]]")),
    };
    let mut keys: Vec<AccessKey> = Vec::with_capacity(tables.len());
    for (index, table) in tables.into_iter().enumerate() {
        let place = format!("keys, number {}", index + 1);
        let toml::Value::Table(table) = table else {
            return Err(wrong(&place, "must be a table; begin it with a line [[keys]]"));
        };
        let key = one(&table, &place)?;
        if keys.iter().any(|other| other.name == key.name || other.key == key.key) {
            return Err(wrong(&place, "another one has the same name or key"));
        }
        keys.push(key);
    }
    Ok(keys)
}

fn one(table: &toml::Table, place: &str) -> Result<AccessKey, ConfigError> {
    let known = |name: &str| ACCESS_FIELDS.iter().any(|(field, _)| *field == name);
    if let Some(unknown) = table.keys().find(|name| !known(name)) {
        return Err(wrong(place, format!("there is no `{unknown}`")));
    }
    let text = |field: &str| match table.get(field) {
        None => Ok(None),
        Some(toml::Value::String(text)) if !text.is_empty() => Ok(Some(text.as_str())),
        Some(_) => Err(wrong(place, format!("`{field}` must be a string, and not empty"))),
    };
    let name = text("name")?.ok_or_else(|| wrong(place, "needs a `name`"))?;
    let key = match (text("key")?, text("key_file")?) {
        (Some(key), None) => key.to_owned(),
        (None, Some(file)) => from_file(Path::new(file), place)?,
        (Some(_), Some(_)) => return Err(wrong(place, "has both `key` and `key_file`")),
        (None, None) => return Err(wrong(place, "needs a `key` or a `key_file`")),
    };
    let Some(key) = ApiKey::of(&key) else {
        return Err(wrong(place, "its key must be printable ASCII without spaces, and not empty"));
    };
    let max_requests = match table.get("max_requests") {
        None => None,
        Some(value) => {
            let number = value.as_integer().and_then(|number| u32::try_from(number).ok());
            let number = number.and_then(NonZeroU32::new);
            let expected = "`max_requests` must be a whole number at least 1";
            Some(number.ok_or_else(|| wrong(place, expected))?)
        }
    };
    let ignores_keep_alive = match text("keep_alive_client")? {
        None | Some("obey") => false,
        Some("ignore") => true,
        Some(_) => return Err(wrong(place, "`keep_alive_client` must be obey or ignore")),
    };
    let (name, models) = (name.to_owned(), models(table.get("models"), place)?);
    Ok(AccessKey { name, key, max_requests, models, ignores_keep_alive })
}

fn from_file(file: &Path, place: &str) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| wrong(place, format!("{}: {error}", file.display())))?;
    // Editors end every file with a line's end.
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn models(value: Option<&toml::Value>, place: &str) -> Result<Option<Vec<ModelName>>, ConfigError> {
    let Some(value) = value else { return Ok(None) };
    let names: Option<Vec<ModelName>> = value
        .as_array()
        .and_then(|items| items.iter().map(|item| item.as_str()?.parse().ok()).collect());
    let expected = "`models` must be an array of models' names";
    names.map(Some).ok_or_else(|| wrong(place, expected))
}

fn wrong(place: &str, message: impl std::fmt::Display) -> ConfigError {
    ConfigError::Access { place: place.to_owned(), message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<AccessKey>, String> {
        let mut table: toml::Table = text.parse().unwrap();
        read(table.remove("keys")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_has_a_name_and_the_limits_that_its_table_says() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bob");
        std::fs::write(&file, "b0b\n").unwrap();
        let text = format!(
            "[[keys]]\nname = 'alice'\nkey = 'al1ce'\n\
             [[keys]]\nname = 'bob'\nkey_file = '{}'\nmax_requests = 2\n\
             models = ['m', 'o/n:q4']\nkeep_alive_client = 'ignore'\n",
            file.display()
        );
        let keys = of(&text).unwrap();
        let (alice, bob) = (&keys[0], &keys[1]);
        assert_eq!((alice.name.as_str(), alice.key.expose()), ("alice", "al1ce"));
        assert_eq!((alice.max_requests, &alice.models), (None, &None));
        assert!(!alice.ignores_keep_alive && bob.ignores_keep_alive);
        assert_eq!((bob.name.as_str(), bob.key.expose()), ("bob", "b0b"));
        assert_eq!(bob.max_requests, NonZeroU32::new(2));
        let names = ["m", "o/n:q4"].map(|name| name.parse().unwrap()).to_vec();
        assert_eq!(bob.models, Some(names));
        assert_eq!(of("").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_never_the_key() {
        for (fields, message) in [
            ("name = 'a'", "needs a `key` or a `key_file`"),
            ("key = 'canary'", "needs a `name`"),
            ("name = 'a'\nkey = 'canary'\nkey_file = 'x'", "has both `key` and `key_file`"),
            (
                "name = 'a'\nkey = 'can ary'",
                "its key must be printable ASCII without spaces, and not empty",
            ),
            ("name = 'a'\nkey = 7", "`key` must be a string, and not empty"),
            ("name = 'a'\nkey = 'canary'\nmodel = 'm'", "there is no `model`"),
            (
                "name = 'a'\nkey = 'canary'\nmodels = ['../m']",
                "`models` must be an array of models' names",
            ),
            (
                "name = 'a'\nkey = 'canary'\nmax_requests = 0",
                "`max_requests` must be a whole number at least 1",
            ),
            (
                "name = 'a'\nkey = 'canary'\nkeep_alive_client = 'no'",
                "`keep_alive_client` must be obey or ignore",
            ),
        ] {
            let error = of(&format!("[[keys]]\n{fields}")).unwrap_err();
            assert_eq!(error, format!("hearth.toml, keys, number 1: {message}"));
        }
        let twice = "[[keys]]\nname = 'a'\nkey = 'x'\n[[keys]]\nname = 'b'\nkey = 'x'";
        let same = "hearth.toml, keys, number 2: another one has the same name or key";
        assert_eq!(of(twice).unwrap_err(), same);
        assert!(of("keys = 'x'").unwrap_err().contains("[[keys]]"));
        let gone = of("[[keys]]\nname = 'a'\nkey_file = '/no/such'").unwrap_err();
        assert!(gone.starts_with("hearth.toml, keys, number 1: /no/such: "), "{gone}");
    }
}
