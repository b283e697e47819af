//! Any bytes as a GGUF file: an error or a graph, never a panic and never much memory.

#![no_main]

use hearth_worker::gguf::{self, GraphKind, GraphOptions, Positions};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok((model, vocabulary)) = gguf::from_bytes(bytes.to_vec()) else { return };
    drop(vocabulary.tokenizer.encode("Hello, world", true));
    for kind in [GraphKind::Packed, GraphKind::Columns, GraphKind::Exact, GraphKind::Reference] {
        let options = GraphOptions { kind, logits: Positions::Last, context_length: 64 };
        drop(gguf::build_graph(&model, options));
    }
});
