//! Processes on Linux: spawned by one thread that never ends, signalled as groups, reaped once.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use super::{Child, Launch, ProcessExit, Signals, SpawnError, log};

/// The thread that spawns every worker.
///
/// On Linux the signal that a worker asks for upon its parent's death is sent when the *thread*
/// that spawned it ends, so it has to be one that lives as long as the gateway. Threads of the
/// runtime do not.
#[derive(Debug, Clone)]
pub(in crate::fleet) struct Spawner {
    jobs: SyncSender<Job>,
}

struct Job {
    launch: Launch,
    answer: oneshot::Sender<io::Result<std::process::Child>>,
}

impl Spawner {
    pub(in crate::fleet) fn start() -> io::Result<Self> {
        let (jobs, inbox) = sync_channel(64);
        std::thread::Builder::new().name("spawner".to_owned()).spawn(move || spawn_all(&inbox))?;
        Ok(Self { jobs })
    }

    /// Starts a process in a group of its own, its output going to the log.
    pub(in crate::fleet) async fn spawn(&self, launch: Launch) -> Result<Child, SpawnError> {
        let (program, label) = (launch.program.clone(), launch.label.clone());
        let (answer, started) = oneshot::channel();
        // A full channel means 64 spawns under way: a spawn takes a millisecond.
        self.jobs.try_send(Job { launch, answer }).map_err(|_full| SpawnError::NoSpawner)?;
        let child = started
            .await
            .map_err(|_gone| SpawnError::NoSpawner)?
            .map_err(|source| SpawnError::new(program.clone(), source))?;
        adopt(child, &label).map_err(|source| SpawnError::System { program, source })
    }
}

fn spawn_all(inbox: &Receiver<Job>) {
    while let Ok(job) = inbox.recv() {
        if let Err(Ok(unwanted)) = job.answer.send(spawn(&job.launch)) {
            // Whoever asked is gone.
            abandon(unwanted);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that starts processes")]
fn spawn(launch: &Launch) -> io::Result<std::process::Child> {
    Command::new(&launch.program)
        .args(&launch.arguments)
        .env_clear()
        .envs(launch.environment.iter().map(|(name, value)| (name, value)))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Ends and reaps a child that nobody will.
fn abandon(mut child: std::process::Child) {
    let _ = killpg(pid_of(child.id()), Signal::SIGKILL);
    let gone = child.wait();
    tracing::debug!(?gone, "killed a worker that nobody waits for");
}

/// Gives the child a thread that reaps it and tasks that read its output.
fn adopt(mut child: std::process::Child, label: &str) -> io::Result<Child> {
    let pid = child.id();
    let stdout = child.stdout.take().map(tokio::process::ChildStdout::from_std);
    let stderr = child.stderr.take().map(tokio::process::ChildStderr::from_std);
    let (stdout, stderr) = match (stdout.transpose(), stderr.transpose()) {
        (Ok(stdout), Ok(stderr)) => (stdout, stderr),
        (Err(error), _) | (_, Err(error)) => {
            abandon(child);
            return Err(error);
        }
    };
    let state = GroupState { id: pid_of(pid), alive: true, killed: false };
    let kills_before = out_of_memory_kills();
    let group = Group { state: Arc::new(Mutex::new(state)) };
    let (report, exit) = oneshot::channel();
    // Whatever happens to the thread, the child can be taken back out of here.
    let shared = Arc::new(Mutex::new(Some(child)));
    let (reaped, waited) = (group.clone(), Arc::clone(&shared));
    let reaper = std::thread::Builder::new().name(format!("reap-{pid}")).spawn(move || {
        if let Some(child) = take(&waited) {
            // Nobody may be listening any more, when the gateway is ending.
            let _ = report.send(reaped.reap(child, kills_before));
        }
    });
    if let Err(error) = reaper {
        take(&shared).into_iter().for_each(abandon);
        return Err(error);
    }
    let starved = log::follow(label, stdout, stderr);
    Ok(Child { pid, signals: Signals::Group(group), exit, ended: None, starved })
}

fn take(child: &Mutex<Option<std::process::Child>>) -> Option<std::process::Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a pid is a positive pid_t"))
}

/// A worker's process group, which has the worker's pid as its id.
#[derive(Debug, Clone)]
pub(super) struct Group {
    state: Arc<Mutex<GroupState>>,
}

#[derive(Debug)]
struct GroupState {
    id: Pid,
    /// Until the leader is reaped its pid can't be anybody else's.
    alive: bool,
    /// Whether it was we who killed it.
    killed: bool,
}

impl Group {
    pub(super) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub(super) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.alive {
            state.killed |= signal == Signal::SIGKILL;
            // The group, not the pid: a forked grandchild would keep memory and pipes.
            // It can only fail if the group is gone already, which is what was wanted.
            let _ = killpg(state.id, signal);
        }
    }

    /// Waits for the leader, ends what it left behind, and only then gives its pid back.
    fn reap(&self, mut child: std::process::Child, kills_before: Option<u64>) -> ProcessExit {
        let id = self.state.lock().unwrap_or_else(PoisonError::into_inner).id;
        while waitid(Id::Pid(id), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
            == Err(nix::errno::Errno::EINTR)
        {}
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = killpg(id, Signal::SIGKILL);
        state.alive = false;
        match child.wait().map_or(ProcessExit::Unknown, exit_of) {
            // The system tells nobody why it kills; it only counts.
            ProcessExit::Signal(9) if !state.killed && out_of_memory_kills() > kills_before => {
                ProcessExit::OutOfMemory
            }
            exit => exit,
        }
    }
}

fn exit_of(status: ExitStatus) -> ProcessExit {
    match (status.code(), status.signal()) {
        (Some(code), _) => ProcessExit::Code(code),
        (None, Some(signal)) => ProcessExit::Signal(signal),
        (None, None) => ProcessExit::Unknown,
    }
}

/// `/proc/PID/statm`, second number: resident pages.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page_bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page_bytes).ok()?)
}

/// `VmHWM` in `/proc/PID/status`.
pub(super) fn peak_resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// `5` in `/proc/PID/clear_refs` begins `VmHWM` anew, and touches nothing else.
pub(super) fn forget_peak(pid: u32) -> bool {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok()
}

/// How many processes the system has killed so far because memory had run out: anywhere
/// on this machine.
fn out_of_memory_kills() -> Option<u64> {
    let vmstat = std::fs::read_to_string("/proc/vmstat").ok()?;
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}
