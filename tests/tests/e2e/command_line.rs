//! The command line, as a person uses it.

use std::process::Stdio;

use hearth_tests::gateway::Home;
use hearth_tests::patiently;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::home;

struct Ended {
    code: i32,
    out: String,
    err: String,
}

async fn end(mut command: Command) -> Ended {
    command.stdin(Stdio::null());
    let output = patiently("the command to end", command.output()).await.unwrap();
    Ended {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[tokio::test]
async fn run_streams_ps_shows_and_stop_unloads() {
    let gateway = home().start_fake(&[], &[]).await;
    let run = end(gateway.command(&["run", "m", "hello", "--keepalive", "-1"])).await;
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (0, "t0 t1 t2 \n", ""));
    let ps = end(gateway.command(&["ps"])).await;
    assert_eq!(ps.code, 0, "{}", ps.err);
    let lines: Vec<&str> = ps.out.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ps.out);
    let columns: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(columns, ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]);
    assert!(lines[1].starts_with("m:latest "), "{}", lines[1]);
    assert!(lines[1].ends_with("100% CPU     512        Forever"), "{}", lines[1]);
    let ps = end(gateway.command(&["ps", "--json"])).await;
    let ps: Value = serde_json::from_str(&ps.out).unwrap();
    assert_eq!(ps["models"][0]["state"], "idle");
    let stop = end(gateway.command(&["stop", "m"])).await;
    assert_eq!((stop.code, stop.out.as_str(), stop.err.as_str()), (0, "", ""));
    gateway.is_empty().await;
}

#[tokio::test]
async fn a_failure_is_one_line_with_a_documented_exit_code() {
    let gateway = home().start_fake(&["--at", "token:1=crash"], &[]).await;
    let unknown = end(gateway.command(&["run", "nope", "hi"])).await;
    let message = "hearth: the model 'nope' does not exist; there is m\n";
    assert_eq!((unknown.code, unknown.err.as_str()), (1, message));
    let broken = end(gateway.command(&["run", "m", "hi"])).await;
    assert_eq!((broken.code, broken.out.as_str()), (1, "t0 \n"));
    assert_eq!(broken.err, "hearth: the worker ended in the middle of the request\n");
    let mut nobody = gateway.command(&["ps"]);
    nobody.env("HEARTH_HOST", "127.0.0.1:1");
    let nobody = end(nobody).await;
    assert_eq!(nobody.code, 69);
    assert!(nobody.err.ends_with("start one with `hearth serve`\n"), "{}", nobody.err);
    assert_eq!(end(gateway.command(&["frobnicate"])).await.code, 2);
}

#[tokio::test]
async fn serve_refuses_what_is_unsafe_or_taken() {
    let gateway = home().start_fake(&[], &[]).await;
    let serve = async |home: &Home, host: &str| {
        let mut command = home.command(&["serve"]);
        command.env("HEARTH_HOST", host);
        end(command).await
    };
    let other = home();
    let exposed = serve(&other, "0.0.0.0:0").await;
    assert_eq!(exposed.code, 78);
    assert!(exposed.err.contains("an API key is needed: set HEARTH_API_KEY"), "{}", exposed.err);
    let taken = serve(&other, &gateway.address.to_string()).await;
    assert_eq!(taken.code, 75);
    assert!(taken.err.contains("stop that one or set HEARTH_HOST"), "{}", taken.err);
    let foreign = serve(&other, "192.0.2.1:0").await;
    assert_eq!(foreign.code, 78, "{}", foreign.err);
    let mut same_home = gateway.command(&["serve"]);
    same_home.env("HEARTH_HOST", "127.0.0.1:0");
    let same_home = end(same_home).await;
    assert_eq!(same_home.code, 75);
    assert!(same_home.err.starts_with("hearth: another gateway uses "), "{}", same_home.err);
    let nonsense = serve(&other, "not an address").await;
    assert_eq!(nonsense.code, 78);
    assert!(nonsense.err.starts_with("hearth: host (or HEARTH_HOST): "), "{}", nonsense.err);
}

#[tokio::test]
async fn help_teaches() {
    let help = end(home().command(&["--help"])).await;
    for taught in ["serve", "ps", "run", "stop", "list", "pull", "Exit codes", "HEARTH_HOME"] {
        assert!(help.out.contains(taught), "{taught} in {}", help.out);
    }
    let serve = end(home().command(&["serve", "--help"])).await;
    assert!(serve.out.contains("HEARTH_HOME ") && serve.out.contains("HEARTH_CONFIG "));
    for key in hearth::config::KEYS {
        let variable = format!("HEARTH_{}", key.name.to_ascii_uppercase());
        assert!(serve.out.contains(&variable), "{variable} in {}", serve.out);
    }
}

#[tokio::test]
async fn run_without_a_prompt_reads_it_from_standard_input() {
    let gateway = home().start_fake(&[], &[]).await;
    let mut run = gateway.command(&["run", "m"]);
    run.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut run = run.spawn().unwrap();
    let mut stdin = run.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, b"hello\n").await.unwrap();
    drop(stdin);
    let output = patiently("the command to end", run.wait_with_output()).await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "t0 t1 t2 \n");
    assert_eq!(gateway.ps().await[0]["in_flight"], json!(0));
}

#[tokio::test]
async fn models_are_listed_shown_copied_and_deleted() {
    let gateway = home().start_fake(&[], &[]).await;
    let copied = end(gateway.command(&["cp", "m", "me/twin"])).await;
    assert_eq!((copied.code, copied.out.as_str(), copied.err.as_str()), (0, "", ""));
    let list = end(gateway.command(&["list"])).await;
    let lines: Vec<&str> = list.out.lines().collect();
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["NAME", "ID", "SIZE", "MODIFIED"]);
    let mut names: Vec<_> =
        lines[1..].iter().filter_map(|line| line.split_whitespace().next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["m:latest", "me/twin:latest"]);
    let show = end(gateway.command(&["show", "m"])).await;
    let expected = "format          onnx\narchitecture    fake\ncapabilities    completion\n";
    assert_eq!(show.out, expected);
    let removed = end(gateway.command(&["rm", "me/twin", "m"])).await;
    assert_eq!((removed.code, removed.out.as_str()), (0, "deleted me/twin\ndeleted m\n"));
    let again = end(gateway.command(&["rm", "m"])).await;
    assert_eq!(again.code, 1);
    assert!(again.err.starts_with("hearth: the model 'm' does not exist"), "{}", again.err);
}

#[tokio::test]
async fn derived_models_are_listed_and_shown_with_what_they_are_made_of() {
    let gateway = home().start_fake(&[], &[]).await;
    let body = json!({"model": "helper", "from": "m", "system": "Be brief.\nAnd kind."});
    gateway.post("/api/create", &body).await.text().await;
    let list = end(gateway.command(&["list"])).await;
    let lines: Vec<Vec<&str>> = list
        .out
        .lines()
        .map(|line| line.split("    ").filter(|it| !it.is_empty()).collect())
        .collect();
    assert_eq!(lines[0].last().map(|it| it.trim()), Some("MADE OF"), "{}", list.out);
    let of = |name: &str| {
        let line = lines.iter().find(|line| line[0].trim() == name).unwrap();
        line.get(4).map(|it| it.trim())
    };
    assert_eq!((of("helper:latest"), of("m:latest")), (Some("m:latest"), None), "{}", list.out);
    let show = end(gateway.command(&["show", "helper"])).await;
    let first: Vec<&str> = show.out.lines().take(2).collect();
    assert_eq!(first, ["made of         m:latest", "system          Be brief."]);
}

#[tokio::test]
async fn pull_takes_a_path_in_and_says_what_is_none() {
    let gateway = home().start_fake(&[], &[]).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("tiny.gguf");
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/gguf/tiny-llama-q4_1.gguf");
    std::fs::copy(fixture, &file).unwrap();
    let pulled = end(gateway.command(&["pull", file.to_str().unwrap()])).await;
    assert_eq!((pulled.code, pulled.out.as_str(), pulled.err.as_str()), (0, "success\n", ""));
    let show = end(gateway.command(&["show", "tiny"])).await;
    let rows: Vec<_> = show.out.lines().filter_map(|line| line.split_once("  ")).collect();
    let told =
        |key: &str| rows.iter().find(|(name, _)| *name == key).map(|(_, value)| value.trim());
    assert_eq!((told("format"), told("parameters")), (Some("gguf"), Some("139.58K")));
    assert_eq!(told("context length"), Some("512"));
    let nowhere = end(gateway.command(&["pull", "./nowhere.gguf"])).await;
    assert_eq!(nowhere.code, 1);
    assert!(nowhere.err.starts_with("hearth: there is no model at that path"), "{}", nowhere.err);
}
