//! JSON Schema's own test suite: every schema of it is enforced or refused by name.
//!
//! Each distinct schema of its draft 2020-12 that is an object is sent with the `openai` package to a
//! real model at temperature 1, and every answer that came to its end is held against `jsonschema`.
//! The page says how many there are; the schemas themselves are in no repository of ours.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use hearth_tests::gateway::{Home, default_model};
use serde_json::Value;

use crate::skip;

const SCHEMAS: u64 = 361;
const REFUSED: u64 = 205;
/// The issue of it all: so many answers at least that came to their end.
const VALID_MIN: u64 = 100;

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the scripts say where the suite is")]
async fn every_schema_of_the_public_suite_is_enforced_or_refused_by_name() {
    let suite = std::env::var_os("HEARTH_TEST_JSON_SCHEMA_SUITE").map(PathBuf::from);
    let python = std::env::var_os("HEARTH_TEST_PYTHON");
    let (Some(suite), Some(python)) = (suite, python) else {
        return skip("no test suite of JSON Schema: scripts/test brings it");
    };
    // What is enforced does not depend on the model, only how often an answer comes to its end.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let knowing = default_model();
    let home = Home::new(hearth_tests::programs!());
    let home = match &knowing {
        Some(file) => home.with_linked_model("model.gguf", file),
        None => home.with_linked_model("model", &here.join("fixtures/tiny-llama-genai-fp32")),
    };
    let gateway = home.start_real(&[("HEARTH_SLOTS", "8")]).await;
    let output = tokio::process::Command::new(python)
        .arg(here.join("tests/e2e/schemas.py"))
        .arg(suite.join("tests/draft2020-12"))
        .env("HEARTH_URL", format!("http://{}", gateway.address))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    // As long as nextest lets it take: hundreds of answers of a real model are no race.
    let output = tokio::time::timeout(3 * hearth_tests::PATIENCE, output).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let counts: Value = serde_json::from_slice(&output.stdout).unwrap();
    eprintln!("{} answers ended, {} were cut", counts["valid"], counts["cut"]);
    let count = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!(counts["invalid"], serde_json::json!([]), "{said}");
    assert_eq!((count("schemas"), count("refused")), (SCHEMAS, REFUSED), "{counts:#}");
    assert_eq!(count("valid") + count("cut"), SCHEMAS - REFUSED, "{counts:#}");
    assert!(knowing.is_none() || count("valid") >= VALID_MIN, "{counts:#}");
    let page = std::fs::read_to_string(here.join("../docs/structured-output.md")).unwrap();
    for row in counts["reasons"].as_array().unwrap() {
        let row = row.as_str().unwrap();
        assert!(page.contains(row), "docs/structured-output.md lacks {row}: {counts:#}");
    }
    assert!(page.contains(&format!("{} are enforced, {REFUSED} refused", SCHEMAS - REFUSED)));
}
