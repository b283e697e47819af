//! `POST /api/pull`: a model from the hub, or from a path on this machine, with Ollama's progress.
//!
//! The pull is a part of its answer: a client that leaves ends it, and what has come stays for the
//! next time.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{Stream, stream};
use hyper::Response;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use super::{fields, manage, options};
use crate::app::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::{Ask, find_model};
use crate::http;
use crate::hub::{Progress, RepoName, Sink};
use crate::known;
use crate::server::ReadBody;
use crate::store::StoreError;
use crate::stream::{self as body, Body, ndjson};

/// Steps that a client may be behind before the pull waits for it.
const STEPS_MAX: usize = 16;

/// What a client wants to have here.
enum Wanted {
    Repo(RepoName),
    Local(PathBuf),
    /// It is here already, and nowhere else.
    Here,
}

/// Serves one request.
///
/// # Errors
/// [`ApiError`]: nothing has been sent yet. What fails later ends the stream with a line.
pub async fn serve(app: &App, request_body: ReadBody) -> Result<Response<Body>, ApiError> {
    let ((ask, streamed), ignored) = known::read(request_body.as_ref(), fields::PULL, parse)?;
    drop(request_body);
    match wanted(app, &ask.model).await? {
        Wanted::Here => {}
        Wanted::Local(path) => {
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let name = manage::new_name("model", name)?;
            manage::check_is_free(app, &name).await?;
            manage::adopt(app, path, name).await?;
        }
        Wanted::Repo(repo) => {
            return Ok(known::mark(pull(app, repo, streamed).await?, ignored));
        }
    }
    Ok(known::mark(done(streamed), ignored))
}

/// Whether these are the fields of a request.
///
/// # Errors
/// [`ApiError::Invalid`] that names the field.
pub(crate) fn check(map: &Map<String, Value>) -> Result<(), ApiError> {
    parse(map).map(drop)
}

pub(super) fn parse(map: &Map<String, Value>) -> Result<(Ask, bool), ApiError> {
    let fields = Fields::new(map);
    fields::check(fields, fields::PULL)?;
    Ok((options::ask(fields)?, options::stream(fields)?))
}

async fn wanted(app: &App, written: &str) -> Result<Wanted, ApiError> {
    if Path::new(written).is_absolute() {
        app.caller.check_may_name_paths()?;
        return Ok(Wanted::Local(PathBuf::from(written)));
    }
    if let Some(repo) = RepoName::parse(written) {
        return Ok(Wanted::Repo(repo));
    }
    match find_model(app, written).await {
        Ok(_) => Ok(Wanted::Here),
        Err(ApiError::UnknownModel { name, .. }) => {
            let message = format!(
                "'{name}' is no repository of Hugging Face: pull `owner/name`, or `owner/name:Q4_K_M` \
                 for one of its variants"
            );
            Err(ApiError::invalid("model", message))
        }
        Err(other) => Err(other),
    }
}

async fn pull(app: &App, repo: RepoName, streamed: bool) -> Result<Response<Body>, ApiError> {
    let (sink, progress) = mpsc::channel(STEPS_MAX);
    let puller = app.puller.clone();
    let mut task = JoinSet::new();
    task.spawn(async move { puller.pull(&repo, &Sink(sink)).await });
    let mut pulling = Pulling { task, progress };
    if streamed {
        return Ok(http::streamed(ndjson::CONTENT_TYPE, body::parts(pulling.lines())));
    }
    while pulling.progress.recv().await.is_some() {}
    pulling.ended().await?;
    Ok(done(false))
}

/// The end of what needs no progress, in the form that was asked for.
pub(super) fn done(streamed: bool) -> Response<Body> {
    let success = json!({ "status": "success" });
    if streamed {
        http::streamed(ndjson::CONTENT_TYPE, body::whole(ndjson::line(&success)))
    } else {
        http::json(&success)
    }
}

/// A pull on its way; dropping it ends it.
struct Pulling {
    task: JoinSet<Result<(), ApiError>>,
    progress: mpsc::Receiver<Progress>,
}

impl Pulling {
    fn lines(self) -> impl Stream<Item = Bytes> + Send + 'static {
        stream::unfold(Some(self), |pulling| async {
            let mut pulling = pulling?;
            if let Some(progress) = pulling.progress.recv().await {
                return Some((ndjson::line(&line(&progress)).into(), Some(pulling)));
            }
            match pulling.ended().await {
                Ok(()) => None,
                Err(error) => Some((ndjson::line(&error.ollama_body()).into(), None)),
            }
        })
    }

    async fn ended(&mut self) -> Result<(), ApiError> {
        let ended = self.task.join_next().await.expect("it was spawned and is waited for once");
        let ended = ended.unwrap_or_else(|panic: JoinError| {
            Err(StoreError::Io(std::io::Error::other(panic)).into())
        });
        ended.inspect_err(|error| tracing::warn!(%error, "a pull failed"))
    }
}

fn line(progress: &Progress) -> Value {
    match progress {
        Progress::Stage(status) => json!({ "status": status }),
        Progress::Bytes { digest, total, completed } => {
            let short: String = digest.chars().skip_while(|c| *c != ':').skip(1).take(12).collect();
            json!({
                "status": format!("pulling {short}"),
                "digest": digest,
                "total": total,
                "completed": completed,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_ollamas_words() {
        assert_eq!(
            line(&Progress::Stage("verifying sha256 digest".to_owned())),
            json!({"status": "verifying sha256 digest"})
        );
        let digest = format!("sha256:{}", "ab".repeat(32));
        let bytes = Progress::Bytes { digest: digest.clone(), total: 9, completed: 4 };
        assert_eq!(
            line(&bytes),
            json!({"status": "pulling abababababab", "digest": digest, "total": 9, "completed": 4})
        );
    }
}
