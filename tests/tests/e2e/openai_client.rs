//! OpenAI's own Python package as the client.

use std::path::Path;
use std::process::Stdio;

use hearth_tests::patiently;

use crate::{home, skip};

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the scripts say where the Python with openai is")]
async fn the_official_python_client_works_unchanged() {
    let Some(python) = std::env::var_os("HEARTH_TEST_PYTHON") else {
        return skip("no Python with the openai package: scripts/test makes one");
    };
    let home = home().with_fake_model("crashes");
    let gateway = home.start_fake(&["--slots", "1"], &[("HEARTH_API_KEY", "s3cret")]).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/openai_client.py");
    let output = tokio::process::Command::new(python)
        .arg(script)
        .env("OPENAI_BASE_URL", format!("http://{}/v1", gateway.address))
        .env("OPENAI_API_KEY", "s3cret")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = patiently("the client to end", output).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "all of it works\n", "{said}");
}
