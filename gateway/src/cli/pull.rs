//! `hearth pull MODEL`: asks the gateway to fetch a model, and shows how far it is.

use std::io::{IsTerminal as _, Write as _};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::client::{Client, error_message};
use super::ps::decimal_bytes;
use super::{Exit, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// `owner/name` of Hugging Face, with `:Q4_K_M` or `:q4` for one of its variants; or a path to a
    /// .gguf file or a model's folder on the gateway's machine
    model: String,
}

pub(super) async fn pull(arguments: Arguments) -> Result<(), Failure> {
    // A path that exists is one here, whatever the gateway's own working directory is.
    let looks_like_path = arguments.model.starts_with(['.', '/']);
    let model = if looks_like_path {
        let path = std::path::absolute(&arguments.model);
        path.map_err(|error| Failure::new(Exit::Failed, error))?.to_string_lossy().into_owned()
    } else {
        arguments.model
    };
    let mut client = Client::new()?;
    let response = client.stream("/api/pull", &json!({ "model": model })).await?;
    let mut lines = Lines { body: response.into_body(), buffer: Vec::new() };
    let mut shown = Shown { terminal: std::io::stdout().is_terminal(), last: String::new() };
    let mut is_done = false;
    while let Some(line) = lines.next().await? {
        if let Some(message) = error_message(&line) {
            shown.end()?;
            return Err(Failure::new(Exit::Failed, message));
        }
        is_done = line["status"] == "success";
        shown.show(&line)?;
    }
    shown.end()?;
    if is_done {
        Ok(())
    } else {
        Err(Failure::new(Exit::Failed, "the gateway hung up; pull again"))
    }
}

/// The lines of an answer.
struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Value>, Failure> {
        let broken = |reason: &dyn std::fmt::Display| {
            Failure::new(Exit::Failed, format!("the answer broke off: {reason}"))
        };
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|error| broken(&error));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(broken(&error)),
                None => return Ok(None),
            }
        }
    }
}

/// What stands on the terminal, or in the pipe.
struct Shown {
    terminal: bool,
    last: String,
}

impl Shown {
    /// On a terminal, a file's progress stays on its line; in a pipe only its beginning is said.
    fn show(&mut self, line: &Value) -> Result<(), Failure> {
        let status = line["status"].as_str().unwrap_or("").to_owned();
        let progress = match (line["completed"].as_u64(), line["total"].as_u64()) {
            (Some(completed), Some(total)) if total > 0 && self.terminal => {
                let percent = completed.saturating_mul(100) / total;
                format!("  {percent:>3} % of {}", decimal_bytes(total))
            }
            _ => String::new(),
        };
        if status != self.last && !self.last.is_empty() && self.terminal {
            write("\n")?;
        }
        if self.terminal {
            write(&format!("\r{status}{progress}"))?;
        } else if status != self.last {
            write(&format!("{status}\n"))?;
        }
        self.last = status;
        Ok(())
    }

    fn end(&self) -> Result<(), Failure> {
        if self.terminal && !self.last.is_empty() { write("\n") } else { Ok(()) }
    }
}

fn write(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(Exit::Failed, format!("can't write: {error}")))
}
