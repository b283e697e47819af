//! Who is let in, and how frames are read. Used by `life.rs` through `link.rs`.

use std::io;
use std::sync::Arc;

use hearth_shared::codec::{DecodeError, FrameBuffer};
use hearth_shared::endpoint::Peer;
use hearth_shared::protocol::{FromWorker, PROTOCOL_VERSION};
use interprocess::local_socket::traits::StreamCommon as _;
use interprocess::local_socket::traits::tokio::Listener as _;
use tokio::io::AsyncReadExt;

use super::{Expected, Socket, SocketListener};

const READ_BYTES: usize = 64 * 1024;

/// The reading end of a link.
#[derive(Debug)]
pub(in crate::fleet) struct Inbox {
    socket: Arc<Socket>,
    frames: FrameBuffer,
    chunk: Vec<u8>,
}

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub(in crate::fleet) enum InboxError {
    /// The socket failed.
    #[error("its link broke")]
    Io(#[from] io::Error),
    /// It sent no message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Its first message was not the right one.
    #[error("it said {0} instead of hello")]
    NoHello(&'static str),
    /// It speaks another version.
    #[error("it speaks protocol version {0}, this gateway {PROTOCOL_VERSION}; rebuild both")]
    Version(u16),
    /// It does not know the token it was given, or has another pid than it was spawned with.
    #[error("it can't prove that it was spawned by this gateway")]
    Impostor,
}

/// Takes the one connection that comes from the process that was spawned.
///
/// Everybody else is turned away and the wait goes on, because the directory should have kept
/// them out already. Ends with an error only where the worker itself fails to shake hands.
pub(in crate::fleet) async fn accept(
    listener: &SocketListener,
    expected: Expected,
) -> Result<(Arc<Socket>, Inbox), InboxError> {
    let socket = loop {
        let socket = listener.accept().await?;
        match peer_of(&socket)?.check(expected.pid) {
            Ok(()) => break socket,
            Err(stranger) => tracing::warn!(%stranger, "a stranger at a worker's socket"),
        }
    };
    let socket = Arc::new(socket);
    let sender = Arc::clone(&socket);
    let mut inbox = Inbox { socket, frames: FrameBuffer::default(), chunk: vec![0; READ_BYTES] };
    match inbox.next().await? {
        Some(FromWorker::Hello { protocol_version, .. })
            if protocol_version != PROTOCOL_VERSION =>
        {
            Err(InboxError::Version(protocol_version))
        }
        Some(FromWorker::Hello { pid, token, .. }) => {
            if pid == expected.pid && token == expected.token {
                Ok((sender, inbox))
            } else {
                Err(InboxError::Impostor)
            }
        }
        Some(_other) => Err(InboxError::NoHello("something else")),
        None => Err(InboxError::NoHello("nothing")),
    }
}

fn peer_of(socket: &Socket) -> io::Result<Peer> {
    let creds = socket.peer_creds()?;
    #[cfg(unix)]
    let uid = creds.euid();
    #[cfg(not(unix))]
    let uid = None;
    let pid = creds.pid().and_then(|pid| u32::try_from(pid).ok());
    Ok(Peer { pid, uid })
}

impl Inbox {
    /// The next message; `None` is the end of the link between two frames.
    ///
    /// # Cancel safety
    /// Safe: what was read of a frame stays in the buffer.
    pub(in crate::fleet) async fn next(&mut self) -> Result<Option<FromWorker>, InboxError> {
        loop {
            if let Some(message) = self.frames.next()? {
                return Ok(Some(message));
            }
            match (&*self.socket).read(&mut self.chunk).await? {
                0 => {
                    self.frames.end()?;
                    return Ok(None);
                }
                read => self.frames.extend(&self.chunk[..read]),
            }
        }
    }
}
