//! The local socket between gateway and worker: its name, its directory, who may speak on it.
//!
//! The gateway binds one socket per worker in a directory that only its user can enter, spawns
//! the worker with the path, and takes exactly one connection: from the user it runs as and from
//! the process it spawned. On Unix this is a socket file, on Windows a named pipe.

use std::io;
use std::path::{Path, PathBuf};

use interprocess::local_socket::{self as local, prelude::*};

/// The longest socket path that every Unix takes: `sun_path` holds 104 bytes on the BSDs and 108
/// on Linux, the final zero included.
pub const SOCKET_PATH_BYTES_MAX: usize = 103;

/// Why a directory can't hold sockets.
#[derive(Debug, thiserror::Error)]
pub enum PrivateDirError {
    /// It can't be made or looked at.
    #[error("can't use {path} as runtime directory: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Something else stands at that place.
    #[error("{path} is not a directory; remove it, or choose another home")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Another user owns it.
    #[error("{path} belongs to user {owner}, not to user {us}; choose another home")]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// Our user id.
        us: u32,
    },
    /// Others may enter it.
    #[error("{path} has mode {mode:o}, but only its owner may enter it; run `chmod 700 {path}`")]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// Makes `path` with mode 0700, or checks that what stands there is ours alone.
///
/// A directory that others could enter is refused and not repaired: somebody may have put
/// something into it already.
///
/// # Errors
/// [`PrivateDirError`]; a directory that was made stays.
pub fn private_dir(path: &Path) -> Result<(), PrivateDirError> {
    let io = |source| PrivateDirError::Io { path: path.to_owned(), source };
    match make_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io(error)),
    }
    // Not `metadata`: a link to somebody's directory is not a directory of ours.
    let found = std::fs::symlink_metadata(path).map_err(io)?;
    if !found.is_dir() {
        return Err(PrivateDirError::NotADirectory { path: path.to_owned() });
    }
    check_owner(path, &found)
}

#[cfg(unix)]
fn make_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

#[cfg(unix)]
fn check_owner(path: &Path, found: &std::fs::Metadata) -> Result<(), PrivateDirError> {
    use std::os::unix::fs::MetadataExt;
    let path = path.to_owned();
    let us = nix::unistd::geteuid().as_raw();
    let mode = found.mode() & 0o7777;
    if found.uid() != us {
        return Err(PrivateDirError::ForeignOwner { path, owner: found.uid(), us });
    }
    if mode & 0o077 != 0 {
        return Err(PrivateDirError::Open { path, mode });
    }
    Ok(())
}

// A directory below the user's profile inherits an access list that keeps other users out, and
// the pipe itself does not live in the file system.
#[cfg(not(unix))]
fn make_dir(path: &Path) -> io::Result<()> {
    std::fs::create_dir(path)
}

#[cfg(not(unix))]
fn check_owner(_: &Path, _: &std::fs::Metadata) -> Result<(), PrivateDirError> {
    Ok(())
}

/// The name under which `interprocess` knows the socket at `path`.
///
/// On Unix the path itself; on Windows, where pipes have a name space of their own, the path's
/// last part, which the gateway makes unguessable.
///
/// # Errors
/// An [`io::Error`] if the path can't name a socket.
pub fn socket_name(path: &Path) -> io::Result<local::Name<'_>> {
    #[cfg(unix)]
    return path.to_fs_name::<local::GenericFilePath>();
    #[cfg(not(unix))]
    return path
        .file_name()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?
        .to_ns_name::<local::GenericNamespaced>();
}

/// Connects to the gateway's socket; the worker's end. Blocks.
///
/// # Errors
/// Whatever the system says; nothing is left behind.
pub fn connect(path: &Path) -> io::Result<local::Stream> {
    local::Stream::connect(socket_name(path)?)
}

/// Binds the socket at `path`, readable and writable by its owner only; the gateway's end.
///
/// The file goes when the listener is dropped.
///
/// # Errors
/// Whatever the system says, `AddrInUse` included: a path that is taken is never stolen.
#[cfg(feature = "tokio")]
pub fn bind(path: &Path) -> io::Result<local::tokio::Listener> {
    let options = local::ListenerOptions::new().name(socket_name(path)?);
    #[cfg(unix)]
    let options = {
        use interprocess::os::unix::local_socket::ListenerOptionsExt;
        options.mode(0o600)
    };
    options.create_tokio()
}

/// Who is at the other end, as the system knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its process id, where the system tells.
    pub pid: Option<u32>,
    /// Its effective user id, where the system has such a thing.
    pub uid: Option<u32>,
}

/// Why who connected is not the worker that was spawned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Another user's process.
    #[error("user {0} connected")]
    ForeignUser(u32),
    /// Another process of ours.
    #[error("process {found} connected instead of {expected}")]
    ForeignProcess {
        /// Who connected.
        found: u32,
        /// Who was spawned.
        expected: u32,
    },
}

impl Peer {
    /// Checks that the peer is process `pid` of our own user, as far as the system tells.
    ///
    /// # Errors
    /// [`PeerError`]: the connection should be dropped and the next one awaited.
    pub fn check(self, pid: u32) -> Result<(), PeerError> {
        match (self.uid, our_uid()) {
            (Some(found), Some(us)) if found != us => return Err(PeerError::ForeignUser(found)),
            (Some(_) | None, Some(_) | None) => {}
        }
        match self.pid {
            Some(found) if found != pid => Err(PeerError::ForeignProcess { found, expected: pid }),
            Some(_) | None => Ok(()),
        }
    }
}

fn our_uid() -> Option<u32> {
    #[cfg(unix)]
    return Some(nix::unistd::geteuid().as_raw());
    #[cfg(not(unix))]
    return None;
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_new_directory_is_private_and_found_again() {
        let home = tempfile::tempdir().unwrap();
        let run = home.path().join("run");
        private_dir(&run).unwrap();
        assert_eq!(mode_of(&run), 0o700);
        private_dir(&run).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let run = home.path().join("run");
        std::fs::create_dir(&run).unwrap();
        std::fs::set_permissions(&run, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(matches!(private_dir(&run), Err(PrivateDirError::Open { mode: 0o755, .. })));
        assert_eq!(mode_of(&run), 0o755);
    }

    #[test]
    fn a_link_is_refused_wherever_it_points() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("target");
        private_dir(&target).unwrap();
        let run = home.path().join("run");
        std::os::unix::fs::symlink(&target, &run).unwrap();
        assert!(matches!(private_dir(&run), Err(PrivateDirError::NotADirectory { .. })));
    }

    #[test]
    fn only_the_spawned_process_of_our_own_user_is_taken() {
        let us = our_uid();
        assert_eq!(Peer { pid: Some(7), uid: us }.check(7), Ok(()));
        assert_eq!(
            Peer { pid: Some(8), uid: us }.check(7),
            Err(PeerError::ForeignProcess { found: 8, expected: 7 })
        );
        let stranger = us.unwrap() + 1;
        assert_eq!(
            Peer { pid: Some(7), uid: Some(stranger) }.check(7),
            Err(PeerError::ForeignUser(stranger))
        );
    }
}
