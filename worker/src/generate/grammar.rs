//! One sequence's way through the grammar that its answer must follow.
//!
//! The preparing thread compiles a [`Grammar`] ([`Grammars`]); every choice goes its own [`Walk`]
//! through it. The engine asks what the next token may be before it samples ([`Walk::constrain`])
//! and tells what was sampled ([`Walk::take`]). Which tokens are allowed is computed by a thread of its own, while the
//! engine runs the model's next step. The engine waits for it only where it takes longer than that.

mod compile;
mod schema;
mod shape;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use hearth_shared::protocol::RequestFailure;
use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

pub(crate) use compile::Grammars;
pub(crate) use shape::{Shape, Thoughts, lark_of_schema, literal};

/// Tokens that may come next, one bit for each.
type Mask = SimpleVob;

/// Sequences whose masks may be asked for at once. There are never that many slots; more would
/// make the engine wait for its turn, and nothing else.
const JOBS_MAX: usize = 256;

/// A compiled grammar at its beginning. A cheap handle.
#[derive(Clone)]
pub(crate) struct Grammar(Arc<Beginning>);

struct Beginning {
    matcher: Matcher,
    mask: Mask,
    masks: Masks,
}

/// Where one sequence stands in its grammar.
pub(crate) struct Walk {
    place: Place,
    masks: Masks,
}

/// A matcher with the mask of its place, or what went wrong with it.
type Outcome = (Box<Matcher>, Result<Mask, String>);

enum Place {
    /// The mask is known.
    Here(Box<Matcher>, Mask),
    /// It is being computed.
    Away(Receiver<Outcome>),
    /// Nothing more can come, or the grammar failed.
    Over,
}

/// Whether a sequence goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    GoesOn,
    /// What was written is complete, and nothing can be added to it.
    Complete,
}

impl Grammar {
    fn new(mut matcher: Matcher, masks: Masks) -> Result<Self, String> {
        let mask = matcher.compute_mask_or_eos().map_err(|error| compile::reason(&error))?;
        Ok(Self(Arc::new(Beginning { matcher, mask, masks })))
    }

    /// Begins an answer.
    pub(crate) fn begin(&self) -> Walk {
        let Beginning { matcher, mask, masks } = &*self.0;
        // Deep: two that share a lexer would wait for each other.
        let place = Place::Here(Box::new(matcher.deep_clone()), mask.clone());
        Walk { place, masks: masks.clone() }
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammar")
    }
}

impl Walk {
    /// Takes away the tokens that can't come next; waits for the mask if it is not ready.
    ///
    /// # Errors
    /// [`RequestFailure::Constraint`]: the grammar is too complex at this place.
    pub(crate) fn constrain(&mut self, logits: &mut [f32]) -> Result<(), RequestFailure> {
        let (_, mask) = self.here()?;
        apply(mask, logits);
        Ok(())
    }

    /// Takes the token that was sampled, and has the next mask computed.
    ///
    /// # Errors
    /// [`RequestFailure::Constraint`]: the token could not come here, or the grammar is too complex.
    pub(crate) fn take(&mut self, token: u32) -> Result<Progress, RequestFailure> {
        self.here()?;
        let Place::Here(mut matcher, _) = std::mem::replace(&mut self.place, Place::Over) else {
            return Err(ended());
        };
        matcher.consume_token(token).map_err(|error| failure(compile::reason(&error)))?;
        if matcher.is_stopped() {
            return Ok(Progress::Complete);
        }
        self.place = Place::Away(self.masks.ask(matcher));
        Ok(Progress::GoesOn)
    }

    /// Waits until the mask is there.
    fn here(&mut self) -> Result<(&Matcher, &Mask), RequestFailure> {
        if let Place::Away(outcome) = &self.place {
            // The thread ends with the process only.
            let (matcher, mask) = outcome.recv().map_err(|_error| ended())?;
            self.place = match mask {
                Ok(mask) => Place::Here(matcher, mask),
                Err(reason) => {
                    self.place = Place::Over;
                    return Err(failure(reason));
                }
            };
        }
        match &self.place {
            Place::Here(matcher, mask) => Ok((matcher, mask)),
            Place::Away(_) | Place::Over => Err(ended()),
        }
    }
}

impl fmt::Debug for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.place {
            Place::Here(..) => "here",
            Place::Away(_) => "away",
            Place::Over => "over",
        };
        write!(f, "Walk({place})")
    }
}

fn failure(message: String) -> RequestFailure {
    RequestFailure::Constraint { message }
}

fn ended() -> RequestFailure {
    failure("its grammar has ended already".to_owned())
}

/// Logits of tokens that the mask leaves out become impossible; so do those of ids that the
/// tokenizer does not know, which models have to fill up their tables.
fn apply(mask: &Mask, logits: &mut [f32]) {
    const WIDTH: usize = u32::BITS as usize;
    let words = mask.as_slice();
    for (index, chunk) in logits.chunks_mut(WIDTH).enumerate() {
        match words.get(index).copied().unwrap_or(0) {
            u32::MAX => {}
            0 => chunk.fill(f32::NEG_INFINITY),
            word => {
                for (bit, logit) in chunk.iter_mut().enumerate() {
                    if word & (1 << bit) == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

/// A handle to the thread that computes masks.
#[derive(Clone)]
struct Masks(SyncSender<(Box<Matcher>, SyncSender<Outcome>)>);

impl Masks {
    /// Starts the thread; it ends with the last handle.
    fn start() -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel::<(Box<Matcher>, SyncSender<Outcome>)>(JOBS_MAX);
        thread::Builder::new().name("grammar".to_owned()).spawn(move || {
            for (mut matcher, reply) in inbox {
                let mask = matcher.compute_mask_or_eos();
                let mask = mask.map_err(|error| compile::reason(&error));
                // A sequence that was cancelled meanwhile doesn't want it any more.
                drop(reply.send((matcher, mask)));
            }
        })?;
        Ok(Self(jobs))
    }

    fn ask(&self, matcher: Box<Matcher>) -> Receiver<Outcome> {
        let (reply, outcome) = sync_channel(1);
        // Without the thread the reply's end is dropped here, and whoever waits for it is told.
        drop(self.0.send((matcher, reply)));
        outcome
    }
}
