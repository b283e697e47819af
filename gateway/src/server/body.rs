//! Reading a request's body: no more than allowed, no longer than allowed.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use crate::error::ApiError;

/// The largest body. A conversation that fills a context of a million tokens is half of it.
pub(super) const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The whole body has to arrive within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What is too long is still read up to this many bytes, and thrown away: many clients read no
/// answer before they have sent everything, and would take our hanging up for a broken network.
const DISCARDED_BYTES_MAX: u64 = 64 * 1024 * 1024;

const TOO_LARGE: ApiError = ApiError::BodyTooLarge { limit: BODY_BYTES_MAX };

/// Reads all of it.
pub(super) async fn read(body: Incoming) -> Result<Bytes, ApiError> {
    if body.size_hint().lower() > DISCARDED_BYTES_MAX {
        return Err(TOO_LARGE);
    }
    match tokio::time::timeout(BODY_TIMEOUT, collect(body)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(ApiError::BodyTooSlow(BODY_TIMEOUT)),
    }
}

async fn collect(mut body: Incoming) -> Result<Bytes, ApiError> {
    let mut kept = BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::BodyBroken(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len() as u64;
        if length > DISCARDED_BYTES_MAX {
            return Err(TOO_LARGE);
        }
        if length <= BODY_BYTES_MAX as u64 {
            kept.extend_from_slice(&data);
        } else {
            kept = BytesMut::new();
        }
    }
    if length <= BODY_BYTES_MAX as u64 { Ok(kept.freeze()) } else { Err(TOO_LARGE) }
}
