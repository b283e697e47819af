//! A conversation → its prompt, how its answer is read, and what it must look like.

use hearth_shared::protocol::{Chat, Constraint, RequestFailure, ToolChoice};
use serde_json::Value as Json;

use super::Preparer;
use crate::answer::{CallFormat, Calls, Reading, Tool, calls_grammar};
use crate::generate::grammar::{Shape, Thoughts};
use crate::prompt::ChatTemplate;
use crate::prompt::conversation::{self, Conversation, Teller};

/// What a conversation comes to.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) prompt: String,
    pub(super) reading: Reading,
    /// `None` leaves the answer free.
    pub(super) shape: Option<Shape>,
}

/// The tools of a request that it may or must call.
struct Offer {
    format: CallFormat,
    tools: Vec<Tool>,
    /// Whether the answer has to be a call.
    forced: bool,
    single: bool,
}

impl Preparer {
    /// Plans the answer to a conversation.
    ///
    /// # Errors
    /// [`RequestFailure::NoTemplate`], [`RequestFailure::Template`], [`RequestFailure::Invalid`],
    /// or [`RequestFailure::Constraint`] for tools that can't be enforced.
    pub(super) fn plan(
        &self,
        chat: &Chat,
        constraint: Option<&Constraint>,
    ) -> Result<Plan, RequestFailure> {
        let own;
        let template = match (&chat.template, &self.template) {
            (Some(source), _) => {
                let compiled = ChatTemplate::compile(source, &self.special);
                own = compiled.map_err(|message| RequestFailure::Template { message })?;
                &own
            }
            (None, Some(Ok(template))) => template,
            (None, Some(Err(message))) => {
                return Err(RequestFailure::Template { message: message.clone() });
            }
            (None, None) => return Err(RequestFailure::NoTemplate),
        };
        let tools = match &chat.tools {
            Some(tools) => conversation::array("tools", &tools.0)?,
            None => Vec::new(),
        };
        let offer = offer(chat, &tools, template)?;
        let must_call = offer.as_ref().is_some_and(|offer| offer.forced);
        let prompt = render(template, chat, tools, must_call)?;
        let reading = reading(chat, template, &prompt, offer.as_ref());
        let shape = self.shape(&reading, &prompt, constraint, offer.as_ref())?;
        Ok(Plan { prompt, reading, shape })
    }

    fn shape(
        &self,
        reading: &Reading,
        prompt: &str,
        constraint: Option<&Constraint>,
        offer: Option<&Offer>,
    ) -> Result<Option<Shape>, RequestFailure> {
        let forced = offer.is_some_and(|offer| offer.forced);
        if constraint.is_none() && !forced {
            return Ok(None);
        }
        let calls = offer.map(|Offer { format, tools, single, .. }| {
            calls_grammar(*format, tools, *single, &self.tokenizer)
                .map_err(|message| RequestFailure::Constraint { message })
        });
        let thoughts = reading
            .thoughts
            .filter(|tags| !prompt.trim_end().ends_with(tags.close))
            .map(|tags| Thoughts {
                opened: reading.thinks_already,
                open: tags.open.to_owned(),
                close: tags.close.to_owned(),
            });
        let text = constraint.filter(|_| !forced).cloned();
        Ok(Some(Shape { thoughts, text, calls: calls.transpose()? }))
    }
}

fn offer(
    chat: &Chat,
    tools: &[Json],
    template: &ChatTemplate,
) -> Result<Option<Offer>, RequestFailure> {
    let invalid = |message: String| RequestFailure::Invalid { message };
    let mut tools: Vec<_> =
        tools.iter().map(Tool::read).collect::<Result<_, _>>().map_err(invalid)?;
    let forced = match &chat.tool_choice {
        ToolChoice::None => return Ok(None),
        ToolChoice::Auto => false,
        ToolChoice::Required => true,
        ToolChoice::Function(name) => {
            tools.retain(|tool| tool.name == *name);
            if tools.is_empty() {
                return Err(invalid(format!("`{name}` is to be called, but is none of the tools")));
            }
            true
        }
    };
    if tools.is_empty() {
        if forced {
            return Err(invalid("a tool is to be called, but there are none".to_owned()));
        }
        return Ok(None);
    }
    let one = matches!(chat.tool_choice, ToolChoice::Function(_));
    Ok(Some(Offer {
        format: template.dialect.calls.unwrap_or(CallFormat::Hermes),
        tools,
        forced,
        single: one || !chat.parallel_tool_calls,
    }))
}

fn render(
    template: &ChatTemplate,
    chat: &Chat,
    tools: Vec<Json>,
    must_call: bool,
) -> Result<String, RequestFailure> {
    let mut messages = conversation::array("messages", &chat.messages.0)?;
    let variables = conversation::variables(chat.template_variables.as_ref())?;
    if let Some(format) = template.dialect.calls {
        conversation::for_template(&mut messages, format);
        let tools = Some(tools).filter(|tools| !tools.is_empty());
        return template.render(&Conversation { messages, tools, variables });
    }
    let messages = conversation::as_text(messages);
    let told = |teller: Option<Teller>| {
        let mut messages = messages.clone();
        if let Some(teller) = teller {
            let description = conversation::description(&tools, must_call);
            conversation::tell(&mut messages, &description, teller);
        }
        template.render(&Conversation { messages, tools: None, variables: variables.clone() })
    };
    if tools.is_empty() {
        return told(None);
    }
    match told(Some(Teller::System)) {
        // Templates that know no system message refuse it; the user can say it as well.
        Err(RequestFailure::Template { .. }) => told(Some(Teller::User)),
        other => other,
    }
}

fn reading(chat: &Chat, template: &ChatTemplate, prompt: &str, offer: Option<&Offer>) -> Reading {
    let thoughts = template.dialect.thoughts.filter(|_| chat.split_reasoning);
    Reading {
        thoughts,
        thinks_already: thoughts.is_some_and(|tags| prompt.trim_end().ends_with(tags.open)),
        calls: offer.map(|offer| Calls {
            format: offer.format,
            names: offer.tools.iter().map(|tool| tool.name.clone()).collect(),
            single: offer.single,
        }),
    }
}
