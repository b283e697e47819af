//! Where a template writes to: memory with an end.

use std::io::{self, Write};

/// Longer than any context takes, and short enough to be held a few times.
pub(super) const PROMPT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Text of at most [`PROMPT_BYTES_MAX`] bytes.
#[derive(Debug, Default)]
pub(super) struct BoundedText(Vec<u8>);

impl BoundedText {
    pub(super) fn into_string(self) -> String {
        String::from_utf8(self.0).expect("the template engine writes whole strings")
    }
}

impl Write for BoundedText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > PROMPT_BYTES_MAX {
            return Err(io::Error::other(format!("the prompt exceeds {PROMPT_BYTES_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
