//! Clients that others wrote for Ollama and OpenAI, each unchanged but for one address.

use std::path::Path;
use std::process::Stdio;

use hearth_tests::gateway::{Gateway, Home};
use hearth_tests::patiently;

use crate::{home, skip};

/// What every answer of the fake worker is.
pub(crate) const ANSWER: [&str; 12] = [
    "--part",
    "reasoning:hm",
    "--part",
    "text:Well. ",
    "--part",
    "call:f",
    "--part",
    "arguments:{\"x\": 1}",
    "--finish",
    "tool_calls",
    "--slots",
    "2",
];

/// Runs the script with the arguments; `None` where there is no Python for it.
#[expect(clippy::disallowed_methods, reason = "the scripts say where the Python is")]
async fn run(gateway: &Gateway, script: &str, arguments: &[&str]) -> Option<String> {
    let Some(python) = std::env::var_os("HEARTH_TEST_PYTHON") else {
        skip("no Python with the clients: scripts/test makes one");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(script);
    let home = tempfile::tempdir().unwrap();
    let output = tokio::process::Command::new(python)
        .arg(script)
        .args(arguments)
        .env("HEARTH_URL", format!("http://{}", gateway.address))
        // What they would like to fetch or keep somewhere is not there, and nobody counts tests.
        .env("HOME", home.path())
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = patiently(&format!("{arguments:?} to end"), output).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{out}{said}");
    Some(out)
}

async fn works(client: &str) {
    let gateway = home().start_fake(&ANSWER, &[]).await;
    if let Some(out) = run(&gateway, "clients.py", &[client]).await {
        assert!(out.ends_with(&format!("{client} works\n")), "{out}");
    }
}

#[tokio::test]
async fn ollamas_own_package_works() {
    works("ollama").await;
}

#[tokio::test]
async fn langchain_ollama_works() {
    works("langchain-ollama").await;
}

#[tokio::test]
async fn langchain_openai_works() {
    works("langchain-openai").await;
}

#[tokio::test]
async fn litellm_works() {
    works("litellm").await;
}

#[tokio::test]
async fn the_llm_command_works() {
    works("llm").await;
}

/// With real workers and tiny models.
async fn works_with_real_models(client: &str) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let home = Home::new(hearth_tests::programs!())
        .with_linked_model("tiny", &fixtures.join("tiny-llama-genai-fp32"))
        .with_linked_model("embed", &fixtures.join("tiny-bert-embed"))
        .with_linked_model("rerank", &fixtures.join("tiny-cross-encoder"));
    let gateway = home.start_real(&[("HEARTH_SLOTS", "2")]).await;
    if let Some(out) = run(&gateway, "clients_real.py", &[client]).await {
        assert!(out.ends_with(&format!("{client} works\n")), "{out}");
    }
}

#[tokio::test]
async fn what_real_models_say_reaches_ollamas_package() {
    works_with_real_models("ollama").await;
}

#[tokio::test]
async fn what_real_models_say_reaches_openais_package() {
    works_with_real_models("openai").await;
}

#[tokio::test]
async fn what_real_models_say_reaches_langchain_openai() {
    works_with_real_models("langchain-openai").await;
}

#[tokio::test]
async fn what_real_models_say_reaches_langchain_ollama() {
    works_with_real_models("langchain-ollama").await;
}

#[tokio::test]
async fn what_real_models_say_reaches_litellm() {
    works_with_real_models("litellm").await;
}

#[tokio::test]
async fn what_real_models_say_reaches_the_llm_command() {
    works_with_real_models("llm").await;
}
