//! Damaged GGUF files: always a typed error or a sound model, never a panic.
//!
//! Memory is bounded because every count is held against what is left of the file; what the
//! allocations are is looked at where a lying count would show: a small file that claims much.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should panic")]

use std::{path::PathBuf, sync::OnceLock};

use hearth_worker::gguf::{self, GgufError, GraphKind, GraphOptions, Positions};
use proptest::prelude::*;

/// The header, the metadata and the tensor table take about this much of the fixture.
const HEAD: usize = 16 * 1024;

fn sound() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gguf");
        std::fs::read(fixtures.join("tiny-llama-q4_0.gguf")).unwrap()
    })
}

/// Opens it and builds every graph: all that is done before ONNX Runtime sees anything.
fn use_whole(bytes: Vec<u8>) -> Result<(), GgufError> {
    let (model, _) = gguf::from_bytes(bytes)?;
    let kinds = [GraphKind::Packed, GraphKind::Columns, GraphKind::Exact, GraphKind::Reference];
    for kind in kinds {
        let options = GraphOptions { kind, logits: Positions::Last, context_length: 64 };
        gguf::build_graph(&model, options)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_file_cut_anywhere_is_refused(length in 0..sound().len()) {
        prop_assert!(use_whole(sound()[..length].to_vec()).is_err());
    }

    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0..HEAD, any::<u8>()), 1..6)) {
        let mut bytes = sound().to_vec();
        for (at, value) in flips {
            bytes[at] = value;
        }
        // Either outcome is right: a flip may hit a token's text.
        drop(use_whole(bytes));
    }

    #[test]
    fn huge_numbers_anywhere_never_panic(at in 0..HEAD, huge in prop_oneof![
        Just(u64::MAX), Just(u64::MAX / 2), Just(1_u64 << 40), Just(u64::from(u32::MAX)),
    ]) {
        let mut bytes = sound().to_vec();
        bytes[at..at + 8].copy_from_slice(&huge.to_le_bytes());
        drop(use_whole(bytes));
    }

    #[test]
    fn bytes_that_only_begin_like_a_file_are_refused(rest in prop::collection::vec(any::<u8>(), 0..512)) {
        let bytes = [b"GGUF\x03\0\0\0", &rest[..]].concat();
        prop_assert!(use_whole(bytes).is_err());
    }
}

fn refusal(bytes: Vec<u8>) -> String {
    use_whole(bytes).unwrap_err().to_string()
}

fn changed(at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = sound().to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

#[test]
fn refusals_name_what_is_wrong() {
    let message = refusal(b"PK\x03\x04".to_vec());
    assert_eq!(message, "not a GGUF file: it starts with [50, 4b, 03, 04]");
    let message = refusal(changed(4, &1_u32.to_le_bytes()));
    assert_eq!(message, "GGUF version 1 is not read: versions 2 and 3 are (little-endian)");
    let message = refusal(changed(16, &u64::MAX.to_le_bytes()));
    assert_eq!(
        message,
        format!(
            "the metadata count says {} entries, but {} bytes are left",
            u64::MAX,
            sound().len() - 24
        )
    );
    let cut = sound().len() - 1;
    let message = refusal(sound()[..cut].to_vec());
    assert!(message.ends_with("lead past the end of the file"), "{message}");
}

#[test]
fn version_2_reads_as_version_3_does() {
    assert!(use_whole(changed(4, &2_u32.to_le_bytes())).is_ok());
}

/// What the fuzzer's corpus has under this name.
fn seed(name: &str) -> Vec<u8> {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/gguf");
    std::fs::read(corpus.join(name)).unwrap()
}

#[test]
fn a_merge_that_makes_no_token_is_refused_however_long_it_is() {
    let message = refusal(seed("merge-longer-than-any-token"));
    assert_eq!(message, "vocabulary: merge `</s> <s>` makes no token");
}
