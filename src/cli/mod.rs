//! The command line: the only part that knows flags, the environment and
//! stdout.
//!
//! Every command returns an [`Outcome`](failure::Outcome); failures go to
//! stderr as `Error: ...`, with a `Try: ...` line for wrong usage, and end with
//! exit code 1; `verify` tells its result by others.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use failure::{Failure, Outcome};

use crate::config_file::Surroundings;
use crate::replica_client::{Env, ProcessEnv};

mod args;
mod config;
mod databases;
mod failure;
mod help;
mod integrity;
mod legacy;
mod ltx;
mod output;
mod progress;
mod restore;
mod source;
mod status;
mod table;
mod time;
mod verify;
mod version;

/// Threads for downloads and TLS; decoding and writing have the main thread.
const WORKER_THREADS: usize = 2;

/// What commands take from the process.
struct Context {
    env: Arc<dyn Env>,
    /// The same for configuration files.
    around: Surroundings,
}

impl Context {
    fn runtime(&self) -> Result<tokio::runtime::Runtime, Failure> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .enable_all()
            .build()
            .map_err(|e| Failure::new(format!("cannot start threads: {e}")))
    }
}

/// Runs the command line `words` (the program's name left out) in this
/// process's environment and returns its exit code.
pub fn run(words: &[OsString]) -> ExitCode {
    let around = match Surroundings::of_process() {
        Ok(around) => around,
        Err(e) => return finish(Err(e.into()), help::USAGE, ExitCode::FAILURE),
    };
    let context = Context { env: Arc::new(ProcessEnv), around };
    let Some((command, rest)) = words.split_first() else {
        return finish(output::print(help::USAGE), help::USAGE, ExitCode::FAILURE);
    };
    let name = command.to_str().unwrap_or_default();
    let (outcome, text) = match name {
        "help" | "-h" | "-help" | "--help" => (output::print(help::USAGE), help::USAGE),
        "databases" => (databases::run(rest, &context), help::DATABASES),
        "restore" => (restore::run(rest, &context), help::RESTORE),
        "ltx" => (ltx::run(rest, &context), help::LTX),
        "wal" => (run_wal(rest, &context), help::LTX),
        "status" => (status::run(rest, &context), help::STATUS),
        "verify" => (verify::run(rest, &context), help::VERIFY),
        "version" => (version::run(rest), help::VERSION),
        flag if flag.starts_with('-') => {
            return finish(output::print(help::USAGE), help::USAGE, ExitCode::FAILURE);
        }
        _ => (Err(unknown(command)), help::USAGE),
    };
    finish(outcome, &help::with_config(text, &context), ExitCode::SUCCESS)
}

fn run_wal(rest: &[OsString], context: &Context) -> Outcome {
    warn("the 'wal' command is deprecated, please use 'ltx' instead\n");
    ltx::run(rest, context)
}

fn unknown(command: &OsString) -> Failure {
    let text = format!("unknown command: litestream {}", command.display());
    Failure::usage(text, "litestream help")
}

fn finish(outcome: Outcome, help: &str, success: ExitCode) -> ExitCode {
    let Err(failure) = outcome else { return success };
    if failure.show_help {
        // The failure below is what counts.
        let _ = output::print(help);
    }
    if failure.message.is_empty() {
        return ExitCode::from(failure.code);
    }
    let mut text = format!("Error: {}\n", failure.message);
    if let Some(hint) = failure.hint {
        text.push_str(&format!("Try: {hint}\n"));
    }
    warn(&text);
    ExitCode::from(failure.code)
}

/// Writes to stderr; there is nowhere to report a failure of that.
fn warn(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
