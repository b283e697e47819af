//! The fake worker's line to the test that started it.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::SyncSender;

use super::Happening;

pub(crate) struct Control {
    stream: UnixStream,
}

impl Control {
    pub(crate) fn connect(path: &Path) -> Self {
        Self { stream: UnixStream::connect(path).expect("the test listens") }
    }

    pub(crate) fn tell(&self, line: &str) {
        // In one piece: each write takes a whole buffer of the socket, however short it is. A test
        // that has ended is not interested any more.
        drop((&self.stream).write_all(format!("{line}\n").as_bytes()));
    }

    /// Another end of the same connection, which stays open as long as anybody holds it.
    pub(crate) fn share(&self) -> OwnedFd {
        self.stream.try_clone().expect("a descriptor can be doubled").into()
    }

    /// Every line that the test sends is a `go`.
    pub(crate) fn listen(&self, happenings: SyncSender<Happening>) {
        let stream = self.stream.try_clone().expect("a descriptor can be doubled");
        std::thread::spawn(move || {
            for _line in BufReader::new(stream).lines().map_while(Result::ok) {
                if happenings.send(Happening::Go).is_err() {
                    return;
                }
            }
        });
    }
}
