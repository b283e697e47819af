//! One file, to the last byte: goes on where it broke off, and knows damage when it sees it.

use std::io;
use std::path::Path;
use std::time::Duration;

use hyper::header::CONTENT_RANGE;
use hyper::{StatusCode, Uri};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::HubError;
use super::connect::{Answer, Connector};
use super::listing::{Content, RemoteFile};
use crate::config::ApiKey;

/// So many attempts in a row may bring nothing new.
const IDLE_ATTEMPTS_MAX: u32 = 5;
/// Progress is told in so many steps for a file, but not for less than a quarter of a megabyte.
const STEPS: u64 = 200;
const STEP_BYTES_MIN: u64 = 256 * 1024;

/// What has been done, for whoever waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A new stage.
    Stage(String),
    /// More of a file.
    Bytes {
        /// What tells the file from others.
        digest: String,
        /// All of it.
        total: u64,
        /// So far.
        completed: u64,
    },
}

/// Where progress goes; one that nobody reads any more is of no concern.
#[derive(Debug, Clone)]
pub(crate) struct Sink(pub(crate) mpsc::Sender<Progress>);

impl Sink {
    pub(crate) async fn stage(&self, stage: impl Into<String>) {
        self.tell(Progress::Stage(stage.into())).await;
    }

    async fn tell(&self, progress: Progress) {
        // Who waits for it may be gone; then all of this is about to be dropped.
        drop(self.0.send(progress).await);
    }
}

/// A file that is being fetched.
pub(super) struct Download<'a> {
    pub(super) connector: &'a Connector,
    pub(super) token: Option<&'a ApiKey>,
    pub(super) uri: Uri,
    pub(super) file: &'a RemoteFile,
    pub(super) to: &'a Path,
}

/// Why an attempt ended.
enum Ended {
    Complete,
    /// Another one may go on.
    Broken(String),
}

impl Download<'_> {
    pub(super) async fn run(&self, sink: &Sink) -> Result<(), HubError> {
        let mut open = File::options();
        let mut to = open.create(true).truncate(false).write(true).read(true).open(self.to).await?;
        let mut have = to.seek(io::SeekFrom::End(0)).await?;
        if have > self.file.size {
            have = restart(&mut to).await?;
        }
        self.tell(sink, have).await;
        let mut idle = 0;
        while have < self.file.size {
            let before = have;
            match self.attempt(&mut to, &mut have, sink).await? {
                Ended::Complete => {}
                Ended::Broken(reason) => {
                    idle = if have > before { 0 } else { idle + 1 };
                    tracing::info!(file = self.file.path, have, reason, "a download broke off");
                    if idle >= IDLE_ATTEMPTS_MAX {
                        return Err(HubError::BrokeOff { file: self.file.path.clone(), reason });
                    }
                    // At once after progress; then 0.5, 1, 2, 4 seconds.
                    if idle > 0 {
                        tokio::time::sleep(Duration::from_millis(250 << idle)).await;
                    }
                }
            }
        }
        to.sync_all().await?;
        drop(to);
        self.verify(sink).await
    }

    async fn attempt(&self, to: &mut File, have: &mut u64, sink: &Sink) -> Result<Ended, HubError> {
        let mut answer = match self.connector.get(&self.uri, self.token, *have).await {
            Ok(answer) => answer,
            Err(HubError::Unreachable { reason, .. }) => return Ok(Ended::Broken(reason)),
            Err(error) => return Err(error),
        };
        match answer.status {
            StatusCode::PARTIAL_CONTENT if goes_on_at(&answer, *have) => {}
            // It sends all of it again, or sends what we did not ask for.
            StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
                if *have > 0 {
                    *have = restart(to).await?;
                }
                if answer.status != StatusCode::OK {
                    return Ok(Ended::Broken("it did not go on where it was asked to".to_owned()));
                }
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Ok(Ended::Broken(format!("it answered {status}")));
            }
            status => return Err(HubError::Status { host: answer.host, status }),
        }
        let step = (self.file.size / STEPS).max(STEP_BYTES_MIN);
        let mut told = *have;
        let ended = loop {
            match answer.next().await {
                Ok(Some(data)) => {
                    let left = self.file.size - *have;
                    let taken =
                        usize::try_from(left).map_or(data.len(), |left| data.len().min(left));
                    to.write_all(&data[..taken]).await?;
                    *have += taken as u64;
                    if *have - told >= step || *have == self.file.size {
                        told = *have;
                        self.tell(sink, *have).await;
                    }
                    if *have == self.file.size {
                        break Ended::Complete;
                    }
                }
                Ok(None) => break Ended::Broken("it ended early".to_owned()),
                Err(reason) => break Ended::Broken(reason),
            }
        };
        // What has come is to be there for the next attempt, and for the next pull.
        to.flush().await?;
        Ok(ended)
    }

    async fn tell(&self, sink: &Sink, completed: u64) {
        let (digest, total) = (self.file.content.digest(), self.file.size);
        sink.tell(Progress::Bytes { digest, total, completed }).await;
    }

    /// Small files have no hash to compare with: their size is right by now, and that is all.
    async fn verify(&self, sink: &Sink) -> Result<(), HubError> {
        let Content::Sha256(expected) = &self.file.content else { return Ok(()) };
        sink.stage("verifying sha256 digest").await;
        let path = self.to.to_owned();
        let found = tokio::task::spawn_blocking(move || sha256_of(&path)).await;
        let found = found.map_err(io::Error::other)??;
        if found == *expected {
            return Ok(());
        }
        tokio::fs::remove_file(self.to).await?;
        let (file, expected) = (self.file.path.clone(), expected.clone());
        Err(HubError::Damaged { file, expected, found })
    }
}

async fn restart(to: &mut File) -> Result<u64, HubError> {
    to.set_len(0).await?;
    Ok(to.rewind().await?)
}

fn goes_on_at(answer: &Answer, have: u64) -> bool {
    let range = answer.headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {have}-")))
}

/// The SHA-256 of a file's contents, in hex. Blocks.
///
/// # Errors
/// An I/O error if it can't be read.
fn sha256_of(path: &Path) -> io::Result<String> {
    struct Hash(Sha256);
    impl io::Write for Hash {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut hash = Hash(Sha256::new());
    let file = std::fs::File::open(path)?;
    io::copy(&mut io::BufReader::with_capacity(1024 * 1024, file), &mut hash)?;
    Ok(hash.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
