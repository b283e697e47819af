//! Worker processes: spawn, signal, reap, measure. The only user of process APIs in the gateway.
//!
//! `life.rs` is the only caller, and acts on the scheduler's orders alone. Two ways lead to the
//! same [`Child`]: `linux.rs`, with one thread that spawns and whole process groups that are
//! signalled; and `portable.rs`, which all others take, with tokio's own processes. Both are tested
//! on Linux.

mod log;
#[cfg(any(not(target_os = "linux"), test))]
mod portable;
#[cfg(target_os = "linux")]
mod linux;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;

use super::worker::ProcessExit;

#[cfg(target_os = "linux")]
pub(super) use self::linux::Spawner;
#[cfg(not(target_os = "linux"))]
pub(super) use self::portable::Spawner;

/// How long what a process said last may take to be read, once it is gone. Its whole group is dead
/// by then, so that only one that left its group can hold the pipe open.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What to start. The environment is all that the worker gets.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    /// The worker's program.
    pub(super) program: PathBuf,
    /// Its arguments, without the program's name.
    pub(super) arguments: Vec<OsString>,
    /// Its whole environment.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// How its lines are marked in the gateway's log.
    pub(super) label: String,
}

/// A process that was started and is not known to be gone.
#[derive(Debug)]
pub(super) struct Child {
    pid: u32,
    signals: Signals,
    exit: oneshot::Receiver<ProcessExit>,
    /// How it ended, before what it said last was read.
    ended: Option<ProcessExit>,
    /// Whether its standard error told of memory that it was not given; known at the end of it.
    starved: oneshot::Receiver<bool>,
}

#[derive(Debug)]
enum Signals {
    #[cfg(target_os = "linux")]
    Group(linux::Group),
    #[cfg(any(not(target_os = "linux"), test))]
    Handle(portable::Handle),
}

impl Child {
    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks it to end. Where there are no signals, closing its link has to do.
    pub(super) fn terminate(&self) {
        match &self.signals {
            #[cfg(target_os = "linux")]
            Signals::Group(group) => group.terminate(),
            #[cfg(any(not(target_os = "linux"), test))]
            Signals::Handle(_) => {}
        }
    }

    /// Ends it, and on Linux whatever it forked. Does nothing once it is gone.
    pub(super) fn kill(&self) {
        match &self.signals {
            #[cfg(target_os = "linux")]
            Signals::Group(group) => group.kill(),
            #[cfg(any(not(target_os = "linux"), test))]
            Signals::Handle(handle) => handle.kill(),
        }
    }

    /// Waits until it is gone and reaped.
    ///
    /// # Cancel safety
    /// Safe: the exit is kept until somebody takes it. Call it no more after it returned.
    pub(super) async fn exited(&mut self) -> ProcessExit {
        let exit = match self.ended {
            Some(exit) => exit,
            None => (&mut self.exit).await.unwrap_or(ProcessExit::Unknown),
        };
        self.ended = Some(exit);
        let may_have_starved = match exit {
            // SIGABRT is how a failed allocation ends, SIGSEGV how one ends that was not checked.
            ProcessExit::Signal(6 | 11) | ProcessExit::Code(1..) => true,
            ProcessExit::Code(_)
            | ProcessExit::Signal(_)
            | ProcessExit::OutOfMemory
            | ProcessExit::AllocationFailed
            | ProcessExit::Unknown => false,
        };
        if may_have_starved
            && matches!(tokio::time::timeout(LAST_LINES, &mut self.starved).await, Ok(Ok(true)))
        {
            return ProcessExit::AllocationFailed;
        }
        exit
    }
}

/// A child that nobody waits for any more must not live on.
impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpawnError {
    /// The program is not there.
    #[error("{program} does not exist; run `scripts/setup`, or set HEARTH_WORKER to the program")]
    NoProgram {
        /// Where it was looked for.
        program: PathBuf,
    },
    /// The system refused.
    #[error("can't start {program}")]
    System {
        /// The program.
        program: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The thread that spawns has more to do than it ever should, or has ended, which it never
    /// does.
    #[error("the spawning thread does not answer")]
    NoSpawner,
}

impl SpawnError {
    fn new(program: PathBuf, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::NotFound {
            Self::NoProgram { program }
        } else {
            Self::System { program, source }
        }
    }
}

/// The memory of process `pid` that is in RAM, in bytes; `None` where nobody tells.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    #[cfg(target_os = "linux")]
    return linux::resident_bytes(pid);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pid;
        None
    }
}

/// The most memory of process `pid` that was in RAM at once, in bytes; `None` where nobody tells.
pub(super) fn peak_resident_bytes(pid: u32) -> Option<u64> {
    #[cfg(target_os = "linux")]
    return linux::peak_resident_bytes(pid);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pid;
        None
    }
}

/// Has the system count the most memory of process `pid` anew from what it takes now. Gives whether
/// it does.
pub(super) fn forget_peak(pid: u32) -> bool {
    #[cfg(target_os = "linux")]
    return linux::forget_peak(pid);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pid;
        false
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
