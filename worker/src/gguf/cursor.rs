//! Reads forward through bytes that may lie, and never past their end.
//!
//! The reader and the metadata use it. It allocates nothing.

use std::ops::Range;

use super::GgufError;

/// A position in a file.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at `position`, which may be past the end: then nothing can be read.
    pub(super) fn at(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position: position.min(bytes.len()) }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// Steps over `len` bytes and says where they are.
    pub(super) fn skip(&mut self, what: &'static str, len: u64) -> Result<Range<usize>, GgufError> {
        let start = self.position;
        let left = self.left();
        match usize::try_from(len) {
            Ok(len) if len <= left => {
                self.position = start + len;
                Ok(start..self.position)
            }
            Ok(_) | Err(_) => {
                Err(GgufError::Truncated { what, offset: start, needed: len, available: left })
            }
        }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let (offset, available) = (self.position, self.left());
        match self.bytes[offset..].first_chunk::<N>() {
            Some(chunk) => {
                self.position += N;
                Ok(*chunk)
            }
            None => Err(GgufError::Truncated { what, offset, needed: N as u64, available }),
        }
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of things of which each takes at least `bytes_each` bytes of what is left.
    pub(super) fn count(
        &mut self,
        what: &'static str,
        bytes_each: usize,
    ) -> Result<usize, GgufError> {
        let count = self.u64(what)?;
        self.holds(what, count, bytes_each)
    }

    /// Checks a count that was read before.
    pub(super) fn holds(
        &self,
        what: &'static str,
        count: u64,
        bytes_each: usize,
    ) -> Result<usize, GgufError> {
        let available = self.left();
        match usize::try_from(count) {
            Ok(fits) if fits <= available / bytes_each => Ok(fits),
            Ok(_) | Err(_) => Err(GgufError::Count { what, count, available }),
        }
    }

    /// A length and that many bytes of UTF-8.
    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a str, GgufError> {
        let len = self.u64(what)?;
        let range = self.skip(what, len)?;
        let offset = range.start;
        std::str::from_utf8(&self.bytes[range]).or(Err(GgufError::NotUtf8 { what, offset }))
    }

    /// The same, unread.
    pub(super) fn skip_text(&mut self, what: &'static str) -> Result<(), GgufError> {
        let len = self.u64(what)?;
        self.skip(what, len).map(drop)
    }
}
