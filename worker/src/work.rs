//! The two kinds of models behind one face, for the threads in [`crate::serve`].
//!
//! What every kind of model can do, turning text into tokens and back, is answered here.

use std::sync::Arc;

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{FromWorker, ModelCard, Prompt, RequestFailure, Token, Work};

use crate::encode::{EncodeJob, EncodePreparer, Encoder};
use crate::generate::Engine;
use crate::load::{AnyLoaded, Loaded, LoadedEncoder};
use crate::prepare::{Prepared, Preparer};
use crate::tokenizer::Tokenizer;

/// What has become of a request.
#[derive(Debug)]
pub(crate) enum Ready {
    /// It is answered already, or refused.
    Answer(FromWorker),
    Generate(Prepared),
    Encode(EncodeJob),
}

/// Makes requests ready.
#[derive(Debug)]
pub(crate) enum AnyPreparer {
    Decoder(Box<Preparer>),
    Encoder(EncodePreparer),
}

/// Runs them.
#[derive(Debug)]
pub(crate) enum AnyEngine {
    Decoder(Box<Engine>),
    Encoder(Box<Encoder>),
}

/// Takes a loaded model apart for the threads that it is served by.
pub(crate) fn parts(loaded: AnyLoaded) -> (ModelCard, AnyPreparer, AnyEngine) {
    match loaded {
        AnyLoaded::Decoder(loaded) => {
            let Loaded { card, preparer, engine } = *loaded;
            (card, AnyPreparer::Decoder(Box::new(preparer)), AnyEngine::Decoder(Box::new(engine)))
        }
        AnyLoaded::Encoder(loaded) => {
            let LoadedEncoder { card, preparer, encoder } = *loaded;
            (card, AnyPreparer::Encoder(preparer), AnyEngine::Encoder(Box::new(encoder)))
        }
    }
}

impl AnyPreparer {
    /// Prepares a request, or answers it.
    pub(crate) fn prepare(&self, id: RequestId, work: Work) -> Ready {
        let ready = match (self, work) {
            (_, Work::Tokenize(prompt)) => {
                let ids = self.prompt_ids(&prompt);
                ids.map(|ids| Ready::Answer(tokens(id, &ids, self.tokenizer())))
            }
            (_, Work::Detokenize(ids)) => {
                let text = self.tokenizer().decode(&ids);
                Ok(Ready::Answer(FromWorker::Text { id, text }))
            }
            (Self::Decoder(preparer), Work::Generate(request)) => {
                preparer.prepare(id, *request).map(Ready::Generate)
            }
            (Self::Decoder(_), Work::Embed(_) | Work::Rerank(_)) => {
                Err(RequestFailure::Unsupported {
                    message: "this model generates text; it makes no embeddings and ranks no \
                              documents"
                        .to_owned(),
                })
            }
            (
                Self::Encoder(preparer),
                work @ (Work::Generate(_) | Work::Embed(_) | Work::Rerank(_)),
            ) => preparer.prepare(id, &work).map(Ready::Encode),
        };
        ready.unwrap_or_else(|reason| Ready::Answer(FromWorker::Failed { id, reason }))
    }

    fn prompt_ids(&self, prompt: &Prompt) -> Result<Vec<u32>, RequestFailure> {
        match self {
            Self::Decoder(preparer) => preparer.prompt_ids(prompt),
            Self::Encoder(preparer) => preparer.prompt_ids(prompt),
        }
    }

    fn tokenizer(&self) -> &Arc<Tokenizer> {
        match self {
            Self::Decoder(preparer) => &preparer.tokenizer,
            Self::Encoder(preparer) => &preparer.tokenizer,
        }
    }
}

fn tokens(id: RequestId, ids: &[u32], tokenizer: &Tokenizer) -> FromWorker {
    let tokens = ids.iter().map(|&id| Token { id, bytes: tokenizer.bytes(id) });
    FromWorker::Tokens { id, tokens: tokens.collect() }
}

impl AnyEngine {
    /// Takes a request, or says why not.
    pub(crate) fn admit(&mut self, request: Ready) -> Option<FromWorker> {
        let (id, admitted) = match (self, request) {
            (Self::Decoder(engine), Ready::Generate(request)) => {
                (request.id, engine.admit(request))
            }
            (Self::Encoder(encoder), Ready::Encode(job)) => (job.id, encoder.admit(job)),
            (_, Ready::Answer(answer)) => return Some(answer),
            (Self::Decoder(_), Ready::Encode(_)) | (Self::Encoder(_), Ready::Generate(_)) => {
                unreachable!("an engine gets what its own preparer made")
            }
        };
        admitted.err().map(|reason| FromWorker::Failed { id, reason })
    }

    pub(crate) fn cancel(&mut self, id: RequestId) {
        match self {
            Self::Decoder(engine) => engine.cancel(id),
            Self::Encoder(encoder) => encoder.cancel(id),
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        match self {
            Self::Decoder(engine) => engine.is_idle(),
            Self::Encoder(encoder) => encoder.is_idle(),
        }
    }

    /// Nothing has been done for a while, and nothing is to be done.
    pub(crate) fn rest(&mut self) {
        match self {
            Self::Decoder(engine) => engine.rest(),
            Self::Encoder(_) => {}
        }
    }

    pub(crate) fn tick(&mut self) -> Vec<FromWorker> {
        match self {
            Self::Decoder(engine) => engine.tick(),
            Self::Encoder(encoder) => encoder.tick(),
        }
    }
}
