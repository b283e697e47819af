//! Workers that are sent away while they are wanted, and requests at the very deadline.

use super::*;

fn forced() -> Event {
    Event::Unload { model: model(), when: Unloading::Forced }
}

#[test]
fn a_forced_unload_ends_what_is_in_flight_and_refuses_who_waits() {
    let mut bench = Bench::new();
    bench.acquire();
    let (waiting, _) = bench.acquire();
    bench.ready(FIRST, 1);
    assert_eq!(
        bench.handle(forced()),
        [
            Effect::Refuse { ticket: waiting, refusal: Refusal::Unloaded },
            Effect::CutOff { worker: FIRST },
            Effect::Terminate { worker: FIRST }
        ]
    );
    // Once more, for one that does not go.
    assert_eq!(bench.handle(forced()), [Effect::Kill { worker: FIRST }]);
    assert_eq!(bench.exited(FIRST), [gone(FIRST, StopReason::Unloaded)]);
}

#[test]
fn a_forced_unload_ends_a_load() {
    let mut bench = Bench::new();
    let (ticket, _) = bench.acquire();
    assert_eq!(
        bench.handle(forced()),
        [
            Effect::Refuse { ticket, refusal: Refusal::Unloaded },
            Effect::Terminate { worker: FIRST }
        ]
    );
}

#[test]
fn changed_files_are_served_by_the_next_worker_while_the_old_one_finishes() {
    let mut bench = Bench::new();
    let (old, _) = bench.acquire_files(None, "old");
    bench.ready(FIRST, 2);
    let (new, effects) = bench.acquire_files(None, "new");
    assert_eq!((effects, bench.word()), (vec![], Some("busy")));
    assert_eq!(bench.leave(old), [Effect::Terminate { worker: FIRST }]);
    assert_eq!(bench.exited(FIRST), [gone(FIRST, StopReason::Replaced), spawn(SECOND)]);
    assert_eq!(bench.ready(SECOND, 1), [Effect::Grant { ticket: new, worker: SECOND }]);
}

#[test]
fn an_idle_worker_whose_files_changed_or_are_gone_leaves_at_once() {
    for profile in [None, Some("new")] {
        let mut bench = Bench::with_idle_worker(1, None);
        let profile = profile.map(|fingerprint| {
            Arc::new(Profile { fingerprint: fingerprint.to_owned(), ..bench.profile.clone() })
        });
        let revised = bench.handle(Event::Revise { model: model(), profile });
        assert_eq!(revised, [Effect::Terminate { worker: FIRST }]);
        assert_eq!(bench.exited(FIRST), [gone(FIRST, StopReason::Replaced)]);
    }
}

#[test]
fn another_keep_alive_in_the_configuration_moves_the_deadline_and_stops_nobody() {
    let mut bench = Bench::with_idle_worker(1, None);
    let idle_since = bench.now;
    bench.now += seconds(100);
    let keep_alive = KeepAlivePolicy::of(KeepAlive::For(seconds(200)));
    let fingerprint = "files".to_owned();
    let profile = Profile { fingerprint, keep_alive, ..bench.profile.clone() };
    let event = Event::Revise { model: model(), profile: Some(Arc::new(profile)) };
    assert_eq!(bench.handle(event), []);
    assert_eq!(bench.scheduler.next_deadline(), Some(idle_since + seconds(200)));
}

/// Ten thousand requests from two milliseconds before the deadline to two after it, the owner's
/// clock looked at before the request or after: every one is served.
#[test]
fn a_request_at_the_idle_deadline_is_always_served() {
    for trial in 0..10_000_u64 {
        let mut bench = Bench::with_idle_worker(1, keep(10));
        bench.now += seconds(10) - Duration::from_millis(2) + Duration::from_nanos(400 * trial);
        let looked = trial % 2 == 0 && !bench.handle(Event::Tick).is_empty();
        let (ticket, effects) = bench.acquire();
        let late = bench.handle(Event::Tick);
        if looked {
            assert_eq!((effects, late), (vec![], vec![]));
            assert_eq!(bench.exited(FIRST), [gone(FIRST, StopReason::Expired), spawn(SECOND)]);
            let served = bench.ready(SECOND, 1);
            assert_eq!(served, [Effect::Grant { ticket, worker: SECOND }]);
        } else {
            assert_eq!(effects, [Effect::Grant { ticket, worker: FIRST }]);
            assert_eq!(late, []);
        }
    }
}

#[test]
fn an_order_given_again_is_carried_out_once() {
    let mut bench = Bench::with_idle_worker(1, None);
    let unload = |when| Event::Unload { model: model(), when };
    let told = Effect::Terminate { worker: FIRST };
    assert_eq!(bench.handle(unload(Unloading::Unused)), [told]);
    for _ in 0..3 {
        assert_eq!(bench.handle(unload(Unloading::Unused)), []);
    }
    assert_eq!(bench.exited(FIRST), [gone(FIRST, StopReason::Unloaded)]);
    assert_eq!(bench.handle(unload(Unloading::Unused)), []);
    assert_eq!(bench.handle(unload(Unloading::Forced)), []);
    let until = bench.now + seconds(30);
    assert_eq!(bench.handle(Event::Drain { until }), []);
    assert_eq!(bench.handle(Event::Drain { until }), []);
    assert!(bench.scheduler.is_empty());
}
