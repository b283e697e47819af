//! `HEAD` and `POST /api/blobs/{digest}`: files that clients upload to create models from.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::manage;
use crate::app::App;
use crate::error::ApiError;
use crate::http;
use crate::store::StoreError;
use crate::stream::Body;

/// From one piece of an upload to the next.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads `sha256:…` or `sha256-…`; gives the 64 hex digits.
///
/// # Errors
/// [`ApiError::Invalid`]
pub(super) fn hash_of(digest: &str) -> Result<&str, ApiError> {
    let hash = digest.strip_prefix("sha256:").or_else(|| digest.strip_prefix("sha256-"));
    let is_hex = |hash: &&str| {
        hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    hash.filter(is_hex).ok_or_else(|| {
        ApiError::invalid("digest", "a digest is `sha256:` and 64 lower-case hex digits")
    })
}

/// Whether it is there.
///
/// # Errors
/// [`ApiError`]
pub async fn head(app: &App, digest: &str) -> Result<Response<Body>, ApiError> {
    let is_there = place(app, digest).await?.is_file();
    Ok(http::status(if is_there { StatusCode::OK } else { StatusCode::NOT_FOUND }, ""))
}

/// Takes an upload in, however large.
///
/// # Errors
/// [`ApiError`]; nothing of it stays.
pub async fn post(app: &App, digest: &str, incoming: Incoming) -> Result<Response<Body>, ApiError> {
    let place = place(app, digest).await?;
    if place.is_file() {
        return Ok(http::status(StatusCode::OK, ""));
    }
    let upload = Upload(place.with_file_name(http::new_id("upload-")));
    let found = write(&upload.0, incoming).await?;
    if found != hash_of(digest)? {
        let message = format!("what was sent has the digest sha256:{found}");
        return Err(ApiError::invalid("digest", message));
    }
    tokio::fs::rename(&upload.0, &place).await.map_err(StoreError::Io)?;
    Ok(http::status(StatusCode::CREATED, ""))
}

/// Where the file of a digest belongs.
pub(super) async fn place(app: &App, digest: &str) -> Result<PathBuf, ApiError> {
    let hash = hash_of(digest)?.to_owned();
    manage::change(app, move |store| store.blob(&hash)).await
}

/// A file that is gone when its upload is over, however it ends, unless it was moved away.
struct Upload(PathBuf);

impl Drop for Upload {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

async fn write(to: &Path, mut incoming: Incoming) -> Result<String, ApiError> {
    let mut file = tokio::fs::File::create(to).await.map_err(StoreError::Io)?;
    let mut hash = Sha256::new();
    loop {
        let frame = tokio::time::timeout(STALL_TIMEOUT, incoming.frame()).await;
        let frame = frame.map_err(|_elapsed| ApiError::BodyTooSlow(STALL_TIMEOUT))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| ApiError::BodyBroken(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        hash.update(&data);
        file.write_all(&data).await.map_err(StoreError::Io)?;
    }
    file.sync_all().await.map_err(StoreError::Io)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
