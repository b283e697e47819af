//! What a model's files say of it in full, for `/api/show` and the capabilities in `/api/tags`.
//!
//! The catalogue reads only what every scan needs; this reads metadata, template and licence, and
//! keeps what it has read until the files change. It never loads a model and never opens its weights
//! beyond their list. `gguf.rs` reads a file, `folder.rs` a folder; what it can't read is left out and
//! logged, because a listing must not fail for one model.

mod folder;
mod gguf;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hearth_shared::protocol::ModelKind;
use serde_json::{Map, Value};

use crate::catalog::{Model, Offer};
use crate::recipe::Recipe;

/// More models than this are read anew each time.
const KEPT_MAX: usize = 1_000;

/// A model as its files describe it.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// In Ollama's words: `general.architecture`, `llama.context_length`, …
    pub info: Map<String, Value>,
    /// Its chat template.
    pub template: Option<String>,
    /// The text of its licence, or its name.
    pub license: Option<String>,
    /// How many numbers it holds, where that is told.
    pub parameters: Option<u64>,
}

impl Description {
    fn nothing() -> Self {
        Self { info: Map::new(), template: None, license: None, parameters: None }
    }

    /// As the model's files describe it, but for what the recipe says.
    fn over(self, recipe: &Recipe) -> Self {
        let own = (!recipe.license.is_empty()).then(|| recipe.license.join("\n"));
        let template = recipe.template.clone().or(self.template);
        Self { template, license: own.or(self.license), ..self }
    }

    /// What a model of this kind with these files can do, in Ollama's words.
    #[must_use]
    pub fn capabilities(&self, kind: ModelKind) -> Vec<&'static str> {
        match kind {
            ModelKind::Embed => return vec!["embedding"],
            ModelKind::Rerank => return vec!["rerank"],
            ModelKind::Generate => {}
        }
        let mut can = vec!["completion"];
        let template = self.template.as_deref().unwrap_or("");
        if template.contains("tools") {
            can.push("tools");
        }
        if ["enable_thinking", "<think>", "reasoning_content", "reasoning_effort"]
            .iter()
            .any(|sign| template.contains(sign))
        {
            can.push("thinking");
        }
        can
    }
}

/// How much is wanted of arrays, which hold whole vocabularies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrays {
    /// Their place only, as `null`.
    Null,
    /// Everything.
    Whole,
}

/// Descriptions that have been read.
#[derive(Debug, Default)]
pub struct Shelf {
    by_digest: Mutex<HashMap<String, Arc<Description>>>,
}

impl Shelf {
    /// The model's description without arrays; read at the first time, else remembered.
    pub async fn describe(&self, model: &Arc<Model>) -> Arc<Description> {
        let known = self.lock().get(&model.digest).cloned();
        if let Some(known) = known {
            return known;
        }
        let fresh = Arc::new(read(model, Arrays::Null).await);
        let mut kept = self.lock();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(model.digest.clone(), Arc::clone(&fresh));
        fresh
    }

    /// The same of what a name stands for.
    pub async fn describe_offer(&self, offer: &Offer) -> Arc<Description> {
        let described = self.describe(&offer.model).await;
        match offer.recipe() {
            Some(recipe) => Arc::new(Description::clone(&described).over(recipe)),
            None => described,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Description>>> {
        self.by_digest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole of it, arrays and all, read anew.
pub async fn read_offer(offer: &Offer) -> Description {
    let described = read(&offer.model, Arrays::Whole).await;
    match offer.recipe() {
        Some(recipe) => described.over(recipe),
        None => described,
    }
}

/// Reads the model's files; what can't be read is left out.
async fn read(model: &Arc<Model>, arrays: Arrays) -> Description {
    let path = model.path.clone();
    let described = tokio::task::spawn_blocking(move || read_files(&path, arrays)).await;
    described.unwrap_or_else(|panic| {
        tracing::error!(model = %model.name, %panic, "reading a model's description failed");
        Description::nothing()
    })
}

fn read_files(path: &Path, arrays: Arrays) -> Description {
    if path.is_dir() {
        return folder::describe(path);
    }
    gguf::describe(path, arrays).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "a model's metadata can't be read");
        Description::nothing()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_follow_the_kind_and_the_template() {
        let with = |kind, template: &str| {
            let template = Some(template.to_owned());
            Description { template, ..Description::nothing() }.capabilities(kind)
        };
        assert_eq!(with(ModelKind::Generate, "{{ messages }}"), ["completion"]);
        assert_eq!(with(ModelKind::Generate, "{% if tools %}"), ["completion", "tools"]);
        assert_eq!(
            with(ModelKind::Generate, "{% if tools and enable_thinking %}"),
            ["completion", "tools", "thinking"]
        );
        assert_eq!(with(ModelKind::Embed, "tools"), ["embedding"]);
    }
}
