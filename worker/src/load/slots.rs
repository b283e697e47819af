//! How many sequences a language model may run at once, where nobody says.
//!
//! Pure but for [`available_memory`]. A slot that is not used takes no memory, so the rule looks
//! at what full slots would take.

use std::fs;

use crate::runtime::bound::element_bytes;
use crate::runtime::interface::KvLayer;

/// More rows in a step than this slow each one down more than they get done together, on the
/// processors that a worker is likely to have.
const SLOTS_DEFAULT_MAX: u64 = 16;
/// Where the system doesn't tell how much memory it has.
const SLOTS_UNKNOWN: u32 = 4;
/// How long sequences are taken to get, where the context allows more: few are longer, and those
/// that are take the room of others that are not.
const TOKENS_EXPECTED: u64 = 8192;

/// So many slots that all of them, filled, take at most half of the memory that is available.
pub(super) fn by_memory(layers: &[KvLayer], context_length: u32, available: Option<u64>) -> u32 {
    let Some(available) = available else {
        return SLOTS_UNKNOWN;
    };
    let token_bytes: usize = layers
        .iter()
        .map(|layer| layer.heads * layer.head_size * element_bytes(layer.element))
        .sum();
    let tokens = u64::from(context_length).min(TOKENS_EXPECTED);
    let slot_bytes = u64::try_from(token_bytes).unwrap_or(u64::MAX).saturating_mul(tokens);
    let slots = (available / 2 / slot_bytes.max(1)).clamp(1, SLOTS_DEFAULT_MAX);
    u32::try_from(slots).unwrap_or(SLOTS_UNKNOWN)
}

/// Bytes that this process could still take without anything being swapped out; `None` where the
/// system doesn't tell.
pub(super) fn available_memory() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| machine(&text))?;
    let read = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let group = read("memory.max").zip(read("memory.current"));
    Some(
        machine
            .min(group.and_then(|(max, current)| group_rest(&max, &current)).unwrap_or(u64::MAX)),
    )
}

fn machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// What a control group has left; `None` where it sets no limit.
fn group_rest(max: &str, current: &str) -> Option<u64> {
    let max: u64 = max.trim().parse().ok()?;
    let current: u64 = current.trim().parse().ok()?;
    Some(max.saturating_sub(current))
}

#[cfg(test)]
mod tests {
    use ort::value::TensorElementType;

    use super::*;

    /// As many layers as Llama 3.1 8B has: 128 KiB for each token.
    fn layers() -> Vec<KvLayer> {
        let layer = KvLayer {
            past: String::new(),
            present: String::new(),
            element: TensorElementType::Float16,
            heads: 8,
            head_size: 128,
            window_rows: None,
        };
        vec![layer; 64]
    }

    #[test]
    fn full_slots_take_at_most_half_of_the_memory() {
        const GIB: u64 = 1 << 30;
        // 8,192 tokens are 1 GiB.
        assert_eq!(by_memory(&layers(), 131_072, Some(16 * GIB)), 8);
        assert_eq!(by_memory(&layers(), 131_072, Some(15 * GIB)), 7);
        assert_eq!(by_memory(&layers(), 4096, Some(12 * GIB)), 12);
        assert_eq!(by_memory(&layers(), 4096, Some(100 * GIB)), 16);
        assert_eq!(by_memory(&layers(), 4096, Some(GIB / 8)), 1);
        assert_eq!(by_memory(&layers(), 4096, None), 4);
    }

    #[test]
    fn available_memory_is_read_as_the_system_writes_it() {
        let meminfo = "MemTotal:       24680000 kB\nMemAvailable:   12345678 kB\nBuffers: 1 kB\n";
        assert_eq!(machine(meminfo), Some(12_345_678 * 1024));
        assert_eq!(machine("MemTotal: 1 kB\n"), None);
        assert_eq!(group_rest("1000\n", "400\n"), Some(600));
        assert_eq!(group_rest("1000\n", "1400\n"), Some(0));
        assert_eq!(group_rest("max\n", "400\n"), None);
    }
}
