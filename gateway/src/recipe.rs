//! A recipe: what a derived model lays over the model that it is made of.
//!
//! `/api/create` writes one into the models directory, as `NAME.model.toml`; the catalogue reads it.
//! It holds no weights: the worker of the model that it names serves both, and what a recipe says is
//! laid into each request on its way there (`lay.rs`). So nothing in a recipe can need another load.
//! `modelfile.rs` tells it in Ollama's words.

mod lay;
mod modelfile;

use hearth_shared::ids::ModelName;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use self::modelfile::{modelfile, parameters_text};
use crate::error::ApiError;
use crate::fields::{Fields, kind_of};
use crate::messages;
use crate::ollama::options;

/// What stands behind a derived model's name in the models directory.
pub const SUFFIX: &str = ".model.toml";
/// A recipe is a few texts; more is something else.
pub const BYTES_MAX: usize = 1024 * 1024;
const STOP_MAX: usize = 16;
const TEMPERATURE_MAX: f32 = 2.0;

/// What a derived model lays over the model that it is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The model whose files it uses. Never a derived one.
    pub from: ModelName,
    /// The system message of conversations that have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// A chat template instead of the model's own, in Jinja.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Licences, as they are shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub license: Vec<String>,
    /// Ollama's options, where a request does not say otherwise.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
    /// What stands before every conversation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Value>,
}

/// Why a file is no recipe.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// It is no TOML, or not of this form.
    #[error("{}", .0.message())]
    Form(#[from] toml::de::Error),
    /// One of its values makes no sense.
    #[error("{0}")]
    Value(#[from] ApiError),
    /// There is too much of it.
    #[error("it has more than {BYTES_MAX} bytes")]
    TooLarge,
}

impl Recipe {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`RecipeError`]
    pub fn from_text(text: &str) -> Result<Self, RecipeError> {
        let recipe: Self = toml::from_str(text)?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Reads the fields of a request that make one.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] that names the field.
    pub(crate) fn read(fields: Fields<'_>, from: ModelName) -> Result<Self, ApiError> {
        let text = |name| Ok::<_, ApiError>(fields.text(name)?.filter(|text| !text.is_empty()));
        let parameters = match fields.get("parameters") {
            None => Map::new(),
            Some(Value::Object(given)) => without_nulls(given),
            Some(other) => {
                let found = kind_of(other);
                let message = format!("`parameters` must be an object, not {found}");
                return Err(ApiError::invalid("parameters", message));
            }
        };
        let messages = fields.array("messages")?.unwrap_or_default();
        for (index, message) in messages.iter().enumerate() {
            if let Value::Object(message) = message {
                let path = format!("messages[{index}].images");
                options::refuse_images(Fields::new(message), &path)?;
            }
        }
        let recipe = Self {
            from,
            system: text("system")?.map(str::to_owned),
            template: text("template")?.map(str::to_owned),
            license: fields.texts("license", usize::MAX)?,
            parameters,
            messages: messages::normalise(messages)?,
        };
        recipe.check()?;
        Ok(recipe)
    }

    /// Whether it lays nothing over the model.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let Self { from: _, system, template, license, parameters, messages } = self;
        let no_text = system.is_none() && template.is_none() && license.is_empty();
        no_text && parameters.is_empty() && messages.is_empty()
    }

    /// Whether it says anything about conversations.
    #[must_use]
    pub(crate) fn is_for_chats(&self) -> bool {
        self.system.is_some() || self.template.is_some() || !self.messages.is_empty()
    }

    /// With what it says nothing of from the recipe that it continues.
    #[must_use]
    pub(crate) fn over(self, below: &Self) -> Self {
        let mut parameters = below.parameters.clone();
        parameters.extend(self.parameters);
        Self {
            from: below.from.clone(),
            system: self.system.or_else(|| below.system.clone()),
            template: self.template.or_else(|| below.template.clone()),
            license: below.license.iter().cloned().chain(self.license).collect(),
            parameters,
            messages: if self.messages.is_empty() { below.messages.clone() } else { self.messages },
        }
    }

    /// The file's text.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] for what TOML has no form for, or too much of it.
    pub(crate) fn to_text(&self) -> Result<String, ApiError> {
        let text = toml::to_string_pretty(self).map_err(|error| {
            let message = format!("this can't be kept: {error}");
            ApiError::Invalid { message, param: None }
        })?;
        if text.len() > BYTES_MAX {
            let message = format!("a derived model may have at most {BYTES_MAX} bytes of its own");
            return Err(ApiError::Invalid { message, param: None });
        }
        Ok(text)
    }

    /// Both dialects must be able to say what it says.
    fn check(&self) -> Result<(), ApiError> {
        let given = json!({ "parameters": self.parameters });
        let fields = Fields::new(given.as_object().expect("it was just made"));
        let fields = fields.object("parameters", "parameters.")?.expect("it was just put there");
        let options = options::read(fields)?;
        let wrong = |name: &str, rule: String| {
            let message = format!("`parameters.{name}` {rule}");
            Err(ApiError::invalid(format!("parameters.{name}"), message))
        };
        if options.sampling.temperature > TEMPERATURE_MAX {
            return wrong("temperature", format!("must be at most {TEMPERATURE_MAX}"));
        }
        if options.stop.len() > STOP_MAX {
            return wrong("stop", format!("may hold at most {STOP_MAX}"));
        }
        if self.template.as_deref().is_some_and(is_of_go) {
            let message = "`template` is in Go's language, and templates here are in Jinja: leave \
                           it out, and the model's own is used, or send one in Jinja";
            return Err(ApiError::invalid("template", message));
        }
        messages::normalise(&self.messages).map(drop)
    }
}

/// TOML has no null, and to requests it is as good as absent.
fn without_nulls(given: &Map<String, Value>) -> Map<String, Value> {
    let some = given.iter().filter(|(_, value)| !value.is_null());
    some.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Whether a template is of the language that Ollama's own models have theirs in. Jinja has no
/// expression that begins like these.
pub(crate) fn is_of_go(template: &str) -> bool {
    const WORDS: [&str; 8] = ["if", "else", "end", "range", "with", "define", "block", "template"];
    template.split("{{").skip(1).any(|rest| {
        let rest = rest.strip_prefix('-').unwrap_or(rest).trim_start();
        let word = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
        rest.starts_with(['.', '$']) || word.is_some_and(|word| WORDS.contains(&word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &Value) -> Result<Recipe, ApiError> {
        Recipe::read(Fields::new(value.as_object().unwrap()), "base".parse().unwrap())
    }

    #[test]
    fn what_a_request_says_is_in_the_file_and_read_back() {
        let recipe = read(&json!({
            "system": "Be brief.\nAlways.", "template": "{{ messages[0].content }}",
            "license": "MIT", "parameters": {"temperature": 0.5, "stop": ["a"], "seed": null},
            "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}],
        }))
        .unwrap();
        let text = recipe.to_text().unwrap();
        assert!(text.starts_with("from = \"base\"\n"), "{text}");
        assert_eq!(Recipe::from_text(&text).unwrap(), recipe);
        assert_eq!(Value::Object(recipe.parameters), json!({"temperature": 0.5, "stop": ["a"]}));
    }

    #[test]
    fn a_request_that_says_nothing_makes_a_plain_one() {
        let empty = json!({"system": "", "template": "", "parameters": {}, "messages": []});
        assert!(read(&json!({})).unwrap().is_plain());
        assert!(read(&empty).unwrap().is_plain());
        assert!(!read(&json!({"license": "MIT"})).unwrap().is_plain());
        assert!(
            !read(&json!({"license": "MIT", "parameters": {"seed": 1}})).unwrap().is_for_chats()
        );
        assert!(read(&json!({"system": "s"})).unwrap().is_for_chats());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (request, param) in [
            (json!({"system": 5}), "system"),
            (json!({"parameters": []}), "parameters"),
            (json!({"parameters": {"top_p": 2}}), "parameters.top_p"),
            (json!({"parameters": {"temperature": 2.5}}), "parameters.temperature"),
            (json!({"parameters": {"stop": vec!["a"; 17]}}), "parameters.stop"),
            (json!({"parameters": {"num_ctx": "x"}}), "parameters.num_ctx"),
            (json!({"messages": [{"role": "oracle"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "user", "images": ["A"]}]}), "messages[0].images"),
            (json!({"template": "{{ .Prompt }}"}), "template"),
            (json!({"license": 5}), "license"),
        ] {
            let error = read(&request).unwrap_err();
            assert_eq!(error.openai_body()["error"]["param"], param, "{request}");
        }
    }

    #[test]
    fn a_file_with_what_nobody_reads_is_none() {
        for (text, message) in [
            ("from = 'm'\nsytem = 'x'", "unknown field `sytem`"),
            ("system = 'x'", "missing field `from`"),
            ("from = '../m'", "a model name's parts start with a letter or digit"),
            ("from = 'm'\n[parameters]\ntop_p = 2", "`parameters.top_p` must be between 0 and 1"),
        ] {
            let error = Recipe::from_text(text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn a_recipe_over_another_changes_what_it_says_and_keeps_the_rest() {
        let below = read(&json!({
            "system": "s", "license": "A", "parameters": {"seed": 1, "top_k": 5},
            "messages": [{"role": "user", "content": "old"}],
        }));
        let above = read(&json!({"license": "B", "parameters": {"seed": 2}}));
        let below = below.unwrap();
        let both = above.unwrap().over(&below);
        assert_eq!(both.system.as_deref(), Some("s"));
        assert_eq!(both.license, ["A", "B"]);
        assert_eq!(Value::Object(both.parameters), json!({"seed": 2, "top_k": 5}));
        assert_eq!(both.messages, below.messages);
    }

    #[test]
    fn gos_templates_are_known_from_jinjas() {
        for go in [
            "{{ .System }}",
            "{{- if .System }}x{{ end }}",
            "{{range $i, $_ := .Messages}}",
            "a {{ $x }}",
        ] {
            assert!(is_of_go(go), "{go}");
        }
        for jinja in [
            "{{ messages[0].content }}",
            "{%- if tools %}{{- 'x' }}{%- endif %}",
            "{{ x if y else z }}",
            "{{ ending }}",
            "plain",
        ] {
            assert!(!is_of_go(jinja), "{jinja}");
        }
    }
}
