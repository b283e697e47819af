//! How much there is, how much a worker takes, and the sums of both. Pure arithmetic.
//!
//! `eviction.rs` compares the sums; nothing here knows a state or a queue.

use std::fmt;

/// What one worker takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Need {
    /// Of RAM.
    pub memory: u64,
    /// Of the devices' memory.
    pub device: u64,
}

impl Need {
    pub(super) fn max(self, other: Self) -> Self {
        Self { memory: self.memory.max(other.memory), device: self.device.max(other.device) }
    }
}

/// What all workers together may take; `None` sets no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// Of RAM, in bytes.
    pub memory: Option<u64>,
    /// Of the devices' memory, in bytes.
    pub device: Option<u64>,
    /// How many workers.
    pub models: Option<u64>,
}

/// What can be short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// RAM.
    Memory,
    /// The devices' memory.
    Device,
    /// The number of workers.
    Models,
}

/// What several workers take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum {
    memory: u64,
    device: u64,
    models: u64,
}

impl Sum {
    /// One worker.
    pub(super) fn one(need: Need) -> Self {
        Self { memory: need.memory, device: need.device, models: 1 }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            memory: self.memory.saturating_add(other.memory),
            device: self.device.saturating_add(other.device),
            models: self.models.saturating_add(other.models),
        }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self {
            memory: self.memory.saturating_sub(other.memory),
            device: self.device.saturating_sub(other.device),
            models: self.models.saturating_sub(other.models),
        }
    }

    pub(super) fn of(self, resource: Resource) -> u64 {
        match resource {
            Resource::Memory => self.memory,
            Resource::Device => self.device,
            Resource::Models => self.models,
        }
    }
}

impl Budget {
    pub(super) fn of(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Memory => self.memory,
            Resource::Device => self.device,
            Resource::Models => self.models,
        }
    }

    /// The first thing of which there is not enough for `sum`.
    pub(super) fn lacks(&self, sum: Sum) -> Option<Resource> {
        [Resource::Memory, Resource::Device, Resource::Models]
            .into_iter()
            .find(|resource| self.of(*resource).is_some_and(|limit| sum.of(*resource) > limit))
    }
}

/// What a worker's process holds of the budget, from its spawn until it is reaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// The profile's fingerprint that it was started with.
    pub(super) fingerprint: String,
    /// What its load was expected to take.
    pub(super) promised: Need,
    /// What it is expected to take once it is loaded; `None` if nobody has seen it before.
    pub(super) settled: Option<Need>,
    /// What it takes, once somebody has looked.
    pub(super) measured: Option<Need>,
    /// Whether it has loaded all that it will.
    pub(super) ready: bool,
}

impl Claim {
    /// What it counts for. A worker that took more before will do so again once it is used; what
    /// was merely reckoned gives way to what is seen.
    pub(super) fn need(&self) -> Need {
        let expected = if self.ready { self.settled } else { Some(self.promised) };
        match (expected, self.measured) {
            (Some(expected), Some(measured)) => measured.max(expected),
            (None, Some(measured)) => measured,
            (Some(expected), None) => expected,
            (None, None) => self.promised,
        }
    }
}

/// Workers hold more than there may be: those in use have grown, or the budget has shrunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excess {
    /// Of what.
    pub resource: Resource,
    /// How much they hold.
    pub held: u64,
    /// How much there may be.
    pub limit: u64,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, held, limit } = *self;
        let (held, limit, what) = match resource {
            Resource::Memory => (Bytes(held).to_string(), Bytes(limit).to_string(), "memory"),
            Resource::Device => {
                (Bytes(held).to_string(), Bytes(limit).to_string(), "device memory")
            }
            Resource::Models => (held.to_string(), limit.to_string(), "models"),
        };
        write!(f, "{held} of {what} where {limit} may be")
    }
}

/// Why a model can never be loaded as things are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRoom {
    /// What is short.
    pub resource: Resource,
    /// How much of it the model needs.
    pub need: u64,
    /// Whether that was only reckoned from its files.
    pub estimated: bool,
    /// How much there may be.
    pub limit: u64,
    /// How much of that pinned models hold.
    pub pinned: u64,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { need, limit, pinned, .. } = *self;
        let known = if self.estimated { "by its files" } else { "as it did before" };
        let (what, key) = match self.resource {
            Resource::Memory => ("memory", "memory"),
            Resource::Device => ("device memory", "device_memory"),
            Resource::Models => {
                return write!(
                    f,
                    "{pinned} models are pinned and {limit} may be loaded at once; unload one, or \
                     raise max_models"
                );
            }
        };
        write!(
            f,
            "the model needs {} of {what} {known}, and {} is all there may be",
            Bytes(need),
            Bytes(limit)
        )?;
        if pinned > 0 {
            write!(f, ", of which pinned models hold {}", Bytes(pinned))?;
        }
        write!(f, "; raise `{key}`, or give the model a smaller context_length or fewer slots")
    }
}

/// `5.1 GiB`.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let Self(bytes) = *self;
        match UNITS.into_iter().find(|(_, unit)| bytes >= *unit) {
            Some((name, unit)) => write!(f, "{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
            None => write!(f, "{bytes} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_counts_instead_of_what_was_reckoned_and_beside_what_was_seen_before() {
        let need = |memory| Need { memory, device: 0 };
        let claim = |ready, settled: Option<u64>, measured: Option<u64>| Claim {
            fingerprint: String::new(),
            promised: need(10),
            settled: settled.map(need),
            measured: measured.map(need),
            ready,
        };
        for (ready, settled, measured, counts) in [
            (false, None, None, 10),
            (false, None, Some(3), 10),
            (false, Some(5), Some(30), 30),
            (true, None, None, 10),
            (true, None, Some(3), 3),
            (true, Some(5), None, 5),
            (true, Some(5), Some(3), 5),
            (true, Some(5), Some(30), 30),
        ] {
            assert_eq!(claim(ready, settled, measured).need(), need(counts));
        }
    }

    #[test]
    fn an_excess_holds_the_sums() {
        let excess = |resource| Excess { resource, held: 3 << 30, limit: 2 << 30 }.to_string();
        assert_eq!(excess(Resource::Memory), "3.0 GiB of memory where 2.0 GiB may be");
        assert_eq!(excess(Resource::Device), "3.0 GiB of device memory where 2.0 GiB may be");
        let models = Excess { resource: Resource::Models, held: 3, limit: 2 };
        assert_eq!(models.to_string(), "3 of models where 2 may be");
    }

    #[test]
    fn a_refusal_holds_the_sums() {
        let refusal = NoRoom {
            resource: Resource::Memory,
            need: 5 << 30,
            estimated: true,
            limit: (4 << 30) + (1 << 29),
            pinned: 1 << 20,
        };
        assert_eq!(
            refusal.to_string(),
            "the model needs 5.0 GiB of memory by its files, and 4.5 GiB is all there may be, of \
             which pinned models hold 1.0 MiB; raise `memory`, or give the model a smaller \
             context_length or fewer slots"
        );
    }
}
