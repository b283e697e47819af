//! `keep_alive`: how long a worker stays warm after its last request. Pure.
//!
//! Every inference endpoint of both dialects, the configuration and the command line read it
//! through here, so that a form accepted in one place is accepted in all.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

/// How long an idle worker is kept. For ever is longer than anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeepAlive {
    /// This long from the end of the last request; zero means not at all.
    For(Duration),
    /// Until it is unloaded or the gateway ends.
    Forever,
}

/// Longer than this is as good as forever, and the arithmetic of instants stays far from its
/// limits. Ollama's own "forever" is about 292 years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What is written where a value is none.
pub const ACCEPTED_FORMS: &str = "a number of seconds (30, 0.5; negative for ever, 0 to unload \
     at once), or a duration such as \"90s\", \"5m\", \"1h30m\" or \"1d\"";

/// A value that is no `keep_alive`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no keep_alive; use {ACCEPTED_FORMS}")]
pub struct KeepAliveError {
    /// What was given, shortened.
    pub given: String,
}

impl KeepAliveError {
    fn new(given: &str) -> Self {
        Self { given: given.chars().take(40).collect() }
    }
}

impl KeepAlive {
    /// When a worker that becomes idle at `now` expires; `None` is never.
    #[must_use]
    pub fn deadline(self, now: Instant) -> Option<Instant> {
        match self {
            Self::For(duration) => Some(now + duration),
            Self::Forever => None,
        }
    }

    /// Whether the worker ends together with its last request.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::For(Duration::ZERO)
    }

    /// In seconds, as a request could spell it: -1 is for ever.
    #[must_use]
    pub fn as_seconds(self) -> f64 {
        match self {
            Self::For(duration) => duration.as_secs_f64(),
            Self::Forever => -1.0,
        }
    }

    /// Reads a request's `keep_alive`. `null` is as good as absent.
    ///
    /// # Errors
    /// [`KeepAliveError`] for anything that [`ACCEPTED_FORMS`] does not name.
    pub fn from_json(value: &Value) -> Result<Option<Self>, KeepAliveError> {
        match value {
            Value::Null => Ok(None),
            Value::Number(number) => number
                .as_f64()
                .and_then(Self::from_seconds)
                .map(Some)
                .ok_or_else(|| KeepAliveError::new(&number.to_string())),
            Value::String(text) => text.parse().map(Some),
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                Err(KeepAliveError::new(&value.to_string()))
            }
        }
    }

    fn from_seconds(seconds: f64) -> Option<Self> {
        if seconds.is_nan() {
            None
        } else if seconds < 0.0 || seconds >= LONGEST.as_secs_f64() {
            Some(Self::Forever)
        } else {
            Some(Self::For(Duration::from_secs_f64(seconds)))
        }
    }
}

/// What whoever runs the gateway allows requests to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlivePolicy {
    /// What holds when no request said anything.
    pub default: KeepAlive,
    /// The shortest; `None` sets no bound.
    pub min: Option<KeepAlive>,
    /// The longest; `None` sets no bound.
    pub max: Option<KeepAlive>,
    /// Whether requests have no say at all.
    pub ignores_clients: bool,
}

impl KeepAlivePolicy {
    /// A default, and no bounds.
    #[must_use]
    pub fn of(default: KeepAlive) -> Self {
        Self { default, min: None, max: None, ignores_clients: false }
    }

    /// What holds after a request asked for `asked`. The default keeps to the bounds as well.
    #[must_use]
    pub fn settle(self, asked: Option<KeepAlive>) -> KeepAlive {
        let asked = asked.filter(|_| !self.ignores_clients).unwrap_or(self.default);
        let at_least = self.min.map_or(asked, |min| asked.max(min));
        self.max.map_or(at_least, |max| at_least.min(max))
    }
}

impl std::str::FromStr for KeepAlive {
    type Err = KeepAliveError;

    fn from_str(text: &str) -> Result<Self, KeepAliveError> {
        let trimmed = text.trim();
        plain_number(trimmed)
            .or_else(|| go_duration(trimmed))
            .and_then(Self::from_seconds)
            .ok_or_else(|| KeepAliveError::new(text))
    }
}

/// `"300"`, `"-1"`, `"0.5"`. Stricter than Rust's own parser, which also takes `inf` and `1e5`.
fn plain_number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    if plain { text.parse().ok() } else { None }
}

/// Go's `time.ParseDuration`, and days, which Go has no unit for.
fn go_duration(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        seconds += plain_number(number)? * seconds_of(unit)?;
        rest = after;
    }
    Some(sign * seconds)
}

fn seconds_of(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    })
}

/// Reads a duration of the configuration, in the same spelling; it can't be endless.
///
/// # Errors
/// [`KeepAliveError`] as for `keep_alive`, and for a negative one.
pub fn parse_duration(text: &str) -> Result<Duration, KeepAliveError> {
    match text.parse()? {
        KeepAlive::For(duration) => Ok(duration),
        KeepAlive::Forever => Err(KeepAliveError::new(text)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seconds(s: f64) -> Option<KeepAlive> {
        Some(KeepAlive::For(Duration::from_secs_f64(s)))
    }

    #[test]
    fn every_documented_form_is_read() {
        let forever = Some(KeepAlive::Forever);
        for (given, expected) in [
            (json!(null), None),
            (json!(0), seconds(0.0)),
            (json!(42), seconds(42.0)),
            (json!(42.5), seconds(42.5)),
            (json!(-1), forever),
            (json!(-0.5), forever),
            (json!(1e300), forever),
            (json!("90s"), seconds(90.0)),
            (json!("5m"), seconds(300.0)),
            (json!("1h30m"), seconds(5400.0)),
            (json!("1h2m3s"), seconds(3723.0)),
            (json!("1.5h"), seconds(5400.0)),
            (json!("1d"), seconds(86_400.0)),
            (json!("250ms"), seconds(0.25)),
            (json!("0"), seconds(0.0)),
            (json!("0s"), seconds(0.0)),
            (json!("300"), seconds(300.0)),
            (json!("-1"), forever),
            (json!("-1m"), forever),
            (json!(" 10s "), seconds(10.0)),
        ] {
            assert_eq!(KeepAlive::from_json(&given), Ok(expected), "{given}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_accepted_forms() {
        for given in [
            json!(true),
            json!([5]),
            json!({}),
            json!(""),
            json!("-"),
            json!("5 m"),
            json!("m"),
            json!("1w"),
            json!("inf"),
            json!("1e5"),
            json!("5m3"),
            json!("1..5s"),
            json!("??"),
        ] {
            let error = KeepAlive::from_json(&given).expect_err(&given.to_string());
            assert!(error.to_string().contains("use a number of seconds"), "{error}");
        }
    }

    #[test]
    fn a_policy_bounds_what_requests_ask_for() {
        let of = |text: &str| text.parse::<KeepAlive>().unwrap();
        let free = KeepAlivePolicy::of(of("5m"));
        let bound = KeepAlivePolicy { min: Some(of("1m")), max: Some(of("1h")), ..free };
        let deaf = KeepAlivePolicy { ignores_clients: true, ..free };
        let low = KeepAlivePolicy { default: of("1s"), ..bound };
        for (policy, asked, settled) in [
            (free, None, "5m"),
            (free, Some("0"), "0"),
            (free, Some("-1"), "-1"),
            (bound, Some("0"), "1m"),
            (bound, Some("-1"), "1h"),
            (bound, Some("2m"), "2m"),
            (deaf, Some("2m"), "5m"),
            (low, None, "1m"),
        ] {
            assert_eq!(policy.settle(asked.map(of)), of(settled), "{policy:?} {asked:?}");
        }
    }

    #[test]
    fn zero_ends_with_the_request_and_forever_has_no_deadline() {
        let now = Instant::now();
        assert!("0".parse::<KeepAlive>().unwrap().is_zero());
        assert_eq!(KeepAlive::Forever.deadline(now), None);
        assert_eq!(
            "2s".parse::<KeepAlive>().unwrap().deadline(now),
            Some(now + Duration::from_secs(2))
        );
    }
}
