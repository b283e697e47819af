//! An ONNX file whose products have 4-bit weights → the same graph with our own products in it.
//!
//! ONNX Runtime's `MatMulNBits` is slow from a few rows on, and not the fastest for one. Where every
//! block of a matrix means the same to ours, the session gets a graph in memory that names ours
//! instead: with the norm before it, with the whole gated feed-forward around it, and with the logits
//! of the last position alone, where the file's nodes compute that. All other nodes stay what they are,
//! all other weights stay in their files for ONNX Runtime to read.
//!
//! `runtime` calls [`open`] for a session on the CPU. The walk: `graph` (what the file says) → `source`
//! (which matrices can be packed) → `plan` (which nodes become which) → [`Repacked::commit`]. What is
//! not understood is left alone, and a file that is broken is left to ONNX Runtime, which says so.

mod graph;
mod source;
mod plan;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

use std::{num::NonZeroUsize, path::Path};

use ort::session::{Session, builder::SessionBuilder};

use self::{
    graph::Graph,
    plan::Plan,
    source::{Source, put_row},
};
use crate::{
    heap,
    packed::{self, Packed, Processor, Row, Width},
    pieces,
};

/// Where a model that is in memory finds the files of its weights.
const WEIGHTS_FOLDER: &str = "session.model_external_initializers_file_folder_path";

/// A graph with our own products, and what to make their matrices from.
pub(crate) struct Repacked {
    processor: Processor,
    plan: Plan,
    /// An ONNX `ModelProto` without the matrices.
    model_proto: Vec<u8>,
    /// An absolute path.
    folder: String,
}

/// Reads the file at `path`; `logits` names an output of which the last position is enough.
///
/// `None` where no product can be ours. Reads scales, and no other weights.
pub(crate) fn open(path: &Path, logits: Option<&str>) -> Option<Repacked> {
    let processor = Processor::detect()?;
    let path = path.canonicalize().ok()?;
    let folder = path.parent()?.to_str()?.to_owned();
    let graph = Graph::open(&path)
        .inspect_err(|error| tracing::debug!("{}: {error}", path.display()))
        .ok()?;
    let plan = plan::plan(&graph, logits)?;
    let model_proto = graph.with(&plan);
    tracing::info!(
        ours = plan.products,
        logits = plan.last_only,
        "products of 4-bit weights that are our own"
    );
    Some(Repacked { processor, plan, model_proto, folder })
}

impl Repacked {
    /// Packs the matrices over `threads` threads and makes a session of them and the graph.
    ///
    /// `builder` carries everything else about the session. Blocks for the whole load.
    ///
    /// # Errors
    /// ONNX Runtime's, if it refuses the graph or our operators.
    pub(crate) fn commit(
        self,
        builder: SessionBuilder,
        threads: NonZeroUsize,
    ) -> Result<Session, ort::Error> {
        heap::return_large_blocks();
        let packed = self.packed(threads);
        let Self { processor, plan: Plan { sources, norms, .. }, model_proto, folder } = self;
        drop(sources);
        let builder = packed::register(builder, processor, (packed, norms), threads)?;
        let mut builder =
            builder.with_config_entry(WEIGHTS_FOLDER, folder).map_err(ort::Error::<()>::from)?;
        let session = builder.commit_from_memory(&model_proto);
        heap::release();
        session
    }
}

impl Repacked {
    /// Packs the matrices over `threads` threads.
    fn packed(&self, threads: NonZeroUsize) -> Vec<Packed> {
        let Plan { sources, matrices, .. } = &self.plan;
        let parts = |parts: &Vec<usize>| parts.iter().map(|&part| &sources[part]).collect();
        let parts: Vec<Vec<&Source>> = matrices.iter().map(parts).collect();
        let mut packed: Vec<Packed> = parts.iter().map(|parts| room_for(parts)).collect();
        let mut work = Vec::new();
        for (parts, packed) in parts.iter().zip(&mut packed) {
            let fill = move |(part, row): (usize, usize), places: Row<'_>| {
                put_row(parts[part], row, places);
            };
            let leave = move |part: usize, rows| parts[part].leave(rows);
            work.extend(packed::pieces(packed, fill, leave));
        }
        pieces::run(work, threads);
        packed
    }
}

fn room_for(parts: &[&Source]) -> Packed {
    let inputs = parts.first().map_or(0, |part| part.inputs);
    Packed::room_for(inputs, parts.iter().map(|part| (Width::Four, part.outputs)))
}
