//! `litestream databases`: what a configuration file declares.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use serde::Serialize;

use super::args::{self, Request};
use super::config::{self, ConfigFlags};
use super::failure::{Failure, Outcome};
use super::{Context, help, output, table};

#[derive(Debug, Parser)]
#[command(name = "databases", args_override_self = true, disable_help_flag = true)]
struct Args {
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    json: bool,
    #[command(flatten)]
    config: ConfigFlags,
    positionals: Vec<OsString>,
}

#[derive(Serialize)]
struct Row {
    path: PathBuf,
    replica: &'static str,
}

pub(super) fn run(words: &[OsString], context: &Context) -> Outcome {
    let args: Args = match args::parse(words).map_err(Failure::flag)? {
        Request::Run(args) => args,
        Request::Help => return output::print(&help::with_config(help::DATABASES, context)),
    };
    if !args.positionals.is_empty() {
        return Err(Failure::new("too many arguments"));
    }
    let file = args.config.load(context)?;
    let row = |(path, database): (PathBuf, &crate::config_file::Database)| Row {
        path,
        replica: database.replica.kind,
    };
    let rows: Vec<Row> = config::databases(&file)?.into_iter().map(row).collect();
    if args.json {
        return output::print_json(&rows);
    }
    let cells = |row: Row| vec![row.path.display().to_string(), row.replica.to_owned()];
    let rows: Vec<_> = rows.into_iter().map(cells).collect();
    output::print(&table::render("", &["path", "replica"], &rows))
}
