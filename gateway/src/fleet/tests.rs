//! The fleet's task, as far as it can be seen without any process.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::FutureExt as _;

use super::scheduler::{Budget, NextView};
use super::*;
use crate::config::ModelSettings;
use crate::keep_alive::KeepAlivePolicy;
use crate::ollama::ps::tests::status;

fn rules() -> Rules {
    let long = Duration::from_secs(60);
    Rules {
        queue_max: 4,
        queue_timeout: long,
        load_stall_timeout: long,
        hang_timeout: long,
        grace_period: long,
        budget: Budget::default(),
        swap_after: long,
    }
}

fn workers() -> WorkerSettings {
    let defaults = ModelSettings {
        context_length: None,
        slots: None,
        cuda_graphs: false,
        threads: None,
        execution_provider: hearth_shared::protocol::ExecutionProvider::Cpu,
        graph: hearth_shared::protocol::GraphChoice::Default,
        variant: None,
        keep_alive: KeepAlivePolicy::of(KeepAlive::Forever),
        pinned: false,
        preload: false,
    };
    WorkerSettings {
        program: "/there/is/no/worker".into(),
        environment: Vec::new(),
        run_dir: "/there/is/no/directory".into(),
        runtime_library: "/there/is/no/library".into(),
        models: Models { defaults, by_name: BTreeMap::new() },
        records: "/there/is/no/file".into(),
    }
}

async fn models_asked_for(leaves: bool) -> usize {
    let (fleet, task) = Fleet::new(rules(), workers()).unwrap();
    let model = status("m", NextView::Leaving, "stopping").model;
    let mut request = Box::pin(fleet.acquire(&model, None));
    assert!((&mut request).now_or_never().is_none(), "it waits");
    let request = (!leaves).then_some(request);
    fleet.drain(Instant::now()).await;
    task.run().await;
    drop(request);
    fleet.snapshot().models.len()
}

#[tokio::test]
async fn a_request_whose_client_left_before_it_was_heard_starts_nothing() {
    assert_eq!(models_asked_for(false).await, 1);
    assert_eq!(models_asked_for(true).await, 0);
}
