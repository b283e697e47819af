//! What each model's worker took when it was last loaded, kept across restarts; and what one is
//! reckoned to take that never was.
//!
//! The fleet's task asks before a load and notes what it sees. The file is small, written whole and
//! moved into its place, so that a gateway that is killed leaves the old one or the new one. It is
//! no more than a memory: one that is damaged is forgotten.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use hearth_shared::ids::ModelName;
use hearth_shared::protocol::{ExecutionProvider, GraphChoice, LoadSpec};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::scheduler::Need;
use crate::catalog::Model;

/// What a worker takes beside its weights: itself, ONNX Runtime, a tokenizer, some cache. With
/// SmolLM2-135M a worker was seen to take at most 146 MiB (`default`, `memory`) and 559 MiB (`exact`)
/// while it loaded the GGUF file of 93.8 MiB, and 192 MiB with the 4-bit folder of 85 MiB.
const BESIDE_WEIGHTS: u64 = 192 << 20;
/// A GGUF file's weights are held in this many eighths of a byte each, whatever the file has...
const GGUF_BITS: u64 = 9;
/// ...but where the worker packs them: few of those of a file of at most 4 bits have more there.
const PACKED_BITS: u64 = 6;
/// A worker's cache begins with room for so many tokens in each slot, and grows when one has more...
const CACHE_TOKENS: u64 = 256;
/// ...each number of it as wide as caches have them.
const CACHE_NUMBER_BYTES: u64 = 4;
/// So many slots a worker makes at most where nobody says how many.
const SLOTS_UNSAID: u64 = 16;
/// A need that grew by less than this part is not worth writing down.
const WORTH_NOTING: u64 = 32;

/// What one worker took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// While it loaded, at most.
    load_memory: u64,
    /// While it served, at most.
    memory: u64,
    device: u64,
}

impl Record {
    /// What loading it takes.
    pub(super) fn load(self) -> Need {
        Need { memory: self.load_memory.max(self.memory), device: self.device }
    }

    /// What it takes once it is loaded.
    pub(super) fn settled(self) -> Need {
        Need { memory: self.memory, device: self.device }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// Of files, settings and program: the record is for exactly these.
    key: String,
    #[serde(flatten)]
    record: Record,
}

/// All records, by model.
#[derive(Debug, Default)]
pub(super) struct Records {
    file: PathBuf,
    entries: BTreeMap<ModelName, Entry>,
    changed: bool,
    /// Whether the last write failed, which is told once.
    failing: bool,
}

impl Records {
    /// Reads the file; one that is not there or makes no sense is as good as empty.
    pub(super) fn open(file: PathBuf) -> Self {
        let entries = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                let path = file.display();
                tracing::warn!("{path} makes no sense and is begun anew: {error}");
                BTreeMap::new()
            }),
            Err(_not_there_yet) => BTreeMap::new(),
        };
        Self { file, entries, changed: false, failing: false }
    }

    /// What the model took with this fingerprint.
    pub(super) fn of(&self, model: &ModelName, fingerprint: &str) -> Option<Record> {
        let entry = self.entries.get(model)?;
        (entry.key == key(fingerprint)).then_some(entry.record)
    }

    /// Notes what it takes now; what it once took stays, unless it was another.
    pub(super) fn note(&mut self, model: &ModelName, fingerprint: &str, load_peak: u64, now: Need) {
        let key = key(fingerprint);
        let seen = Record { load_memory: load_peak, memory: now.memory, device: now.device };
        let entry = self.entries.get(model).filter(|entry| entry.key == key);
        let record = entry.map_or(seen, |Entry { record, .. }| Record {
            load_memory: record.load_memory.max(load_peak),
            memory: record.memory.max(now.memory),
            device: record.device.max(now.device),
        });
        let worth = entry.is_none_or(|Entry { record: old, .. }| {
            let grew = |old: u64, new: u64| new > old + old / WORTH_NOTING;
            grew(old.load_memory, record.load_memory)
                || grew(old.memory, record.memory)
                || grew(old.device, record.device)
        });
        if worth {
            self.entries.insert(model.clone(), Entry { key, record });
            self.changed = true;
        }
    }

    /// The file's new content and place, if there is anything new.
    pub(super) fn take_unwritten(&mut self) -> Option<(PathBuf, Vec<u8>)> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let bytes = serde_json::to_vec_pretty(&self.entries).expect("names and numbers are JSON");
        Some((self.file.clone(), bytes))
    }

    /// Heeds how a write ended. Serving goes on in any case: what could not be written is tried
    /// again with the next look at the workers, and if it never works, the first load after the next
    /// start is reckoned from its files.
    pub(super) fn written(&mut self, outcome: io::Result<()>) {
        let path = self.file.display();
        match outcome {
            Ok(()) if self.failing => tracing::info!(%path, "what models take is written again"),
            Ok(()) => {}
            Err(error) => {
                self.changed = true;
                if !self.failing {
                    tracing::warn!(%path, %error, "what models take can't be written down");
                }
                self.failing = true;
                return;
            }
        }
        self.failing = false;
    }
}

/// Writes a file whole or not at all. Blocks.
///
/// # Errors
/// What the system says; the file is as it was, and nothing lies beside it.
pub(super) fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = file.with_extension("new");
    let written = std::fs::write(&draft, bytes).and_then(|()| std::fs::rename(&draft, file));
    if written.is_err() {
        // Half of it on a full disk helps nobody. If not even that can be removed, the next write
        // begins with it.
        let _ = std::fs::remove_file(&draft);
    }
    written
}

fn key(fingerprint: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(fingerprint);
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// What a model that was never loaded is likely to take, by its files: while it loads, which is when
/// it takes most.
pub(super) fn reckon(model: &Model, spec: &LoadSpec) -> Need {
    let is_gguf = model.facts.format == "gguf";
    let is_packed = is_gguf && spec.graph != GraphChoice::Exact && can_pack();
    let weights = if is_gguf {
        let bits = bits(&model.facts.quantization_level);
        let held = if is_packed && bits <= 4 { PACKED_BITS } else { GGUF_BITS };
        // Half a bit for the scales that stand beside the weights in the file.
        model.size_bytes.saturating_mul(2 * held) / (2 * bits + 1)
    } else {
        model.size_bytes
    };
    let tokens = spec.context_length.map_or(CACHE_TOKENS, |all| CACHE_TOKENS.min(all.into()));
    let slot = model.facts.cache_per_token.saturating_mul(tokens * CACHE_NUMBER_BYTES);
    // Those of a GGUF file that are not packed are made, and then copied by ONNX Runtime.
    let copies = if is_gguf && !is_packed { 2 } else { 1 };
    match spec.execution_provider {
        ExecutionProvider::Cuda | ExecutionProvider::DirectMl => {
            // A device has the whole cache from the start.
            let slots = spec.slots.map_or(SLOTS_UNSAID, u64::from);
            let device = weights.saturating_add(slot.saturating_mul(slots));
            Need { memory: BESIDE_WEIGHTS, device }
        }
        ExecutionProvider::Cpu | ExecutionProvider::Auto => {
            // Pages of RAM are taken when they are first written to: slots that nobody asked for cost
            // nothing until they are used, and to promise them would refuse what fits.
            let cache = slot.saturating_mul(spec.slots.map_or(1, u64::from));
            let memory = weights.saturating_mul(copies).saturating_add(BESIDE_WEIGHTS);
            Need { memory: memory.saturating_add(cache), device: 0 }
        }
    }
}

/// Whether a worker on this machine's CPU packs a GGUF file's weights, as the worker decides it.
fn can_pack() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// `Q4_K_M` is 4, `BF16` 16; what says nothing is taken for the smallest, which asks for most.
fn bits(quantization: &str) -> u64 {
    let digits = quantization.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok().filter(|bits| (2..=64).contains(bits)).unwrap_or(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(memory: u64) -> Need {
        Need { memory, device: 0 }
    }

    #[test]
    fn what_was_seen_is_kept_across_restarts_and_for_the_same_files_alone() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("memory.json");
        let m: ModelName = "m".parse().unwrap();
        let mut records = Records::open(file.clone());
        assert_eq!(records.of(&m, "files"), None);
        records.note(&m, "files", 300, need(100));
        records.note(&m, "files", 200, need(150));
        let (path, bytes) = records.take_unwritten().unwrap();
        assert_eq!(records.take_unwritten(), None);
        records.written(write(&path, &bytes));
        let mut records = Records::open(file.clone());
        let record = records.of(&m, "files").unwrap();
        assert_eq!((record.load(), record.settled()), (need(300), need(150)));
        assert_eq!(records.of(&m, "other files"), None);
        records.note(&m, "files", 301, need(151));
        assert_eq!(records.take_unwritten(), None, "hardly more");
        std::fs::write(&file, "{").unwrap();
        assert_eq!(Records::open(file).of(&m, "files"), None);
    }

    #[test]
    fn a_model_that_took_more_while_it_served_than_while_it_loaded_is_promised_that() {
        let mut records = Records::open(PathBuf::from("/nowhere"));
        let m: ModelName = "m".parse().unwrap();
        records.note(&m, "files", 300, need(100));
        records.note(&m, "files", 300, need(450));
        records.note(&m, "files", 280, need(90));
        assert_eq!(records.of(&m, "files").map(Record::load), Some(need(450)));
    }

    fn spec() -> LoadSpec {
        LoadSpec {
            model_path: String::new(),
            variant: None,
            graph: GraphChoice::default(),
            runtime_library: String::new(),
            execution_provider: ExecutionProvider::Auto,
            threads: None,
            context_length: None,
            slots: None,
            cuda_graphs: false,
        }
    }

    #[test]
    fn a_first_load_is_promised_what_its_cache_begins_with() {
        const PER_TOKEN: u64 = 30 * 3 * 2 * 64;
        let model = Model {
            name: "m".parse().unwrap(),
            path: "/m".into(),
            size_bytes: 1000,
            modified: jiff::Timestamp::UNIX_EPOCH,
            digest: String::new(),
            variants: BTreeMap::new(),
            facts: crate::catalog::Facts {
                format: "onnx",
                kind: hearth_shared::protocol::ModelKind::Generate,
                family: String::new(),
                parameter_size: String::new(),
                quantization_level: String::new(),
                cache_per_token: PER_TOKEN,
            },
        };
        let (cpu, cuda) = (ExecutionProvider::Cpu, ExecutionProvider::Cuda);
        for (execution_provider, slots, context_length, tokens) in [
            (cpu, None, None, 256),
            (cpu, Some(4), None, 4 * 256),
            (cpu, Some(4), Some(100), 4 * 100),
            (cpu, Some(4), Some(100_000), 4 * 256),
            (cuda, None, None, 16 * 256),
            (cuda, Some(2), None, 2 * 256),
        ] {
            let spec = LoadSpec { execution_provider, slots, context_length, ..spec() };
            let with_cache = 1000 + 4 * PER_TOKEN * tokens;
            let expected = if execution_provider == cuda {
                Need { memory: BESIDE_WEIGHTS, device: with_cache }
            } else {
                need(BESIDE_WEIGHTS + with_cache)
            };
            assert_eq!(reckon(&model, &spec), expected, "{slots:?} {context_length:?}");
        }
    }

    #[test]
    fn what_could_not_be_written_leaves_nothing_behind_and_is_tried_again() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("memory.json");
        // A directory in its place can't be replaced by a file.
        std::fs::create_dir(&file).unwrap();
        let mut records = Records::open(file.clone());
        records.note(&"m".parse().unwrap(), "files", 300, need(100));
        for _ in 0..2 {
            let (path, bytes) = records.take_unwritten().unwrap();
            records.written(write(&path, &bytes));
            assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
        }
        std::fs::remove_dir(&file).unwrap();
        let (path, bytes) = records.take_unwritten().unwrap();
        records.written(write(&path, &bytes));
        assert_eq!(records.take_unwritten(), None);
        assert_eq!(std::fs::read(&file).unwrap(), bytes);
    }

    #[test]
    fn the_bits_of_a_weight_are_read_from_ollamas_words() {
        for (words, bits_each) in
            [("Q4_K_M", 4), ("Q8_0", 8), ("F16", 16), ("BF16", 16), ("", 4), ("unknown", 4)]
        {
            assert_eq!(bits(words), bits_each, "{words}");
        }
    }
}
