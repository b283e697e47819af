//! Workers that fail, stall or do not go.

use hearth_shared::protocol::{LoadFailure, LoadFailureKind};

use super::*;

#[test]
fn a_worker_that_ignores_term_is_killed_after_the_grace_period_once() {
    let mut bench = Bench::with_idle_worker(1, keep(10));
    bench.after(seconds(10));
    assert_eq!(bench.after(seconds(4)), []);
    assert_eq!(bench.after(seconds(1)), [Effect::Kill { worker: FIRST }]);
    assert_eq!(bench.after(seconds(60)), []);
}

#[test]
fn a_load_without_progress_is_killed_and_its_waiters_hear_why() {
    let mut bench = Bench::new();
    let (ticket, _) = bench.acquire();
    bench.after(seconds(59));
    let stage = LoadStage::Files;
    bench.handle(tell(FIRST, WorkerNews::LoadProgress { stage, fraction: 0.1 }));
    assert_eq!(bench.after(seconds(59)), []);
    let failure = WorkerFailure::LoadStalled(seconds(60));
    assert_eq!(
        bench.after(seconds(1)),
        [
            Effect::Refuse { ticket, refusal: Refusal::LoadFailed(failure.clone()) },
            Effect::Kill { worker: FIRST }
        ]
    );
    assert_eq!(bench.exited(FIRST), [gone(FIRST, StopReason::Failed(failure))]);
}

#[test]
fn a_busy_worker_without_progress_is_killed() {
    let mut bench = Bench::new();
    bench.acquire();
    bench.ready(FIRST, 1);
    bench.after(seconds(29));
    bench.handle(tell(FIRST, WorkerNews::Progress));
    assert_eq!(bench.after(seconds(29)), []);
    assert_eq!(bench.after(seconds(1)), [Effect::Kill { worker: FIRST }]);
    assert_eq!(
        bench.exited(FIRST),
        [gone(FIRST, StopReason::Failed(WorkerFailure::Hung(seconds(30))))]
    );
}

#[test]
fn the_first_crash_is_forgiven_and_the_next_back_off() {
    let mut bench = Bench::with_idle_worker(1, None);
    let crash = WorkerFailure::Crashed(ProcessExit::Code(101));
    bench.exited(FIRST);
    assert_eq!(bench.word(), None);
    for (worker, pause) in [(2, 1), (3, 2), (4, 4), (5, 8), (6, 16), (7, 32), (8, 60), (9, 60)] {
        let (_, effects) = bench.acquire();
        assert_eq!(effects, [spawn_for(SpawnReason::Restart, WorkerId(worker))]);
        bench.ready(WorkerId(worker), 1);
        bench.exited(WorkerId(worker));
        assert_eq!(bench.word(), Some("failed"));
        let (_, effects) = bench.acquire();
        let [Effect::Refuse { refusal: Refusal::BackingOff { failure, retry_after }, .. }] =
            &effects[..]
        else {
            panic!("{effects:?}")
        };
        assert_eq!(failure, &crash);
        let within = seconds(pause) * 3 / 4..=seconds(pause);
        assert!(within.contains(retry_after), "{retry_after:?} for {pause} s");
        bench.after(seconds(pause) * 3 / 4 - Duration::from_millis(1));
        assert_eq!(bench.word(), Some("failed"));
        bench.after(seconds(pause) / 4 + Duration::from_millis(1));
        assert_eq!(bench.word(), None);
    }
}

#[test]
fn five_healthy_minutes_end_the_count_of_failures() {
    let mut bench = Bench::with_idle_worker(1, Some(KeepAlive::Forever));
    bench.exited(FIRST);
    bench.acquire_with(Some(KeepAlive::Forever));
    bench.ready(SECOND, 1);
    let ticket = TicketId(bench.tickets);
    bench.leave(ticket);
    bench.now += seconds(300);
    bench.exited(SECOND);
    assert_eq!(bench.word(), None);
}

#[test]
fn requests_that_wait_for_a_slot_survive_the_first_crash() {
    let mut bench = Bench::new();
    bench.acquire();
    let (waiting, _) = bench.acquire();
    bench.ready(FIRST, 1);
    let crash = StopReason::Failed(WorkerFailure::Crashed(ProcessExit::Code(101)));
    assert_eq!(bench.exited(FIRST), [gone(FIRST, crash), spawn_for(SpawnReason::Restart, SECOND)]);
    assert_eq!(bench.ready(SECOND, 1), [Effect::Grant { ticket: waiting, worker: SECOND }]);
    assert_eq!(bench.view().restarts, 1);
}

#[test]
fn a_load_error_that_repeats_is_not_retried_until_the_files_change() {
    let mut bench = Bench::new();
    let (ticket, _) = bench.acquire();
    let failure = WorkerFailure::Load(LoadFailure {
        kind: LoadFailureKind::BadFiles,
        message: "tokenizer.json is missing".to_owned(),
    });
    let refusal = Refusal::LoadFailed(failure.clone());
    let told = tell(FIRST, WorkerNews::Failed(failure.clone()));
    assert_eq!(
        bench.handle(told),
        [Effect::Refuse { ticket, refusal: refusal.clone() }, Effect::Terminate { worker: FIRST }]
    );
    assert_eq!(bench.exited(FIRST), [gone(FIRST, StopReason::Failed(failure))]);
    bench.after(seconds(100_000));
    let (ticket, effects) = bench.acquire();
    assert_eq!(effects, [Effect::Refuse { ticket, refusal }]);
    let (_, effects) = bench.acquire_files(None, "other files");
    assert_eq!(effects, [spawn(SECOND)]);
}
