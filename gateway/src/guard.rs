//! The door: who may call, refused here or trusted after. Pure.
//!
//! Called by `server.rs` for every request, before routing and before a byte of the body is read.
//! A web page must not be able to use the server through its visitor's browser: so the Host has to
//! be one of ours, on every address that we listen on, and an Origin has to be listed. Then the
//! key, then what sort of body it is. What pages of listed origins are told is in `cors.rs`.

pub mod caller;
pub mod cors;

use std::net::IpAddr;
use std::sync::Arc;

use hyper::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName,
    HeaderValue, ORIGIN, TRANSFER_ENCODING,
};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{Method, StatusCode};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use self::caller::Caller;
use crate::config::{AccessKey, ApiKey};
use crate::error::ApiError;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Paths that say nothing about models or use, and that probes without a key have to reach.
const PUBLIC_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// What the door knows.
#[derive(Debug)]
pub struct Guard {
    hosts: Vec<String>,
    origins: Vec<String>,
    /// The digest of each key, and whose it is.
    keys: Vec<([u8; 32], Arc<Caller>)>,
    /// Everybody, where there are no keys.
    anybody: Arc<Caller>,
}

/// Why somebody was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turned {
    status: StatusCode,
    code: &'static str,
    message: &'static str,
}

const fn turned(status: StatusCode, code: &'static str, message: &'static str) -> Turned {
    Turned { status, code, message }
}

const BAD_HOST: Turned = turned(
    StatusCode::BAD_REQUEST,
    "bad_host",
    "the request needs exactly one Host header with a host in it",
);
const FOREIGN_HOST: Turned = turned(
    StatusCode::FORBIDDEN,
    "host_not_allowed",
    "this server is not called that; use localhost or its address, or add the name to allowed_hosts",
);
const FOREIGN_ORIGIN: Turned = turned(
    StatusCode::FORBIDDEN,
    "origin_not_allowed",
    "web pages of this origin may not call this server; add it to allowed_origins",
);
const NO_KEY: Turned = turned(
    StatusCode::UNAUTHORIZED,
    "invalid_api_key",
    "missing or wrong API key; send it as `Authorization: Bearer KEY`",
);
const ENCODED_BODY: Turned = turned(
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    "encoded_body",
    "compressed bodies are not read; send the JSON as it is",
);
const NOT_JSON: Turned = turned(
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    "not_json",
    "the body must be JSON; send `content-type: application/json`",
);

impl From<Turned> for ApiError {
    fn from(turned: Turned) -> Self {
        Self::Guard { status: turned.status, message: turned.message.to_owned(), code: turned.code }
    }
}

impl Turned {
    /// The label for the counter.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.code
    }
}

impl Guard {
    /// A door that lets localhost in, the named hosts, and pages of the named origins. Names are
    /// without a port or brackets, origins without a slash at their end.
    #[must_use]
    pub fn new(
        hosts: &[String],
        origins: &[String],
        key: Option<&ApiKey>,
        keys: &[AccessKey],
    ) -> Self {
        let lower = |texts: &[String]| texts.iter().map(|text| text.to_ascii_lowercase()).collect();
        let digest = |key: &ApiKey| digest(key.expose().as_bytes());
        let first = key.map(|key| (digest(key), Arc::new(Caller::unlimited("api_key"))));
        let named = keys.iter().map(|key| (digest(&key.key), Arc::new(Caller::with_key(key))));
        Self {
            hosts: lower(hosts),
            origins: lower(origins),
            keys: first.into_iter().chain(named).collect(),
            anybody: Arc::new(Caller::unlimited("anybody")),
        }
    }

    /// Checks one request that came in on our address `local`; gives who sent it.
    ///
    /// # Errors
    /// [`Turned`]: nothing of the request may be looked at any further.
    pub fn check(&self, request: &Parts, local: IpAddr) -> Result<Arc<Caller>, Turned> {
        self.check_host(request, local)?;
        self.check_origin(&request.headers)?;
        if cors::is_preflight(request) {
            // Browsers send neither key nor body with it, and nothing is done for it.
            return Ok(Arc::clone(&self.anybody));
        }
        let caller = if PUBLIC_PATHS.contains(&request.uri.path()) {
            Arc::clone(&self.anybody)
        } else {
            self.check_key(&request.headers)?
        };
        check_body_type(request)?;
        Ok(caller)
    }

    /// The request's Origin, if it has one and that one is listed.
    #[must_use]
    pub fn listed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let mut given = headers.get_all(ORIGIN).iter();
        let (Some(origin), None) = (given.next(), given.next()) else {
            return None;
        };
        let text = origin.to_str().ok()?;
        let listed = self.origins.iter().any(|listed| listed.eq_ignore_ascii_case(text));
        listed.then(|| origin.clone())
    }

    fn check_host(&self, request: &Parts, local: IpAddr) -> Result<(), Turned> {
        let mut given = request.headers.get_all(HOST).iter();
        let (Some(host), None) = (given.next(), given.next()) else {
            return Err(BAD_HOST);
        };
        let host = parse_host(host.as_bytes()).ok_or(BAD_HOST)?;
        self.check_name(&host, local)?;
        // A request-target that names a server itself must name us too.
        match request.uri.host() {
            Some(target) => self.check_name(&target.to_ascii_lowercase(), local),
            None => Ok(()),
        }
    }

    fn check_name(&self, host: &str, local: IpAddr) -> Result<(), Turned> {
        // Only names can be rebound by DNS. An address is ours if the request came in on it; behind
        // a proxy or a translated address it is another one, and then the key has to be enough.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let ours = match host.parse::<IpAddr>() {
            Ok(address) => {
                !self.keys.is_empty()
                    || address.is_loopback()
                    || address.to_canonical() == local.to_canonical()
            }
            Err(_) => host == "localhost",
        };
        if ours || self.hosts.iter().any(|name| name == host) { Ok(()) } else { Err(FOREIGN_HOST) }
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Turned> {
        let listed = self.listed_origin(headers).is_some();
        if headers.contains_key(ORIGIN) && !listed {
            return Err(FOREIGN_ORIGIN);
        }
        // Some requests of pages carry no Origin, but browsers still say where they come from.
        let cross = headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site");
        if cross && !listed { Err(FOREIGN_ORIGIN) } else { Ok(()) }
    }

    fn check_key(&self, headers: &HeaderMap) -> Result<Arc<Caller>, Turned> {
        if self.keys.is_empty() {
            return Ok(Arc::clone(&self.anybody));
        }
        let bearer = headers.get(AUTHORIZATION).and_then(|value| {
            let (scheme, key) = value.as_bytes().split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
        });
        let given = bearer.or_else(|| headers.get(X_API_KEY).map(|value| value.as_bytes()));
        let given = digest(given.ok_or(NO_KEY)?);
        // Digests have one length and hide the rest, so comparing them tells nothing by its time;
        // nor does how many there are, because all are compared whichever is right.
        let mut found = None;
        for (expected, caller) in &self.keys {
            if given.ct_eq(expected).into() {
                found = Some(caller);
            }
        }
        found.map(Arc::clone).ok_or(NO_KEY)
    }
}

fn check_body_type(request: &Parts) -> Result<(), Turned> {
    let headers = &request.headers;
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(ENCODED_BODY);
    }
    // A POST that announces nothing has nothing that could be misread.
    let has_body = headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if request.method != Method::POST || (!has_body && !headers.contains_key(CONTENT_TYPE)) {
        return Ok(());
    }
    let content_type = headers.get(CONTENT_TYPE).map_or(Ok(""), |v| v.to_str()).unwrap_or("?");
    let essence = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Ok(()),
        // What `curl -d` sends, and what Ollama's own examples rely on. A page can send it as
        // well, but then says its origin or its site, and has been turned away for it.
        "" | "application/x-www-form-urlencoded" if request.uri.path().starts_with("/api/") => {
            Ok(())
        }
        // A file that a model is made of. No form of a page can send this type.
        "" | "application/octet-stream" if request.uri.path().starts_with("/api/blobs/") => Ok(()),
        _ => Err(NOT_JSON),
    }
}

/// The host in a Host header, in lower case and without its port.
fn parse_host(value: &[u8]) -> Option<String> {
    let authority = Authority::try_from(value).ok()?;
    let host = authority.host();
    let plain = !value.contains(&b'@') && !host.is_empty();
    plain.then(|| host.to_ascii_lowercase())
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

#[cfg(test)]
mod tests;
