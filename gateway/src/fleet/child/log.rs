//! A worker's standard output and error, line by line into the gateway's log.
//!
//! They are always drained, because a worker that writes into a full pipe stands still. What it
//! writes is untrusted: long lines are cut, control characters escaped, floods counted instead of
//! copied.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A longer line is logged in pieces.
const LINE_BYTES_MAX: u64 = 2048;
/// At most this many lines per second and stream.
const LINES_PER_SECOND: u32 = 50;

/// How a process says that it was not given memory: Rust, C++, and libraries with the system's own
/// words.
const STARVED: [&str; 3] = ["memory allocation of ", "std::bad_alloc", "Cannot allocate memory"];

/// Copies until both have ended. Gives, at the end of standard error, whether it told of memory that
/// the process was not given.
pub(super) fn follow<O, E>(
    label: &str,
    stdout: Option<O>,
    stderr: Option<E>,
) -> oneshot::Receiver<bool>
where
    O: AsyncRead + Unpin + Send + 'static,
    E: AsyncRead + Unpin + Send + 'static,
{
    if let Some(stdout) = stdout {
        let copied = copy(label.to_owned(), stdout);
        detach(async move {
            // What stands there is for people alone.
            let _ = copied.await;
        });
    }
    let (told, starved) = oneshot::channel();
    if let Some(stderr) = stderr {
        let copied = copy(label.to_owned(), stderr);
        detach(async move {
            // Nobody asks about a process that ended as it was told to.
            let _ = told.send(copied.await);
        });
    }
    starved
}

/// Runs a task that ends by itself when its process does.
#[expect(
    clippy::disallowed_methods,
    reason = "it must outlive whoever waits for the process: the pipes are drained to their end"
)]
pub(super) fn detach(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

/// Gives whether a line told of memory that the process was not given.
async fn copy(label: String, stream: impl AsyncRead + Unpin) -> bool {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    let mut starved = false;
    let mut budget = Budget::new(Instant::now());
    loop {
        line.clear();
        match (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(worker = label, %error, "a worker's output can't be read");
                break;
            }
        }
        starved |= tells_of_starving(&line);
        match budget.spend(Instant::now()) {
            Verdict::Drop => {}
            Verdict::Log { dropped } => {
                if dropped > 0 {
                    tracing::warn!(worker = label, dropped, "worker's lines dropped");
                }
                let text = printable(&line);
                if !text.is_empty() {
                    tracing::info!(worker = label, "{text}");
                }
            }
        }
    }
    starved
}

fn tells_of_starving(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line);
    STARVED.iter().any(|words| line.contains(words))
}

fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut printable = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        if c.is_control() && c != '\t' {
            printable.extend(c.escape_default())
        } else {
            printable.push(c)
        }
    }
    printable
}

struct Budget {
    second: Instant,
    spent: u32,
    dropped: u64,
}

enum Verdict {
    Log { dropped: u64 },
    Drop,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { second: now, spent: 0, dropped: 0 }
    }

    fn spend(&mut self, now: Instant) -> Verdict {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.spent = 0;
        }
        self.spent += 1;
        if self.spent > LINES_PER_SECOND {
            self.dropped += 1;
            return Verdict::Drop;
        }
        Verdict::Log { dropped: std::mem::take(&mut self.dropped) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable(b"\x1b[31mred\x1b[0m\ttab\r\n"), "\\u{1b}[31mred\\u{1b}[0m\ttab");
        assert_eq!(printable(b"caf\xc3\xa9 \xff"), "café \u{fffd}");
    }

    #[test]
    fn a_flood_is_counted_and_the_count_told_in_the_next_second() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let logged = (0..80).filter(|_| matches!(budget.spend(start), Verdict::Log { .. })).count();
        assert_eq!(logged, 50);
        let later = start + Duration::from_secs(1);
        assert!(matches!(budget.spend(later), Verdict::Log { dropped: 30 }));
        assert!(matches!(budget.spend(later), Verdict::Log { dropped: 0 }));
    }
}
