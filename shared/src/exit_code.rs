//! What a worker's exit code says. The gateway reads it; a worker ends with nothing else.

/// The documented ways in which a worker ends by itself.
///
/// A worker that was signalled has no code at all, and a code that stands here for nothing means
/// that the process crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum WorkerExit {
    /// It was told to shut down, or the link reached its end because the gateway is gone.
    Done = 0,
    /// Its arguments or its environment make no sense: it was not started by a gateway.
    Usage = 64,
    /// The model can't be loaded; the reason went over the link before.
    LoadFailed = 65,
    /// The gateway closed the link before the handshake was over, or it can't be reached.
    NoLink = 69,
    /// A bug: an invariant of the worker's own does not hold.
    Bug = 70,
    /// The gateway speaks another version of the protocol, or garbage.
    Protocol = 76,
    /// The sandbox that the worker needs can't be set up.
    Sandbox = 77,
}

impl WorkerExit {
    /// Every documented exit, in the order of the codes.
    pub const ALL: [Self; 7] = [
        Self::Done,
        Self::Usage,
        Self::LoadFailed,
        Self::NoLink,
        Self::Bug,
        Self::Protocol,
        Self::Sandbox,
    ];

    /// The code that the process ends with.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What `code` says, or `None` where it is not one of ours.
    #[must_use]
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| i32::from(exit.code()) == code)
    }

    /// A few words for logs and for `/api/ps`.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Done => "ended as told",
            Self::Usage => "was started with arguments it does not know",
            Self::LoadFailed => "could not load the model",
            Self::NoLink => "could not reach the gateway",
            Self::Bug => "met a bug of its own",
            Self::Protocol => "got a message it does not know",
            Self::Sandbox => "could not set up its sandbox",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_no_two_are_equal() {
        for exit in WorkerExit::ALL {
            assert_eq!(WorkerExit::from_code(i32::from(exit.code())), Some(exit));
        }
        assert_eq!(WorkerExit::from_code(1), None);
        assert_eq!(WorkerExit::from_code(101), None);
    }
}
