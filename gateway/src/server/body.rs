//! Reading a request's body: no more than allowed, no longer than allowed, and only so many bytes of
//! bodies at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;

/// The largest body. A conversation that fills a context of a million tokens is half of it.
pub(super) const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The whole body has to arrive within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What is too long is still read up to this many bytes, and thrown away: many clients read no
/// answer before they have sent everything, and would take our hanging up for a broken network.
const DISCARDED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// All large bodies together, from their first byte until they are parsed.
const ROOM_BYTES: usize = 64 * 1024 * 1024;
/// Smaller bodies need no room: who sends large ones slowly must not hold up everybody else.
const SMALL_BYTES: usize = 64 * 1024;
/// A body waits so long for others to leave it room.
const ROOM_TIMEOUT: Duration = Duration::from_secs(30);
/// Room is given out in pieces of this many bytes.
const PIECE_BYTES: usize = 1024;

const TOO_LARGE: ApiError = ApiError::BodyTooLarge { limit: BODY_BYTES_MAX };

/// The memory that bodies may use together, so that many large ones come one after the other.
#[derive(Debug, Clone)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_BYTES / PIECE_BYTES)))
    }
}

impl Room {
    async fn take(&self, body: &Incoming) -> Result<OwnedSemaphorePermit, ApiError> {
        let pieces = pieces(body.size_hint().upper());
        let taken = Arc::clone(&self.0).acquire_many_owned(pieces);
        match tokio::time::timeout(ROOM_TIMEOUT, taken).await {
            Ok(taken) => Ok(taken.expect("nobody closes it")),
            Err(_elapsed) => Err(ApiError::Crowded),
        }
    }
}

/// For a body that has announced this length, or none.
fn pieces(announced: Option<u64>) -> u32 {
    let bytes = announced.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
    if bytes <= SMALL_BYTES {
        return 0;
    }
    let pieces = bytes.min(BODY_BYTES_MAX).div_ceil(PIECE_BYTES);
    u32::try_from(pieces).expect("a body's limit is far below 4 Ti")
}

/// A whole body, and its place in the room until it is dropped.
#[derive(Debug)]
pub struct ReadBody {
    bytes: Bytes,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for ReadBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads all of it.
pub(super) async fn read(room: &Room, body: Incoming) -> Result<ReadBody, ApiError> {
    if body.size_hint().lower() > DISCARDED_BYTES_MAX {
        return Err(TOO_LARGE);
    }
    let place = room.take(&body).await?;
    match tokio::time::timeout(BODY_TIMEOUT, collect(body)).await {
        Ok(bytes) => Ok(ReadBody { bytes: bytes?, _place: place }),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_body_takes_the_room_that_it_announces_and_an_unknown_one_the_most() {
        assert_eq!([Some(0), Some(65_536), Some(65_537)].map(pieces), [0, 0, 65]);
        assert_eq!([Some(9_000_000), Some(u64::MAX), None].map(pieces), [8192; 3]);
    }
}
