//! How a gateway ends, and that nothing stays behind.

use futures_util::future::join_all;
use hyper::StatusCode;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::home;

#[tokio::test]
async fn a_gateway_that_is_killed_leaves_nobody() {
    let gateway = home().with_fake_model("n").start_fake(&["--at", "token:1=hang"], &[]).await;
    let mut first = gateway.chat("m", json!({"stream": true})).await;
    first.delta().await;
    let busy = gateway.stage.next_worker().await;
    let mut second = gateway.chat("n", json!({"stream": true})).await;
    second.delta().await;
    let other = gateway.stage.next_worker().await;
    gateway.signal(Signal::SIGKILL);
    busy.gone().await;
    other.gone().await;
}

#[tokio::test]
async fn a_gateway_that_is_killed_during_a_load_leaves_nobody() {
    let gateway = home().start_fake(&["--at", "load=hang"], &[]).await;
    let asking = gateway.chat("m", json!({}));
    let worker = tokio::select! {
        _answer = asking => panic!("the load hangs"),
        worker = gateway.stage.next_worker() => worker,
    };
    gateway.signal(Signal::SIGKILL);
    worker.gone().await;
}

#[tokio::test]
async fn a_drain_lets_streams_finish_and_takes_nobody_new() {
    let flags = ["--at", "token:1=hold", "--slots", "50"];
    let gateway = home().start_fake(&flags, &[]).await;
    let asking = (0..50).map(|_| async {
        let mut answer = gateway.chat("m", json!({"stream": true})).await;
        assert_eq!(answer.delta().await, "t0 ");
        answer
    });
    let answers = join_all(asking).await;
    let mut worker = gateway.stage.next_worker().await;
    gateway.signal(Signal::SIGTERM);
    hearth_tests::patiently("the port to close", async {
        while TcpStream::connect(gateway.address).await.is_ok() {}
    })
    .await;
    worker.go().await;
    for answer in answers {
        assert_eq!(answer.events().await.last().unwrap(), "[DONE]");
    }
    worker.gone().await;
    let (status, _log) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn the_drain_deadline_ends_a_stream_with_an_error() {
    let variables = [("HEARTH_DRAIN_TIMEOUT", "300ms")];
    let gateway = home().start_fake(&["--at", "token:1=hold"], &variables).await;
    let mut answer = gateway.chat("m", json!({"stream": true})).await;
    answer.delta().await;
    gateway.signal(Signal::SIGTERM);
    let events = answer.events().await;
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "worker_exited");
    gateway.stage.next_worker().await.gone().await;
    let (status, _log) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_nobody_stays() {
    let gateway = home().start_fake(&["--at", "token:1=hold"], &[]).await;
    let mut answer = gateway.chat("m", json!({"stream": true})).await;
    answer.delta().await;
    let worker = gateway.stage.next_worker().await;
    gateway.signal(Signal::SIGTERM);
    hearth_tests::patiently("the port to close", async {
        while TcpStream::connect(gateway.address).await.is_ok() {}
    })
    .await;
    gateway.signal(Signal::SIGINT);
    let (status, _log) = gateway.ended().await;
    assert_eq!(status.code(), Some(130));
    worker.gone().await;
}

#[tokio::test]
async fn waiting_requests_are_refused_when_the_drain_begins() {
    let gateway = home().start_fake(&["--at", "load=hold"], &[]).await;
    let asking = gateway.chat("m", json!({}));
    let draining = async {
        let mut worker = gateway.stage.next_worker().await;
        worker.heard("at load").await;
        gateway.signal(Signal::SIGTERM);
        worker
    };
    let (answer, worker) = tokio::join!(asking, draining);
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json().await["error"]["code"], "shutting_down");
    worker.gone().await;
    let (status, _log) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn sockets_are_gone_once_workers_are_connected() {
    let gateway = home().start_fake(&[], &[]).await;
    gateway.chat("m", json!({})).await.text().await;
    let left: Vec<_> = std::fs::read_dir(gateway.home().join("run"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left, ["lock"]);
}

#[tokio::test]
async fn a_signal_as_soon_as_the_address_is_announced_is_a_drain() {
    let gateway = home().start_fake(&[], &[]).await;
    gateway.signal(Signal::SIGTERM);
    let (status, _log) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_client_that_never_sends_its_body_does_not_keep_a_drained_gateway_alive() {
    let variables = [("HEARTH_DRAIN_TIMEOUT", "50ms"), ("HEARTH_GRACE_PERIOD", "50ms")];
    let gateway = home().start_fake(&[], &variables).await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    let head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
                Content-Length: 100\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    // The body is being waited for.
    let mut go_on = [0; "HTTP/1.1 100 Continue".len()];
    client.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue");
    gateway.signal(Signal::SIGTERM);
    let (status, log) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
    assert!(
        log.contains("cut off: they neither finished nor failed in time connections=1"),
        "{log}"
    );
}

#[tokio::test]
async fn a_client_that_never_reads_does_not_keep_a_drained_gateway_alive() {
    let variables = [("HEARTH_DRAIN_TIMEOUT", "50ms"), ("HEARTH_GRACE_PERIOD", "50ms")];
    let gateway = home().start_fake(&["--tokens", "200000"], &variables).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(gateway.address).await.unwrap();
    let body = r#"{"model":"m","prompt":"hi"}"#;
    let head = format!(
        "POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    // The answer has begun; the rest of it is never read.
    client.read_exact(&mut [0; 4]).await.unwrap();
    gateway.signal(Signal::SIGTERM);
    let (status, _log) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_log_that_nobody_reads_any_more_does_not_stop_it() {
    let mut gateway = home().start_fake(&[], &[("HEARTH_LOG", "debug")]).await;
    gateway.close_stderr();
    // Each of these is logged.
    for _ in 0..3 {
        assert_eq!(gateway.get("/nowhere").await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(gateway.get("/healthz").await.status, StatusCode::OK);
    gateway.signal(Signal::SIGTERM);
    let (status, _log) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
}

/// Fifty gateways with three models each, killed at a moment that moves from the first spawn on.
#[tokio::test]
async fn a_gateway_killed_at_any_moment_leaves_nobody_a_second_later() {
    for round in 0..50_u64 {
        let home = home().with_fake_model("n").with_fake_model("o");
        let mut gateway = home.start_fake(&[], &[]).await;
        let asking = ["m", "n", "o"].map(|model| gateway.chat(model, json!({"stream": true})));
        let moment = std::time::Duration::from_millis(round);
        // Whether they are answered by then is all the same.
        let asking = futures_util::future::join_all(asking);
        drop(tokio::time::timeout(moment, asking).await);
        gateway.signal(Signal::SIGKILL);
        let killed = std::time::Instant::now();
        gateway.child.wait().await.unwrap();
        while let Some(left) = process_of(gateway.home()) {
            let late = killed.elapsed();
            assert!(late < std::time::Duration::from_secs(1), "round {round}: {left} is alive");
            tokio::task::yield_now().await;
        }
        if round == 0 {
            let again = gateway.command(&["serve"]).env("HEARTH_HOST", "127.0.0.1:0").spawn();
            let run = gateway.home().join("run");
            hearth_tests::patiently("the next one to clean up", async {
                while sockets_in(&run) > 0 {}
            })
            .await;
            drop(again);
        }
    }
}

#[tokio::test]
async fn the_port_and_the_home_of_a_gateway_that_was_killed_are_the_next_ones_at_once() {
    let mut gateway = home().start_fake(&["--at", "token:1=hold"], &[]).await;
    // A connection in the middle of an answer is what makes a port hard to have again.
    let mut stream = gateway.chat("m", json!({"stream": true})).await;
    stream.delta().await;
    gateway.signal(Signal::SIGKILL);
    gateway.child.wait().await.unwrap();
    let mut next = gateway.command(&["serve"]);
    let mut next = next.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = tokio::io::BufReader::new(next.stdout.take().unwrap()).lines();
    let line = hearth_tests::patiently("the next one to listen", said.next_line()).await;
    let line = line.unwrap().expect("it listens");
    assert!(line.ends_with(&format!("http://{}", gateway.address)), "{line}");
    assert_eq!(gateway.get("/healthz").await.status, StatusCode::OK);
    next.kill().await.unwrap();
}

fn sockets_in(run: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(run).unwrap().flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "sock")).count()
}

/// A process that was started with something of this home, by its command line.
fn process_of(home: &std::path::Path) -> Option<String> {
    let home = home.to_str().unwrap();
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(home).then_some(line)
    })
}
