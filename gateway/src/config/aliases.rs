//! `[aliases]`: other names of models, for clients that insist on names of their own.

use hearth_shared::ids::ModelName;

use super::ConfigError;
use crate::catalog::Aliases;

/// Reads the table. Whether the models are there is not its affair: they come and go.
///
/// # Errors
/// [`ConfigError::Alias`], which names the entry.
pub(super) fn read(table: Option<toml::Value>) -> Result<Aliases, ConfigError> {
    let table = match table {
        None => return Ok(Aliases::new()),
        Some(toml::Value::Table(table)) => table,
        Some(_) => return Err(wrong("begin it with a line [aliases]")),
    };
    let mut aliases = Aliases::new();
    for (alias, model) in &table {
        let Some(model) = model.as_str() else {
            return Err(wrong(format!("`{alias}` must be a model's name, as a string")));
        };
        if aliases.insert(name(alias)?, name(model)?).is_some() {
            return Err(wrong(format!("`{alias}` is there twice: `:latest` means nothing")));
        }
    }
    // One step is enough for everybody, and never ends where it began.
    match aliases.iter().find(|(_, model)| aliases.contains_key(*model)) {
        Some((alias, model)) => {
            Err(wrong(format!("`{alias}` stands for `{model}`, which is another name itself")))
        }
        None => Ok(aliases),
    }
}

fn name(text: &str) -> Result<ModelName, ConfigError> {
    text.parse().map_err(|error| wrong(format!("`{text}`: {error}")))
}

fn wrong(message: impl Into<String>) -> ConfigError {
    ConfigError::Alias(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Aliases, String> {
        let mut table: toml::Table = text.parse().unwrap();
        read(table.remove("aliases")).map_err(|error| error.to_string())
    }

    #[test]
    fn other_names_are_read_in_their_canonical_spelling() {
        let aliases = of("[aliases]\n'llama3.2:latest' = 'm'\n'gpt-4o-mini' = 'o/n:q4'").unwrap();
        let expected = [("gpt-4o-mini", "o/n:q4"), ("llama3.2", "m")];
        let expected = expected.map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap()));
        assert_eq!(aliases.into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(of("").unwrap(), Aliases::new());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, message) in [
            ("aliases = 'x'", "begin it with a line [aliases]"),
            ("[aliases]\na = 5", "`a` must be a model's name, as a string"),
            (
                "[aliases]\na = 'b'\n'a:latest' = 'c'",
                "`a:latest` is there twice: `:latest` means nothing",
            ),
            ("[aliases]\na = 'b'\nb = 'c'", "`a` stands for `b`, which is another name itself"),
            ("[aliases]\na = 'a'", "`a` stands for `a`, which is another name itself"),
        ] {
            assert_eq!(of(text).unwrap_err(), format!("hearth.toml, [aliases]: {message}"));
        }
        let error = of("[aliases]\na = '../m'").unwrap_err();
        assert!(
            error.starts_with("hearth.toml, [aliases]: `../m`: a model name's parts"),
            "{error}"
        );
    }
}
