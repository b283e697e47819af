//! A machine that runs out of something: memory, disk, descriptors. What can't be had is said, who
//! is not concerned does not notice, and when there is some again everything goes on.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use hearth_tests::gateway::{Gateway, Home};
use hearth_tests::hub::{Hub, Repo};
use hearth_tests::patiently;
use hyper::StatusCode;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{home, skip};

/// What a test says that lacks a right. Only root has these everywhere, so that where nothing may be
/// skipped, that is for root alone.
fn lacks(right: &str) {
    if nix::unistd::geteuid().is_root() {
        skip(right);
    } else {
        without(&format!("{right}; root has it"));
    }
}

#[expect(clippy::print_stderr, reason = "who runs the tests has to see it")]
fn without(what: &str) {
    eprintln!("SKIPPED: {what}");
}

/// A control group with little memory. Dropping it removes it.
struct SmallGroup(PathBuf);

impl SmallGroup {
    /// # Errors
    /// Which right is missing, where nobody lets us make one.
    fn new(bytes: u64) -> Result<Self, String> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let ours = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
            match controllers {
                "memory" => Some((Path::new("/sys/fs/cgroup/memory").join(path), LIMIT_FILES[0])),
                "" if !groups.contains(":memory:") => {
                    Some((Path::new("/sys/fs/cgroup").join(path), LIMIT_FILES[1]))
                }
                _ => None,
            }
        });
        let (parent, limit) = ours.ok_or("the system has no control groups for memory")?;
        let name = format!("hearth-test-{}-{bytes}", std::process::id());
        let group = Self(parent.join(name));
        let lacks = |what: &str, file: &Path| {
            let file = file.display().to_string();
            let what = what.to_owned();
            move |error: std::io::Error| format!("the right to {what} {file}: {error}")
        };
        std::fs::create_dir(&group.0).map_err(lacks("make the control group", &group.0))?;
        let limit = group.0.join(limit);
        std::fs::write(&limit, bytes.to_string()).map_err(lacks("limit memory by", &limit))?;
        Ok(group)
    }

    /// What a shell does to be in it.
    fn joining(&self) -> String {
        format!("echo $$ > '{}'", self.0.join("cgroup.procs").display())
    }
}

/// Of both versions of control groups.
const LIMIT_FILES: [&str; 2] = ["memory.limit_in_bytes", "memory.max"];

impl Drop for SmallGroup {
    fn drop(&mut self) {
        // Whoever was in it is dead; one that is not keeps an empty folder alive, and nothing else.
        drop(std::fs::remove_dir(&self.0));
    }
}

/// A small disk. Dropping it unmounts it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// # Errors
    /// Which right is missing, where nobody lets us mount.
    fn at(path: &Path, size: &str) -> Result<Self, String> {
        let options = format!("size={size}");
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .map_err(|error| format!("the right to mount a tmpfs (CAP_SYS_ADMIN): {error}"))?;
        Ok(Self(path.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        assert!(std::fs::write(self.0.join("one-more"), "x").is_err(), "it is full");
        std::fs::remove_file(self.0.join("one-more")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Nothing else can be done about one that stays.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

async fn exits(gateway: &Gateway, model: &str, reason: &str) -> Option<f64> {
    let name = "hearth_worker_exits_total";
    gateway.metric(&format!("{name}{{model=\"{model}\",reason=\"{reason}\"}}")).await
}

async fn pid_of(gateway: &Gateway, model: &str) -> Option<u64> {
    let name = format!("{model}:latest");
    let models = gateway.ps().await;
    models.iter().find(|entry| entry["name"] == *name)?["pid"].as_u64()
}

/// The first worker of `m` takes memory at its first token until it dies of it; `n` has a worker,
/// too. Gives what the client of `m` was told.
async fn starve(gateway: &Gateway) -> String {
    gateway.post("/api/load", &json!({"model": "m"})).await.text().await;
    assert_eq!(gateway.chat("n", json!({})).await.status, StatusCode::OK);
    let other = pid_of(gateway, "n").await;
    let answer = gateway.chat("m", json!({})).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "it is not tried again at once");
    let error = answer.json().await["error"].clone();
    assert_eq!(error["code"], "model_backing_off");
    assert_eq!(exits(gateway, "m", "oom").await, Some(1.0));
    assert_eq!(gateway.spawns("m", "restart").await, None);
    assert_eq!(gateway.chat("n", json!({})).await.status, StatusCode::OK);
    assert_eq!(pid_of(gateway, "n").await, other, "nobody else is concerned");
    let failed = gateway.get("/api/ps").await.json().await["failed"][0].clone();
    assert_eq!(failed["name"], "m:latest");
    patiently("m to be served again", async {
        while gateway.chat("m", json!({})).await.status != StatusCode::OK {}
    })
    .await;
    assert_eq!(gateway.spawns("m", "restart").await, Some(1.0));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(failed["last_error"].as_str().unwrap()), "{message} {failed}");
    message.to_owned()
}

fn home_with_two(before_workers: &str) -> (Home, String) {
    let home = home().with_fake_model("n").before_workers(before_workers);
    let marker = home.path().join("once").to_string_lossy().into_owned();
    (home, marker)
}

#[tokio::test]
async fn a_worker_that_the_system_kills_for_want_of_memory_is_told_as_such_and_hurts_nobody_else() {
    let group = match SmallGroup::new(64 << 20) {
        Ok(group) => group,
        Err(right) => return lacks(&right),
    };
    let (home, marker) = home_with_two(&group.joining());
    let flags = ["--at", "token:0=balloon", "--once", &marker];
    let gateway = home.start_fake(&flags, &[]).await;
    let told = starve(&gateway).await;
    assert!(told.contains("(the system killed it, because memory ran out)"), "{told}");
}

#[tokio::test]
async fn a_worker_that_is_not_given_memory_is_told_as_such_and_hurts_nobody_else() {
    let (home, marker) = home_with_two("ulimit -v 1000000; ulimit -c 0");
    let flags = ["--at", "token:0=balloon", "--once", &marker];
    let gateway = home.start_fake(&flags, &[]).await;
    let told = starve(&gateway).await;
    let why = "(it was not given the memory that it asked for, and gave up)";
    assert!(told.contains(why), "{told}");
}

#[tokio::test]
async fn a_load_that_dies_for_want_of_memory_has_the_idle_leave_and_is_tried_once_more() {
    let (home, marker) = home_with_two("ulimit -v 1000000; ulimit -c 0");
    // Where it is there nobody acts.
    std::fs::write(&marker, "").unwrap();
    let gateway = home.start_fake(&["--at", "load=balloon", "--once", &marker], &[]).await;
    assert_eq!(gateway.chat("n", json!({})).await.status, StatusCode::OK);
    std::fs::remove_file(&marker).unwrap();
    assert_eq!(gateway.chat("m", json!({})).await.status, StatusCode::OK);
    assert_eq!(gateway.spawns("m", "request").await, Some(1.0));
    assert_eq!(gateway.spawns("m", "retry").await, Some(1.0));
    let evictions = "hearth_evictions_total{model=\"n\",cause=\"load_out_of_memory\"}";
    assert_eq!(gateway.metric(evictions).await, Some(1.0));
    assert_eq!(pid_of(&gateway, "n").await, None);
}

#[tokio::test]
async fn a_full_disk_stops_only_what_has_to_be_written_and_is_told_once() {
    let home = Home::new(hearth_tests::programs!());
    let disk = match SmallDisk::at(home.path(), "1m") {
        Ok(disk) => disk,
        Err(right) => return lacks(&right),
    };
    let mut repo = Repo { task: Some("text-generation"), ..Repo::default() };
    repo.files.insert("Tiny-Q4_1.gguf".to_owned(), vec![7; 300_000]);
    let hub = Hub::start(repo).await;
    let endpoint = hub.endpoint();
    let home = home.with_fake_model("m").with_fake_model("n");
    let gateway = home.start_fake(&[], &[("HF_ENDPOINT", &endpoint)]).await;
    disk.fill();
    for model in ["m", "n"] {
        assert_eq!(gateway.chat(model, json!({})).await.status, StatusCode::OK, "{model}");
    }
    let pulled = gateway.post("/api/pull", &json!({"model": "hf.co/owner/repo:Q4_1"})).await;
    let pulled = pulled.text().await;
    assert!(pulled.contains("No space left on device"), "{pulled}");
    let record = gateway.home().join("memory.json");
    // Long enough for several looks at the workers, each of which tries to write.
    patiently("a worker to expire", async {
        gateway.chat("n", json!({"keep_alive": "2500ms"})).await.text().await;
        while pid_of(&gateway, "n").await.is_some() {}
    })
    .await;
    assert!(!record.exists() && !record.with_extension("new").exists());
    std::fs::remove_file(disk.filler()).unwrap();
    patiently("the record", async { while !record.exists() {} }).await;
    assert_eq!(gateway.chat("n", json!({})).await.status, StatusCode::OK);
    gateway.signal(Signal::SIGTERM);
    let (status, log) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(log.matches("what models take can't be written down").count(), 1, "{log}");
    assert_eq!(log.matches("what models take is written again").count(), 1, "{log}");
}

#[tokio::test]
async fn a_log_on_a_full_disk_does_not_stop_it() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let home = home();
    let mut serve = home.command(&["serve"]);
    serve.env("HEARTH_HOST", "127.0.0.1:0").env("HEARTH_LOG", "debug");
    let mut child = serve.stderr(full).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = patiently("it to listen", lines.next_line()).await.unwrap().unwrap();
    let address = line.rsplit_once("http://").unwrap().1.parse().unwrap();
    let get = async |path| {
        hearth_tests::http::send(address, hyper::Method::GET, path, &[], "").await.status
    };
    assert_eq!(get("/nowhere").await, StatusCode::NOT_FOUND);
    assert_eq!(get("/healthz").await, StatusCode::OK);
}

/// Lets the gateway have descriptors up to this number.
#[expect(clippy::disallowed_methods, reason = "tests start the programs that they need")]
async fn limit_descriptors(gateway: &Gateway, limit: usize) -> bool {
    let pid = gateway.child.id().unwrap().to_string();
    let limit = format!("--nofile={limit}:");
    let set = tokio::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status().await;
    set.is_ok_and(|status| status.success())
}

#[tokio::test]
async fn without_descriptors_for_a_worker_the_request_is_told_and_later_ones_are_served() {
    let gateway = home().start_fake(&[], &[]).await;
    let open = PathBuf::from(format!("/proc/{}/fd", gateway.child.id().unwrap()));
    let mut free = (0..).filter(|fd| !open.join(fd.to_string()).exists());
    // One more: the connection of whoever asks.
    let second = free.nth(1).unwrap();
    if !limit_descriptors(&gateway, second).await {
        return skip("prlimit is not installed: Debian's package util-linux has it");
    }
    let answer = gateway.chat("m", json!({})).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let message = answer.json().await["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("Too many open files"), "{message}");
    assert_eq!(gateway.get("/healthz").await.status, StatusCode::OK);
    assert!(limit_descriptors(&gateway, 1000).await);
    patiently("m to be served", async {
        while gateway.chat("m", json!({})).await.status != StatusCode::OK {}
    })
    .await;
    assert_eq!(exits(&gateway, "m", "spawn_failed").await, Some(1.0));
}

/// How many descriptors a process has open.
fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.child.id().unwrap())).unwrap().count()
}

#[tokio::test]
async fn clients_that_take_every_descriptor_hold_up_others_only_until_they_leave() {
    let gateway = home().start_fake(&[], &[]).await;
    assert_eq!(gateway.chat("m", json!({})).await.status, StatusCode::OK);
    let limit = descriptors(&gateway) + 4;
    if !limit_descriptors(&gateway, limit).await {
        return skip("prlimit is not installed: Debian's package util-linux has it");
    }
    // The system takes up the others, too: they wait to be accepted.
    let mut crowd = Vec::new();
    for _ in 0..16 {
        crowd.push(tokio::net::TcpStream::connect(gateway.address).await.unwrap());
    }
    patiently("them to take every descriptor", async {
        while descriptors(&gateway) < limit {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(crowd);
    assert_eq!(gateway.get("/healthz").await.status, StatusCode::OK);
    assert_eq!(gateway.chat("m", json!({})).await.status, StatusCode::OK, "its worker is there");
    assert_eq!(gateway.spawns("m", "request").await, Some(1.0));
    gateway.signal(Signal::SIGTERM);
    let (status, log) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
    // It rests a quarter of a second each time, instead of asking the system again and again.
    let rests = log.matches("can't accept a connection; resting").count();
    assert!((1..100).contains(&rests), "{rests} rests: {log}");
}
