//! How a model writes its thoughts and its calls, as its chat template gives it away.

/// The ways of writing that are known for one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dialect {
    /// How it writes calls of tools, if its template takes tools.
    pub(crate) calls: Option<CallFormat>,
    /// What stands around its thoughts, if it has any.
    pub(crate) thoughts: Option<ThoughtTags>,
}

/// A way of writing calls of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallFormat {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`, once for each call: Hermes, Qwen,
    /// SmolLM3.
    Hermes,
    /// `{"name": …, "parameters": …}`, perhaps after `<|python_tag|>`: Llama 3.
    Llama,
    /// `[TOOL_CALLS] [{"name": …, "arguments": …}, …]`: Mistral.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}`, once for each call: Mistral since its thirteenth tokenizer.
    MistralNamed,
    /// `<|tool_call|>[{"name": …, "arguments": …}, …]<|/tool_call|>`: Phi 4, Granite 3.
    Phi,
}

/// What stands around thoughts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ThoughtTags {
    pub(crate) open: &'static str,
    pub(crate) close: &'static str,
}

const THOUGHTS: [ThoughtTags; 2] = [
    ThoughtTags { open: "<think>", close: "</think>" },
    ThoughtTags { open: "[THINK]", close: "[/THINK]" },
];

impl Dialect {
    /// Reads the source of a chat template.
    pub(crate) fn of(template: &str) -> Self {
        let mut tags = THOUGHTS.into_iter();
        Self {
            calls: CallFormat::of(template),
            // The closing tag alone stands in templates that take thoughts out of old answers and
            // leave opening them to the model.
            thoughts: tags.find(|tags| template.contains(tags.close)),
        }
    }

    /// Texts that mean something in answers, though a vocabulary may call them special.
    pub(crate) fn markers(self) -> impl Iterator<Item = &'static str> {
        // A model whose template knows no tools is told of them in the form of Hermes.
        let format = self.calls.unwrap_or(CallFormat::Hermes);
        let named = format.names_first().then_some(ARGUMENTS);
        let calls = [Some(format.open()), format.close(), named].into_iter().flatten();
        calls.chain(self.thoughts.into_iter().flat_map(|tags| [tags.open, tags.close]))
    }
}

/// Between a name and its arguments.
pub(super) const ARGUMENTS: &str = "[ARGS]";

impl CallFormat {
    fn of(template: &str) -> Option<Self> {
        if !template.contains("tools") {
            return None;
        }
        // Qwen's coders write XML inside of the same tags, which is another format.
        if template.contains("<tool_call>") && !template.contains("<function=") {
            return Some(Self::Hermes);
        }
        if template.contains("[TOOL_CALLS]") {
            let named = template.contains(ARGUMENTS);
            return Some(if named { Self::MistralNamed } else { Self::Mistral });
        }
        if template.contains("<|tool_call|>") {
            return Some(Self::Phi);
        }
        let llama = ["<|python_tag|>", "Environment: ipython", "\"parameters\": dictionary"];
        llama.iter().any(|&sign| template.contains(sign)).then_some(Self::Llama)
    }

    /// What begins calls.
    pub(crate) fn open(self) -> &'static str {
        match self {
            Self::Hermes => "<tool_call>",
            Self::Llama => "<|python_tag|>",
            Self::Mistral | Self::MistralNamed => "[TOOL_CALLS]",
            Self::Phi => "<|tool_call|>",
        }
    }

    /// What ends them.
    pub(crate) fn close(self) -> Option<&'static str> {
        match self {
            Self::Hermes => Some("</tool_call>"),
            Self::Phi => Some("<|/tool_call|>"),
            Self::Llama | Self::Mistral | Self::MistralNamed => None,
        }
    }

    /// Whether an answer that begins with an object may be a call without any marker.
    pub(super) fn is_bare(self) -> bool {
        self == Self::Llama
    }

    /// Whether a name may stand before an object that is nothing but the arguments.
    pub(super) fn names_first(self) -> bool {
        self == Self::MistralNamed
    }
}
