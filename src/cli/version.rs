//! `litestream version`.

use std::ffi::OsString;

use clap::{ArgAction, Parser};

use super::args::{self, Request};
use super::failure::{Failure, Outcome};
use super::{help, output};

#[derive(Debug, Parser)]
#[command(name = "version", args_override_self = true, disable_help_flag = true)]
struct Args {
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    verbose: bool,
    /// Accepted and ignored.
    #[arg()]
    ignored: Vec<OsString>,
}

pub(super) fn run(words: &[OsString]) -> Outcome {
    let args: Args = match args::parse(words).map_err(Failure::flag)? {
        Request::Run(args) => args,
        Request::Help => return output::print(help::VERSION),
    };
    let version = env!("CARGO_PKG_VERSION");
    if !args.verbose {
        return output::print(&format!("{version}\n"));
    }
    output::print(&format!(
        "version:  {version}\nsqlite:   {}\nos/arch:  {}/{}\n",
        rusqlite::version(),
        std::env::consts::OS,
        std::env::consts::ARCH,
    ))
}
