//! What `tokenizer_config.json` and `chat_template.jinja` say: special tokens and the template.
//!
//! Both layouts of folders have these two files, and read them the same way.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{ModelError, read_file, read_json_if_there};

/// The special tokens' texts by role (`bos_token`, `eos_token`, …), as templates see them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SpecialTokens(pub(crate) Vec<(String, String)>);

impl SpecialTokens {
    /// The text of one role.
    pub(crate) fn get(&self, role: &str) -> Option<&str> {
        let found = self.0.iter().find(|(name, _)| name == role);
        found.map(|(_, text)| text.as_str())
    }
}

const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token is its text, or an object that has it as `content`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Added { content: String },
}

/// A template is its source, or a list of several with names.
#[derive(Deserialize)]
#[serde(untagged)]
enum Template {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// Reads the special tokens and the chat template of the folder.
///
/// # Errors
/// [`ModelError::Read`] or [`ModelError::Broken`]; neither file has to be there.
pub(super) fn read(folder: &Path) -> Result<(SpecialTokens, Option<String>), ModelError> {
    let path = folder.join("tokenizer_config.json");
    let config: Map<String, Value> = read_json_if_there(&path)?;
    let mut tokens = Vec::new();
    for role in ROLES {
        let Some(value) = config.get(role).filter(|value| !value.is_null()) else {
            continue;
        };
        let token = Token::deserialize(value).map_err(|error| ModelError::Broken {
            path: path.clone(),
            reason: format!("`{role}`: {error}"),
        })?;
        tokens.push(match token {
            Token::Text(text) | Token::Added { content: text } => (role.to_owned(), text),
        });
    }
    let template = match template_file(folder)? {
        Some(source) => Some(source),
        None => template_in(&config, &path)?,
    };
    Ok((SpecialTokens(tokens), template))
}

fn template_file(folder: &Path) -> Result<Option<String>, ModelError> {
    let path = folder.join("chat_template.jinja");
    if !path.exists() {
        return Ok(None);
    }
    match String::from_utf8(read_file(&path)?) {
        Ok(source) => Ok(Some(source)),
        Err(error) => Err(ModelError::Broken { path, reason: error.to_string() }),
    }
}

fn template_in(config: &Map<String, Value>, path: &Path) -> Result<Option<String>, ModelError> {
    let Some(value) = config.get("chat_template").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let template = Template::deserialize(value).map_err(|_error| ModelError::Broken {
        path: path.to_owned(),
        reason: "`chat_template` is neither a text nor a list of named ones".to_owned(),
    })?;
    Ok(match template {
        Template::One(source) => Some(source),
        Template::Named(named) => {
            let found = named.into_iter().find(|entry| entry.name == "default");
            found.map(|entry| entry.template)
        }
    })
}
