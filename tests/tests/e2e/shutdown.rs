//! How a gateway ends, and that nothing stays behind.

use hyper::StatusCode;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
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
    let gateway = home().start_fake(&["--at", "token:1=hold"], &[]).await;
    let mut answer = gateway.chat("m", json!({"stream": true})).await;
    let mut worker = gateway.stage.next_worker().await;
    assert_eq!(answer.delta().await, "t0 ");
    gateway.signal(Signal::SIGTERM);
    hearth_tests::patiently("the port to close", async {
        while TcpStream::connect(gateway.address).await.is_ok() {}
    })
    .await;
    worker.go().await;
    let events = answer.events().await;
    assert_eq!(events.last().unwrap(), "[DONE]");
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
    assert_eq!(status.code(), Some(1));
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
