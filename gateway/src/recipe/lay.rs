//! A recipe laid into a request: its parameters under the request's own fields, its texts around the
//! conversation. Pure.
//!
//! Parameters are put where absent fields would be, before the request is read, so that a dialect's
//! parser need not know of recipes; texts are put around what the parser made of it.

use hearth_shared::protocol::{Chat, Generate, JsonText, Prompt};
use serde_json::{Map, Value, json};

use super::Recipe;
use crate::fields::Fields;
use crate::ollama::options;

/// Ollama's parameters, and what OpenAI's dialect and its extensions call them.
const FIELDS: [(&str, &[&str]); 9] = [
    ("temperature", &["temperature"]),
    ("top_k", &["top_k"]),
    ("top_p", &["top_p"]),
    ("min_p", &["min_p"]),
    ("typical_p", &["typical_p"]),
    ("presence_penalty", &["presence_penalty"]),
    ("frequency_penalty", &["frequency_penalty"]),
    ("repeat_penalty", &["repeat_penalty", "repetition_penalty"]),
    ("stop", &["stop"]),
];
/// What OpenAI's endpoints call the most tokens of an answer.
const LIMITS: [&str; 3] = ["max_tokens", "max_completion_tokens", "max_output_tokens"];

impl Recipe {
    /// Puts the parameters under the `options` of a request of Ollama's dialect.
    pub(crate) fn under_options(&self, request: &mut Map<String, Value>) {
        if self.parameters.is_empty() {
            return;
        }
        let options = request.entry("options").or_insert(Value::Null);
        if options.is_null() {
            *options = json!({});
        }
        // Anything but an object is refused by whoever reads it.
        let Value::Object(options) = options else { return };
        for (name, value) in &self.parameters {
            if is_absent(options, name) {
                options.insert(name.clone(), value.clone());
            }
        }
    }

    /// Puts the parameters under the fields of a request of OpenAI's dialect; `limit` is its
    /// endpoint's name for the most tokens of an answer.
    pub(crate) fn under_fields(&self, request: &mut Map<String, Value>, limit: &str) {
        let mut put = |parameter: &str, names: &[&str], name: &str| {
            if let Some(value) = self.parameters.get(parameter)
                && names.iter().all(|name| is_absent(request, name))
            {
                request.insert(name.to_owned(), value.clone());
            }
        };
        for (parameter, names) in FIELDS {
            put(parameter, names, names[0]);
        }
        put("num_predict", &LIMITS, limit);
        // To Ollama -1 is "random", and to OpenAI a seed like any other.
        if self.parameters.get("seed") != Some(&json!(-1)) {
            put("seed", &["seed"], "seed");
        }
    }

    /// Puts the texts around the conversation, and the limit of the context on it.
    #[must_use]
    pub(crate) fn around(&self, body: Generate) -> Generate {
        // It was looked at when the recipe was made.
        let context_max = options::num_ctx(Fields::new(&self.parameters)).unwrap_or_default();
        // What continues an answer has these texts before it already.
        let prompt = if body.before.is_empty() {
            self.around_prompt(body.prompt)
        } else {
            self.with_template(body.prompt)
        };
        Generate { prompt, context_max: body.context_max.or(context_max), ..body }
    }

    /// The same for a prompt alone.
    #[must_use]
    pub(crate) fn around_prompt(&self, prompt: Prompt) -> Prompt {
        match self.with_template(prompt) {
            Prompt::Chat(chat) if self.system.is_some() || !self.messages.is_empty() => {
                Prompt::Chat(Chat { messages: self.around_messages(&chat.messages), ..chat })
            }
            prompt => prompt,
        }
    }

    fn with_template(&self, prompt: Prompt) -> Prompt {
        match prompt {
            Prompt::Chat(chat) => {
                let template = chat.template.or_else(|| self.template.clone());
                Prompt::Chat(Chat { template, ..chat })
            }
            raw => raw,
        }
    }

    fn around_messages(&self, JsonText(messages): &JsonText) -> JsonText {
        let mut given: Vec<Value> =
            serde_json::from_str(messages).expect("our own parsers wrote it");
        let is_system = |message: &Value| message["role"] == "system";
        let own = || self.system.as_ref().map(|text| json!({"role": "system", "content": text}));
        // Templates want a system message to be the first.
        let system =
            if given.first().is_some_and(is_system) { Some(given.remove(0)) } else { own() };
        let all = system.into_iter().chain(self.messages.iter().cloned()).chain(given);
        JsonText(Value::Array(all.collect()).to_string())
    }
}

fn is_absent(map: &Map<String, Value>, name: &str) -> bool {
    map.get(name).is_none_or(Value::is_null)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(value: &Value) -> Recipe {
        let mut value = value.clone();
        value["from"] = json!("base");
        serde_json::from_value(value).unwrap()
    }

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn parameters_lie_under_the_options_of_a_request() {
        let recipe = recipe(&json!({"parameters": {"temperature": 0.5, "seed": 1, "num_ctx": 9}}));
        let laid = |request: Value| {
            let mut request = map(&request);
            recipe.under_options(&mut request);
            Value::Object(request)
        };
        let all = json!({"options": {"temperature": 0.5, "seed": 1, "num_ctx": 9}});
        assert_eq!(laid(json!({})), all);
        assert_eq!(laid(json!({"options": null})), all);
        assert_eq!(
            laid(json!({"options": {"temperature": 0, "seed": null}})),
            json!({"options": {"temperature": 0, "seed": 1, "num_ctx": 9}})
        );
        assert_eq!(laid(json!({"options": [1]})), json!({"options": [1]}));
    }

    #[test]
    fn parameters_lie_under_openais_fields_by_whatever_name_they_have() {
        let recipe = recipe(&json!({"parameters": {
            "temperature": 0.5, "repeat_penalty": 1.5, "num_predict": 7, "seed": -1, "stop": "x",
            "mirostat": 2,
        }}));
        let laid = |request: Value| {
            let mut request = map(&request);
            recipe.under_fields(&mut request, "max_tokens");
            Value::Object(request)
        };
        assert_eq!(
            laid(json!({})),
            json!({"temperature": 0.5, "repeat_penalty": 1.5, "stop": "x", "max_tokens": 7})
        );
        let own = json!({
            "temperature": 0, "repetition_penalty": 1, "stop": [], "max_completion_tokens": 3,
        });
        assert_eq!(laid(own.clone()), own);
    }

    fn messages_around(recipe: &Recipe, messages: &Value) -> Value {
        let chat = Chat::new(JsonText(messages.to_string()));
        let body = recipe.around(Generate::new(Prompt::Chat(chat)));
        let Prompt::Chat(chat) = body.prompt else { panic!("a chat") };
        serde_json::from_str(&chat.messages.0).unwrap()
    }

    #[test]
    fn a_system_message_stands_first_whoever_wrote_it() {
        let said = |role: &str, content: &str| json!({"role": role, "content": content});
        let recipe = recipe(&json!({
            "system": "own", "messages": [said("user", "a"), said("assistant", "b")],
        }));
        assert_eq!(
            messages_around(&recipe, &json!([said("user", "hi")])),
            json!([
                said("system", "own"),
                said("user", "a"),
                said("assistant", "b"),
                said("user", "hi")
            ])
        );
        assert_eq!(
            messages_around(&recipe, &json!([said("system", "theirs"), said("user", "hi")])),
            json!([
                said("system", "theirs"),
                said("user", "a"),
                said("assistant", "b"),
                said("user", "hi"),
            ])
        );
    }

    #[test]
    fn a_template_is_the_requests_own_then_the_recipes_and_raw_prompts_have_none() {
        let recipe =
            recipe(&json!({"template": "T", "system": "s", "parameters": {"num_ctx": 64}}));
        let chat = |template: Option<&str>| {
            let template = template.map(str::to_owned);
            Prompt::Chat(Chat { template, ..Chat::new(JsonText("[]".to_owned())) })
        };
        let template = |prompt| match recipe.around(Generate::new(prompt)).prompt {
            Prompt::Chat(chat) => chat.template,
            _ => panic!("a chat"),
        };
        assert_eq!(template(chat(None)).as_deref(), Some("T"));
        assert_eq!(template(chat(Some("R"))).as_deref(), Some("R"));
        let raw = recipe.around(Generate::new(Prompt::raw("x")));
        assert_eq!((raw.prompt, raw.context_max), (Prompt::raw("x"), Some(64)));
    }

    #[test]
    fn what_continues_an_answer_is_not_told_the_texts_again() {
        let recipe = recipe(&json!({"system": "s"}));
        let chat = Prompt::Chat(Chat::new(JsonText("[]".to_owned())));
        let body = Generate { before: vec![1], ..Generate::new(chat.clone()) };
        assert_eq!(recipe.around(body).prompt, chat);
    }
}
