//! What a worker gives up before it reads anything: first thing in the process.
//!
//! It parses files from anywhere with a large C++ library. So it ends with its gateway, gains no
//! privileges, and leaves no core with a user's conversations on the disk. It stays readable in
//! `/proc` for the gateway, which measures its memory there.

/// Why a worker can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// The gateway is gone, or somebody else started this process.
    #[error("the parent is process {found} and not the gateway, {expected}")]
    NotOurParent {
        /// The parent's process id.
        found: u32,
        /// The gateway's, as it was told.
        expected: u32,
    },
    /// The system refused.
    #[cfg(unix)]
    #[error("can't set {what}: {errno}")]
    Refused {
        /// What was to be set.
        what: &'static str,
        /// What the system says.
        errno: nix::errno::Errno,
    },
}

/// Ties the process to the gateway's life and limits it.
///
/// # Errors
/// [`SandboxError`]; the process should end.
#[cfg(unix)]
pub(crate) fn enter(gateway: u32) -> Result<(), SandboxError> {
    use nix::sys::resource::{Resource, setrlimit};

    let refused = |what| move |errno| SandboxError::Refused { what, errno };
    #[cfg(target_os = "linux")]
    {
        use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
        use nix::sys::signal::Signal;

        set_pdeathsig(Signal::SIGKILL).map_err(refused("the parent-death signal"))?;
        set_no_new_privs().map_err(refused("no_new_privs"))?;
    }
    // Only now: a gateway that died before the signal was set sends none any more.
    let parent = nix::unistd::getppid().as_raw();
    if u32::try_from(parent) != Ok(gateway) {
        return Err(SandboxError::NotOurParent {
            found: u32::try_from(parent).unwrap_or(0),
            expected: gateway,
        });
    }
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(refused("the core file limit"))
}

/// Elsewhere the end of the link is what ends a worker.
///
/// # Errors
/// None so far.
#[cfg(not(unix))]
pub(crate) fn enter(_gateway: u32) -> Result<(), SandboxError> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_somebody_else_started_is_refused() {
        // Process 0 is nobody's parent that a test could have.
        assert!(matches!(enter(0), Err(SandboxError::NotOurParent { expected: 0, .. })));
    }
}
