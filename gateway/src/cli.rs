//! The command line: one file per command. All but `serve` are clients of a running gateway.
//!
//! A failure is one line on standard error that says what to do next, and a documented exit code.

mod client;
mod load;
mod models;
mod pull;
mod table;
mod ps;
mod run;
mod serve;
mod stop;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, ConfigError, Listen};

/// How the program ends. `--help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Done = 0,
    Failed = 1,
    Unreachable = 69,
    Busy = 75,
    Config = 78,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed: what to print and how to end.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn new(exit: Exit, message: impl std::fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Config, error)
    }
}

const EXIT_CODES: &str = "\
Environment:
  HEARTH_HOME    where models, ONNX Runtime and hearth.toml are
  HEARTH_HOST    address to listen on, or to call [127.0.0.1:11434]
  HEARTH_API_KEY the key to ask for, or to send
  `hearth serve --help` lists the rest.

Exit codes:
   0  done
   1  the request failed; the message says why
   2  the command line makes no sense
  69  no gateway answers at the address
  75  the port or the home is in use by another process
  78  the configuration makes no sense, can't be used here, or is refused as unsafe
 130  ended at once by a second signal, with requests unfinished";

#[derive(Debug, Parser)]
#[command(
    name = "hearth",
    version,
    about = "Serves local models behind the OpenAI and Ollama APIs, one worker process per model",
    after_help = EXIT_CODES
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the gateway
    #[command(after_help = serve::settings_help())]
    Serve,
    /// Show which models are loaded, and until when
    Ps(ps::Arguments),
    /// Chat with a model, or answer one prompt
    Run(run::Arguments),
    /// Load a model
    Load(load::Arguments),
    /// Unload a model
    Stop(stop::Arguments),
    /// List the models there are
    List(models::ListArguments),
    /// Tell what a model's files say of it
    Show(models::ShowArguments),
    /// Fetch a model from Hugging Face, or take one in from a path
    Pull(pull::Arguments),
    /// Copy a model
    Cp(models::CopyArguments),
    /// Delete models
    Rm(models::RemoveArguments),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let result = match CommandLine::parse().command {
        Command::Serve => serve::serve(),
        Command::Ps(arguments) => as_client(ps::ps(arguments)),
        Command::Run(arguments) => as_client(run::run(arguments)),
        Command::Load(arguments) => as_client(load::load(arguments)),
        Command::Stop(arguments) => as_client(stop::stop(arguments)),
        Command::List(arguments) => as_client(models::list(arguments)),
        Command::Show(arguments) => as_client(models::show(arguments)),
        Command::Pull(arguments) => as_client(pull::pull(arguments)),
        Command::Cp(arguments) => as_client(models::copy(arguments)),
        Command::Rm(arguments) => as_client(models::remove(arguments)),
    };
    match result {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            complain(&failure.message);
            failure.exit.into()
        }
    }
}

/// A client needs no more than one thread.
fn as_client(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, error))?
        .block_on(command)
}

fn complain(message: &str) {
    use std::io::Write as _;
    // Nobody may be there to read it; the exit code says it as well.
    drop(writeln!(std::io::stderr(), "hearth: {message}"));
}

/// The address that clients call: where the gateway would listen with the same settings.
fn target() -> Result<(Listen, Option<config::ApiKey>), Failure> {
    let config = config::Config::load(&config::process_environment)?;
    Ok((config.host.as_client_target(), config.api_key))
}
