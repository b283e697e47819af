//! The engine's speed with one model, asked for line by line.
//!
//! `scripts/bench engine` runs one process for each graph and asks them in turns, so that a busy
//! machine is busy for all. `engine LIBRARY THREADS GRAPH MODEL` reads `decode SEQUENCES STEPS` and
//! `prefill TOKENS` from its input and answers each with one line of JSON: tokens, seconds, and how
//! much of the seconds ONNX Runtime's runs took.

use std::{
    env,
    io::{self, BufRead, Write},
    path::Path,
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use hearth_shared::{
    ids::RequestId,
    protocol::{ExecutionProvider, Generate, GraphChoice, LoadSpec, Prompt, Sampling},
};
use hearth_worker::{Loaded, load};

/// As many sequences as a line may ask for.
const SLOTS: u32 = 16;
/// What stands before the tokens that are measured.
const PROMPT_TOKENS: u32 = 32;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [library, threads, graph, model] = &arguments[..] else {
        bail!("usage: engine LIBRARY THREADS GRAPH MODEL");
    };
    let absolute = |path: &str| -> anyhow::Result<String> {
        let path = Path::new(path).canonicalize().with_context(|| path.to_owned())?;
        path.into_os_string().into_string().ok().context("a path that is no text")
    };
    let graphs = [GraphChoice::Default, GraphChoice::Exact, GraphChoice::Memory];
    let spec = LoadSpec {
        model_path: absolute(model)?,
        variant: None,
        graph: graphs.into_iter().find(|each| each.as_str() == graph).context("GRAPH")?,
        runtime_library: absolute(library)?,
        execution_provider: ExecutionProvider::Cpu,
        threads: Some(threads.parse().context("THREADS")?),
        context_length: Some(4096),
        slots: Some(SLOTS),
        cuda_graphs: false,
    };
    let loaded = load(&spec, |_stage, _fraction| {});
    let mut bench =
        Bench { loaded: loaded.map_err(|failure| anyhow::anyhow!(failure.message))?, requests: 0 };
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["decode", sequences, steps] => bench.decode(sequences.parse()?, steps.parse()?)?,
            ["prefill", tokens] => bench.prefill(tokens.parse()?)?,
            _ => bail!("what is `{line}`?"),
        };
        let mut output = io::stdout().lock();
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

struct Bench {
    loaded: Loaded,
    requests: u64,
}

impl Bench {
    /// `steps` steps of so many sequences, from when all of them run.
    fn decode(&mut self, sequences: usize, steps: usize) -> anyhow::Result<serde_json::Value> {
        let first = self.requests;
        for _ in 0..sequences {
            self.admit(PROMPT_TOKENS, u32::try_from(2 * (sequences + steps))?)?;
        }
        while self.loaded.engine.last_tokens().count() < sequences {
            ensure!(!self.loaded.engine.is_idle(), "a sequence ended before all ran");
            self.loaded.engine.tick();
        }
        let answer = self.measured(sequences * steps, |loaded| {
            (0..steps).for_each(|_| drop(loaded.engine.tick()));
        });
        ensure!(self.loaded.engine.last_tokens().count() == sequences, "a sequence ended too soon");
        (first..self.requests).for_each(|id| self.loaded.engine.cancel(RequestId(id)));
        Ok(answer)
    }

    /// A prompt until its first token.
    fn prefill(&mut self, tokens: u32) -> anyhow::Result<serde_json::Value> {
        self.admit(tokens, 1)?;
        Ok(self.measured(usize::try_from(tokens)?, |loaded| {
            while !loaded.engine.is_idle() {
                loaded.engine.tick();
            }
        }))
    }

    fn measured(&mut self, tokens: usize, work: impl FnOnce(&mut Loaded)) -> serde_json::Value {
        let (before, began) = (self.loaded.engine.ran(), Instant::now());
        work(&mut self.loaded);
        let seconds = began.elapsed().as_secs_f64();
        let runtime = (self.loaded.engine.ran() - before).as_secs_f64();
        serde_json::json!({ "tokens": tokens, "seconds": seconds, "runtime_seconds": runtime })
    }

    /// No two prompts begin alike, so none finds another's tokens in the cache.
    fn admit(&mut self, tokens: u32, max_tokens: u32) -> anyhow::Result<()> {
        let start = u32::try_from(self.requests % 4096)?;
        let ids = (0..tokens).map(|at| 100 + start + at * 7 % 1024).collect();
        let request = Generate {
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            max_tokens: Some(max_tokens),
            ignore_eos: true,
            ..Generate::new(Prompt::Tokens(ids))
        };
        let id = RequestId(self.requests);
        self.requests += 1;
        let prepared = self.loaded.preparer.prepare(id, request);
        let prepared = prepared.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
        self.loaded.engine.admit(prepared).map_err(|failure| anyhow::anyhow!("{failure:?}"))
    }
}
