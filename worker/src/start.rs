//! From the command line to a served link: arguments → sandbox → link → serve.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use hearth_shared::exit_code::WorkerExit;
use hearth_shared::protocol::{LINK_TOKEN_VARIABLE, LinkToken};

use crate::{link, sandbox, serve};

/// Runs one model for a Hearth gateway.
///
/// `hearth` starts this program by itself, one process for each model in use; it is not meant to
/// be started by hand.
#[derive(Debug, Parser)]
#[command(name = "hearth-worker", version)]
struct Arguments {
    /// The gateway's socket.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// The gateway's process; this one ends with it.
    #[arg(long, value_name = "PID")]
    gateway_pid: u32,
}

/// The whole program; `main` only calls it.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    // Where standard error is closed there is nobody to tell.
    // Each line becomes one of the gateway's, which dates it and says whose it is.
    let logging = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .try_init();
    drop(logging);
    end_with_any_thread();
    ExitCode::from(start(&arguments).code())
}

fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done about a closed terminal.
    drop(error.print());
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(WorkerExit::Usage.code()),
    }
}

/// Comes back only if there is nothing to serve.
fn start(arguments: &Arguments) -> WorkerExit {
    if let Err(error) = sandbox::enter(arguments.gateway_pid) {
        tracing::error!("{error}");
        return WorkerExit::Sandbox;
    }
    let Some(token) = token() else {
        tracing::error!("{LINK_TOKEN_VARIABLE} holds no token; `hearth` starts this program");
        return WorkerExit::Usage;
    };
    match link::connect(&arguments.socket, token) {
        Ok((inbox, outbox)) => serve::serve(inbox, outbox),
        Err(error) => {
            tracing::error!("{}: {error}", arguments.socket.display());
            WorkerExit::NoLink
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the token is the one thing that a worker reads from its environment"
)]
fn token() -> Option<LinkToken> {
    LinkToken::from_hex(&std::env::var(LINK_TOKEN_VARIABLE).ok()?)
}

/// A worker without one of its threads would hang; ending it tells the gateway at once.
fn end_with_any_thread() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        serve::exit(WorkerExit::Bug);
    }));
}
