//! One command in, one exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    hearth::cli::main()
}
