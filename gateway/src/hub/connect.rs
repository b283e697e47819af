//! GET over HTTP/1.1, plain or with TLS, following redirects. One connection per request.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, LOCATION, RANGE, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::HubError;
use crate::config::ApiKey;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// From a request to the head of its answer, and from one piece of a body to the next.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: usize = 5;
const AGENT: &str = concat!("hearth/", env!("CARGO_PKG_VERSION"));

/// What connections need; the certificates are read when the first one is asked for.
#[derive(Default)]
pub(super) struct Connector {
    tls: OnceCell<TlsConnector>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

/// An answer whose body is still to be read.
pub(super) struct Answer {
    pub(super) host: String,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Incoming,
    /// Drives the connection, which ends with this.
    _connection: JoinSet<()>,
}

impl Connector {
    /// Asks for what is at an address, from a byte on, wherever it has moved to.
    pub(super) async fn get(
        &self,
        uri: &Uri,
        token: Option<&ApiKey>,
        from: u64,
    ) -> Result<Answer, HubError> {
        let mut at = uri.clone();
        for _ in 0..=REDIRECTS_MAX {
            // The token is for the hub alone, not for whoever stores its files.
            let token = token.filter(|_| origin(&at) == origin(uri));
            let answer = self.get_one(&at, token, from).await?;
            let moved = answer.status.is_redirection();
            let Some(location) = answer.headers.get(LOCATION).filter(|_| moved) else {
                return Ok(answer);
            };
            let next = location.to_str().ok().and_then(|location| follow(&at, location));
            at = next.ok_or_else(|| {
                unreachable(&at, "it sends us to an address that can't be followed")
            })?;
        }
        Err(unreachable(uri, "it sends us from one address to the next"))
    }

    async fn get_one(
        &self,
        uri: &Uri,
        token: Option<&ApiKey>,
        from: u64,
    ) -> Result<Answer, HubError> {
        let host = uri.host().ok_or(HubError::Endpoint)?;
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let address = (host.trim_start_matches('[').trim_end_matches(']'), port);
        let connecting = async {
            let socket = TcpStream::connect(address).await.map_err(|e| unreachable(uri, &e))?;
            if !is_tls {
                return Ok::<Box<dyn Stream>, HubError>(Box::new(socket));
            }
            let tls = self.tls.get_or_try_init(|| tls(uri)).await?;
            let name = ServerName::try_from(address.0.to_owned());
            let name = name.map_err(|error| unreachable(uri, &error))?;
            let socket = tls.connect(name, socket).await.map_err(|e| unreachable(uri, &e))?;
            Ok(Box::new(socket) as Box<dyn Stream>)
        };
        let socket = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let socket =
            socket.map_err(|_elapsed| unreachable(uri, "it does not answer in time"))??;
        let request = request(uri, token, from)?;
        let answering = async {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
            let mut driver = JoinSet::new();
            driver.spawn(async move {
                // Whatever goes wrong here is met by whoever reads the answer.
                drop(connection.await);
            });
            Ok::<_, hyper::Error>((sender.send_request(request).await?, driver))
        };
        let answer = tokio::time::timeout(STALL_TIMEOUT, answering).await;
        let answer = answer.map_err(|_elapsed| unreachable(uri, "it does not answer in time"))?;
        let (response, driver) = answer.map_err(|error| unreachable(uri, &error))?;
        let (parts, body) = response.into_parts();
        let (status, headers) = (parts.status, parts.headers);
        Ok(Answer { host: host.to_owned(), status, headers, body, _connection: driver })
    }
}

fn request(
    uri: &Uri,
    token: Option<&ApiKey>,
    from: u64,
) -> Result<Request<Empty<Bytes>>, HubError> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let mut request =
        Request::builder().uri(path).header(HOST, authority).header(USER_AGENT, AGENT);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    if from > 0 {
        request = request.header(RANGE, format!("bytes={from}-"));
    }
    request.body(Empty::new()).map_err(|_invalid| HubError::Endpoint)
}

/// Reads the system's certificates.
async fn tls(uri: &Uri) -> Result<TlsConnector, HubError> {
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let found = found.map_err(|panic| unreachable(uri, &panic))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = "this system has no certificates to know it by: install ca-certificates";
        return Err(unreachable(uri, why));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unreachable(uri, &error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn unreachable(uri: &Uri, reason: &(impl ToString + ?Sized)) -> HubError {
    HubError::Unreachable { host: uri.host().unwrap_or("").to_owned(), reason: reason.to_string() }
}

fn origin(uri: &Uri) -> (Option<&str>, Option<&str>) {
    (uri.scheme_str(), uri.authority().map(|authority| authority.as_str()))
}

/// Where a redirect leads; never from TLS back to what everybody can read and change.
fn follow(from: &Uri, location: &str) -> Option<Uri> {
    let next: Uri = if location.starts_with('/') && !location.starts_with("//") {
        format!("{}://{}{location}", from.scheme_str()?, from.authority()?).parse().ok()?
    } else {
        location.parse().ok()?
    };
    let secure = next.scheme_str() == Some("https");
    let plain = next.scheme_str() == Some("http") && from.scheme_str() == Some("http");
    (secure || plain).then_some(next)
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    ///
    /// # Cancel safety
    /// Safe: a piece is either returned or still there.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let frame = tokio::time::timeout(STALL_TIMEOUT, self.body.frame()).await;
            let frame = frame.map_err(|_elapsed| "nothing came any more".to_owned())?;
            let Some(frame) = frame else { return Ok(None) };
            if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// All of a body that is not longer than this.
    pub(super) async fn whole(mut self, bytes_max: usize) -> Result<Bytes, HubError> {
        let mut whole = BytesMut::new();
        let wrong =
            |host: &str, reason: String| HubError::Nonsense { host: host.to_owned(), reason };
        while let Some(data) = self.next().await.map_err(|reason| wrong(&self.host, reason))? {
            whole.extend_from_slice(&data);
            if whole.len() > bytes_max {
                return Err(wrong(&self.host, format!("it has more than {bytes_max} bytes")));
            }
        }
        Ok(whole.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_may_lead_anywhere_but_out_of_tls() {
        let to = |from: &'static str, location| {
            follow(&Uri::from_static(from), location).map(|uri| uri.to_string())
        };
        let elsewhere = Some("https://cdn.test/x?y=1".to_owned());
        assert_eq!(to("https://hub.test/a", "https://cdn.test/x?y=1"), elsewhere);
        assert_eq!(to("http://hub.test/a", "https://cdn.test/x?y=1"), elsewhere);
        assert_eq!(to("https://hub.test/a", "/b"), Some("https://hub.test/b".to_owned()));
        assert_eq!(to("https://hub.test/a", "http://cdn.test/x"), None);
        assert_eq!(to("https://hub.test/a", "//cdn.test/x"), None);
        assert_eq!(to("https://hub.test/a", "file:///etc/passwd"), None);
    }

    #[test]
    fn a_request_goes_on_where_it_is_told() {
        let uri = Uri::from_static("https://hub.test:8443/a?b=c");
        let request = request(&uri, None, 7).unwrap();
        assert_eq!(request.uri(), "/a?b=c");
        let headers = request.headers();
        assert_eq!(headers[HOST], "hub.test:8443");
        assert_eq!(headers[RANGE], "bytes=7-");
        assert!(!headers.contains_key(AUTHORIZATION));
    }
}
