//! How far a GGUF file's graphs are from its weights as f32: `exact`, and what `default` is, `packed`
//! on the CPU of most machines and `columns` on others. A graph that can't run here is left out.
//!
//! `scripts/accuracy` runs it: `accuracy LIBRARY MODEL.gguf TOKENS TEXT...`. Each text is read from
//! its start, the tokens shared out evenly among them, each one predicted from those before it in
//! its text. Printed per graph: mean KL divergence from the f32 graph, how often the best token is
//! the same, perplexity, and how that differs, with the standard error of the difference: which tokens
//! a text has moves it either way.

use std::{env, num::NonZeroUsize, path::Path, thread};

use anyhow::{Context, ensure};
use hearth_worker::gguf::{self, Facts, GgufModel, GraphKind, GraphOptions, Positions};
use ort::{
    environment::Environment,
    memory::Allocator,
    session::{Session, SessionInputValue},
    value::{DynValue, Tensor},
};

/// Tokens in one run: bounds the logits in memory.
const CHUNK: usize = 64;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [library, file, tokens, texts @ ..] = &arguments[..] else {
        anyhow::bail!("usage: accuracy LIBRARY MODEL.gguf TOKENS TEXT...");
    };
    ensure!(!texts.is_empty(), "no text given");
    let per_text = tokens.parse::<usize>().context("TOKENS")?.div_ceil(texts.len());
    let library = Path::new(library).canonicalize().context("LIBRARY")?;
    let environment = ort::init_from(library)?.with_telemetry(false).build()?;
    let (model, vocabulary) = gguf::open(Path::new(file))?;
    let mut kinds = vec![("f32", GraphKind::Reference), ("exact", GraphKind::Exact)];
    if gguf::can_pack() {
        kinds.push(("packed", GraphKind::Packed));
    }
    if gguf::has_sound_columns() {
        kinds.push(("columns", GraphKind::Columns));
    }
    let mut runs = kinds
        .iter()
        .map(|&(_, kind)| Run::new(&environment, &model, kind))
        .collect::<anyhow::Result<Vec<Run<'_>>>>()?;
    let mut scores: Vec<Score> = kinds.iter().map(|_| Score::default()).collect();
    for text in texts {
        let text = std::fs::read_to_string(text).with_context(|| text.clone())?;
        let encoding = vocabulary.tokenizer.encode(text, true).map_err(anyhow::Error::msg)?;
        let ids: Vec<i64> = encoding.get_ids().iter().map(|&id| id.into()).collect();
        score(&mut runs, &ids[..ids.len().min(per_text + 1)], &mut scores)?;
    }
    let names: Vec<&str> = kinds.iter().map(|&(name, _)| name).collect();
    print(&names, &scores);
    Ok(())
}

/// A graph and the cache of the text so far.
struct Run<'m> {
    session: Session,
    facts: &'m Facts,
    past: Vec<DynValue>,
}

impl<'m> Run<'m> {
    fn new(
        environment: &Environment,
        model: &'m GgufModel,
        kind: GraphKind,
    ) -> anyhow::Result<Self> {
        let threads = thread::available_parallelism()?;
        let builder = Session::builder(environment)?
            .with_intra_threads(threads.get())
            .map_err(ort::Error::<()>::from)?;
        let context_length = model.facts.context_length;
        let options = GraphOptions { kind, logits: Positions::All, context_length };
        let graph = gguf::build_graph(model, options)?;
        let session = graph.commit(builder, NonZeroUsize::new(threads.get()).unwrap_or(threads))?;
        Ok(Self { session, facts: &model.facts, past: Vec::new() })
    }

    fn reset(&mut self) -> anyhow::Result<()> {
        self.past.clear();
        for _ in 0..2 * self.facts.layers {
            let shape = [1, self.facts.kv_heads, 0, self.facts.head_dim];
            self.past.push(Tensor::<f32>::new(&Allocator::default(), shape)?.into_dyn());
        }
        Ok(())
    }

    /// Log-probabilities at every one of `ids`, which follow what was given since the reset.
    fn logprobs(&mut self, ids: &[i64], before: usize) -> anyhow::Result<Vec<Vec<f64>>> {
        let mask = vec![1_i64; before + ids.len()];
        let mut inputs: Vec<(String, SessionInputValue<'_>)> = vec![
            ("input_ids".into(), Tensor::from_array(([1, ids.len()], ids.to_vec()))?.into()),
            ("attention_mask".into(), Tensor::from_array(([1, mask.len()], mask))?.into()),
        ];
        let names = names(self.facts.layers);
        for (name, past) in names.iter().zip(self.past.drain(..)) {
            inputs.push((format!("past_key_values.{name}"), past.into()));
        }
        let mut outputs = self.session.run(inputs)?;
        let (_, logits) = outputs["logits"].try_extract_tensor::<f32>()?;
        let rows = logits.chunks(self.facts.vocab_size).map(log_softmax).collect();
        for name in names {
            let present = format!("present.{name}");
            self.past.push(outputs.remove(&present).context(present)?);
        }
        Ok(rows)
    }
}

fn names(layers: usize) -> Vec<String> {
    (0..layers).flat_map(|layer| ["key", "value"].map(|part| format!("{layer}.{part}"))).collect()
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = row.iter().map(|x| f64::from(x - largest).exp()).sum();
    let log_sum = sum.ln();
    row.iter().map(|x| f64::from(x - largest) - log_sum).collect()
}

#[derive(Default)]
struct Score {
    tokens: usize,
    kl: f64,
    same_best: usize,
    surprise: f64,
    /// Squares of how much more surprising each token was than to the f32 graph.
    squares: f64,
}

fn score(runs: &mut [Run<'_>], ids: &[i64], scores: &mut [Score]) -> anyhow::Result<()> {
    runs.iter_mut().try_for_each(Run::reset)?;
    let targets = ids.get(1..).unwrap_or_default();
    for (index, targets) in targets.chunks(CHUNK).enumerate() {
        let before = index * CHUNK;
        let chunk = &ids[before..before + targets.len()];
        let mut reference = Vec::new();
        for (run, score) in runs.iter_mut().zip(scores.iter_mut()) {
            let rows = run.logprobs(chunk, before)?;
            if reference.is_empty() {
                reference.clone_from(&rows);
            }
            for ((row, reference), &target) in rows.iter().zip(&reference).zip(targets) {
                score.tokens += 1;
                score.kl += divergence(reference, row);
                score.same_best += usize::from(best(reference) == best(row));
                let target = usize::try_from(target)?;
                score.surprise -= row[target];
                score.squares += (reference[target] - row[target]).powi(2);
            }
        }
    }
    Ok(())
}

fn divergence(reference: &[f64], other: &[f64]) -> f64 {
    let terms = reference.iter().zip(other);
    terms.map(|(r, o)| r.exp() * (r - o)).sum()
}

fn best(row: &[f64]) -> usize {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(index, _)| index)
}

#[expect(clippy::print_stdout, reason = "the table is what the command is for")]
fn print(names: &[&str], scores: &[Score]) {
    let perplexity = |score: &Score| (score.surprise / score.tokens as f64).exp();
    let reference = perplexity(&scores[0]);
    println!("{} tokens", scores[0].tokens);
    println!("graph      mean KL  same best  perplexity  against f32, standard error");
    for (name, score) in names.iter().zip(scores) {
        let tokens = score.tokens as f64;
        let mean = (score.surprise - scores[0].surprise) / tokens;
        let error = ((score.squares / tokens - mean.powi(2)) / tokens).sqrt();
        println!(
            "{name:<8} {:>9.5} {:>8.1} % {:>11.3} {:>+10.2} % ± {:.2} %",
            score.kl / tokens,
            100.0 * score.same_best as f64 / tokens,
            perplexity(score),
            100.0 * (perplexity(score) / reference - 1.0),
            100.0 * error,
        );
    }
}
