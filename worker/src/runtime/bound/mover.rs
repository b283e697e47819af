//! Moves bytes to, from and within a device's memory.
//!
//! ONNX Runtime's own way of copying tensors wants the provider's library registered a second time;
//! what every provider can do is run a graph. So this is a session of its own on the same device
//! whose graph is one `Identity` over bytes: what is bound to it comes out where it shall lie, and
//! a run is over when its copy is. [`super::BoundSession`] binds and runs it.

use ort::editor::{Graph, Model, Node, ONNX_DOMAIN, Opset};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{IoBinding, Session};
use ort::value::{Outlet, Shape, SymbolicDimensions, TensorElementType, ValueType};

use super::asked::Held;

/// What the graph calls its input and its output.
pub(super) const FROM: &str = "from";
pub(super) const TO: &str = "to";

/// `Identity` takes bytes from this version of the operators on, and every library served has it.
const OPSET: u32 = 16;

/// A device's memory, as far as a session has to do with it.
pub(crate) struct Device {
    pub(super) binding: IoBinding,
    pub(super) mover: Session,
    pub(super) memory: Allocator,
    /// Memory of the host that the device writes to without a detour, where there is any.
    pub(super) pinned: Option<Allocator>,
}

impl Device {
    /// Takes hold of the memory that `session` has on its device; `options` register the same
    /// provider for the session that moves bytes there.
    ///
    /// # Errors
    /// What ONNX Runtime says.
    pub(crate) fn of(
        session: &Session,
        (memory, pinned): (AllocationDevice<'_>, Option<AllocationDevice<'_>>),
        options: SessionBuilder,
    ) -> ort::Result<Self> {
        let info = |device, kind| MemoryInfo::new(device, 0, AllocatorType::Device, kind);
        let memory = Allocator::new(session, info(memory, MemoryType::Default)?)?;
        let pinned = pinned.map(|device| info(device, MemoryType::CPUOutput)).transpose()?;
        let pinned = pinned.and_then(|info| match Allocator::new(session, info) {
            Ok(allocator) => Some(allocator),
            Err(error) => {
                tracing::info!("no pinned memory, copies take a detour: {}", error.message());
                None
            }
        });
        let options = options.with_optimization_level(GraphOptimizationLevel::Disable)?;
        let mover = model()?.into_session(&options)?;
        Ok(Self { binding: mover.create_binding()?, mover, memory, pinned })
    }

    /// What the session's allocator holds on the device, if it keeps count.
    pub(crate) fn held(&self) -> Option<Held> {
        super::asked::held(&self.memory)
    }
}

fn model() -> ort::Result<Model> {
    let bytes = |name: &str| {
        let shape = Shape::new([-1]);
        let dimension_symbols = SymbolicDimensions::new(["n".to_owned()]);
        Outlet::new(
            name,
            ValueType::Tensor { ty: TensorElementType::Uint8, shape, dimension_symbols },
        )
    };
    let mut graph = Graph::new()?;
    graph.set_inputs([bytes(FROM)])?;
    graph.set_outputs([bytes(TO)])?;
    graph.add_node(Node::new("Identity", ONNX_DOMAIN, "move", [FROM], [TO], [])?)?;
    let mut model = Model::new([Opset::new(ONNX_DOMAIN, OPSET)?])?;
    model.set_graph(graph)?;
    Ok(model)
}
