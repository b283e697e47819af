//! Where a decoder's cache and its logits lie, and whether its steps can be captured.
//!
//! Pure. The loader asks ONNX Runtime where a session wants what ([`super::bound::asked`]) and decides
//! here; [`crate::generate::Forward`] does as it is told.

use std::collections::BTreeSet;

use super::bound::Place;
use super::interface::Interface;
use crate::model::CacheKind;

/// Where a decoder's memory lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) cache: Place,
    pub(crate) logits: Place,
    /// The session copies the cache to a device when it is bound: every run has to bind it anew.
    pub(crate) rebound: bool,
    /// Decode steps are captured.
    pub(crate) captured: bool,
}

/// Everything on the host, as every session on the CPU wants it.
pub(crate) const ON_HOST: Layout =
    Layout { cache: Place::Host, logits: Place::Host, rebound: false, captured: false };

/// Decides for a session that wants the named inputs and outputs on a device; `usable` says whether
/// that device's memory can be had and be viewed in part.
pub(crate) fn decide(
    interface: &Interface,
    kind: CacheKind,
    (wanted, usable): (&BTreeSet<String>, bool),
) -> Layout {
    let caches = || interface.layers.iter().flat_map(|layer| [&layer.past, &layer.present]);
    let in_place = kind == CacheKind::InPlace;
    // What is concatenated is packed anew for every run, which only the host can do.
    let on_device = usable && in_place && caches().all(|name| wanted.contains(name));
    let place = |on_device| if on_device { Place::Device } else { Place::Host };
    Layout {
        cache: place(on_device),
        logits: place(usable && wanted.contains(&interface.logits.name)),
        rebound: in_place && !on_device && caches().any(|name| wanted.contains(name)),
        captured: false,
    }
}

/// Why decode steps with this layout can't be captured; `None` if they can.
pub(crate) fn obstacle(layout: Layout, interface: &Interface) -> Option<&'static str> {
    if layout.cache == Place::Host {
        return Some("its cache does not lie in the device's memory");
    }
    if layout.logits == Place::Host {
        return Some("its logits do not lie in the device's memory");
    }
    if interface.extras.use_cache_branch.is_some() {
        return Some("its graph has branches");
    }
    if interface.layers.iter().any(|layer| layer.window_rows.is_some()) {
        return Some("its cache slides");
    }
    None
}

#[cfg(test)]
mod tests {
    use ort::value::TensorElementType;

    use super::*;
    use crate::runtime::interface::{Extras, KvLayer, Logits};

    fn interface() -> Interface {
        let layer = |part: &str| KvLayer {
            past: format!("past.{part}"),
            present: format!("present.{part}"),
            element: TensorElementType::Float16,
            heads: 1,
            head_size: 8,
            window_rows: None,
        };
        Interface {
            input_ids: "ids".to_owned(),
            attention_mask: "mask".to_owned(),
            logits: Logits {
                name: "logits".to_owned(),
                element: TensorElementType::Float16,
                vocabulary: 9,
                last_only: false,
            },
            layers: vec![layer("key"), layer("value")],
            extras: Extras::default(),
        }
    }

    const ALL: [&str; 6] =
        ["ids", "past.key", "past.value", "present.key", "present.value", "logits"];
    const RAGGED: CacheKind = CacheKind::Concatenated { ragged: true };

    fn layout(names: &[&str], kind: CacheKind, usable: bool) -> Layout {
        let wanted = names.iter().map(|&name| name.to_owned()).collect();
        decide(&interface(), kind, (&wanted, usable))
    }

    #[test]
    fn a_session_on_the_cpu_has_everything_on_the_host() {
        for kind in [CacheKind::InPlace, RAGGED] {
            assert_eq!(layout(&[], kind, false), ON_HOST);
            assert_eq!(layout(&[], kind, true), ON_HOST);
        }
    }

    #[test]
    fn a_session_on_a_device_has_there_what_it_wants_there() {
        let device = Layout { cache: Place::Device, logits: Place::Device, ..ON_HOST };
        assert_eq!(layout(&ALL, CacheKind::InPlace, true), device);
        // Only the last layer runs on the CPU.
        let logits = Layout { cache: Place::Device, ..ON_HOST };
        assert_eq!(layout(&ALL[..5], CacheKind::InPlace, true), logits);
    }

    #[test]
    fn a_cache_that_can_not_lie_where_it_is_wanted_is_bound_before_every_run() {
        let rebound = Layout { rebound: true, ..ON_HOST };
        assert_eq!(layout(&ALL, CacheKind::InPlace, false), rebound);
        let split = Layout { logits: Place::Device, ..rebound };
        assert_eq!(layout(&["past.key", "logits"], CacheKind::InPlace, true), split);
    }

    #[test]
    fn what_is_concatenated_is_packed_on_the_host() {
        let logits = Layout { logits: Place::Device, ..ON_HOST };
        assert_eq!(layout(&ALL, RAGGED, true), logits);
    }

    #[test]
    fn steps_are_captured_where_nothing_of_them_changes_place_or_shape() {
        let device = layout(&ALL, CacheKind::InPlace, true);
        assert_eq!(obstacle(device, &interface()), None);
        let on_host = obstacle(ON_HOST, &interface());
        assert_eq!(on_host, Some("its cache does not lie in the device's memory"));
        let logits = obstacle(Layout { logits: Place::Host, ..device }, &interface());
        assert_eq!(logits, Some("its logits do not lie in the device's memory"));
        let mut branches = interface();
        branches.extras.use_cache_branch = Some("use_cache_branch".to_owned());
        assert_eq!(obstacle(device, &branches), Some("its graph has branches"));
        let mut slides = interface();
        slides.layers[0].window_rows = Some(32);
        assert_eq!(obstacle(device, &slides), Some("its cache slides"));
    }
}
