//! Messages to bytes and back: a `u32` little-endian length, then the message in bincode.
//!
//! Pure: it does no I/O, so that the gateway can feed it from an asynchronous socket and the
//! worker from a blocking one. The only user of bincode.
//!
//! The other side may be compromised or mad. So a length is checked before anything is allocated
//! for it, decoding can't allocate more than the frame's limit, and what is left over in a frame
//! is an error.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest frame either side may send, without its length prefix.
///
/// A chat request's body is at most 8 MiB, and what is sent of it is seldom longer. Where it is, as
/// when `1e15` is written out, the request may be refused as too large.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

const LENGTH_BYTES: usize = 4;

/// Fixed-width integers: a frame's size then depends on its texts alone, and golden bytes can be
/// read by eye.
type WireConfig = Configuration<LittleEndian, Fixint, Limit<MAX_FRAME_BYTES>>;

fn wire_config() -> WireConfig {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<MAX_FRAME_BYTES>()
}

/// Why a message can't be sent.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The message is larger than [`MAX_FRAME_BYTES`].
    #[error("a message of {bytes} bytes exceeds the frame limit of {MAX_FRAME_BYTES}")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
    },
    /// The message can't be encoded at all.
    #[error("message can't be encoded")]
    Bincode(#[source] Box<bincode::error::EncodeError>),
}

/// Why what arrived is no message. The link is of no more use after any of these.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The length prefix announces more than [`MAX_FRAME_BYTES`].
    #[error("a frame of {bytes} bytes was announced, the limit is {MAX_FRAME_BYTES}")]
    TooLarge {
        /// The announced size.
        bytes: usize,
    },
    /// The frame's bytes are no message.
    #[error("a frame of {bytes} bytes is no message")]
    Garbage {
        /// The frame's size.
        bytes: usize,
        /// What bincode says.
        #[source]
        source: Box<bincode::error::DecodeError>,
    },
    /// A message was read, but the frame goes on.
    #[error("a frame of {bytes} bytes holds {extra} bytes after its message")]
    Trailing {
        /// The frame's size.
        bytes: usize,
        /// How much of it is left.
        extra: usize,
    },
    /// The stream ended inside a frame.
    #[error("the link ended inside a frame, {missing} bytes short")]
    Truncated {
        /// How many bytes are missing; the length prefix counts until it is whole.
        missing: usize,
    },
}

/// The whole frame of one message, length prefix included, ready to be written at once.
///
/// # Errors
/// [`EncodeError`]; nothing was written anywhere.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, EncodeError> {
    // Sizes are checked after the fact: bincode's limit guards decoding only.
    let mut frame = vec![0_u8; LENGTH_BYTES];
    bincode::serde::encode_into_std_write(message, &mut frame, wire_config())
        .map_err(|error| EncodeError::Bincode(Box::new(error)))?;
    let bytes = frame.len() - LENGTH_BYTES;
    match u32::try_from(bytes) {
        Ok(length) if bytes <= MAX_FRAME_BYTES => {
            frame[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
            Ok(frame)
        }
        Ok(_) | Err(_) => Err(EncodeError::TooLarge { bytes }),
    }
}

/// Bytes that have arrived and are not yet messages.
///
/// Feed it with [`FrameBuffer::extend`], then call [`FrameBuffer::next`] until it gives `None`.
/// It holds at most one frame and what one read added.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    /// How much of `bytes` has been given out already.
    start: usize,
}

impl FrameBuffer {
    /// Adds what was read.
    pub fn extend(&mut self, read: &[u8]) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > MAX_FRAME_BYTES.min(64 * 1024) {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(read);
    }

    /// The next whole message, or `None` until more bytes have arrived.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`], [`DecodeError::Garbage`] or [`DecodeError::Trailing`]; the
    /// stream can't be trusted any more and the buffer should be dropped.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator could not choose the type of each message"
    )]
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, DecodeError> {
        let Some(announced) = self.announced() else {
            return Ok(None);
        };
        if announced > MAX_FRAME_BYTES {
            return Err(DecodeError::TooLarge { bytes: announced });
        }
        let body_start = self.start + LENGTH_BYTES;
        let Some(body) = self.bytes.get(body_start..body_start + announced) else {
            return Ok(None);
        };
        let (message, used) = bincode::serde::decode_from_slice(body, wire_config())
            .map_err(|error| DecodeError::Garbage { bytes: announced, source: Box::new(error) })?;
        if used != announced {
            return Err(DecodeError::Trailing { bytes: announced, extra: announced - used });
        }
        self.start = body_start + announced;
        Ok(Some(message))
    }

    /// Says whether the stream may end here.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if a frame was begun and not finished.
    pub fn end(&self) -> Result<(), DecodeError> {
        let rest = self.bytes.len() - self.start;
        let whole = LENGTH_BYTES + self.announced().unwrap_or(0);
        if rest == 0 { Ok(()) } else { Err(DecodeError::Truncated { missing: whole - rest }) }
    }

    fn announced(&self) -> Option<usize> {
        let prefix = self.bytes.get(self.start..self.start + LENGTH_BYTES)?;
        let length = u32::from_le_bytes(prefix.try_into().expect("the slice has four bytes"));
        Some(usize::try_from(length).expect("usize has at least 32 bits on every platform served"))
    }
}

#[cfg(test)]
mod tests;
