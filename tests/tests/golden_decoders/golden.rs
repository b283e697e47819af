//! The fixtures' cases, and how a model is loaded to be held against them.

use std::path::{Path, PathBuf};

use hearth_shared::protocol::{
    Chat, ExecutionProvider, FinishReason, GraphChoice, JsonText, LoadSpec, Prompt,
};
use hearth_tests::gateway::runtime_library;
use hearth_worker::{Loaded, load};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) eos_token_ids: Vec<u32>,
    pub(crate) cases: Vec<Case>,
}

#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) messages: Option<Value>,
    pub(crate) tools: Option<Value>,
    pub(crate) prompt: String,
    pub(crate) prompt_ids: Vec<u32>,
    pub(crate) greedy_ids: Vec<u32>,
    pub(crate) eos_index: Option<usize>,
    pub(crate) text: String,
}

impl Case {
    pub(crate) fn prompt(&self) -> Prompt {
        match &self.messages {
            None => Prompt::raw(self.prompt.as_str()),
            Some(messages) => Prompt::Chat(Chat {
                tools: self.tools.as_ref().map(|tools| JsonText(tools.to_string())),
                ..Chat::new(JsonText(messages.to_string()))
            }),
        }
    }

    /// The ids that a server generates: up to the end token, which counts, or all.
    pub(crate) fn answer(&self) -> &[u32] {
        match self.eos_index {
            Some(index) => &self.greedy_ids[..=index],
            None => &self.greedy_ids,
        }
    }

    pub(crate) fn finish_reason(&self) -> FinishReason {
        match self.eos_index {
            Some(_) => FinishReason::Stop,
            None => FinishReason::Length,
        }
    }
}

/// What stands behind a colon is a variant, as in a model's name.
fn variant(name: &str) -> Option<&str> {
    name.split_once(':').map(|(_, variant)| variant)
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    let folder = name.split(':').next().unwrap();
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(folder)
}

pub(crate) fn golden(name: &str) -> Golden {
    let own = variant(name).map(|variant| fixture(name).join(format!("golden_{variant}.json")));
    let own = own.filter(|path| path.exists());
    let path = own.unwrap_or_else(|| fixture(name).join("golden.json"));
    let text = std::fs::read_to_string(&path).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn spec(model: &Path) -> LoadSpec {
    LoadSpec {
        model_path: model.to_str().unwrap().to_owned(),
        runtime_library: runtime_library().to_str().unwrap().to_owned(),
        execution_provider: ExecutionProvider::Auto,
        threads: Some(1),
        context_length: None,
        slots: Some(4),
        cuda_graphs: false,
        variant: None,
        graph: GraphChoice::Default,
    }
}

pub(crate) fn load_fixture(name: &str) -> Loaded {
    let variant = variant(name).map(str::to_owned);
    load(&LoadSpec { variant, ..spec(&fixture(name)) }, |_stage, _fraction| {}).unwrap()
}
