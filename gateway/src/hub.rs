//! Hugging Face's hub, or a mirror of it: which files a repository has, and the files themselves.
//!
//! Called by `pull.rs` and by nobody else, and the only part of the gateway that opens connections to
//! other machines: a gateway that is never asked to pull stays at home. `listing.rs` reads what a
//! repository holds, `choice.rs` picks what makes one model of it, `download.rs` fetches a file so that
//! a broken one can be gone on with, `connect.rs` speaks HTTP. Nothing here knows the models directory.

mod connect;
pub(crate) mod choice;
mod download;
mod listing;
mod name;

use std::path::Path;

use hyper::StatusCode;
use hyper::Uri;

pub use self::choice::{Choice, ChoiceError, Chosen};
use self::connect::Connector;
pub(crate) use self::download::{Progress, Sink};
pub use self::listing::{Listing, RemoteFile};
pub use self::name::{RepoName, without_host};
use crate::config::ApiKey;

/// A listing of a repository with tens of thousands of files.
const LISTING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Where models come from.
#[derive(Debug)]
pub struct Hub {
    endpoint: String,
    token: Option<ApiKey>,
    connector: Connector,
}

/// Why something can't be had from there.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The address that is configured is none.
    #[error("hf_endpoint (or HF_ENDPOINT) is no http or https address")]
    Endpoint,
    /// Nobody answers.
    #[error("{host} can't be reached: {reason}")]
    Unreachable {
        /// Who.
        host: String,
        /// What was met.
        reason: String,
    },
    /// It does not have the repository, or not for us.
    #[error("{host} has no repository `{repo}`, or it is not for everybody: set HF_TOKEN then")]
    NoRepo {
        /// Who.
        host: String,
        /// What was asked for.
        repo: String,
    },
    /// It answers with something else.
    #[error("{host} answered {status}")]
    Status {
        /// Who.
        host: String,
        /// With what.
        status: StatusCode,
    },
    /// What it answers makes no sense.
    #[error("what {host} says of the repository makes no sense: {reason}")]
    Nonsense {
        /// Who.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing in the repository is a model that can be served.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// The connection broke again and again.
    #[error("the download of {file} broke off: {reason}; pull again to go on from there")]
    BrokeOff {
        /// Which file.
        file: String,
        /// What was met last.
        reason: String,
    },
    /// What came is not what was promised.
    #[error("{file} arrived damaged: its sha256 is {found}, not {expected}; it was thrown away")]
    Damaged {
        /// Which file.
        file: String,
        /// What the hub says.
        expected: String,
        /// What came.
        found: String,
    },
    /// It can't be written down.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Hub {
    /// The hub at this address; the token is sent there and nowhere else.
    #[must_use]
    pub fn new(endpoint: &str, token: Option<ApiKey>) -> Self {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Self { endpoint, token, connector: Connector::default() }
    }

    /// What the repository holds at this moment.
    ///
    /// # Errors
    /// [`HubError`]
    pub async fn list(&self, repo: &RepoName) -> Result<Listing, HubError> {
        let uri = self.uri(&format!("/api/models/{}/revision/main?blobs=true", repo.path()))?;
        let answer = self.connector.get(&uri, self.token.as_ref(), 0).await?;
        let host = answer.host.clone();
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(HubError::NoRepo { host, repo: repo.path() });
            }
            status => return Err(HubError::Status { host, status }),
        }
        let body = answer.whole(LISTING_BYTES_MAX).await?;
        listing::parse(&body).map_err(|reason| HubError::Nonsense { host, reason })
    }

    /// Fetches a file of a repository as `listing` has it to `to`, going on with what is there.
    ///
    /// # Errors
    /// [`HubError`]; what has come stays at `to`, unless it is damaged.
    ///
    /// # Cancel safety
    /// Safe: what has come stays.
    pub(crate) async fn fetch(
        &self,
        (repo, listing): (&RepoName, &Listing),
        file: &RemoteFile,
        to: &Path,
        sink: &Sink,
    ) -> Result<(), HubError> {
        let path = percent_encoding::utf8_percent_encode(&file.path, PATH);
        let uri = self.uri(&format!("/{}/resolve/{}/{path}", repo.path(), listing.commit))?;
        download::Download { connector: &self.connector, token: self.token.as_ref(), uri, file, to }
            .run(sink)
            .await
    }

    fn uri(&self, path: &str) -> Result<Uri, HubError> {
        let uri: Uri =
            format!("{}{path}", self.endpoint).parse().map_err(|_invalid| HubError::Endpoint)?;
        let usable = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        if usable { Ok(uri) } else { Err(HubError::Endpoint) }
    }
}

/// What a path of a repository may not hold as it is; slashes it may.
const PATH: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
