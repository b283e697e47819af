//! The worker's end of the socket: frames in, frames out.
//!
//! One thread reads ([`Inbox`]); whoever has news writes ([`Outbox`]), a whole frame at a time.
//! Blocking on both sides: a gateway that doesn't read holds the engine up, and should.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hearth_shared::codec::{self, DecodeError, EncodeError, FrameBuffer};
use hearth_shared::endpoint;
use hearth_shared::protocol::{FromWorker, LinkToken, PROTOCOL_VERSION, ToWorker};
use interprocess::local_socket::Stream;

/// Why the link is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The gateway can't be reached, or not any more.
    #[error("the link broke: {0}")]
    Io(#[from] std::io::Error),
    /// What came is no message.
    #[error("the gateway sent what is no message")]
    Garbage(#[from] DecodeError),
    /// What was to be sent is too large; a bug, because news are small.
    #[error("a message can't be sent")]
    Encode(#[from] EncodeError),
}

/// Connects and says hello.
///
/// # Errors
/// [`LinkError::Io`].
pub(crate) fn connect(path: &Path, token: LinkToken) -> Result<(Inbox, Outbox), LinkError> {
    let stream = Arc::new(endpoint::connect(path)?);
    let outbox = Outbox { stream: Arc::new(Mutex::new(Arc::clone(&stream))) };
    outbox.send(&FromWorker::Hello {
        protocol_version: PROTOCOL_VERSION,
        pid: std::process::id(),
        token,
    })?;
    let frames = FrameBuffer::default();
    Ok((Inbox { stream, frames }, outbox))
}

/// Where messages come in.
#[derive(Debug)]
pub(crate) struct Inbox {
    stream: Arc<Stream>,
    frames: FrameBuffer,
}

impl Inbox {
    /// The next message; `None` once the gateway has closed the link. Blocks.
    ///
    /// # Errors
    /// [`LinkError::Garbage`]; a read that fails is an end like any other.
    pub(crate) fn receive(&mut self) -> Result<Option<ToWorker>, LinkError> {
        let mut bytes = [0_u8; 64 * 1024];
        loop {
            if let Some(message) = self.frames.next()? {
                return Ok(Some(message));
            }
            match (&*self.stream).read(&mut bytes) {
                // Also in the middle of a frame: a gateway that was killed closes there.
                Ok(0) => return Ok(None),
                Ok(count) => self.frames.extend(&bytes[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(None),
            }
        }
    }
}

/// Where messages go out. A cheap handle; frames of several threads never mix.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    stream: Arc<Mutex<Arc<Stream>>>,
}

impl Outbox {
    /// Sends one message. Blocks while the gateway doesn't read.
    ///
    /// # Errors
    /// [`LinkError::Io`]: the gateway is gone. [`LinkError::Encode`]: nothing was sent.
    pub(crate) fn send(&self, message: &FromWorker) -> Result<(), LinkError> {
        let frame = codec::encode(message)?;
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        (&**stream).write_all(&frame)?;
        Ok(())
    }
}
