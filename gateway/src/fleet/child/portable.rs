//! Processes through tokio alone: what Windows and macOS take, and the tests run on Linux too.
//!
//! Without groups and signals a worker is asked to end over its link, and a grandchild would be
//! left alone; a job object would cure that on Windows and has not been written.

use std::io;
use std::process::Stdio;

use tokio::sync::{mpsc, oneshot};

#[cfg(not(target_os = "linux"))]
use super::SpawnError;
use super::{Child, Launch, ProcessExit, Signals, log};

/// Spawns from whatever task asks.
#[derive(Debug, Clone)]
#[cfg(not(target_os = "linux"))]
pub(in crate::fleet) struct Spawner;

#[derive(Debug)]
pub(super) struct Handle {
    kill: mpsc::Sender<()>,
}

impl Handle {
    pub(super) fn kill(&self) {
        // A full channel already holds the order; a closed one belongs to a process that is gone.
        let _ = self.kill.try_send(());
    }
}

#[cfg(not(target_os = "linux"))]
impl Spawner {
    pub(in crate::fleet) fn start() -> io::Result<Self> {
        Ok(Self)
    }

    #[expect(clippy::unused_async, reason = "the path on Linux has to wait for its thread")]
    pub(in crate::fleet) async fn spawn(&self, launch: Launch) -> Result<Child, SpawnError> {
        let program = launch.program.clone();
        spawn(&launch).map_err(|source| SpawnError::new(program, source))
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that starts processes")]
pub(super) fn spawn(launch: &Launch) -> io::Result<Child> {
    let mut child = tokio::process::Command::new(&launch.program)
        .args(&launch.arguments)
        .env_clear()
        .envs(launch.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let pid = child.id().ok_or_else(|| io::Error::other("it ended at once"))?;
    let starved = log::follow(&launch.label, child.stdout.take(), child.stderr.take());
    let (kill, mut orders) = mpsc::channel(1);
    let (report, exit) = oneshot::channel();
    let reaper = async move {
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                // Without anybody to give orders the process has no owner and must go.
                _order = orders.recv() => if let Err(error) = child.start_kill() {
                    tracing::debug!(%error, "a worker could not be killed; it may be gone");
                }
            }
        };
        let exit = status.map_or(ProcessExit::Unknown, |status| {
            status.code().map_or(ProcessExit::Signal(9), ProcessExit::Code)
        });
        // Nobody may be listening any more, when the gateway is ending.
        let _ = report.send(exit);
    };
    super::log::detach(reaper);
    let signals = Signals::Handle(Handle { kill });
    Ok(Child { pid, signals, exit, ended: None, starved })
}
