//! One HTTP request to a running gateway. Used by the commands that are its clients.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Exit, Failure, target};
use crate::config::{ApiKey, Listen};

/// A gateway that can be called, one request at a time.
pub(super) struct Client {
    target: Listen,
    key: Option<ApiKey>,
    /// Drives the connections; they end with the client.
    connections: JoinSet<()>,
}

impl Client {
    pub(super) fn new() -> Result<Self, Failure> {
        let (target, key) = target()?;
        Ok(Self { target, key, connections: JoinSet::new() })
    }

    /// Reads a JSON answer.
    pub(super) async fn get(&mut self, path: &str) -> Result<Value, Failure> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        whole(response).await
    }

    /// Reads an answer that comes in parts; its status is a good one.
    pub(super) async fn follow(&mut self, path: &str) -> Result<Response<Incoming>, Failure> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// Posts JSON and reads a JSON answer.
    pub(super) async fn post(&mut self, path: &str, body: &Value) -> Result<Value, Failure> {
        whole(self.stream(path, body).await?).await
    }

    /// Deletes what the JSON names; the answer says nothing more than that it went well.
    pub(super) async fn delete(&mut self, path: &str, body: &Value) -> Result<(), Failure> {
        self.send(Method::DELETE, path, body.to_string().into()).await.map(drop)
    }

    /// Posts JSON; the answer's body is still to be read, and its status is a good one.
    pub(super) async fn stream(
        &mut self,
        path: &str,
        body: &Value,
    ) -> Result<Response<Incoming>, Failure> {
        self.send(Method::POST, path, body.to_string().into()).await
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let unreachable = |error: &dyn std::error::Error| {
            let target = &self.target;
            let hint =
                format!("no gateway answers at {target} ({error}); start one with `hearth serve`");
            Failure::new(Exit::Unreachable, hint)
        };
        let address = (self.target.host.as_str(), self.target.port);
        let socket = TcpStream::connect(address).await.map_err(|error| unreachable(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|error| unreachable(&error))?;
        self.connections.spawn(async move {
            // Whatever goes wrong here is met by whoever waits for the answer.
            drop(connection.await);
        });
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.target.to_string())
            .header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {}", key.expose()));
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| Failure::new(Exit::Failed, format!("can't be asked for: {error}")))?;
        let response = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }
}

async fn whole(response: Response<Incoming>) -> Result<Value, Failure> {
    let broken = |error: &dyn std::error::Error| {
        Failure::new(Exit::Failed, format!("the answer can't be read: {error}"))
    };
    let bytes = response.into_body().collect().await.map_err(|error| broken(&error))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| broken(&error))
}

async fn refusal(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let message = whole(response).await.ok().as_ref().and_then(error_message);
    Failure::new(Exit::Failed, message.unwrap_or_else(|| format!("the gateway answered {status}")))
}

/// The message in an error of either dialect.
pub(super) fn error_message(body: &Value) -> Option<String> {
    let error = body.get("error")?;
    error.as_str().or_else(|| error.get("message")?.as_str()).map(str::to_owned)
}
