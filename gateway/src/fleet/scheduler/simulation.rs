//! The scheduler against a simulated world: thousands of random days, each from its own seed.
//!
//! A day is requests, clients that leave, processes that load, serve, grow, hang, fail, crash and
//! ignore orders, models whose files change, unloads and a drain, all on a clock of its own. The
//! world checks every effect when it carries it out and every rule of the fleet after every event.
//! A day that breaks one prints its seed; `HEARTH_SIMULATION_SEED=N` runs that day alone,
//! `HEARTH_SIMULATION_DAYS=N` another number of them.

mod chance;
mod day;
mod world;

use self::chance::Chance;
use self::day::Day;

/// So many days are looked at where nobody says.
const DAYS: u64 = 10_000;

#[expect(clippy::disallowed_methods, reason = "who replays a day says so in the environment")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn whatever_happens_the_rules_of_the_fleet_hold() {
    if let Some(seed) = number("HEARTH_SIMULATION_SEED") {
        return Day::new(seed).run();
    }
    let days = number("HEARTH_SIMULATION_DAYS").unwrap_or(DAYS);
    // Seeds of every run are the same: a failure is one that everybody sees.
    for seed in 0..days {
        let day = std::panic::catch_unwind(|| Day::new(seed).run());
        assert!(day.is_ok(), "replay it with HEARTH_SIMULATION_SEED={seed}");
    }
}

#[test]
fn chance_is_the_same_for_the_same_seed() {
    let draw = |seed| {
        let mut chance = Chance::new(seed);
        [chance.below(1000), chance.below(1000), chance.below(1000)]
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}
