//! Shapes of answers → grammars, ready to run.
//!
//! The preparing thread calls it. What comes in was written by a client: its size, its depth and
//! the work that it may cause are limited, and whatever goes wrong is told in the client's words.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use hearth_shared::protocol::RequestFailure;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory, panic_utils};

use super::shape::Shape;
use super::{Grammar, Masks, failure, vocabulary};
use crate::tokenizer::Tokenizer;

/// Grammars that are kept, because clients send the same schema again and again.
const KEPT_MAX: usize = 8;
/// A grammar's text, the tools' schemas in it included.
const TEXT_BYTES_MAX: usize = 256 * 1024;
/// Brackets within brackets.
const DEPTH_MAX: usize = 64;
/// Grammars are compiled by recursion; this is enough for the deepest and longest that pass.
const STACK_BYTES: usize = 64 * 1024 * 1024;
/// Of what the library says is wrong.
const REASON_BYTES_MAX: usize = 400;

/// Compiles the grammars of one model.
pub(crate) struct Grammars {
    tokenizer: Arc<Tokenizer>,
    ends: Vec<u32>,
    /// Made when the first grammar comes: a load shall not wait for it.
    compiler: OnceLock<Result<Compiler, String>>,
    kept: Mutex<VecDeque<(String, Matcher)>>,
}

struct Compiler {
    factory: ParserFactory,
    masks: Masks,
}

impl Grammars {
    /// For a model with this tokenizer and these tokens that end an answer.
    pub(crate) fn new(tokenizer: Arc<Tokenizer>, ends: Vec<u32>) -> Self {
        Self { tokenizer, ends, compiler: OnceLock::new(), kept: Mutex::default() }
    }

    /// Makes the grammar of an answer of this shape.
    ///
    /// # Errors
    /// [`RequestFailure::Constraint`]: the shape makes no sense, is too large, or nothing has it.
    pub(crate) fn compile(&self, shape: &Shape) -> Result<Grammar, RequestFailure> {
        let grammar = shape.grammar(&self.tokenizer).map_err(failure)?;
        let compiler = self.compiler.get_or_init(|| Compiler::new(&self.tokenizer, &self.ends));
        let compiler = compiler.as_ref().map_err(|error| {
            failure(format!("this model's answers can't be constrained: {error}"))
        })?;
        let matcher = self.matcher(compiler, grammar).map_err(failure)?;
        Grammar::new(matcher, compiler.masks.clone()).map_err(failure)
    }

    fn matcher(&self, compiler: &Compiler, grammar: TopLevelGrammar) -> Result<Matcher, String> {
        let text = serde_json::to_string(&grammar).map_err(|error| error.to_string())?;
        if let Some(matcher) = self.kept(&text) {
            return Ok(matcher);
        }
        check_text(&grammar)?;
        let matcher = compiler.compile(grammar)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(KEPT_MAX - 1);
        kept.push_front((text, matcher.deep_clone()));
        Ok(matcher)
    }

    #[cfg(test)]
    pub(super) fn kept_count(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn kept(&self, text: &str) -> Option<Matcher> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(key, _)| key == text).map(|(_, matcher)| matcher.deep_clone())
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").field("ends", &self.ends).finish_non_exhaustive()
    }
}

impl Compiler {
    fn new(tokenizer: &Arc<Tokenizer>, ends: &[u32]) -> Result<Self, String> {
        // The trie has limits of its own, and panics where a vocabulary exceeds them.
        let factory = panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let vocabulary = match vocabulary::build(Arc::clone(tokenizer), ends) {
                Ok(vocabulary) => vocabulary,
                Err(problem) => return Ok(Err(problem)),
            };
            let slices = SlicedBiasComputer::general_slices();
            ParserFactory::new(&vocabulary, InferenceCapabilities::default(), &slices).map(Ok)
        }));
        let mut factory = factory.map_err(|error| reason(&error))??;
        factory.quiet();
        *factory.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
        let masks = Masks::start().map_err(|error| error.to_string())?;
        Ok(Self { factory, masks })
    }

    fn compile(&self, grammar: TopLevelGrammar) -> Result<Matcher, String> {
        thread::scope(|scope| {
            let compile = || {
                let matcher = Matcher::new(self.factory.create_parser(grammar));
                match matcher.get_error() {
                    Some(error) => Err(shortened(&error)),
                    None => Ok(matcher),
                }
            };
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            let thread = thread.spawn_scoped(scope, compile).map_err(|error| error.to_string())?;
            thread.join().unwrap_or_else(|_panic| Err("it can't be compiled".to_owned()))
        })
    }
}

/// What would take the compiler too deep is refused before.
fn check_text(grammar: &TopLevelGrammar) -> Result<(), String> {
    for part in &grammar.grammars {
        let lark = part.lark_grammar.as_deref().unwrap_or_default();
        if lark.len() > TEXT_BYTES_MAX {
            return Err(format!(
                "its grammar has {} bytes; {TEXT_BYTES_MAX} are the most",
                lark.len()
            ));
        }
        let mut depth = 0_usize;
        for byte in lark.bytes() {
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > DEPTH_MAX {
                return Err(format!("its brackets are nested deeper than {DEPTH_MAX}"));
            }
        }
    }
    Ok(())
}

/// What the library says is wrong, without what is there for its own developers.
pub(super) fn reason(error: &impl fmt::Display) -> String {
    shortened(&error.to_string())
}

fn shortened(error: &str) -> String {
    if error.starts_with("panic: ") {
        return "the grammar's compiler gave up on it".to_owned();
    }
    if error.starts_with("NoExtension") {
        return "nothing can follow it".to_owned();
    }
    // The library tells of a setting of its own there, which is no client's.
    if error.starts_with("oneOf constraints are not supported") {
        return "`oneOf` can't be enforced unless its options exclude each other plainly; `anyOf` can"
            .to_owned();
    }
    let text = error.split("\n<").next().unwrap_or_default().trim();
    let text = match text.strip_prefix("Unsatisfiable schema: ") {
        Some(why) => format!("nothing can satisfy the schema: {why}"),
        None => text.to_owned(),
    };
    let end = text.floor_char_boundary(REASON_BYTES_MAX);
    if end < text.len() { format!("{}…", &text[..end]) } else { text }
}
