//! The engine on a GPU, where there is one. Without one each test says that it was skipped, and why.
//!
//! What stays on the CPU for want of a kernel is allowed: the goldens must come out all the same.

use std::time::Instant;

use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{ExecutionProvider, LoadFailureKind, LoadSpec, Prompt};
use hearth_worker::{Loaded, load};

use crate::driver::{Driver, case_request, check, greedy, request};
use crate::golden::{fixture, golden, spec};

/// A folder with its cache and logits in float16, as CUDA's kernels want them.
const FOLDER: &str = "tiny-llama-fp16kv";
const FOLDERS: [&str; 3] = [FOLDER, "tiny-llama-genai-fp32", "tiny-llama-optimum-fp32"];

/// `None`, having said so, where no GPU can be had.
#[expect(clippy::print_stderr, reason = "who runs the tests has to see it")]
fn on_gpu(name: &str, cuda_graphs: bool) -> Option<Loaded> {
    let spec = LoadSpec {
        execution_provider: ExecutionProvider::Cuda,
        cuda_graphs,
        ..spec(&fixture(name))
    };
    match load(&spec, |_stage, _fraction| {}) {
        Ok(loaded) => Some(loaded),
        Err(failure) if failure.kind == LoadFailureKind::NoProvider => {
            eprintln!("SKIPPED: {}", failure.message);
            None
        }
        Err(failure) => panic!("{}", failure.message),
    }
}

fn gives_the_golden_ids(name: &str, cuda_graphs: bool) {
    let Some(loaded) = on_gpu(name, cuda_graphs) else { return };
    let mut driver = Driver::new(loaded);
    let cases = golden(name).cases;
    for (id, case) in (0..).zip(&cases) {
        driver.admit(id, case_request(case));
        for _ in 0..id % 4 * 5 {
            driver.tick();
        }
    }
    driver.finish();
    for (id, case) in (0..).zip(&cases) {
        check(case, &driver.answers[&RequestId(id)]);
    }
}

#[test]
fn a_gpu_gives_the_golden_ids_in_a_batch() {
    for name in FOLDERS {
        gives_the_golden_ids(name, false);
    }
}

#[test]
fn captured_steps_give_the_golden_ids_in_a_batch() {
    gives_the_golden_ids(FOLDER, true);
}

#[test]
fn a_gpu_is_told_with_what_runs_and_lies_there() {
    let Some(loaded) = on_gpu(FOLDER, false) else { return };
    let placement = loaded.card.placement.expect("every decoder says where it is");
    eprintln!("{placement:?}, {:?} bytes", loaded.card.device_bytes);
    assert_eq!(loaded.card.execution_provider, ExecutionProvider::Cuda);
    assert!(placement.device_nodes > 0 && placement.cache_on_device);
    assert!(loaded.card.device_bytes > Some(0));
}

#[test]
fn a_gpu_decodes_and_its_speed_is_printed() {
    for cuda_graphs in [false, true] {
        let Some(loaded) = on_gpu(FOLDER, cuda_graphs) else { return };
        let captured = loaded.card.placement.as_ref().is_some_and(|placed| placed.captured);
        let mut driver = Driver::new(loaded);
        // The first one warms up, and captures.
        for id in 0..2 {
            let prompt = Prompt::Tokens(vec![10, 20, 30]);
            driver.admit(id, request(prompt, 128, greedy()));
            let start = Instant::now();
            driver.finish();
            let tokens = driver.answers[&RequestId(id)].counts.1;
            let seconds = start.elapsed().as_secs_f64();
            eprintln!("captured {captured}: {:.0} tokens/s", f64::from(tokens) / seconds);
            assert!(tokens > 0);
        }
    }
}

/// Where there is a GPU or not: what the CPU runs lies on the host, every node of it.
#[test]
fn the_cpu_is_told_as_such() {
    let spec = LoadSpec { execution_provider: ExecutionProvider::Cpu, ..spec(&fixture(FOLDER)) };
    let card = load(&spec, |_stage, _fraction| {}).unwrap().card;
    let placement = card.placement.expect("every decoder says where it is");
    assert!(placement.nodes > 10, "{placement:?}");
    let told = (placement.device_nodes, placement.cache_on_device, placement.captured);
    assert_eq!(told, (0, false, false));
    assert_eq!((card.device_bytes, placement.device_weight_bytes), (None, None));
    assert!(placement.cpu_operators.is_empty());
}
