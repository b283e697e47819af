//! The tests that OpenAI's Python package has of itself, against a gateway with a fake worker.
//!
//! They ask for everything there is with every parameter there is, through strict and loose clients.
//! What fails is in `openai_suite.failing`, each with a reason in `docs/compatibility.md`; a test that
//! fails and is not there fails this one, and so does one that is there and passes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use hyper::StatusCode;
use serde_json::json;

use crate::{home, skip};

/// The models that the suite names.
const MODELS: [&str; 4] =
    ["gpt-6-astra", "gpt-3.5-turbo-instruct", "text-embedding-3-small", "model"];

/// How many of its tests pass; the page says so, too.
const PASSED: usize = 151;

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
    let known = known();
    assert!(
        said.contains(&format!(" {PASSED} passed")),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let unexpected: Vec<&String> = failing.symmetric_difference(&known).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}\n{said}");
}

fn known() -> BTreeSet<String> {
    let known = read("tests/e2e/openai_suite.failing");
    known.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_page_counts_every_failure_once() {
    let page = read("../docs/compatibility.md");
    let (_, table) = page.split_once("<!-- failures of openai -->").unwrap();
    let (table, _) = table.split_once("<!-- end -->").unwrap();
    let counts =
        table.lines().filter_map(|row| row.split('|').nth(1)?.trim().parse::<usize>().ok());
    let failures: usize = counts.sum();
    assert_eq!(failures, known().len());
    assert!(page.contains(&format!("{PASSED} pass and {failures} fail")));
}

/// Where the suite sends all parameters at once, one that is refused hides the others.
#[tokio::test]
async fn all_parameters_of_the_suite_are_taken_but_those_that_are_refused() {
    let function = json!({"name": "f", "description": "d", "parameters": {"foo": "bar"}});
    let common = json!({
        "model": "m", "temperature": 1, "top_p": 1, "user": "user-1234", "logit_bias": {"foo": 0},
        "frequency_penalty": -2, "presence_penalty": -2, "stop": "\n", "n": 1,
        "seed": -9_007_199_254_740_991_i64, "top_logprobs": 0, "metadata": {"foo": "string"},
        "moderation": {"model": "model", "policy": {"input": {"mode": "score"}}},
        "parallel_tool_calls": true, "prompt_cache_key": "k", "prompt_cache_retention": "in_memory",
        "prompt_cache_options": {"mode": "implicit", "ttl": "30m"}, "safety_identifier": "s",
        "service_tier": "auto", "store": true, "tool_choice": "none",
        "stream_options": {"include_obfuscation": true},
    });
    let chat = json!({
        "messages": [{"content": "string", "role": "developer", "name": "name"}],
        "audio": {"format": "wav", "voice": "alloy"}, "modalities": ["text"],
        "function_call": "none", "functions": [function], "logprobs": true, "verbosity": "low",
        "max_completion_tokens": 0, "max_tokens": 0, "reasoning_effort": "none",
        "prediction": {"content": "string", "type": "content"}, "response_format": {"type": "text"},
        "tools": [{"type": "function", "function": function}],
    });
    let completion =
        json!({"prompt": "This is a test.", "best_of": 0, "logprobs": 0, "max_tokens": 16});
    let response = json!({
        "input": "string", "instructions": "instructions", "max_output_tokens": 16,
        "access_programs": {"cyber": "standard"}, "image": {"context_compression": "auto"},
        "include": ["file_search_call.results"], "max_tool_calls": 0, "truncation": "auto",
        "reasoning": {"context": "auto", "effort": "none", "mode": "standard", "summary": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "tools": [{"type": "function", "name": "f", "parameters": {"foo": "bar"}, "strict": true,
                   "allowed_callers": ["direct"], "async": true, "output_schema": {"foo": "bar"}}],
    });
    let gateway = home().start_fake(&[], &[]).await;
    for (path, own) in [
        ("/v1/chat/completions", chat),
        ("/v1/completions", completion),
        ("/v1/responses", response),
    ] {
        for stream in [false, true] {
            let mut body = common.clone();
            let map = body.as_object_mut().unwrap();
            map.extend(own.as_object().unwrap().clone());
            map.insert("stream".to_owned(), json!(stream));
            let answer = gateway.post(path, &body).await;
            let status = answer.status;
            assert_eq!(status, StatusCode::OK, "{path}: {:?}", answer.text().await);
        }
    }
}
