//! A [`LoadSpec`] → an engine and a preparer that are ready and warm.
//!
//! The walk of a load, in the order of its stages. Every refusal becomes a [`LoadFailure`] here
//! and nowhere else.

mod device;
mod encoder;
mod slots;

use std::path::Path;
use std::sync::Arc;

use hearth_shared::protocol::{
    ExecutionProvider, GraphChoice, LoadFailure, LoadFailureKind, LoadSpec, LoadStage, ModelCard,
    ModelKind,
};

use crate::answer::Dialect;
use crate::encode::{EncodePreparer, Encoder};
use crate::generate::grammar::Grammars;
use crate::generate::{Engine, Forward, ForwardError};
use crate::model::{AnyModel, Device, Model, Variant};
use crate::prepare::Preparer;
use crate::prompt::ChatTemplate;
use crate::runtime::interface::{Hints, Interface};
use crate::runtime::provider::Capture;
use crate::runtime::{Runtime, Wish};
use crate::tokenizer::Tokenizer;

/// The most sequences at once, whatever a configuration says.
const SLOTS_MAX: u32 = 256;
/// Tokens of a prompt that are read at once where memory counts: a run's is in proportion to them.
const CHUNK_OF_LITTLE_MEMORY: usize = 64;

/// A model of any kind, ready to work.
#[derive(Debug)]
pub enum AnyLoaded {
    /// A language model.
    Decoder(Box<Loaded>),
    /// An embedding model or a reranker.
    Encoder(Box<LoadedEncoder>),
}

/// An encoder, ready to work.
#[derive(Debug)]
pub struct LoadedEncoder {
    /// What was found, for the gateway.
    pub card: ModelCard,
    /// Makes requests ready for the encoder; works on a thread of its own.
    pub preparer: EncodePreparer,
    /// Runs them.
    pub encoder: Encoder,
}

/// A language model, ready to work.
#[derive(Debug)]
pub struct Loaded {
    /// What was found, for the gateway.
    pub card: ModelCard,
    /// Makes requests ready for the engine; works on a thread of its own.
    pub preparer: Preparer,
    /// Runs them.
    pub engine: Engine,
}

/// Loads a model; `progress` is told when a stage begins and how much of the whole is done.
///
/// Blocks, for minutes with a large model; ONNX Runtime tells nothing about how far it is with
/// building a session, so nothing is said during that.
///
/// # Errors
/// [`LoadFailure`], in words for the user. Nothing is left but the library, which stays loaded.
pub fn load_any(
    spec: &LoadSpec,
    mut progress: impl FnMut(LoadStage, f32),
) -> Result<AnyLoaded, LoadFailure> {
    progress(LoadStage::Files, 0.0);
    let model = AnyModel::read(Path::new(&spec.model_path), variant(spec));
    Ok(match model.map_err(|error| error.into_failure())? {
        AnyModel::Decoder(model) => AnyLoaded::Decoder(Box::new(decoder(spec, *model, progress)?)),
        AnyModel::Encoder(model) => {
            AnyLoaded::Encoder(Box::new(encoder::encoder(spec, *model, progress)?))
        }
    })
}

/// As [`load_any`], for who needs a language model.
///
/// # Errors
/// [`LoadFailure`]; of kind `Unsupported` for a model of another kind.
pub fn load(spec: &LoadSpec, progress: impl FnMut(LoadStage, f32)) -> Result<Loaded, LoadFailure> {
    match load_any(spec, progress)? {
        AnyLoaded::Decoder(loaded) => Ok(*loaded),
        AnyLoaded::Encoder(_) => {
            let message = "this model generates no text".to_owned();
            Err(failure(LoadFailureKind::Unsupported, message))
        }
    }
}

fn decoder(
    spec: &LoadSpec,
    mut model: Model,
    mut progress: impl FnMut(LoadStage, f32),
) -> Result<Loaded, LoadFailure> {
    // Taken and not copied: it is the largest thing that the files' reading made.
    let mut tokenizer = Tokenizer::of(std::mem::take(&mut model.tokenizer))
        .map_err(|error| failure(LoadFailureKind::BadFiles, error.to_string()))?;
    let ends = ends(&model, &tokenizer)?;
    let context_length = context_length(spec, &model)?;

    let template = template(&model);
    let dialect = match &template {
        Some(Ok(template)) => template.dialect,
        Some(Err(_)) | None => Dialect::default(),
    };
    dialect.markers().for_each(|marker| tokenizer.show(marker));

    progress(LoadStage::Runtime, 0.05);
    let runtime =
        Runtime::open(Path::new(&spec.runtime_library)).map_err(|error| error.into_failure())?;

    progress(LoadStage::Session, 0.1);
    let built = runtime
        .session(&model.graph, wish(spec, context_length))
        .map_err(|error| error.into_failure())?;
    let hints = Hints {
        head_size: model.head_size,
        kv_heads: model.kv_heads,
        vocabulary: model.vocabulary,
        window: model.window.as_ref(),
    };
    let interface =
        Interface::of(&built.session, &model.names, hints).map_err(|error| error.into_failure())?;
    let vocabulary = interface.logits.vocabulary;
    let slots = spec.slots.unwrap_or_else(|| {
        slots::by_memory(&interface.layers, context_length, slots::available_memory())
    });
    let slots = slots.clamp(1, SLOTS_MAX);
    let room = (to_usize(slots), to_usize(context_length));
    let (mut forward, placement, provider) =
        device::forward(built, interface, (model.cache, room))?;

    if spec.graph == GraphChoice::Memory {
        forward.limit_chunk(CHUNK_OF_LITTLE_MEMORY);
    }

    progress(LoadStage::WarmUp, 0.9);
    warm_up(&mut forward).map_err(|error| warm_up_failure(&error))?;
    let tokenizer = Arc::new(tokenizer);
    Ok(Loaded {
        card: ModelCard {
            kind: ModelKind::Generate,
            architecture: model.architecture.clone(),
            context_length,
            slots,
            execution_provider: provider.provider,
            execution_provider_note: provider.note,
            runtime_version: runtime.version(),
            tools: dialect.calls.is_some(),
            thinking: dialect.thoughts.is_some(),
            embedding_length: None,
            device_bytes: forward.device_bytes(),
            placement: Some(placement),
        },
        preparer: Preparer {
            grammars: Grammars::new(Arc::clone(&tokenizer), ends.clone()),
            tokenizer: Arc::clone(&tokenizer),
            template,
            special: model.special,
            bos: model.bos,
            ends,
            vocabulary,
            context_length,
        },
        engine: Engine::new(forward, tokenizer),
    })
}

/// Which graph is meant. `auto` has not looked for devices yet, but the library's folder tells what
/// it was put there for.
fn variant(spec: &LoadSpec) -> Variant<'_> {
    let library = Path::new(&spec.runtime_library);
    // `runtime/` links to the build in use. One that is missing is told later, in its turn.
    let library = library.canonicalize().unwrap_or_else(|_error| library.to_owned());
    let beside = |file: &str| library.with_file_name(file).exists();
    let device = match spec.execution_provider {
        ExecutionProvider::Cpu => Device::Cpu,
        ExecutionProvider::Cuda | ExecutionProvider::DirectMl => Device::Gpu,
        ExecutionProvider::Auto
            if beside("libonnxruntime_providers_cuda.so") || beside("DirectML.dll") =>
        {
            Device::Gpu
        }
        ExecutionProvider::Auto => Device::Cpu,
    };
    spec.variant.as_deref().map_or(Variant::BestFor(device), Variant::Named)
}

fn failure(kind: LoadFailureKind, message: String) -> LoadFailure {
    LoadFailure { kind, message }
}

/// What ends a sequence: whatever any of the files calls its end.
fn ends(model: &Model, tokenizer: &Tokenizer) -> Result<Vec<u32>, LoadFailure> {
    let mut ends = model.ends.clone();
    ends.extend(model.special.get("eos_token").and_then(|token| tokenizer.id(token)));
    ends.sort_unstable();
    ends.dedup();
    if ends.is_empty() {
        return Err(failure(
            LoadFailureKind::BadFiles,
            "no file names a token that ends an answer; set `eos_token_id`".to_owned(),
        ));
    }
    Ok(ends)
}

fn context_length(spec: &LoadSpec, model: &Model) -> Result<u32, LoadFailure> {
    let length = spec.context_length.unwrap_or(u32::MAX).min(model.context_length);
    if length < 2 {
        return Err(failure(
            LoadFailureKind::Unsupported,
            format!("a context of {length} tokens leaves no room for an answer; set 2 or more"),
        ));
    }
    Ok(length)
}

fn wish(spec: &LoadSpec, context_length: u32) -> Wish {
    Wish {
        provider: spec.execution_provider,
        graph: spec.graph,
        threads: threads(spec),
        context_length: to_usize(context_length),
        capture: if spec.cuda_graphs { Capture::Yes } else { Capture::No },
    }
}

fn threads(spec: &LoadSpec) -> usize {
    match spec.threads {
        Some(threads) if threads > 0 => to_usize(threads),
        Some(_) | None => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

pub(crate) fn to_usize(number: u32) -> usize {
    usize::try_from(number).expect("usize has at least 32 bits on every platform served")
}

fn template(model: &Model) -> Option<Result<ChatTemplate, String>> {
    let compiled = ChatTemplate::compile(model.template.as_ref()?, &model.special);
    if let Err(error) = &compiled {
        // Raw prompts still work, so this ends no load.
        tracing::warn!("the chat template can't be used: {error}");
    }
    Some(compiled)
}

/// A prompt of two tokens: no more, because a context may be as short as that.
fn warm_up(forward: &mut Forward) -> Result<(), ForwardError> {
    forward.prefill(0, &[0, 0])?;
    forward.truncate(0, 0);
    Ok(())
}

fn warm_up_failure(error: &ForwardError) -> LoadFailure {
    match error {
        ForwardError::Memory(_) => failure(LoadFailureKind::OutOfMemory, error.to_string()),
        ForwardError::Run(_) => {
            failure(LoadFailureKind::Runtime, format!("the model fails in a first run: {error}"))
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use hearth_shared::protocol::GraphChoice;

    use super::*;

    #[test]
    fn a_gpu_is_expected_where_it_is_asked_for_or_the_library_is_built_for_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("build")).unwrap();
        std::fs::write(folder.path().join("build/library.so.1"), "").unwrap();
        let link = folder.path().join("library.so");
        std::os::unix::fs::symlink("build/library.so.1", &link).unwrap();
        let expects_gpu = |asked, name: Option<&str>| {
            let spec = LoadSpec {
                model_path: String::new(),
                variant: name.map(str::to_owned),
                graph: GraphChoice::Default,
                runtime_library: link.to_str().unwrap().to_owned(),
                execution_provider: asked,
                threads: None,
                context_length: None,
                slots: None,
                cuda_graphs: false,
            };
            match variant(&spec) {
                Variant::BestFor(device) => Some(device == Device::Gpu),
                Variant::Named(_) => None,
            }
        };
        assert_eq!(expects_gpu(ExecutionProvider::Auto, None), Some(false));
        assert_eq!(expects_gpu(ExecutionProvider::Cuda, None), Some(true));
        let provider = folder.path().join("build/libonnxruntime_providers_cuda.so");
        std::fs::write(provider, "").unwrap();
        assert_eq!(expects_gpu(ExecutionProvider::Auto, None), Some(true));
        assert_eq!(expects_gpu(ExecutionProvider::Cpu, None), Some(false));
        assert_eq!(expects_gpu(ExecutionProvider::Cuda, Some("q4")), None);
    }
}
