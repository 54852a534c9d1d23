//! `litestream ltx`: the files of a replica.

use std::ffi::OsString;
use std::ops::RangeInclusive;

use clap::{ArgAction, Parser};
use serde::Serialize;

use super::args::{self, Request};
use super::config::ConfigFlags;
use super::failure::{Failure, Outcome};
use super::source::Source;
use super::{Context, help, output, table, time};
use crate::ltx::Txid;
use crate::replica_client::{FileInfo, SNAPSHOT_LEVEL};

const HINT: &str = "litestream ltx s3://BUCKET/PATH";

#[derive(Debug, Parser)]
#[command(name = "ltx", args_override_self = true, disable_help_flag = true)]
struct Args {
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    json: bool,
    #[arg(long, default_value = "0", value_parser = parse_levels)]
    level: Levels,
    #[command(flatten)]
    config: ConfigFlags,
    positionals: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Levels(RangeInclusive<u8>);

fn parse_levels(text: &str) -> Result<Levels, String> {
    if text == "all" {
        return Ok(Levels(0..=SNAPSHOT_LEVEL));
    }
    let level: i64 = text.parse().map_err(|_| "must be a number or all".to_owned())?;
    match u8::try_from(level) {
        Ok(level) if level <= SNAPSHOT_LEVEL => Ok(Levels(level..=level)),
        _ => Err(format!("must be between 0 and {SNAPSHOT_LEVEL}")),
    }
}

#[derive(Serialize)]
struct Row {
    level: u8,
    min_txid: String,
    max_txid: String,
    size: u64,
    timestamp: String,
}

impl Row {
    fn new(file: &FileInfo) -> Self {
        Row {
            level: file.id.level,
            min_txid: file.id.min.to_string(),
            max_txid: file.id.max.to_string(),
            size: file.size,
            timestamp: time::format_timestamp(file.created_at_ms),
        }
    }

    fn cells(self) -> Vec<String> {
        let size = self.size.to_string();
        vec![self.level.to_string(), self.min_txid, self.max_txid, size, self.timestamp]
    }
}

pub(super) fn run(words: &[OsString], context: &Context) -> Outcome {
    let args: Args = match args::parse(words).map_err(Failure::flag)? {
        Request::Run(args) => args,
        Request::Help => return output::print(&help::with_config(help::LTX, context)),
    };
    let argument = match args.positionals.as_slice() {
        [one] => one,
        [] => return Err(Failure::usage("database path or replica URL required", HINT)),
        _ => return Err(Failure::usage("too many arguments", HINT)),
    };
    let source = Source::resolve(argument, &args.config, context)?;
    let client = source.open(context.env.clone())?;
    let runtime = context.runtime()?;
    let mut rows = Vec::new();
    for level in args.level.0 {
        let files = runtime.block_on(client.list(level, Txid::NONE, false))?;
        rows.extend(files.iter().map(Row::new));
    }
    if args.json {
        return output::print_json(&rows);
    }
    let header = ["level", "min_txid", "max_txid", "size", "created"];
    let rows: Vec<_> = rows.into_iter().map(Row::cells).collect();
    output::print(&table::render("", &header, &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_81_levels_out_of_range_are_refused() {
        assert_eq!(parse_levels("9").unwrap().0, 9..=9);
        assert_eq!(parse_levels("all").unwrap().0, 0..=9);
        assert_ne!(parse_levels("10").unwrap_err(), parse_levels("ten").unwrap_err());
        assert!(parse_levels("-1").is_err());
    }
}
