//! What names stand for: a model, one that is made of it, or another name of either. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_shared::ids::ModelName;
use hearth_shared::protocol::{Generate, Prompt};
use sha2::{Digest as _, Sha256};

use super::{Model, Models, hex, pick};
use crate::recipe::Recipe;

/// Other names of models, as the configuration has them.
pub type Aliases = BTreeMap<ModelName, ModelName>;

/// A model that is another one's files and a recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Derived {
    /// What is laid over which model.
    pub recipe: Recipe,
    /// When it was last changed.
    pub modified: jiff::Timestamp,
    /// Of its file's text, 64 hex digits.
    pub digest: String,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// The name itself.
    pub name: ModelName,
    /// The model whose worker serves it.
    pub model: Arc<Model>,
    /// What is laid over that model, if anything is.
    pub derived: Option<Arc<Derived>>,
    /// What it is another name of, if it is one.
    pub alias_of: Option<ModelName>,
}

impl Offer {
    /// What is laid over requests.
    #[must_use]
    pub fn recipe(&self) -> Option<&Recipe> {
        self.derived.as_ref().map(|derived| &derived.recipe)
    }

    /// The request as the model's worker shall have it.
    #[must_use]
    pub fn laid_into(&self, body: Generate) -> Generate {
        match self.recipe() {
            Some(recipe) => recipe.around(body),
            None => body,
        }
    }

    /// The same for a prompt alone, whose tokens are counted.
    #[must_use]
    pub fn laid_around(&self, prompt: Prompt) -> Prompt {
        match self.recipe() {
            Some(recipe) => recipe.around_prompt(prompt),
            None => prompt,
        }
    }

    /// What it is made of or stands for, if it is no model of its own.
    #[must_use]
    pub fn parent(&self) -> Option<&ModelName> {
        self.alias_of.as_ref().or(self.recipe().map(|recipe| &recipe.from))
    }

    /// When it was last changed.
    #[must_use]
    pub fn modified(&self) -> jiff::Timestamp {
        self.derived.as_ref().map_or(self.model.modified, |derived| derived.modified)
    }

    /// 64 hex digits that change with the model's files and with the recipe.
    #[must_use]
    pub fn digest(&self) -> String {
        let Some(derived) = &self.derived else { return self.model.digest.clone() };
        let both = Sha256::new().chain_update(&self.model.digest).chain_update(&derived.digest);
        hex(&both.finalize())
    }
}

/// Every name there is at one moment.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Models with files.
    pub models: Models,
    /// Models that are made of them.
    pub derived: Arc<BTreeMap<ModelName, Arc<Derived>>>,
    /// Other names. They go before models of the same name: who wrote them meant it.
    pub aliases: Arc<Aliases>,
}

impl Names {
    /// What the name stands for; what stands behind a colon may pick one of a model's variants.
    #[must_use]
    pub fn offer(&self, name: &ModelName) -> Option<Offer> {
        let Some(target) = self.aliases.get(name) else { return self.without_aliases(name) };
        let offer = self.without_aliases(target)?;
        Some(Offer { name: name.clone(), alias_of: Some(target.clone()), ..offer })
    }

    fn without_aliases(&self, name: &ModelName) -> Option<Offer> {
        let offer =
            |model, derived| Some(Offer { name: name.clone(), model, derived, alias_of: None });
        match (pick(&self.models, name), self.derived.get(name)) {
            (Some(model), _) => offer(model, None),
            (None, Some(derived)) => {
                let model = pick(&self.models, &derived.recipe.from)?;
                offer(model, Some(Arc::clone(derived)))
            }
            (None, None) => None,
        }
    }

    /// Everything that can be asked for, by name.
    #[must_use]
    pub fn offers(&self) -> Vec<Offer> {
        let mut names: Vec<&ModelName> =
            self.models.keys().chain(self.derived.keys()).chain(self.aliases.keys()).collect();
        names.sort();
        names.dedup();
        names.into_iter().filter_map(|name| self.offer(name)).collect()
    }

    /// Why a name that somebody gave stands for nothing.
    #[must_use]
    pub fn why_not(&self, name: &ModelName) -> Option<String> {
        if let Some(target) = self.aliases.get(name) {
            return Some(format!(
                "hearth.toml has it as another name of '{target}', which is not there"
            ));
        }
        let from = &self.derived.get(name)?.recipe.from;
        Some(format!("it is made of '{from}', which is not there; put that back, or delete this"))
    }

    /// The derived models that need this model's files.
    #[must_use]
    pub fn made_of(&self, model: &ModelName) -> Vec<ModelName> {
        let needs = |derived: &Derived| {
            let from = &derived.recipe.from;
            from == model || from.base() == model.as_str()
        };
        let of_it = self.derived.iter().filter(|(_, derived)| needs(derived));
        of_it.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use hearth_shared::protocol::ModelKind;

    use super::*;
    use crate::catalog::Facts;

    fn name(text: &str) -> ModelName {
        text.parse().unwrap()
    }

    fn model(text: &str) -> (ModelName, Arc<Model>) {
        let facts = Facts {
            format: "gguf",
            kind: ModelKind::Generate,
            family: String::new(),
            parameter_size: String::new(),
            quantization_level: String::new(),
            cache_per_token: 0,
        };
        let model = Model {
            name: name(text),
            path: text.into(),
            variants: BTreeMap::new(),
            size_bytes: 1,
            modified: jiff::Timestamp::UNIX_EPOCH,
            digest: "d".repeat(64),
            facts,
        };
        (name(text), Arc::new(model))
    }

    fn derived(text: &str, from: &str) -> (ModelName, Arc<Derived>) {
        let recipe = Recipe::from_text(&format!("from = '{from}'\nsystem = 's'")).unwrap();
        let modified = jiff::Timestamp::UNIX_EPOCH;
        (name(text), Arc::new(Derived { recipe, modified, digest: text.to_owned() }))
    }

    fn names() -> Names {
        Names {
            models: Arc::new(BTreeMap::from([model("m"), model("n:q4")])),
            derived: Arc::new(BTreeMap::from([
                derived("helper", "m"),
                derived("orphan", "gone"),
                derived("m", "n:q4"),
                derived("of-variant", "n:q4"),
            ])),
            aliases: Arc::new(BTreeMap::from([
                (name("gpt-4o-mini"), name("m")),
                (name("llama3.2"), name("helper")),
                (name("nothing"), name("gone")),
            ])),
        }
    }

    #[test]
    fn a_name_stands_for_a_model_a_derived_one_or_what_an_alias_says() {
        let names = names();
        let of = |text: &str| {
            let offer = names.offer(&name(text))?;
            let parent = offer.parent().map(ToString::to_string);
            Some((offer.name.to_string(), offer.model.name.to_string(), parent))
        };
        let expected = |name: &str, model: &str, parent: Option<&str>| {
            Some((name.to_owned(), model.to_owned(), parent.map(str::to_owned)))
        };
        assert_eq!(of("m"), expected("m", "m", None), "files go before recipes");
        assert_eq!(of("helper"), expected("helper", "m", Some("m")));
        assert_eq!(of("gpt-4o-mini"), expected("gpt-4o-mini", "m", Some("m")));
        assert_eq!(of("llama3.2:latest"), expected("llama3.2", "m", Some("helper")));
        assert_eq!(of("orphan"), None);
        assert_eq!(of("nothing"), None);
        let all: Vec<String> =
            names.offers().into_iter().map(|offer| offer.name.to_string()).collect();
        assert_eq!(all, ["gpt-4o-mini", "helper", "llama3.2", "m", "n:q4", "of-variant"]);
    }

    #[test]
    fn what_stands_for_nothing_says_why() {
        let names = names();
        assert_eq!(
            names.why_not(&name("orphan")).unwrap(),
            "it is made of 'gone', which is not there; put that back, or delete this"
        );
        assert_eq!(
            names.why_not(&name("nothing")).unwrap(),
            "hearth.toml has it as another name of 'gone', which is not there"
        );
        assert_eq!(names.why_not(&name("unknown")), None);
    }

    #[test]
    fn a_model_is_needed_by_all_that_are_made_of_it_or_of_its_variants() {
        let names = names();
        assert_eq!(names.made_of(&name("m")), [name("helper")]);
        assert_eq!(names.made_of(&name("n")), [name("m"), name("of-variant")]);
    }

    #[test]
    fn a_digest_changes_with_the_files_and_with_the_recipe() {
        let names = names();
        let digest = |text: &str| names.offer(&name(text)).unwrap().digest();
        assert_eq!(digest("m"), digest("gpt-4o-mini"));
        assert_eq!(digest("helper"), digest("llama3.2"));
        assert_ne!(digest("helper"), digest("m"));
        assert_eq!(digest("helper").len(), 64);
    }
}
