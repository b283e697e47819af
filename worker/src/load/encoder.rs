//! The rest of an encoder's load: a session and a first run.

use std::path::Path;
use std::sync::Arc;

use hearth_shared::protocol::{
    LoadFailure, LoadFailureKind, LoadSpec, LoadStage, ModelCard, ModelKind,
};

use super::device::placement;
use super::{LoadedEncoder, failure, to_usize, wish};
use crate::encode::{EncodePreparer, Encoder};
use crate::generate::count;
use crate::model::{EncoderModel, GraphSource, Task};
use crate::runtime::bound::Device;
use crate::runtime::layout::ON_HOST;
use crate::runtime::{Built, Runtime};
use crate::tokenizer::Tokenizer;

/// How many requests share the encoder, where nobody says. Each is tokens in a queue and no more,
/// and the more there are, the fuller are the batches.
const SLOTS_DEFAULT: u32 = 16;
const SLOTS_MAX: u32 = 256;

pub(super) fn encoder(
    spec: &LoadSpec,
    mut model: EncoderModel,
    mut progress: impl FnMut(LoadStage, f32),
) -> Result<LoadedEncoder, LoadFailure> {
    // Taken and not copied: it is the largest thing that the files' reading made.
    let tokenizer = Tokenizer::from_json(&std::mem::take(&mut model.tokenizer))
        .map_err(|error| failure(LoadFailureKind::BadFiles, error.to_string()))?;
    let tokens_max = spec.context_length.unwrap_or(u32::MAX).min(model.tokens_max).max(1);

    progress(LoadStage::Runtime, 0.05);
    let runtime =
        Runtime::open(Path::new(&spec.runtime_library)).map_err(|error| error.into_failure())?;

    progress(LoadStage::Session, 0.1);
    let graph = GraphSource::File { path: model.graph.clone(), logits: None };
    let built =
        runtime.session(&graph, wish(spec, tokens_max)).map_err(|error| error.into_failure())?;
    let Built { session, provider, assignments, device, .. } = built;
    let memory = device.as_ref().and_then(Device::held);
    let placed = (provider.provider, ON_HOST);
    let placement = placement(&assignments, placed, memory.map(|memory| memory.in_use));
    let mut encoder = Encoder::new(session, &model).map_err(|error| error.into_failure())?;

    progress(LoadStage::WarmUp, 0.9);
    let size = encoder.warm_up(to_usize(tokens_max)).map_err(|error| {
        failure(LoadFailureKind::Runtime, format!("the model fails in a first run: {error}"))
    })?;
    let kind = match model.task {
        Task::Embed { .. } => ModelKind::Embed,
        Task::Rerank => ModelKind::Rerank,
    };
    let limits = (to_usize(tokens_max), size);
    Ok(LoadedEncoder {
        card: ModelCard {
            kind,
            architecture: model.architecture.clone(),
            context_length: tokens_max,
            slots: spec.slots.unwrap_or(SLOTS_DEFAULT).clamp(1, SLOTS_MAX),
            execution_provider: provider.provider,
            execution_provider_note: provider.note,
            runtime_version: runtime.version(),
            tools: false,
            thinking: false,
            embedding_length: (kind == ModelKind::Embed).then(|| count(size)),
            // With what the first run needed.
            device_bytes: device.as_ref().and_then(Device::held).map(|memory| memory.total),
            placement: Some(placement),
        },
        preparer: EncodePreparer::new(&model, Arc::new(tokenizer), limits),
        encoder,
    })
}
