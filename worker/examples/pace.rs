//! How even the engine's pace is, and what of its time is its own.
//!
//! `pace LIBRARY THREADS FOLDER [ROUNDS]` runs the worker's engine in this process and prints, from
//! each round: the engine's own share of a decode step beyond ONNX Runtime's run; the time between
//! tokens of running streams, alone and while a prompt of 1,000 tokens joins; the time to the first
//! token of a conversation's first and second turn; and what it takes while it idles. Compare figures of one round: a busy
//! machine is busy for all of them.

use std::{
    env,
    time::{Duration, Instant},
};

use anyhow::Context;
use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{
    ExecutionProvider, FromWorker, Generate, GraphChoice, LoadSpec, Prompt, Sampling,
};
use hearth_worker::{Loaded, load};

const PROMPT_TOKENS: u32 = 1000;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [library, threads, folder, rounds @ ..] = &arguments[..] else {
        anyhow::bail!("usage: pace LIBRARY THREADS FOLDER [ROUNDS]");
    };
    let spec = LoadSpec {
        model_path: folder.clone(),
        variant: None,
        graph: GraphChoice::Default,
        runtime_library: library.clone(),
        execution_provider: ExecutionProvider::Cpu,
        threads: Some(threads.parse().context("THREADS")?),
        context_length: None,
        slots: Some(16),
        cuda_graphs: false,
    };
    let rounds: u32 = rounds.first().map_or(Ok(3), |rounds| rounds.parse()).context("ROUNDS")?;
    let loaded = load(&spec, |_, _| {}).map_err(|failure| anyhow::anyhow!(failure.message))?;
    let mut bench = Bench { loaded, next: 0 };
    for round in 0..rounds {
        bench.own_share()?;
        for streams in [1, 4, 8] {
            bench.join(streams)?;
        }
        bench.turns(round)?;
        bench.together(round)?;
        idle()?;
    }
    Ok(())
}

/// Processor time that this process takes while it has nothing to do.
fn idle() -> anyhow::Result<()> {
    let ticks = || -> anyhow::Result<u64> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let times: Vec<u64> =
            fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        Ok(times.iter().sum())
    };
    let before = ticks()?;
    let (_held, never) = std::sync::mpsc::sync_channel::<()>(0);
    // Nothing comes: a wait that ends by itself.
    let _ = never.recv_timeout(Duration::from_secs(5));
    report(&format!("idle for 5 s: {} ms of processor time", (ticks()? - before) * 10));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the figures are what the command is for")]
fn report(line: &str) {
    println!("{line}");
}

struct Bench {
    loaded: Loaded,
    next: u64,
}

fn greedy() -> Sampling {
    Sampling { temperature: 0.0, ..Sampling::NEUTRAL }
}

/// Tokens that no prompt with another `salt` begins with.
fn prompt(salt: u32, tokens: u32) -> Vec<u32> {
    (0..tokens).map(|place| 1000 + (salt * 7919 + place * 31) % 40_000).collect()
}

impl Bench {
    fn admit(&mut self, prompt: Vec<u32>, tokens: u32, sampling: Sampling) -> anyhow::Result<u64> {
        self.next += 1;
        let mut request = Generate::new(Prompt::Tokens(prompt));
        request.max_tokens = Some(tokens);
        request.ignore_eos = true;
        request.sampling = sampling;
        let prepared = self.loaded.preparer.prepare(RequestId(self.next), request);
        let prepared = prepared.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
        let admitted = self.loaded.engine.admit(prepared);
        admitted.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
        Ok(self.next)
    }

    /// Ticks until `id` says something; gives how long every tick took.
    fn until_heard(&mut self, id: u64) -> Vec<Duration> {
        let mut ticks = Vec::new();
        loop {
            let start = Instant::now();
            let said = self.loaded.engine.tick();
            ticks.push(start.elapsed());
            let heard = said.iter().any(|message| match message {
                FromWorker::Step(news) => news.iter().any(|news| news.id.0 == id),
                _ => false,
            });
            if heard {
                return ticks;
            }
        }
    }

    fn clear(&mut self) {
        for id in 0..=self.next {
            self.loaded.engine.cancel(RequestId(id));
        }
    }

    fn own_share(&mut self) -> anyhow::Result<()> {
        let settings = [
            ("greedy", greedy()),
            ("plain", Sampling::NEUTRAL),
            ("top-k 40, top-p 0.95", Sampling { top_k: 40, top_p: 0.95, ..Sampling::NEUTRAL }),
            ("top-p 0.9", Sampling { top_p: 0.9, ..Sampling::NEUTRAL }),
        ];
        for (name, sampling) in settings {
            for streams in [1, 8] {
                for salt in 0..streams {
                    self.admit(prompt(salt, 20), 200, sampling)?;
                }
                (0..20).for_each(|_| drop(self.loaded.engine.tick()));
                let (start, ran) = (Instant::now(), self.loaded.engine.ran());
                (0..100).for_each(|_| drop(self.loaded.engine.tick()));
                let (whole, ran) = (start.elapsed(), self.loaded.engine.ran() - ran);
                let own = whole.saturating_sub(ran);
                report(&format!(
                    "own time, {streams} × {name}: {:.0} µs of a step's {:.2} ms, {:.1} %",
                    own.as_secs_f64() * 1e4,
                    whole.as_secs_f64() * 10.0,
                    own.as_secs_f64() / ran.as_secs_f64() * 100.0,
                ));
                self.clear();
            }
        }
        Ok(())
    }

    fn join(&mut self, streams: u32) -> anyhow::Result<()> {
        for salt in 0..streams {
            self.admit(prompt(salt, 50), 2000, greedy())?;
        }
        (0..30).for_each(|_| drop(self.loaded.engine.tick()));
        let mut alone: Vec<_> = (0..100).map(|_| self.timed_tick()).collect();
        let salt = u32::try_from(self.next).unwrap_or(0) + 100;
        let id = self.admit(prompt(salt, PROMPT_TOKENS), 2, greedy())?;
        let start = Instant::now();
        let mut joining = self.until_heard(id);
        let took = start.elapsed();
        self.clear();
        let ticks = joining.len();
        let (p50, joined_p50) = (quantile(&mut alone, 0.5), quantile(&mut joining, 0.5));
        let (alone_p99, p99) = (quantile(&mut alone, 0.99), quantile(&mut joining, 0.99));
        report(&format!(
            "{streams} streams: p50 {p50:.1?} p99 {alone_p99:.1?}; while 1,000 tokens join: p50 \
             {joined_p50:.1?} p99 {p99:.1?} ({:.2} × p50), {ticks} ticks, {took:.2?}",
            p99.as_secs_f64() / p50.as_secs_f64(),
        ));
        Ok(())
    }

    fn timed_tick(&mut self) -> Duration {
        let start = Instant::now();
        self.loaded.engine.tick();
        start.elapsed()
    }

    fn turns(&mut self, round: u32) -> anyhow::Result<()> {
        let first_prompt = prompt(5000 + round, PROMPT_TOKENS);
        let mut second_prompt = first_prompt.clone();
        let first = self.until_first_token(first_prompt, 20)?;
        // Whatever was answered: the prompt is what a second turn has in common with the first.
        second_prompt.extend(prompt(9000 + round, 30));
        let second = self.until_first_token(second_prompt, 20)?;
        report(&format!(
            "first token of 1,000: {first:.1?}, of the second turn: {second:.1?} ({:.3} ×)",
            second.as_secs_f64() / first.as_secs_f64(),
        ));
        Ok(())
    }

    fn until_first_token(&mut self, prompt: Vec<u32>, tokens: u32) -> anyhow::Result<Duration> {
        let id = self.admit(prompt, tokens, greedy())?;
        let start = Instant::now();
        self.until_heard(id);
        let took = start.elapsed();
        while !self.loaded.engine.is_idle() {
            self.loaded.engine.tick();
        }
        Ok(took)
    }

    /// Eight short prompts at once, which are read together, against eight that come in turn.
    fn together(&mut self, round: u32) -> anyhow::Result<()> {
        for tokens in [16, 40] {
            let salts = |group: u32| (0..8).map(move |n| 20_000 + round * 100 + group * 20 + n);
            let start = Instant::now();
            let mut last = 0;
            for salt in salts(0) {
                last = self.admit(prompt(salt, tokens), 1, greedy())?;
            }
            self.until_heard(last);
            let together = start.elapsed();
            self.clear();
            let start = Instant::now();
            for salt in salts(1) {
                let id = self.admit(prompt(salt, tokens), 1, greedy())?;
                self.until_heard(id);
            }
            let in_turn = start.elapsed();
            self.clear();
            report(&format!("8 × {tokens} tokens: together {together:.1?}, in turn {in_turn:.1?}"));
        }
        Ok(())
    }
}

fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    let place = (0..times.len()).rev().find(|&place| place as f64 <= share * times.len() as f64);
    times[place.unwrap_or(0)]
}
