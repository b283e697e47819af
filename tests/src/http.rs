//! A plain HTTP client: one connection per request, bodies as they come.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::patiently;

/// An answer whose body is still coming.
///
/// Dropping it closes the connection, as a client that leaves does.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    connection: JoinHandle<()>,
    pending: String,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Sends a request.
///
/// # Panics
/// If nobody answers.
pub async fn send(
    address: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    patiently(&format!("an answer to {method} {path}"), async {
        let socket = TcpStream::connect(address).await.expect("the gateway listens");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.expect("HTTP");
        let connection = spawn_connection(connection);
        let mut request =
            Request::builder().method(method.clone()).uri(path).header(HOST, address.to_string());
        if method == Method::POST && headers.iter().all(|(name, _)| *name != "content-type") {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let (status, headers) = (parts.status, parts.headers);
        Answer { status, headers, body, connection, pending: String::new() }
    })
    .await
}

#[expect(clippy::disallowed_methods, reason = "aborted when its answer is dropped")]
fn spawn_connection(
    connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        // Whoever waits for the answer meets the same error.
        drop(connection.await);
    })
}

impl Answer {
    /// The whole body.
    ///
    /// # Panics
    /// If it breaks off.
    pub async fn text(mut self) -> String {
        let mut text = std::mem::take(&mut self.pending);
        while let Some(more) = self.more().await {
            text.push_str(&more);
        }
        text
    }

    /// The whole body as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub async fn json(self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The next `data:` of an event stream; `None` at its end.
    ///
    /// # Panics
    /// If the stream breaks off in the middle of an event.
    pub async fn event(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.pending.split_once("\n\n") {
                let data = event.strip_prefix("data: ").expect("only data events").to_owned();
                self.pending = rest.to_owned();
                return Some(data);
            }
            match self.more().await {
                Some(more) => self.pending.push_str(&more),
                None if self.pending.is_empty() => return None,
                None => panic!("the stream broke off after {:?}", self.pending),
            }
        }
    }

    /// The text in the next event that has any.
    ///
    /// # Panics
    /// If the stream ends before.
    pub async fn delta(&mut self) -> String {
        loop {
            let event = self.event().await.expect("more of the stream");
            let event: Value = serde_json::from_str(&event).expect("an event is JSON");
            match event["choices"][0]["delta"]["content"].as_str() {
                Some("") | None => {}
                Some(text) => return text.to_owned(),
            }
        }
    }

    /// Every event that is left.
    pub async fn events(mut self) -> Vec<String> {
        let mut events = Vec::new();
        while let Some(event) = self.event().await {
            events.push(event);
        }
        events
    }

    /// The next part of the body, as it comes.
    ///
    /// # Panics
    /// If there is none.
    pub async fn part(&mut self) -> String {
        self.more().await.expect("more of the body")
    }

    async fn more(&mut self) -> Option<String> {
        let body = &mut self.body;
        let frame = patiently("more of a body", async { body.frame().await }).await?;
        let data = frame.expect("the body does not break off").into_data().expect("data");
        Some(String::from_utf8(data.to_vec()).expect("our bodies are text"))
    }
}

/// Writes bytes to a fresh connection and reads until the gateway closes it.
///
/// # Panics
/// If nobody listens, or the gateway never closes the connection.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    patiently("the gateway to close a raw connection", async {
        let mut socket = TcpStream::connect(address).await.expect("the gateway listens");
        // It may refuse before everything was sent.
        drop(socket.write_all(bytes).await);
        let mut answer = Vec::new();
        drop(socket.read_to_end(&mut answer).await);
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
}
