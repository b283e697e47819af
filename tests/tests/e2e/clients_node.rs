//! The clients that others wrote for Node, each unchanged but for one address.

use std::path::Path;
use std::process::Stdio;

use hearth_tests::gateway::{Gateway, Home};
use hearth_tests::patiently;

use crate::clients::ANSWER;
use crate::real_model::smollm2;
use crate::{home, skip};

/// Runs the script with the arguments; `None` where there is no Node with the clients for it.
#[expect(clippy::disallowed_methods, reason = "the scripts say where Node is")]
async fn run(gateway: &Gateway, script: &str, arguments: &[&str]) -> Option<String> {
    let node = std::env::var_os("HEARTH_TEST_NODE");
    let clients = std::env::var_os("HEARTH_TEST_NODE_CLIENTS");
    let (Some(node), Some(clients)) = (node, clients) else {
        skip("no Node with the clients: scripts/test brings them");
        return None;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/node");
    let output = tokio::process::Command::new(node)
        .arg(folder.join(script))
        .args(arguments)
        .env("HEARTH_TEST_NODE_CLIENTS", clients)
        .env("HEARTH_URL", format!("http://{}", gateway.address))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = patiently(&format!("{script} {arguments:?} to end"), output).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{out}{said}");
    Some(out)
}

async fn works(client: &str) {
    let gateway = home().with_fake_model("owner/n").start_fake(&ANSWER, &[]).await;
    if let Some(out) = run(&gateway, "clients.mjs", &[client]).await {
        assert_eq!(out, format!("{client} works\n"));
    }
}

#[tokio::test]
async fn openais_package_for_node_works() {
    works("openai").await;
}

#[tokio::test]
async fn ollamas_package_for_node_works() {
    works("ollama").await;
}

#[tokio::test]
async fn who_aborts_in_node_ends_the_work() {
    let flags = ["--part", "text:a", "--part", "text:b", "--at", "token:1=hold"];
    let gateway = home().start_fake(&flags, &[]).await;
    let Some(out) = run(&gateway, "clients.mjs", &["abort"]).await else { return };
    assert_eq!(out, "abort works\n");
    let mut worker = gateway.stage.next_worker().await;
    for id in [1, 2] {
        worker.heard(&format!("cancel {id}")).await;
    }
    assert_eq!(gateway.reaches("idle").await["name"], "m:latest");
}

#[tokio::test]
async fn structure_vectors_and_knowledge_of_real_models_reach_the_clients() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut home = Home::new(hearth_tests::programs!())
        .with_linked_model("tiny", &fixtures.join("tiny-llama-genai-fp32"))
        .with_linked_model("embed", &fixtures.join("tiny-bert-embed"));
    let mut knowing = Vec::new();
    if let Some(folder) = smollm2() {
        home = home.with_linked_model("smollm2-135m-instruct", &folder);
        knowing.push("smollm2-135m-instruct");
    }
    let gateway = home.start_real(&[("HEARTH_SLOTS", "2")]).await;
    if let Some(out) = run(&gateway, "real.mjs", &knowing).await {
        assert_eq!(out, "all of it works\n");
    }
}
