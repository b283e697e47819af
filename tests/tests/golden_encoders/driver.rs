//! An encoder, driven tick by tick, with everything that it says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{
    Embed, EmbedInput, ExecutionProvider, FromWorker, GraphChoice, LoadSpec, ModelCard,
    RequestFailure, Work,
};
use hearth_tests::gateway::runtime_library;
use hearth_worker::{AnyLoaded, EncodePreparer, Encoder, load_any};
use serde::de::DeserializeOwned;

/// What was said of one request.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) ids: Vec<Vec<u32>>,
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) scores: Vec<f32>,
    pub(crate) prompt_tokens: u32,
    pub(crate) frames: usize,
    pub(crate) last: bool,
}

pub(crate) struct Driver {
    pub(crate) card: ModelCard,
    pub(crate) encoder: Encoder,
    preparer: EncodePreparer,
    pub(crate) answers: BTreeMap<RequestId, Answer>,
}

impl Driver {
    pub(crate) fn load(name: &str, variant: Option<&str>) -> Self {
        Self::at(&fixture(name), variant)
    }

    pub(crate) fn at(folder: &Path, variant: Option<&str>) -> Self {
        let spec = LoadSpec { variant: variant.map(str::to_owned), ..spec(folder) };
        match load_any(&spec, |_stage, _fraction| {}).unwrap() {
            AnyLoaded::Encoder(loaded) => Self {
                card: loaded.card,
                encoder: loaded.encoder,
                preparer: loaded.preparer,
                answers: BTreeMap::new(),
            },
            AnyLoaded::Decoder(_) => panic!("{} is no decoder", folder.display()),
        }
    }

    pub(crate) fn admit(&mut self, id: u64, work: &Work) {
        self.try_admit(id, work).unwrap();
    }

    fn try_admit(&mut self, id: u64, work: &Work) -> Result<(), RequestFailure> {
        let job = self.preparer.prepare(RequestId(id), work)?;
        let ids = job.input_ids().map(<[u32]>::to_vec).collect();
        self.answers.insert(RequestId(id), Answer { ids, ..Answer::default() });
        self.encoder.admit(job)
    }

    pub(crate) fn tick(&mut self) {
        for message in self.encoder.tick() {
            let (id, first, prompt_tokens, last, before) = match &message {
                FromWorker::Embeddings { id, first, prompt_tokens, last, .. } => {
                    (*id, *first, *prompt_tokens, *last, self.answer(*id).vectors.len())
                }
                FromWorker::Scores { id, first, prompt_tokens, last, .. } => {
                    (*id, *first, *prompt_tokens, *last, self.answer(*id).scores.len())
                }
                other => panic!("an encoder does not say {other:?}"),
            };
            let answer = self.answer(id);
            assert!(!answer.last, "news after the end");
            assert_eq!(usize::try_from(first).unwrap(), before, "a gap");
            answer.prompt_tokens += prompt_tokens;
            answer.last = last;
            answer.frames += 1;
            match message {
                FromWorker::Embeddings { vectors, .. } => answer.vectors.extend(vectors),
                FromWorker::Scores { scores, .. } => answer.scores.extend(scores),
                _ => unreachable!("others have panicked"),
            }
        }
    }

    fn answer(&mut self, id: RequestId) -> &mut Answer {
        self.answers.get_mut(&id).expect("news are of requests that were made")
    }

    pub(crate) fn finish(&mut self) {
        while !self.encoder.is_idle() {
            self.tick();
        }
    }

    /// Runs one request to its end.
    pub(crate) fn run(&mut self, work: &Work) -> Result<Answer, RequestFailure> {
        self.try_admit(0, work)?;
        self.finish();
        let answer = self.answers.remove(&RequestId(0)).unwrap();
        assert!(answer.last);
        Ok(answer)
    }

    pub(crate) fn embed(&mut self, inputs: Vec<EmbedInput>) -> Answer {
        self.run(&Work::Embed(Embed { inputs, dimensions: None, truncate: true })).unwrap()
    }
}

pub(crate) fn texts(texts: &[&str]) -> Vec<EmbedInput> {
    texts.iter().map(|&text| EmbedInput::Text(text.to_owned())).collect()
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

pub(crate) fn golden<T: DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(fixture(name).join("golden.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn spec(model: &Path) -> LoadSpec {
    LoadSpec {
        model_path: model.to_str().unwrap().to_owned(),
        runtime_library: runtime_library().to_str().unwrap().to_owned(),
        execution_provider: ExecutionProvider::Auto,
        threads: Some(1),
        context_length: None,
        slots: None,
        cuda_graphs: false,
        variant: None,
        graph: GraphChoice::Default,
    }
}
