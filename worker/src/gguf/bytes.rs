//! The bytes of a file: mapped, or owned by a test.
//!
//! The reader alone uses it. The only `unsafe` of the reader is here.

use std::{fs::File, path::Path};

use memmap2::Mmap;

use super::GgufError;

/// A whole file.
#[derive(Debug)]
pub(super) enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps `path` read-only.
    ///
    /// # Errors
    /// [`GgufError::Open`] if it can't be opened or mapped.
    #[expect(unsafe_code, reason = "mapping a file has no safe form")]
    pub(super) fn map(path: &Path) -> Result<Self, GgufError> {
        let failed = |source| GgufError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        // SAFETY: the map is read-only and private to this process. The one hazard is that somebody
        // cuts the file while it is mapped: then reading faults and the worker, one process per
        // model, ends; nothing else depends on its memory. Model files are replaced, not edited.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Self::Mapped(map))
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}
