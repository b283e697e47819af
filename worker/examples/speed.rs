//! Tokens per second of graphs that share one interface, measured in turns.
//!
//! `speed LIBRARY THREADS ROUNDS MODEL...`: a model is a `.gguf` file, with `:exact` behind it for that
//! graph, or an onnxruntime-genai folder's `model.onnx`. Past and present are one buffer, as in the
//! worker. Every round runs every model once per shape, so that a busy machine is busy for all;
//! printed are the best and the median. Memory after the load is that of all models so far.

use std::{
    env, fs,
    num::NonZeroUsize,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use hearth_worker::gguf::{self, GraphKind, GraphOptions, Positions};
use ort::{
    environment::Environment,
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    session::{Session, builder::SessionBuilder},
    value::{Tensor, ValueType},
};

const CAPACITY: usize = 512;
/// Rows, tokens in each, tokens before.
const SHAPES: [(usize, usize, usize); 5] =
    [(1, 1, 100), (4, 1, 100), (8, 1, 100), (1, 64, 0), (1, 256, 0)];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [library, threads, rounds, models @ ..] = &arguments[..] else {
        anyhow::bail!("usage: speed LIBRARY THREADS ROUNDS MODEL...");
    };
    let threads: NonZeroUsize = threads.parse().context("THREADS")?;
    let rounds: usize = rounds.parse().context("ROUNDS")?;
    let library = Path::new(library).canonicalize().context("LIBRARY")?;
    let environment = ort::init_from(library)?.with_telemetry(false).build()?;
    let mut sessions = Vec::new();
    for model in models {
        let start = Instant::now();
        let session = load(&environment, model, threads)?;
        report(&format!("{model}: loaded in {:?}, {}", start.elapsed(), memory()?));
        sessions.push(session);
    }
    for shape in SHAPES {
        let mut times = vec![Vec::new(); sessions.len()];
        for round in 0..=rounds {
            for (session, times) in sessions.iter_mut().zip(&mut times) {
                let time = step(session, shape)?;
                // The first run of a shape plans memory.
                if round > 0 {
                    times.push(time);
                }
            }
        }
        for (model, times) in models.iter().zip(&mut times) {
            times.sort_unstable();
            let rate = |time: Duration| (shape.0 * shape.1) as f64 / time.as_secs_f64();
            let (best, median) = (times[0], times[times.len() / 2]);
            let name = model.rsplit('/').next().unwrap_or(model);
            report(&format!(
                "{shape:?} {name}: best {best:.2?} {:.0} tok/s, median {median:.2?} {:.0} tok/s",
                rate(best),
                rate(median),
            ));
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the figures are what the command is for")]
fn report(line: &str) {
    println!("{line}");
}

fn memory() -> anyhow::Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let lines =
        status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
    Ok(lines.collect::<Vec<_>>().join(" "))
}

fn load(environment: &Environment, model: &str, threads: NonZeroUsize) -> anyhow::Result<Session> {
    let recover = ort::Error::<()>::from;
    let mut builder: SessionBuilder =
        Session::builder(environment)?.with_intra_threads(threads.get()).map_err(recover)?;
    if model.ends_with(".onnx") {
        return Ok(builder.commit_from_file(model)?);
    }
    let (path, kind) = match model.strip_suffix(":exact") {
        Some(path) => (path, GraphKind::Exact),
        None => (model, GraphKind::Default),
    };
    let (model, _) = gguf::open(Path::new(path))?;
    let options = GraphOptions { kind, logits: Positions::Last, context_length: 8192 };
    Ok(gguf::build_graph(&model, options)?.commit(builder, threads)?)
}

fn step(
    session: &mut Session,
    (rows, tokens, before): (usize, usize, usize),
) -> anyhow::Result<Duration> {
    let inputs: Vec<(String, Vec<i64>)> = session
        .inputs()
        .iter()
        .filter_map(|input| match input.dtype() {
            ValueType::Tensor { shape, .. } => Some((input.name().to_owned(), shape.to_vec())),
            _ => None,
        })
        .collect();
    let mut binding = session.create_binding()?;
    let ones = |width: usize| Tensor::from_array(([rows, width], vec![1_i64; rows * width]));
    binding.bind_input("input_ids", &ones(tokens)?)?;
    binding.bind_input("attention_mask", &ones(before + tokens)?)?;
    let logits =
        MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
    binding.bind_output_to_device("logits", &logits)?;
    for (name, shape) in inputs {
        let Some(part) = name.strip_prefix("past_key_values.") else {
            continue;
        };
        ensure!(shape.len() == 4, "{name} has shape {shape:?}");
        // A folder may leave the head size open.
        let head_dim = usize::try_from(shape[3]).unwrap_or(64);
        let shape = [rows, usize::try_from(shape[1])?, CAPACITY, head_dim];
        let mut cache = Tensor::<f32>::new(&Allocator::default(), shape)?;
        cache.extract_tensor_mut().1.fill(0.01);
        binding.bind_input(&name, &cache)?;
        binding.bind_output(format!("present.{part}"), cache)?;
    }
    let start = Instant::now();
    session.run_binding(&binding)?;
    Ok(start.elapsed())
}
