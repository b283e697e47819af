//! The tests that OpenAI's Python package has of itself, against a gateway with a fake worker.
//!
//! They ask for everything there is with every parameter there is, through strict and loose clients.
//! What fails is in `openai_suite.failing`, each with a reason in `docs/compatibility.md`; a test that
//! fails and is not there fails this one, and so does one that is there and passes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::{home, skip};

/// The models that the suite names.
const MODELS: [&str; 4] =
    ["gpt-6-astra", "gpt-3.5-turbo-instruct", "text-embedding-3-small", "model"];

const FILES: [&str; 6] = [
    "tests/api_resources/chat/test_completions.py",
    "tests/api_resources/test_completions.py",
    "tests/api_resources/test_embeddings.py",
    "tests/api_resources/test_models.py",
    "tests/api_resources/test_responses.py",
    "tests/api_resources/responses",
];

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the scripts say where the suite is")]
async fn the_official_suite_fails_only_where_it_is_known_to() {
    let suite = std::env::var_os("HEARTH_TEST_OPENAI_SUITE").map(PathBuf::from);
    let python = std::env::var_os("HEARTH_TEST_PYTHON");
    let (Some(suite), Some(python)) = (suite, python) else {
        return skip("no sources of the openai package: scripts/test brings them");
    };
    let home = MODELS.into_iter().fold(home(), hearth_tests::gateway::Home::with_fake_model);
    let gateway = home.start_fake(&["--slots", "16"], &[]).await;
    let output = tokio::process::Command::new(python)
        .args(["-m", "pytest", "-p", "no:cacheprovider", "-q", "-rfE", "--tb=no", "-o", "addopts="])
        .args(FILES)
        .current_dir(&suite)
        .env("PYTHONPATH", suite.join("src"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TEST_API_BASE_URL", format!("http://{}/v1", gateway.address))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    // As long as nextest lets it take: two hundred tests against a fake worker are no race.
    let output = tokio::time::timeout(3 * hearth_tests::PATIENCE, output).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = |line: &str| {
        let line = line.strip_prefix("FAILED ").or_else(|| line.strip_prefix("ERROR "))?;
        Some(line.split(" - ").next().unwrap_or(line).to_owned())
    };
    let failing: BTreeSet<String> = said.lines().filter_map(failed).collect();
    let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/openai_suite.failing");
    let known = std::fs::read_to_string(known).unwrap();
    let known: BTreeSet<String> =
        known.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    assert!(said.contains(" passed"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let unexpected: Vec<&String> = failing.symmetric_difference(&known).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}\n{said}");
}
