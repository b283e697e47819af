//! What is served against its own description, by schemathesis: whatever it sends, nothing ends in a
//! 5xx or in a status that the description does not know.

use std::process::Stdio;

use crate::{home, skip};

/// Tries of each operation. More find little more, and this has to be quick.
const EXAMPLES: &str = "6";
/// It repeats itself by this.
const SEED: &str = "7";

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the scripts say where the Python is")]
async fn nothing_that_the_description_allows_ends_in_a_status_that_it_does_not_know() {
    let Some(python) = std::env::var_os("HEARTH_TEST_PYTHON") else {
        return skip("no Python with schemathesis: scripts/test makes one");
    };
    // Whatever is pulled is not there: nobody listens on this port.
    let hub = [("HF_ENDPOINT", "http://127.0.0.1:9")];
    let gateway = home().start_fake(&["--slots", "16"], &hub).await;
    let folder = tempfile::tempdir().unwrap();
    let output = tokio::process::Command::new(python)
        .args(["-m", "schemathesis.cli", "run", "--phases", "examples,fuzzing"])
        .args(["--checks", "not_a_server_error,status_code_conformance"])
        .args(["--max-examples", EXAMPLES, "--seed", SEED, "--generation-database", "none"])
        .args(["--workers", "2", "--request-timeout", "30", "--continue-on-failure", "--no-color"])
        .args(["--suppress-health-check", "all", "--warnings", "off"])
        // It never ends; and what is pulled from a hub that is not there is a 502.
        .args(["--exclude-path", "/api/events", "--exclude-path", "/api/pull"])
        .arg(format!("http://{}/openapi.json", gateway.address))
        .current_dir(folder.path())
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(3 * hearth_tests::PATIENCE, output).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert!(said.contains("generated"), "{said}{errors}");
}
