//! How much of the system this process may use.

/// Allows as many open files as the system lets us have.
///
/// Many systems start processes with 1024, which the default limit of connections alone reaches;
/// workers, their sockets and the models directory need some as well.
#[cfg(unix)]
pub(super) fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files can't be raised");
    }
}

/// Other systems have no such limit.
#[cfg(not(unix))]
pub(super) fn raise_open_files() {}
