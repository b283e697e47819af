//! The fake worker's flags, and what they make it do when.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use hearth_shared::protocol::{ExecutionProvider, FinishReason, Part, RequestFailure};

/// What a test, and what the gateway, say on the command line.
#[derive(Debug, Parser)]
#[command(about = "A worker without a model, for Hearth's tests")]
pub(crate) struct Flags {
    /// The control socket of the test
    #[arg(long)]
    pub(crate) control: PathBuf,
    /// POINT=ACTION: what to do at `handshake`, `load` or `token:N`
    #[arg(long = "at", value_name = "POINT=ACTION")]
    at: Vec<Step>,
    /// Only the first worker that makes this file acts; the others behave
    #[arg(long)]
    once: Option<PathBuf>,
    /// Requests at once
    #[arg(long, default_value_t = 4)]
    slots: u32,
    /// Tokens in every answer, if no `--part` says what they are
    #[arg(long, default_value_t = 3)]
    tokens: u32,
    /// KIND:TEXT: a token of every answer; KIND is `text`, `reasoning`, `call` or `arguments`
    #[arg(long = "part", value_name = "KIND:TEXT")]
    parts: Vec<String>,
    /// Why every request is refused: `overflow`, `template`, `unsupported`, `constraint`, `engine`
    #[arg(long)]
    refuse: Option<String>,
    /// How every answer ends: `stop`, `length` or `tool_calls`
    #[arg(long, default_value = "stop")]
    finish: String,
    /// Do not end when told to
    #[arg(long)]
    ignore_term: bool,
    /// Say that the model is on a device
    #[arg(long)]
    on_a_device: bool,
    /// Leave a grandchild that never ends by itself
    #[arg(long)]
    fork: bool,
    /// Say hello in another version
    #[arg(long)]
    wrong_version: bool,
    /// Say hello without knowing the token
    #[arg(long)]
    wrong_token: bool,
    /// The gateway's socket
    #[arg(long)]
    pub(crate) socket: PathBuf,
    /// The gateway
    #[arg(long)]
    gateway_pid: u32,
}

/// One `--at`.
#[derive(Debug, Clone)]
struct Step {
    point: Point,
    action: Action,
}

/// A moment in a worker's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// Connected, and about to say hello.
    Handshake,
    /// Told to load, and about to be ready.
    Load,
    /// About to send this token of an answer.
    Token(u32),
}

/// What a worker does at such a moment instead of going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Hold,
    Crash,
    Balloon,
    Grow,
    Bus,
    Ill,
    Hang,
    Fail,
    FailForGood,
    NoRuntime,
    Garbage,
    Oversize,
    WrongId,
    HangUp,
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (point, action) = text.split_once('=').ok_or("POINT=ACTION")?;
        let action = match action {
            "hold" => Action::Hold,
            "crash" => Action::Crash,
            "balloon" => Action::Balloon,
            "grow" => Action::Grow,
            "bus" => Action::Bus,
            "ill" => Action::Ill,
            "hang" => Action::Hang,
            "fail" => Action::Fail,
            "fail-for-good" => Action::FailForGood,
            "no-runtime" => Action::NoRuntime,
            "garbage" => Action::Garbage,
            "oversize" => Action::Oversize,
            "wrong-id" => Action::WrongId,
            "hang-up" => Action::HangUp,
            other => return Err(format!("no action: {other}")),
        };
        let point = match point {
            "handshake" => Point::Handshake,
            "load" => Point::Load,
            other => {
                let index = other.strip_prefix("token:").and_then(|index| index.parse().ok());
                Point::Token(index.ok_or_else(|| format!("no point: {other}"))?)
            }
        };
        Ok(Self { point, action })
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshake => f.write_str("handshake"),
            Self::Load => f.write_str("load"),
            Self::Token(index) => write!(f, "token:{index}"),
        }
    }
}

/// What is left of the flags once the process is set up.
#[derive(Debug)]
pub(crate) struct Script {
    at: Vec<Step>,
    pub(crate) slots: u32,
    tokens: u32,
    parts: Vec<String>,
    refuse: Option<String>,
    finish: String,
    pub(crate) ignore_term: bool,
    on_a_device: bool,
    pub(crate) wrong_version: bool,
    pub(crate) wrong_token: bool,
}

impl Script {
    pub(crate) fn provider(&self) -> ExecutionProvider {
        if self.on_a_device { ExecutionProvider::Cuda } else { ExecutionProvider::Cpu }
    }

    pub(crate) fn action_at(&self, point: Point) -> Option<Action> {
        self.at.iter().find(|step| step.point == point).map(|step| step.action)
    }

    /// Tokens in every answer.
    pub(crate) fn tokens(&self) -> u32 {
        if self.parts.is_empty() { self.tokens } else { count(&self.parts) }
    }

    /// How many of them are thoughts.
    pub(crate) fn reasoning_tokens(&self) -> u32 {
        let thoughts = self.parts.iter().filter(|part| part.starts_with("reasoning:"));
        count(&thoughts.collect::<Vec<_>>())
    }

    /// What token number `index` says. Calls are counted from those before it.
    pub(crate) fn part(&self, index: u32) -> Part {
        let place = usize::try_from(index).expect("few tokens");
        let Some(part) = self.parts.get(place) else { return Part::Text(format!("t{index} ")) };
        let (kind, text) = part.split_once(':').expect("a part is KIND:TEXT");
        let text = text.to_owned();
        let calls: Vec<_> = self.parts[..place].iter().filter(|p| p.starts_with("call:")).collect();
        match kind {
            "text" => Part::Text(text),
            "reasoning" => Part::Reasoning(text),
            "call" => Part::ToolCall { index: count(&calls), name: text },
            "arguments" => {
                let index = count(&calls).checked_sub(1).expect("arguments follow a call");
                Part::ToolArguments { index, json: text }
            }
            other => panic!("no kind of part: {other}"),
        }
    }

    pub(crate) fn finish(&self) -> FinishReason {
        match self.finish.as_str() {
            "stop" => FinishReason::Stop,
            "length" => FinishReason::Length,
            "tool_calls" => FinishReason::ToolCalls,
            other => panic!("no end: {other}"),
        }
    }

    /// Why every request is refused, if any is.
    pub(crate) fn refusal(&self) -> Option<RequestFailure> {
        let message = "the fake model refuses, as told".to_owned();
        self.refuse.as_deref().map(|reason| match reason {
            "overflow" => {
                RequestFailure::ContextOverflow { prompt_tokens: 600, context_length: 512 }
            }
            "template" => RequestFailure::Template { message },
            "unsupported" => RequestFailure::Unsupported { message },
            "constraint" => RequestFailure::Constraint { message },
            "engine" => RequestFailure::Engine { message },
            other => panic!("no refusal: {other}"),
        })
    }
}

fn count<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).expect("few of them")
}

impl Flags {
    /// As a real worker does: it does not outlive its gateway. And as none should: deaf to TERM.
    pub(crate) fn prepare_process(&self) {
        use nix::sys::signal::{SigSet, Signal};
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("every Linux has it");
        let gateway = nix::unistd::getppid().as_raw().cast_unsigned();
        assert_eq!(gateway, self.gateway_pid, "the gateway is gone already");
        if self.ignore_term {
            let mut deaf = SigSet::empty();
            deaf.add(Signal::SIGTERM);
            deaf.thread_block().expect("any signal but KILL and STOP can be blocked");
        }
    }

    #[expect(
        clippy::disallowed_methods,
        clippy::zombie_processes,
        reason = "leaving a process behind is what it is for"
    )]
    pub(crate) fn fork_if_asked(&self, control: OwnedFd) {
        if self.fork {
            // It inherits standard output and error, as a careless worker's child would, and the
            // control socket, so that the test knows when it is dead.
            std::process::Command::new("/bin/sh")
                .args(["-c", "while :; do :; done"])
                .stdin(control)
                .spawn()
                .expect("there is a shell");
        }
    }

    pub(crate) fn script(self) -> Script {
        let acts = self.once.is_none_or(|file| std::fs::File::create_new(file).is_ok());
        Script {
            at: if acts { self.at } else { Vec::new() },
            slots: self.slots,
            tokens: self.tokens,
            parts: self.parts,
            refuse: self.refuse,
            finish: self.finish,
            ignore_term: self.ignore_term,
            on_a_device: self.on_a_device,
            wrong_version: self.wrong_version && acts,
            wrong_token: self.wrong_token && acts,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a worker gets its token there")]
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

pub(crate) fn environment_names() -> String {
    let mut names: Vec<_> =
        std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names.join(",")
}
