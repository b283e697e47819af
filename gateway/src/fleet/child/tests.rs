//! Real processes: `/bin/sh` in place of a worker.

use super::*;

fn shell(script: &str) -> Launch {
    Launch {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        environment: vec![("GREETING".into(), "hello".into())],
        label: "test".to_owned(),
    }
}

async fn spawn(script: &str) -> Child {
    Spawner::start().unwrap().spawn(shell(script)).await.unwrap()
}

/// A fifo that a script holds open as descriptor 3: opening it waits for the script, and its end
/// comes when everybody who inherited it is dead.
struct Fifo {
    dir: tempfile::TempDir,
}

impl Fifo {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self { dir }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("fifo")
    }

    /// Reads everything that is written, up to the end.
    async fn read(&self) -> String {
        let path = self.path();
        tokio::task::spawn_blocking(move || std::fs::read_to_string(path).unwrap()).await.unwrap()
    }

    /// Waits for one line and leaves the rest.
    async fn line(&self) -> String {
        let path = self.path();
        let read = move || {
            let mut line = String::new();
            let file = std::fs::File::open(path).unwrap();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(file), &mut line).unwrap();
            line
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    }
}

#[tokio::test]
async fn an_exit_code_and_a_signal_are_told_apart() {
    assert_eq!(spawn("exit 65").await.exited().await, ProcessExit::Code(65));
    assert_eq!(spawn("kill -9 $$").await.exited().await, ProcessExit::Signal(9));
}

#[tokio::test]
async fn a_process_that_was_not_given_memory_and_said_so_is_told_apart_from_other_crashes() {
    let starved = "echo 'memory allocation of 64 bytes failed' >&2; ";
    for (script, exit) in [
        ("kill -ABRT $$", ProcessExit::AllocationFailed),
        ("kill -SEGV $$", ProcessExit::AllocationFailed),
        ("exit 101", ProcessExit::AllocationFailed),
        ("exit 0", ProcessExit::Code(0)),
        ("kill -9 $$", ProcessExit::Signal(9)),
    ] {
        let script = format!("ulimit -c 0; {starved}{script}");
        assert_eq!(spawn(&script).await.exited().await, exit, "{script}");
    }
    assert_eq!(spawn("ulimit -c 0; kill -ABRT $$").await.exited().await, ProcessExit::Signal(6));
}

/// The signal that a worker asks for upon its parent's death comes when the *thread* that spawned
/// it ends: whoever asks for a worker must not be the one that spawns it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_worker_outlives_the_thread_that_asked_for_it() {
    let (question, answer) = (Fifo::new(), Fifo::new());
    let (asked, answered) = (question.path(), answer.path());
    // It stays after its answer, so that the answer can't race its end.
    let script = format!(
        "read line < {}; echo alive > {}; exec sleep infinity",
        asked.display(),
        answered.display()
    );
    let launch = Launch {
        program: "setpriv".into(),
        arguments: ["--pdeathsig", "KILL", "/bin/sh", "-c", &script].map(Into::into).into(),
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        label: "test".to_owned(),
    };
    let spawner = Spawner::start().unwrap();
    let asking = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(spawner.spawn(launch)).map(|child| (child, spawner))
    });
    let (mut child, _spawner) = asking.join().unwrap().unwrap();
    let ask = move || std::fs::write(asked, "are you there?\n").unwrap();
    tokio::select! {
        line = async {
            tokio::task::spawn_blocking(ask).await.unwrap();
            answer.line().await
        } => assert_eq!(line, "alive\n"),
        exit = child.exited() => panic!("it is gone: {exit:?}"),
    }
    child.kill();
    assert_eq!(child.exited().await, ProcessExit::Signal(9));
}

#[tokio::test]
async fn the_environment_is_built_from_nothing() {
    // The shell itself adds a few of these.
    let script = r#"test "$(env | grep -vE '^(PWD|SHLVL|_|OLDPWD)=')" = GREETING=hello"#;
    assert_eq!(spawn(script).await.exited().await, ProcessExit::Code(0));
}

#[tokio::test]
async fn terminating_asks_and_killing_does_not() {
    let mut polite = spawn("exec tail -f /dev/null").await;
    polite.terminate();
    assert_eq!(polite.exited().await, ProcessExit::Signal(15));
    let fifo = Fifo::new();
    let script =
        format!("trap '' TERM; echo deaf > {}; while :; do :; done", fifo.path().display());
    let mut stubborn = spawn(&script).await;
    assert_eq!(fifo.line().await, "deaf\n");
    stubborn.terminate();
    stubborn.kill();
    assert_eq!(stubborn.exited().await, ProcessExit::Signal(9));
    stubborn.kill();
}

#[tokio::test]
async fn a_grandchild_goes_with_its_group() {
    let fifo = Fifo::new();
    let script = format!("exec 3>{}; (while :; do :; done) & exit 0", fifo.path().display());
    let mut child = spawn(&script).await;
    // The end of the fifo is the death of the grandchild, which nobody else would bring about.
    assert_eq!(fifo.read().await, "");
    assert_eq!(child.exited().await, ProcessExit::Code(0));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named_with_what_to_do() {
    let launch = Launch { program: "/no/such/program".into(), ..shell("") };
    let error = Spawner::start().unwrap().spawn(launch).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "/no/such/program does not exist; run `scripts/setup`, or set HEARTH_WORKER to the program"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn resident_memory_of_a_live_process_is_told() {
    let bytes = resident_bytes(std::process::id()).unwrap();
    assert!((1_000_000..1_000_000_000).contains(&bytes), "{bytes}");
    assert_eq!(resident_bytes(u32::MAX), None);
}

#[cfg(target_os = "linux")]
#[test]
fn the_most_that_a_process_took_can_be_counted_anew() {
    let own = std::process::id();
    drop(std::hint::black_box(vec![1_u8; 128 << 20]));
    let before = peak_resident_bytes(own).unwrap();
    assert!(before > 128 << 20, "{before}");
    assert!(forget_peak(own));
    let after = peak_resident_bytes(own).unwrap();
    assert!(after < before - (64 << 20), "{after} of {before}");
    assert!(!forget_peak(u32::MAX));
}

#[tokio::test]
async fn the_portable_path_kills_and_reaps_too() {
    let mut child = portable::spawn(&shell("while :; do :; done")).unwrap();
    child.terminate();
    child.kill();
    assert_eq!(child.exited().await, ProcessExit::Signal(9));
    let mut child = portable::spawn(&shell("exit 3")).unwrap();
    assert_eq!(child.exited().await, ProcessExit::Code(3));
}
