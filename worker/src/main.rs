//! The worker's program: everything it does stands in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    hearth_worker::run()
}
