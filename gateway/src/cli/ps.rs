//! `hearth ps`: `/api/ps` as a table with Ollama's columns and words.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use http_body_util::BodyExt as _;
use serde_json::Value;

use super::client::Client;
use super::{Exit, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Show only models whose names begin with this
    model: Option<String>,
    /// Print the gateway's whole answer as JSON
    #[arg(long)]
    json: bool,
    /// Go on, and show every change as it happens
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

/// How long the times that are left may stand still.
const REDRAW_EVERY: Duration = Duration::from_secs(1);
/// Puts a terminal's cursor into the corner and clears what is below it.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) async fn ps(arguments: Arguments) -> Result<(), Failure> {
    let prefix = arguments.model.unwrap_or_default();
    if arguments.watch {
        return watch(&prefix).await;
    }
    let answer = Client::new()?.get("/api/ps").await?;
    let text = if arguments.json {
        format!("{answer:#}\n")
    } else {
        shown(&answer, &prefix, crate::wall::now())
    };
    print(&text)
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(Exit::Failed, format!("can't write: {error}")))
}

/// A terminal is redrawn with every change, and each second for the times that are left; whatever
/// else reads it gets a table for every change.
async fn watch(prefix: &str) -> Result<(), Failure> {
    let mut client = Client::new()?;
    let mut changes = client.follow("/api/events").await?.into_body();
    let terminal = std::io::stdout().is_terminal();
    loop {
        let table = shown(&client.get("/api/ps").await?, prefix, crate::wall::now());
        print(&if terminal { format!("{CLEAR}{table}") } else { format!("{table}\n") })?;
        loop {
            match tokio::time::timeout(REDRAW_EVERY, changes.frame()).await {
                Ok(Some(Ok(_change))) => break,
                Ok(Some(Err(_)) | None) => {
                    return Err(Failure::new(Exit::Unreachable, "the gateway has ended"));
                }
                Err(_elapsed) if terminal => break,
                Err(_elapsed) => {}
            }
        }
    }
}

/// The table, and below it who is not in it though somebody wants or wanted it.
fn shown(answer: &Value, prefix: &str, now: jiff::Timestamp) -> String {
    let mut out = table(answer, prefix, now);
    let remarks: Vec<String> = of(answer, "waiting", prefix)
        .map(|model| format!("{} waits for room", text(model, "name")))
        .chain(of(answer, "failed", prefix).map(|model| failure(model, now)))
        .collect();
    if !remarks.is_empty() {
        out.push('\n');
        out.extend(remarks.into_iter().map(|remark| remark + "\n"));
    }
    out
}

/// Models of one of the answer's lists whose names begin with this.
fn of<'a>(answer: &'a Value, list: &str, prefix: &'a str) -> impl Iterator<Item = &'a Value> {
    let models = answer[list].as_array().map_or(&[][..], Vec::as_slice);
    models.iter().filter(move |model| text(model, "name").starts_with(prefix))
}

fn failure(model: &Value, now: jiff::Timestamp) -> String {
    let told = format!("{} failed: {}", text(model, "name"), text(model, "last_error"));
    let retry = text(model, "retry_at").parse::<jiff::Timestamp>();
    match retry.map(|at| Duration::try_from(at.duration_since(now))) {
        Ok(Ok(left)) => format!("{told} (the next try: {})", from_now(left).to_lowercase()),
        Ok(Err(_)) | Err(_) => told,
    }
}

const COLUMNS: [&str; 6] = ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"];

fn table(answer: &Value, prefix: &str, now: jiff::Timestamp) -> String {
    let rows = of(answer, "models", prefix).map(|model| row(model, now));
    let rows: Vec<[String; 6]> = std::iter::once(COLUMNS.map(str::to_owned)).chain(rows).collect();
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}    "));
        out.push_str(cells.collect::<String>().trim_end());
        out.push('\n');
    }
    out
}

fn row(model: &Value, now: jiff::Timestamp) -> [String; 6] {
    let size = model["size"].as_u64().unwrap_or(0);
    let vram = model["size_vram"].as_u64().unwrap_or(0);
    [
        text(model, "name").to_owned(),
        text(model, "digest").chars().take(12).collect(),
        decimal_bytes(size),
        processor(size, vram),
        model["context_length"].to_string(),
        until(model, now),
    ]
}

fn text<'a>(model: &'a Value, key: &str) -> &'a str {
    model[key].as_str().unwrap_or("")
}

/// `512 B`, `5.1 GB`, and from ten on without a fraction: `42 GB`.
pub(super) fn decimal_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let (mut value, mut tenths, mut unit) = (bytes, 0, 0);
    while value >= 1000 && unit + 1 < UNITS.len() {
        tenths = value % 1000 / 100;
        value /= 1000;
        unit += 1;
    }
    if unit == 0 || value >= 10 {
        format!("{value} {}", UNITS[unit])
    } else {
        format!("{value}.{tenths} {}", UNITS[unit])
    }
}

fn processor(size: u64, vram: u64) -> String {
    if vram == 0 {
        "100% CPU".to_owned()
    } else if vram == size {
        "100% GPU".to_owned()
    } else if vram > size || size == 0 {
        "Unknown".to_owned()
    } else {
        let on_cpu = ((size - vram) * 100 + size / 2) / size;
        format!("{on_cpu}%/{}% CPU/GPU", 100 - on_cpu)
    }
}

fn until(model: &Value, now: jiff::Timestamp) -> String {
    match text(model, "state") {
        "stopping" => return "Stopping...".to_owned(),
        "starting" => return "Loading...".to_owned(),
        _ => {}
    }
    let Ok(expires_at) = text(model, "expires_at").parse::<jiff::Timestamp>() else {
        return "Unknown".to_owned();
    };
    match Duration::try_from(expires_at.duration_since(now)) {
        Ok(left) => from_now(left),
        Err(_in_the_past) => "Stopping...".to_owned(),
    }
}

/// How Ollama words a time to come.
fn from_now(left: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const YEAR: u64 = 365 * DAY;
    let seconds = left.as_secs();
    let words = match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..MINUTE => format!("{seconds} seconds"),
        _ if seconds < 2 * MINUTE => "About a minute".to_owned(),
        _ if seconds < HOUR => format!("{} minutes", seconds / MINUTE),
        _ if seconds < 2 * HOUR => "About an hour".to_owned(),
        _ if seconds < 48 * HOUR => format!("{} hours", seconds / HOUR),
        _ if seconds < 14 * DAY => format!("{} days", seconds / DAY),
        _ if seconds < 60 * DAY => format!("{} weeks", seconds / (7 * DAY)),
        _ if seconds < 2 * YEAR => format!("{} months", seconds / (30 * DAY)),
        _ if seconds < 21 * YEAR => format!("{} years", seconds / YEAR),
        _ => return "Forever".to_owned(),
    };
    format!("{words} from now")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_has_ollamas_columns() {
        let now: jiff::Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let answer = json!({"models": [
            {"name": "smollm2:latest", "digest": "0123456789abcdef", "size": 223_456_789,
             "size_vram": 0, "context_length": 8192, "state": "idle",
             "expires_at": "2026-11-24T12:05:00.500000+00:00"},
            {"name": "other:latest", "digest": "ff", "size": 5_130_000_000_u64,
             "size_vram": 2_565_000_000_u64, "context_length": 512, "state": "stopping",
             "expires_at": "2026-11-24T12:05:00.000000+00:00"},
        ]});
        assert_eq!(
            table(&answer, "", now),
            "NAME              ID              SIZE      PROCESSOR          CONTEXT    UNTIL\n\
             smollm2:latest    0123456789ab    223 MB    100% CPU           8192       5 minutes from now\n\
             other:latest      ff              5.1 GB    50%/50% CPU/GPU    512        Stopping...\n"
        );
        assert_eq!(table(&answer, "oth", now).lines().count(), 2);
        assert_eq!(
            table(&json!({"models": []}), "", now),
            "NAME    ID    SIZE    PROCESSOR    CONTEXT    UNTIL\n"
        );
    }

    #[test]
    fn who_loads_waits_or_has_failed_is_told_too() {
        let now: jiff::Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let answer = json!({
            "models": [{"name": "m:latest", "digest": "ff", "size": 5, "size_vram": 0,
                        "context_length": 0, "state": "starting",
                        "expires_at": "2026-11-24T12:05:00.000000+00:00"}],
            "waiting": [{"name": "n:latest", "queued": 2}],
            "failed": [
                {"name": "o:latest", "last_error": "it broke", "retry_at": null},
                {"name": "p:latest", "last_error": "it crashed",
                 "retry_at": "2026-11-24T12:00:04.000000+00:00"},
            ],
        });
        assert_eq!(
            shown(&answer, "", now),
            "NAME        ID    SIZE    PROCESSOR    CONTEXT    UNTIL\n\
             m:latest    ff    5 B     100% CPU     0          Loading...\n\n\
             n:latest waits for room\n\
             o:latest failed: it broke\n\
             p:latest failed: it crashed (the next try: 4 seconds from now)\n"
        );
        let of_p = shown(&answer, "p", now);
        assert_eq!(of_p.lines().count(), 3, "{of_p}");
    }

    #[test]
    fn sizes_and_shares_read_as_ollamas_do() {
        let sizes = [999, 1000, 5_130_000_000, 42_900_000_000].map(decimal_bytes);
        assert_eq!(sizes, ["999 B", "1.0 KB", "5.1 GB", "42 GB"]);
        assert_eq!(processor(100, 52), "48%/52% CPU/GPU");
        assert_eq!(processor(5, 5), "100% GPU");
        assert_eq!(processor(0, 5), "Unknown");
    }

    #[test]
    fn times_to_come_read_as_ollamas_do() {
        for (seconds, words) in [
            (0, "Less than a second from now"),
            (1, "1 second from now"),
            (59, "59 seconds from now"),
            (60, "About a minute from now"),
            (299, "4 minutes from now"),
            (3600, "About an hour from now"),
            (47 * 3600, "47 hours from now"),
            (13 * 86_400, "13 days from now"),
            (15 * 86_400, "2 weeks from now"),
            (100 * 86_400, "3 months from now"),
            (3 * 365 * 86_400, "3 years from now"),
            (30 * 365 * 86_400, "Forever"),
        ] {
            assert_eq!(from_now(Duration::from_secs(seconds)), words);
        }
    }
}
