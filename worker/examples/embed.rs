//! Embeds texts as the worker does, for `scripts/embeddings` to hold against another program.
//!
//! `embed LIBRARY THREADS MODEL`: every line that comes in is a JSON array of texts; the line that
//! goes out has their `vectors` and the `seconds` that it took from text to vector.

use std::env;
use std::io::{self, BufRead, Write};
use std::time::Instant;

use anyhow::{Context, bail};
use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{
    Embed, EmbedInput, ExecutionProvider, FromWorker, GraphChoice, LoadSpec, Work,
};
use hearth_worker::{AnyLoaded, LoadedEncoder, load_any};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [library, threads, model] = &arguments[..] else {
        bail!("usage: embed LIBRARY THREADS MODEL");
    };
    let spec = LoadSpec {
        model_path: model.clone(),
        variant: None,
        graph: GraphChoice::Default,
        runtime_library: library.clone(),
        execution_provider: ExecutionProvider::Cpu,
        threads: Some(threads.parse().context("THREADS")?),
        context_length: None,
        slots: None,
        cuda_graphs: false,
    };
    let loaded = load_any(&spec, |_stage, _fraction| {});
    let mut loaded = match loaded.map_err(|failure| anyhow::anyhow!(failure.message))? {
        AnyLoaded::Encoder(loaded) => loaded,
        AnyLoaded::Decoder(_) => bail!("{model} makes no embeddings"),
    };
    for line in io::stdin().lock().lines() {
        let texts: Vec<String> = serde_json::from_str(&line?)?;
        let start = Instant::now();
        let vectors = embed(&mut loaded, texts)?;
        let seconds = start.elapsed().as_secs_f64();
        let answer = serde_json::json!({"seconds": seconds, "vectors": vectors});
        writeln!(io::stdout(), "{answer}")?;
    }
    Ok(())
}

fn embed(loaded: &mut LoadedEncoder, texts: Vec<String>) -> anyhow::Result<Vec<Vec<f32>>> {
    let inputs = texts.into_iter().map(EmbedInput::Text).collect();
    let work = Work::Embed(Embed { inputs, dimensions: None, truncate: true });
    let prepared = loaded.preparer.prepare(RequestId(0), &work);
    let job = prepared.map_err(|reason| anyhow::anyhow!("{reason:?}"))?;
    loaded.encoder.admit(job).map_err(|reason| anyhow::anyhow!("{reason:?}"))?;
    let mut all = Vec::new();
    while !loaded.encoder.is_idle() {
        for message in loaded.encoder.tick() {
            match message {
                FromWorker::Embeddings { vectors, .. } => all.extend(vectors),
                other => bail!("{other:?}"),
            }
        }
    }
    Ok(all)
}
