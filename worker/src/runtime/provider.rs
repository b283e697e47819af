//! Which execution provider a session gets.
//!
//! A provider asked for by name is had or is an error; `auto` tries what the library was built
//! with, best first, and keeps the reason why it took no better one.

use hearth_shared::protocol::ExecutionProvider;
use ort::ep::{
    ArenaExtendStrategy, CUDA, DirectML, ExecutionProvider as _, ExecutionProviderDispatch,
};
use ort::memory::AllocationDevice;
use ort::session::builder::SessionBuilder;

use super::{RuntimeError, one_line};

/// Where a session runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Provider {
    /// Never `Auto`.
    pub(crate) provider: ExecutionProvider,
    /// Why `auto` took no better one.
    pub(crate) note: Option<String>,
}

/// Whether a session captures its steps, where a provider can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capture {
    No,
    Yes,
}

/// The memory of a provider's device, and the host's that the device writes to without a detour; none
/// where tensors can't begin in the middle of a block, as each slot's do.
pub(crate) fn memory_of(
    provider: ExecutionProvider,
) -> Option<(AllocationDevice<'static>, Option<AllocationDevice<'static>>)> {
    match provider {
        ExecutionProvider::Cuda => {
            Some((AllocationDevice::CUDA, Some(AllocationDevice::CUDA_PINNED)))
        }
        // What its allocator gives is no address but a resource.
        ExecutionProvider::DirectMl => None,
        ExecutionProvider::Cpu | ExecutionProvider::Auto => None,
    }
}

/// Registers a provider on fresh session options.
///
/// # Errors
/// [`RuntimeError::NoProvider`] if `asked` names one that can't be had.
pub(crate) fn choose(
    asked: ExecutionProvider,
    options: impl Fn() -> Result<SessionBuilder, RuntimeError>,
) -> Result<(SessionBuilder, Provider), RuntimeError> {
    match asked {
        ExecutionProvider::Auto => choose_best(options),
        ExecutionProvider::Cpu => Ok((options()?, on(ExecutionProvider::Cpu, None))),
        ExecutionProvider::Cuda | ExecutionProvider::DirectMl => {
            let builder = register(asked, options()?, Capture::No)?;
            Ok((builder, on(asked, None)))
        }
    }
}

fn on(provider: ExecutionProvider, note: Option<String>) -> Provider {
    Provider { provider, note }
}

fn choose_best(
    options: impl Fn() -> Result<SessionBuilder, RuntimeError>,
) -> Result<(SessionBuilder, Provider), RuntimeError> {
    let mut notes = Vec::new();
    for candidate in [ExecutionProvider::Cuda, ExecutionProvider::DirectMl] {
        // What the library was not built with is no news; what it was built with and fails is.
        if !is_built_in(candidate) {
            continue;
        }
        match register(candidate, options()?, Capture::No) {
            Ok(builder) => return Ok((builder, on(candidate, None))),
            Err(error) => notes.push(error.to_string()),
        }
    }
    let note = if notes.is_empty() {
        "this build of ONNX Runtime has no other execution provider".to_owned()
    } else {
        notes.join("; ")
    };
    tracing::info!("running on the CPU: {note}");
    Ok((options()?, on(ExecutionProvider::Cpu, Some(note))))
}

/// Whether the library holds the provider's code; says nothing about drivers or devices.
fn is_built_in(provider: ExecutionProvider) -> bool {
    match provider {
        ExecutionProvider::Cuda => CUDA::is_available().unwrap_or(false),
        ExecutionProvider::DirectMl => DirectML::is_available().unwrap_or(false),
        ExecutionProvider::Auto | ExecutionProvider::Cpu => true,
    }
}

/// Registers a provider that is no question any more.
///
/// # Errors
/// [`RuntimeError::NoProvider`] if it can't be had.
pub(crate) fn register(
    provider: ExecutionProvider,
    builder: SessionBuilder,
    capture: Capture,
) -> Result<SessionBuilder, RuntimeError> {
    let no_provider = |reason| RuntimeError::NoProvider { provider: provider.as_str(), reason };
    let dispatch: ExecutionProviderDispatch = match provider {
        ExecutionProvider::Cuda => CUDA::default()
            // Otherwise every growth takes the next power of two from whoever shares the device.
            .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
            .with_cuda_graph(capture == Capture::Yes)
            .build(),
        ExecutionProvider::DirectMl => DirectML::default().build(),
        ExecutionProvider::Auto | ExecutionProvider::Cpu => return Ok(builder),
    };
    if !is_built_in(provider) {
        return Err(no_provider(not_built_in(provider).to_owned()));
    }
    builder
        // Without this a provider that fails is skipped in silence.
        .with_execution_providers([dispatch.error_on_failure()])
        .map_err(|error| no_provider(one_line(error.message())))
}

fn not_built_in(provider: ExecutionProvider) -> &'static str {
    match provider {
        ExecutionProvider::Cuda => {
            "the ONNX Runtime in `runtime/` is built without CUDA; put the GPU build of \
             libonnxruntime with its libonnxruntime_providers_cuda there, or use `auto` or `cpu`"
        }
        ExecutionProvider::DirectMl => {
            "the ONNX Runtime in `runtime/` is built without DirectML, which exists on Windows \
             only; put that build there, or use `auto` or `cpu`"
        }
        ExecutionProvider::Auto | ExecutionProvider::Cpu => "it is always there",
    }
}
