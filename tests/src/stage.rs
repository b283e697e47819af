//! Where fake workers report to: one line per event, one connection per worker.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::patiently;

/// More lines than any worker of a test says.
const LINES_MAX: usize = 4096;

/// The test's end of every fake worker's control socket.
#[derive(Debug)]
pub struct Stage {
    listener: UnixListener,
    path: PathBuf,
}

/// One fake worker, from its start to its end.
#[derive(Debug)]
pub struct FakeWorker {
    /// Its process id.
    pub pid: u32,
    /// The names in its environment, sorted.
    pub environment: Vec<String>,
    lines: mpsc::Receiver<String>,
    control: OwnedWriteHalf,
}

impl Stage {
    /// Listens in `dir`.
    ///
    /// # Panics
    /// If it can't.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let path = dir.join("stage.sock");
        Self { listener: UnixListener::bind(&path).expect("a fresh directory"), path }
    }

    /// What fake workers need for `--control`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next worker that starts.
    ///
    /// # Panics
    /// If none does.
    pub async fn next_worker(&self) -> FakeWorker {
        patiently("a worker to start", async {
            let (stream, _) = self.listener.accept().await.expect("the listener is open");
            let (read, control) = stream.into_split();
            let mut lines = follow(read);
            let mut word = async |name: &str| {
                let line = lines.recv().await.expect("a line");
                line.strip_prefix(name).unwrap_or_else(|| panic!("{name}, not {line}")).to_owned()
            };
            let pid = word("started ").await.parse().expect("a pid");
            let environment = word("environment ").await;
            let environment = environment.split(',').map(str::to_owned).collect();
            FakeWorker { pid, environment, lines, control }
        })
        .await
    }

    /// Takes the call of the next worker and hangs up: for tests with more workers than they can
    /// listen to.
    ///
    /// # Panics
    /// If the listener is gone.
    pub async fn hang_up(&self) {
        drop(self.listener.accept().await.expect("the listener is open"));
    }

    /// Whether another worker has started by now.
    pub async fn has_another(&self) -> bool {
        tokio::select! {
            biased;
            accepted = self.listener.accept() => accepted.is_ok(),
            () = std::future::ready(()) => false,
        }
    }
}

/// Reads as fast as the worker writes, so that a test which looks elsewhere never holds it up.
#[expect(clippy::disallowed_methods, reason = "ends with the connection it reads from")]
fn follow(read: OwnedReadHalf) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(LINES_MAX);
    tokio::spawn(async move {
        let mut read = BufReader::new(read).lines();
        while let Ok(Some(line)) = read.next_line().await {
            if sender.send(line).await.is_err() {
                return;
            }
        }
    });
    lines
}

impl FakeWorker {
    /// Waits for this line, passing over others.
    ///
    /// # Panics
    /// If it ends before.
    pub async fn heard(&mut self, expected: &str) {
        patiently(&format!("`{expected}` from worker {}", self.pid), async {
            loop {
                match self.lines.recv().await {
                    Some(line) if line == expected => return,
                    Some(_other) => {}
                    None => panic!("worker {} ended before `{expected}`", self.pid),
                }
            }
        })
        .await;
    }

    /// The next work that it is given, as it reads it.
    ///
    /// # Panics
    /// If it ends before.
    pub async fn next_work(&mut self) -> String {
        patiently(&format!("work for worker {}", self.pid), async {
            loop {
                let line = self.lines.recv().await.expect("the worker is there");
                if let Some(work) = line.strip_prefix("work ") {
                    return work.to_owned();
                }
            }
        })
        .await
    }

    /// Lets it go on where it holds.
    ///
    /// # Panics
    /// If it is gone.
    pub async fn go(&mut self) {
        self.control.write_all(b"go\n").await.expect("it is alive");
    }

    /// Waits until the process and whatever it forked are gone; gives the lines that were left.
    pub async fn gone(mut self) -> Vec<String> {
        let pid = self.pid;
        patiently(&format!("worker {pid} to be gone"), async move {
            let mut rest = Vec::new();
            while let Some(line) = self.lines.recv().await {
                rest.push(line);
            }
            rest
        })
        .await
    }
}
