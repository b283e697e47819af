//! A gateway of one's own: on a free port, with a temporary home, and with whichever worker.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};

use crate::http::{self, Answer};
use crate::patiently;
use crate::stage::Stage;

/// The programs, as Cargo built them for these tests.
#[derive(Debug, Clone, Copy)]
pub struct Programs {
    /// The gateway.
    pub hearth: &'static str,
    /// The real worker.
    pub worker: &'static str,
    /// The fake one.
    pub fake_worker: &'static str,
}

/// The paths of [`Programs`], which only tests themselves can know.
#[macro_export]
macro_rules! programs {
    () => {
        $crate::gateway::Programs {
            hearth: env!("CARGO_BIN_EXE_hearth-under-test"),
            worker: env!("CARGO_BIN_EXE_hearth-worker-under-test"),
            fake_worker: env!("CARGO_BIN_EXE_fake-worker"),
        }
    };
}

/// A running gateway. Dropping it kills it.
#[derive(Debug)]
pub struct Gateway {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its fake workers report.
    pub stage: Stage,
    /// Its process.
    pub child: Child,
    home: TempDir,
    stderr: Option<ChildStderr>,
    programs: Programs,
}

/// A home with the models that a test wants, and no gateway yet.
#[derive(Debug)]
pub struct Home {
    dir: TempDir,
    programs: Programs,
    /// What the shell does before it becomes a fake worker.
    before_workers: String,
}

impl Home {
    /// An empty one.
    ///
    /// # Panics
    /// If there is no temporary directory.
    #[must_use]
    pub fn new(programs: Programs) -> Self {
        let dir = tempfile::tempdir().expect("there is a temporary directory");
        std::fs::create_dir(dir.path().join("models")).expect("it is ours");
        Self { dir, programs, before_workers: String::new() }
    }

    /// Has the shell do something in each fake worker's process before it becomes one.
    #[must_use]
    pub fn before_workers(mut self, script: &str) -> Self {
        self.before_workers = script.to_owned();
        self
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Adds a model that only fake workers can load.
    ///
    /// # Panics
    /// If it can't be written.
    #[must_use]
    pub fn with_fake_model(self, name: &str) -> Self {
        let model = self.path().join("models").join(name);
        std::fs::create_dir_all(&model).expect("the home is ours");
        let config = r#"{"model":{"type":"fake"}}"#;
        std::fs::write(model.join("genai_config.json"), config).expect("the home is ours");
        self
    }

    /// Writes `hearth.toml`.
    ///
    /// # Panics
    /// If it can't be written.
    #[must_use]
    pub fn with_config(self, text: &str) -> Self {
        std::fs::write(self.path().join("hearth.toml"), text).expect("the home is ours");
        self
    }

    /// Adds a real model by linking its folder.
    ///
    /// # Panics
    /// If it can't be linked.
    #[must_use]
    pub fn with_linked_model(self, name: &str, folder: &Path) -> Self {
        let link = self.path().join("models").join(name);
        std::os::unix::fs::symlink(folder, link).expect("the home is ours");
        self
    }

    /// Starts a gateway whose workers are fake and do what `flags` say.
    pub async fn start_fake(self, flags: &[&str], variables: &[(&str, &str)]) -> Gateway {
        let script = self.path().join("worker");
        let stage = Stage::new(self.path());
        let flags: Vec<String> = flags.iter().map(|flag| quoted(flag)).collect();
        let text = format!(
            "#!/bin/sh\n{}\nexec {} --control {} {} \"$@\"\n",
            self.before_workers,
            quoted(self.programs.fake_worker),
            quoted(&stage.path().to_string_lossy()),
            flags.join(" ")
        );
        write_script(&script, &text);
        self.start(&script, stage, variables).await
    }

    /// Starts a gateway with the real worker.
    pub async fn start_real(self, variables: &[(&str, &str)]) -> Gateway {
        let runtime = runtime_library();
        let stage = Stage::new(self.path());
        let mut all = vec![("HEARTH_RUNTIME_LIBRARY", runtime.to_str().expect("a plain path"))];
        all.extend(variables);
        let worker = PathBuf::from(self.programs.worker);
        self.start(&worker, stage, &all).await
    }

    async fn start(self, worker: &Path, stage: Stage, variables: &[(&str, &str)]) -> Gateway {
        let mut child = self
            .command(&["serve"])
            .env("HEARTH_HOST", "127.0.0.1:0")
            .env("HEARTH_WORKER", worker)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = patiently("the gateway to listen", stdout.next_line()).await;
        let address = line.ok().flatten().and_then(|line| {
            let (_, address) = line.rsplit_once("http://")?;
            address.parse().ok()
        });
        let Some(address) = address else {
            let mut said = String::new();
            let mut stderr = child.stderr.take().expect("piped");
            drop(stderr.read_to_string(&mut said).await);
            panic!("the gateway did not start: {said}");
        };
        let stderr = child.stderr.take();
        Gateway { address, stage, child, home: self.dir, stderr, programs: self.programs }
    }

    /// The `hearth` command with nothing in its environment but this home.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        command(self.programs, self.path(), arguments)
    }
}

#[expect(clippy::disallowed_methods, reason = "tests start the programs that they test")]
fn command(programs: Programs, home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(programs.hearth);
    command.args(arguments).env_clear().env("HEARTH_HOME", home).kill_on_drop(true);
    command
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Written by a process of its own: a script that this one still held open for writing could not
/// be run, and a parallel test that forks at the wrong moment would hold it open.
#[expect(clippy::disallowed_methods, reason = "tests start the programs that they test")]
fn write_script(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).expect("the home is ours");
    std::fs::set_permissions(&draft, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let copied = std::process::Command::new("cp").arg(&draft).arg(path).status();
    assert!(copied.expect("there is cp").success());
}

#[expect(clippy::disallowed_methods, reason = "tests look where users' settings point")]
fn users_home() -> PathBuf {
    std::env::var_os("HEARTH_HOME").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("there is a home");
        PathBuf::from(home).join(".local/share/hearth")
    })
}

/// The GGUF file that `scripts/setup` brings, if it is there.
#[must_use]
pub fn default_model() -> Option<PathBuf> {
    let path = users_home().join("models/smollm2-135m-instruct.gguf");
    path.canonicalize().ok()
}

/// ONNX Runtime, where `scripts/setup` puts it.
///
/// # Panics
/// If it is not there, with what to do.
#[must_use]
pub fn runtime_library() -> PathBuf {
    let library = users_home().join("runtime/libonnxruntime.so");
    library.canonicalize().unwrap_or_else(|error| {
        panic!("ONNX Runtime is not at {}: {error}; run scripts/setup", library.display())
    })
}

impl Gateway {
    /// Its data root.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The `hearth` command as a client of this gateway.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(self.programs, self.home.path(), arguments);
        command.env("HEARTH_HOST", self.address.to_string());
        command
    }

    /// Asks for a path.
    pub async fn get(&self, path: &str) -> Answer {
        http::send(self.address, Method::GET, path, &[], "").await
    }

    /// Posts JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        http::send(self.address, Method::POST, path, &[], body.to_string()).await
    }

    /// Asks a model something, with further fields.
    ///
    /// # Panics
    /// If `extra` is no object, or nobody answers.
    pub async fn chat(&self, model: &str, extra: Value) -> Answer {
        self.post("/v1/chat/completions", &chat_body(model, extra)).await
    }

    /// What `/api/ps` says of its models.
    ///
    /// # Panics
    /// If it says nothing.
    pub async fn ps(&self) -> Vec<Value> {
        let answer = self.get("/api/ps").await.json().await;
        answer["models"].as_array().expect("an array").clone()
    }

    /// Waits until the only model in `/api/ps` is in this state; gives its entry.
    ///
    /// # Panics
    /// If it never is.
    pub async fn reaches(&self, state: &str) -> Value {
        patiently(&format!("the state {state}"), async {
            loop {
                if let [model] = &self.ps().await[..]
                    && model["state"] == state
                {
                    return model.clone();
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    /// Waits until `/api/ps` is empty.
    ///
    /// # Panics
    /// If it never is.
    pub async fn is_empty(&self) {
        patiently("/api/ps to be empty", async {
            while !self.ps().await.is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// The value of a metric, by its name and labels as they are rendered.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.get("/metrics").await.text().await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    /// How many workers of a model were started for a reason.
    pub async fn spawns(&self, model: &str, reason: &str) -> Option<f64> {
        let name = "hearth_worker_spawns_total";
        self.metric(&format!("{name}{{model=\"{model}\",reason=\"{reason}\"}}")).await
    }

    /// Sends a signal to the gateway.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = self.child.id().expect("it has not been waited for");
        let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
        nix::sys::signal::kill(pid, signal).expect("it is alive");
    }

    /// Reads its log no more, as a supervisor that has died.
    pub fn close_stderr(&mut self) {
        self.stderr = None;
    }

    /// Waits until the gateway has ended; gives how, and what it had logged.
    ///
    /// # Panics
    /// If it never does.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        patiently("the gateway to end", async {
            let mut log = String::new();
            if let Some(mut stderr) = self.stderr.take() {
                drop(stderr.read_to_string(&mut log).await);
            }
            (self.child.wait().await.expect("it can be waited for"), log)
        })
        .await
    }
}

/// A chat request.
///
/// # Panics
/// If `extra` is no object.
#[must_use]
pub fn chat_body(model: &str, extra: Value) -> Value {
    let mut body = json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] });
    let Value::Object(extra) = extra else { panic!("an object") };
    body.as_object_mut().expect("an object").extend(extra);
    body
}
