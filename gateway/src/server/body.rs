//! Reading a request's body: no more than allowed, no longer than allowed.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};

use crate::error::ApiError;

/// The largest body. A conversation that fills a context of a million tokens is half of it.
pub(super) const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The whole body has to arrive within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads all of it.
pub(super) async fn read(body: Incoming) -> Result<Bytes, ApiError> {
    // What announces itself as too long is not read at all.
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(ApiError::BodyTooLarge { limit: BODY_BYTES_MAX });
    }
    let limited = Limited::new(body, BODY_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_TIMEOUT, limited).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(ApiError::BodyTooLarge { limit: BODY_BYTES_MAX })
        }
        Ok(Err(error)) => Err(ApiError::BodyBroken(error.to_string())),
        Err(_elapsed) => Err(ApiError::BodyTooSlow(BODY_TIMEOUT)),
    }
}
