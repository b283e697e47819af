//! A hub of one's own on a free port: answers as Hugging Face's does, and breaks where it is told to.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, HOST, LOCATION, RANGE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Larger files are told with their hash, as if they were kept outside of git.
const LARGE_BYTES_MIN: usize = 1024;

/// One repository, `owner/repo`, and how it misbehaves.
#[derive(Debug, Default, Clone)]
pub struct Repo {
    /// Its files by path.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What the model is for.
    pub task: Option<&'static str>,
    /// The body of every answer ends after so many bytes.
    pub cut_after: Option<usize>,
    /// It takes no ranges and sends everything again.
    pub ignores_ranges: bool,
    /// The hashes that it tells are of other contents.
    pub lies: bool,
    /// It answers only to this bearer token.
    pub token: Option<&'static str>,
    /// Files of this suffix wait for [`Hub::release`] once they were asked for.
    pub holds: Option<&'static str>,
}

/// A running hub. Dropping it ends it.
#[derive(Debug)]
pub struct Hub {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    repo: Mutex<Repo>,
    /// `GET path` with the range that was asked for.
    log: Mutex<Vec<String>>,
    asked: Notify,
    release: Notify,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Hub {
    /// Starts it.
    ///
    /// # Panics
    /// If there is no free port.
    #[expect(clippy::disallowed_methods, reason = "aborted when the hub is dropped")]
    pub async fn start(repo: Repo) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State {
            repo: Mutex::new(repo),
            log: Mutex::default(),
            asked: Notify::new(),
            release: Notify::new(),
        });
        let server = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, server }
    }

    /// What the gateway has to be told.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what it holds and how it behaves.
    ///
    /// # Panics
    /// If an answer panicked.
    pub fn change(&self, change: impl FnOnce(&mut Repo)) {
        change(&mut self.state.repo.lock().expect("no answer panics"));
    }

    /// What it was asked for since the last time.
    ///
    /// # Panics
    /// If an answer panicked.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.log.lock().expect("no answer panics"))
    }

    /// Waits until a file is asked for that it holds back.
    pub async fn is_asked(&self) {
        crate::patiently("the hub to be asked", self.state.asked.notified()).await;
    }

    /// Lets one file that it holds back go.
    pub fn release(&self) {
        self.state.release.notify_one();
    }
}

#[expect(clippy::disallowed_methods, reason = "ends with its connection")]
async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((socket, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(Arc::clone(&state), request));
            let connection = hyper::server::conn::http1::Builder::new();
            // A client that leaves is what some tests are about.
            drop(connection.serve_connection(TokioIo::new(socket), answer).await);
        });
    }
}

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let repo = state.repo.lock().expect("no answer panics").clone();
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let range = header(RANGE).map(str::to_owned);
    let mut line = request.uri().path().to_owned();
    if let Some(range) = &range {
        write!(line, " {range}").expect("a string takes all");
    }
    state.log.lock().expect("no answer panics").push(line);
    let path = request.uri().path();
    if path.starts_with("/stored/") && header(AUTHORIZATION).is_some() {
        // Whoever stores files for the hub has no business with its tokens.
        return Ok(status(StatusCode::BAD_REQUEST));
    }
    let bearer = repo.token.map(|token| format!("Bearer {token}"));
    if !path.starts_with("/stored/")
        && bearer.is_some()
        && bearer.as_deref() != header(AUTHORIZATION)
    {
        return Ok(status(StatusCode::UNAUTHORIZED));
    }
    if path == "/api/models/owner/repo/revision/main" {
        return Ok(Response::new(whole(listing(&repo).to_string())));
    }
    if let Some(file) = path.strip_prefix(&format!("/owner/repo/resolve/{}/", commit())) {
        // Files are kept elsewhere: the other name of this machine is another origin.
        let host = header(HOST).unwrap_or_default().replace("127.0.0.1", "localhost");
        let mut moved = status(StatusCode::FOUND);
        let location = format!("http://{host}/stored/{file}").parse().expect("a plain address");
        moved.headers_mut().insert(LOCATION, location);
        return Ok(moved);
    }
    let Some(bytes) = path.strip_prefix("/stored/").and_then(|file| repo.files.get(file)) else {
        return Ok(status(StatusCode::NOT_FOUND));
    };
    if repo.holds.is_some_and(|suffix| path.ends_with(suffix)) {
        state.asked.notify_one();
        state.release.notified().await;
    }
    Ok(file(&repo, bytes, range.as_deref()))
}

/// Ends as its length says, or breaks the connection.
type Body = UnsyncBoxBody<Bytes, std::io::Error>;

fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// What is sent before the break has to be on its way first, or nothing of it would arrive.
fn broken(bytes: Vec<u8>) -> Body {
    let steps = stream::unfold(Some(bytes), |bytes| async move {
        match bytes {
            Some(bytes) if !bytes.is_empty() => {
                Some((Ok(Frame::data(bytes.into())), Some(Vec::new())))
            }
            _ => {
                tokio::task::yield_now().await;
                Some((Err(std::io::Error::other("as told")), None))
            }
        }
    });
    StreamBody::new(steps).boxed_unsync()
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

fn file(repo: &Repo, bytes: &[u8], range: Option<&str>) -> Response<Body> {
    let from: usize = match range.filter(|_| !repo.ignores_ranges) {
        None => 0,
        Some(range) => {
            let from = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
            from.and_then(|from| from.parse().ok()).expect("a range to the end")
        }
    };
    let rest = &bytes[from..];
    let sent = &rest[..rest.len().min(repo.cut_after.unwrap_or(usize::MAX))];
    let is_cut = sent.len() < rest.len();
    let body = if is_cut { broken(sent.to_vec()) } else { whole(sent.to_vec()) };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_LENGTH, rest.len().into());
    if from > 0 {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
        response.headers_mut().insert(CONTENT_RANGE, range.parse().expect("digits"));
    }
    response
}

/// What every revision is.
fn commit() -> String {
    "c0".repeat(20)
}

fn listing(repo: &Repo) -> Value {
    let files = repo.files.iter().map(|(path, bytes)| {
        // The real id is a hash of the contents; what counts is that files have different ones.
        let id = &sha256(path.as_bytes())[..40];
        let mut file = json!({ "rfilename": path, "size": bytes.len(), "blobId": id });
        if bytes.len() >= LARGE_BYTES_MIN {
            let told = if repo.lies { sha256(b"something else") } else { sha256(bytes) };
            file["lfs"] = json!({ "sha256": told, "size": bytes.len(), "pointerSize": 130 });
        }
        file
    });
    json!({
        "id": "owner/repo",
        "sha": commit(),
        "pipeline_tag": repo.task,
        "siblings": files.collect::<Vec<_>>(),
    })
}

/// In hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
