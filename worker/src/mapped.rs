//! The bytes of a file: mapped, or owned by a test.
//!
//! The readers of GGUF and ONNX files use it. Their only `unsafe` is here.

use std::{fs::File, io, path::Path};

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

/// A whole file.
#[derive(Debug)]
pub(crate) enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps `path` read-only.
    ///
    /// # Errors
    /// The system's, if it can't be opened or mapped.
    #[expect(unsafe_code, reason = "mapping a file has no safe form")]
    pub(crate) fn map(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is read-only and private to this process. The one hazard is that somebody
        // cuts the file while it is mapped: then reading faults and the worker, one process per
        // model, ends; nothing else depends on its memory. Model files are replaced, not edited.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Self::Mapped(map))
    }

    /// Takes pages out of this process's memory that will hardly be read again: `range` is what has
    /// been copied. Reading them anyway brings them back. Does nothing where the system can't.
    #[cfg(unix)]
    #[expect(unsafe_code, reason = "some advice would change what is mapped")]
    pub(crate) fn leave(&self, range: std::ops::Range<usize>) {
        if let Self::Mapped(map) = self {
            // SAFETY: nothing is written to the map, so what its pages are read as again is the file.
            let left = unsafe {
                map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
            };
            if let Err(error) = left {
                tracing::debug!("a file's pages stay in memory: {error}");
            }
        }
    }

    /// Does nothing here.
    #[cfg(not(unix))]
    pub(crate) fn leave(&self, _range: std::ops::Range<usize>) {}
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
