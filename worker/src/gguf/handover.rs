//! Makes the weights and hands them to ONNX Runtime with the graph.
//!
//! The worker calls [`BuiltGraph::commit`] once. Each weight is a file in memory under its own name,
//! which ONNX Runtime copies from while it builds the session; the originals are gone when `commit`
//! returns. What a kernel packs in another order ONNX Runtime frees itself. Matrices for our own
//! operators are made beside them and stay with the session; ONNX Runtime never sees those.

use std::{iter::repeat_n, num::NonZeroUsize, sync::Arc};

use ort::session::{Session, builder::SessionBuilder};

use super::{BuiltGraph, GgufError, pack, weights::Slot};
use crate::{
    heap,
    packed::{self, Norm, Packed, Processor},
    pieces::{self, Piece},
};

/// Initializers otherwise go into ONNX Runtime's arena, which never returns what packing frees.
const USE_PLAIN_MEMORY: &str = "session.use_device_allocator_for_initializers";

impl BuiltGraph<'_> {
    /// Makes the weights over `threads` threads and a session of graph and weights.
    ///
    /// `builder` carries the execution provider and everything else about the session. Blocks for
    /// the whole load.
    ///
    /// # Errors
    /// [`GgufError::HandOver`] if ONNX Runtime refuses a weight or the graph.
    pub fn commit(
        self,
        mut builder: SessionBuilder,
        threads: NonZeroUsize,
    ) -> Result<Session, GgufError> {
        let Self { model_proto, weights, packed, norms } = self;
        heap::return_large_blocks();
        let mut buffers: Vec<[Arc<[u8]>; 2]> = weights
            .iter()
            .map(|weight| {
                let second = weight.second.as_ref().map_or(0, Slot::bytes);
                [zeros(weight.first.bytes()), zeros(second)]
            })
            .collect();
        let mut matrices: Vec<Packed> = packed.iter().map(pack::room_for).collect();
        let mut pieces: Vec<Piece<'_>> = Vec::new();
        for (weight, [first, second]) in weights.iter().zip(&mut buffers) {
            let unshared = "nobody else has seen the buffer yet";
            let first = Arc::get_mut(first).expect(unshared);
            pieces.extend(weight.pieces(first, Arc::get_mut(second).expect(unshared)));
        }
        for (matrix, room) in packed.iter().zip(&mut matrices) {
            pieces.extend(pack::pieces(matrix, room));
        }
        pieces::run(pieces, threads);
        builder = with_packed(builder, matrices, norms, threads)?;
        for (weight, [first, second]) in weights.iter().zip(buffers) {
            builder = add(builder, &weight.first, first)?;
            if let Some(slot) = &weight.second {
                builder = add(builder, slot, second)?;
            }
        }
        let session = builder
            .with_config_entry(USE_PLAIN_MEMORY, "1")
            .map_err(ort::Error::<()>::from)
            .and_then(|mut builder| builder.commit_from_memory(&model_proto));
        heap::release();
        session.map_err(|source| refused("graph", source))
    }
}

fn with_packed(
    builder: SessionBuilder,
    matrices: Vec<Packed>,
    norms: Vec<Norm>,
    threads: NonZeroUsize,
) -> Result<SessionBuilder, GgufError> {
    if matrices.is_empty() {
        return Ok(builder);
    }
    let refused = |source| refused("our own operators", source);
    let Some(processor) = Processor::detect() else {
        return Err(refused(ort::Error::new("this processor has no AVX2")));
    };
    packed::register(builder, processor, (matrices, norms), threads).map_err(refused)
}

fn zeros(len: usize) -> Arc<[u8]> {
    repeat_n(0, len).collect()
}

fn add(
    builder: SessionBuilder,
    slot: &Slot,
    bytes: Arc<[u8]>,
) -> Result<SessionBuilder, GgufError> {
    builder
        .with_external_initializer_file_in_memory(&slot.name, bytes)
        .map_err(|error| refused(&slot.name, error.into()))
}

fn refused(name: &str, source: ort::Error) -> GgufError {
    GgufError::HandOver { name: name.to_owned(), source }
}
