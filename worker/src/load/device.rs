//! A session → a decoder whose memory lies where the session wants it, and what is told of that.

use hearth_shared::protocol::{ExecutionProvider, LoadFailure, LoadFailureKind, Placement};

use super::failure;
use crate::generate::{Forward, count};
use crate::model::CacheKind;
use crate::runtime::bound::asked::Assignment;
use crate::runtime::bound::{BoundSession, Place};
use crate::runtime::interface::Interface;
use crate::runtime::layout::{self, Layout};
use crate::runtime::provider::{Capture, Provider};
use crate::runtime::{Built, one_line};

/// Puts a decoder together; `room` is slots and tokens.
pub(super) fn forward(
    built: Built,
    interface: Interface,
    (kind, room): (CacheKind, (usize, usize)),
) -> Result<(Forward, Placement, Provider), LoadFailure> {
    let Built { session, provider, assignments, wanted, device, capture } = built;
    let mut layout = layout::decide(&interface, kind, (&wanted, device.is_some()));
    let mut session = BoundSession::new(session, device);
    let weights = session.device_memory().map(|memory| memory.in_use);
    if capture == Capture::Yes {
        let refused =
            |error: ort::Error| failure(LoadFailureKind::Runtime, one_line(error.message()));
        session.capture_only_when_asked().map_err(refused)?;
        match layout::obstacle(layout, &interface) {
            None => layout.captured = true,
            Some(why) => tracing::warn!("steps are not captured: {why}"),
        }
    }
    let placement = placement(&assignments, (provider.provider, layout), weights);
    tracing::info!(?layout, ?placement, "placed");
    let forward = Forward::new(session, interface, kind, room, layout)
        .map_err(|error| failure(LoadFailureKind::OutOfMemory, error.to_string()))?;
    Ok((forward, placement, provider))
}

/// ONNX Runtime's name for the provider that everything can run on.
const CPU: &str = "CPUExecutionProvider";
/// Names of operators that are told.
const NAMED_MAX: usize = 16;

/// What a user is told of where things are.
pub(super) fn placement(
    assignments: &[Assignment],
    (provider, layout): (ExecutionProvider, Layout),
    device_weight_bytes: Option<u64>,
) -> Placement {
    let on_cpu = || assignments.iter().filter(|node| node.provider == CPU);
    let mut cpu_operators: Vec<_> = match provider {
        ExecutionProvider::Cpu | ExecutionProvider::Auto => Vec::new(),
        ExecutionProvider::Cuda | ExecutionProvider::DirectMl => {
            on_cpu().map(|node| node.operator.clone()).collect()
        }
    };
    cpu_operators.sort_unstable();
    cpu_operators.dedup();
    cpu_operators.truncate(NAMED_MAX);
    Placement {
        nodes: count(assignments.len()),
        device_nodes: count(assignments.len() - on_cpu().count()),
        cpu_operators,
        device_weight_bytes,
        cache_on_device: layout.cache == Place::Device,
        captured: layout.captured,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::layout::ON_HOST;

    fn node(provider: &str, operator: &str) -> Assignment {
        Assignment { provider: provider.to_owned(), operator: operator.to_owned() }
    }

    #[test]
    fn nodes_are_counted_and_what_stayed_on_the_cpu_is_named_once() {
        let cuda = "CUDAExecutionProvider";
        let nodes = [
            node(cuda, "MatMulNBits"),
            node(CPU, "Shape"),
            node(cuda, "GroupQueryAttention"),
            node(CPU, "Gather"),
            node(CPU, "Shape"),
        ];
        let layout = Layout { cache: Place::Device, ..ON_HOST };
        let found = placement(&nodes, (ExecutionProvider::Cuda, layout), Some(7));
        let expected = Placement {
            nodes: 5,
            device_nodes: 2,
            cpu_operators: vec!["Gather".to_owned(), "Shape".to_owned()],
            device_weight_bytes: Some(7),
            cache_on_device: true,
            captured: false,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn on_the_cpu_nothing_has_to_be_named() {
        let nodes = [node(CPU, "MatMul"), node(CPU, "Add")];
        let found = placement(&nodes, (ExecutionProvider::Cpu, ON_HOST), None);
        assert_eq!((found.nodes, found.device_nodes, found.cpu_operators), (2, 0, vec![]));
    }
}
