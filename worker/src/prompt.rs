//! Messages → prompt text, with the model's own chat template.
//!
//! The preparing thread calls it, once per request. A template comes with a model from anywhere:
//! how long it may run, how deep it may nest and how much it may write is limited, and it reaches
//! nothing outside of its variables.

mod python;
mod limits;
pub(crate) mod conversation;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};
use serde_json::{Map, Value as Json};

use hearth_shared::protocol::RequestFailure;

use crate::answer::Dialect;
use crate::model::SpecialTokens;

use conversation::Conversation;

/// Instructions that one rendering may take; a conversation of a thousand messages takes a few
/// ten thousand.
const FUEL: u64 = 20_000_000;
const RECURSION_MAX: usize = 100;

/// A compiled chat template.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    special: Vec<(String, String)>,
    /// How the model that it belongs to writes.
    pub(crate) dialect: Dialect,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles a template as Hugging Face's libraries would.
    ///
    /// # Errors
    /// What is wrong with it, with its line.
    pub(crate) fn compile(source: &str, special: &SpecialTokens) -> Result<Self, String> {
        let mut environment = Environment::new();
        let syntax = minijinja::syntax::SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("the default delimiters are sound");
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION_MAX);
        // Prompts are text: nothing is escaped, whatever the template's name looks like.
        environment.set_auto_escape_callback(|_name| minijinja::AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        python::install(&mut environment);
        environment
            .add_template_owned(NAME, python::without_generation_tags(source))
            .map_err(|error| describe(&error))?;
        let dialect = Dialect::of(source);
        Ok(Self { environment, special: special.0.clone(), dialect })
    }

    /// Renders a conversation, ready for the model to answer.
    ///
    /// # Errors
    /// [`RequestFailure::Template`] if the template refuses or fails.
    pub(crate) fn render(&self, conversation: &Conversation) -> Result<String, RequestFailure> {
        let Conversation { messages, tools, variables: own } = conversation;
        let mut variables = Map::new();
        for (role, token) in &self.special {
            variables.insert(role.clone(), Json::from(token.as_str()));
        }
        variables.extend(own.clone());
        let variables = context! {
            messages => Value::from(Serde(messages)),
            tools => Value::from(Serde(tools)),
            documents => (),
            add_generation_prompt => true,
            ..Value::from(Serde(&variables))
        };
        let template = self
            .environment
            .get_template(NAME)
            .expect("the template was added when it was compiled");
        let mut text = limits::BoundedText::default();
        match template.render_captured_to(variables, &mut text) {
            Ok(_) => Ok(text.into_string()),
            Err(error) => Err(RequestFailure::Template { message: describe(&error) }),
        }
    }
}

/// What a template itself raises stands alone; for everything else the line helps.
fn describe(error: &minijinja::Error) -> String {
    if let Some(raised) = python::raised(error) {
        return raised.to_owned();
    }
    let what = match error.kind() {
        ErrorKind::OutOfFuel => "the chat template runs for too long".to_owned(),
        _ => match error.detail() {
            Some(detail) => format!("chat template: {}: {detail}", error.kind()),
            None => format!("chat template: {}", error.kind()),
        },
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

#[cfg(test)]
mod tests;
