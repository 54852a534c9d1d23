//! `litestream restore`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::{ArgAction, Parser};
use serde::Serialize;

use super::args::{self, Request};
use super::config::ConfigFlags;
use super::failure::{Failure, Outcome};
use super::integrity::{self, Mode};
use super::progress::Bar;
use super::source::Source;
use super::{Context, help, legacy, output, table, time};
use crate::error::{Error, ErrorKind};
use crate::ltx::Txid;
use crate::plan::{RestorePlan, Target};
use crate::replica_client::ReplicaClient;
use crate::restore::{
    PARALLELISM_DEFAULT, PARALLELISM_MAX, ReplayOptions, RestoreOptions, plan, restore,
};

const HINT: &str = "litestream restore -o PATH s3://BUCKET/PATH";

#[derive(Debug, Parser)]
#[command(name = "restore", args_override_self = true, disable_help_flag = true)]
struct Args {
    #[arg(long)]
    o: Option<PathBuf>,
    #[arg(long, value_parser = parse_txid)]
    txid: Option<Txid>,
    #[arg(long)]
    timestamp: Option<String>,
    #[arg(long, default_value_t = PARALLELISM_DEFAULT, value_parser = parse_parallelism)]
    parallelism: usize,
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    if_db_not_exists: bool,
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    if_replica_exists: bool,
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    force: bool,
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    dry_run: bool,
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    json: bool,
    #[arg(long, default_value = "quick")]
    integrity_check: String,
    #[command(flatten)]
    config: ConfigFlags,
    positionals: Vec<String>,
}

fn parse_txid(text: &str) -> std::result::Result<Txid, String> {
    text.parse().map_err(|e: Error| e.to_string())
}

fn parse_parallelism(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=PARALLELISM_MAX).contains(&n) => Ok(n),
        Ok(_) => Err(format!("must be between 1 and {PARALLELISM_MAX}")),
        Err(_) => Err("parse error".to_owned()),
    }
}

/// The arguments after every check that needs no storage.
struct Job {
    argument: String,
    source: Source,
    output: PathBuf,
    target: Target,
    check: Mode,
    args: Args,
}

#[derive(Serialize)]
struct PlannedFile {
    level: u8,
    name: String,
    min_txid: String,
    max_txid: String,
    size: u64,
    timestamp: String,
}

#[derive(Serialize)]
struct DryRun<'a> {
    source: &'a str,
    target_path: &'a Path,
    replica: &'a str,
    min_txid: String,
    max_txid: String,
    files: Vec<PlannedFile>,
}

#[derive(Serialize)]
struct Summary<'a> {
    db_path: &'a Path,
    replica: &'a str,
    txid: String,
    duration_ms: u64,
    integrity_check: &'a str,
}

#[derive(Serialize)]
struct Skipped<'a> {
    db_path: &'a Path,
    skipped: &'a str,
}

pub(super) fn run(words: &[OsString], context: &Context) -> Outcome {
    let args: Args = match args::parse(words).map_err(Failure::flag)? {
        Request::Run(args) => args,
        Request::Help => return output::print(&help::with_config(help::RESTORE, context)),
    };
    let job = Job::new(args, context)?;
    if job.args.if_db_not_exists && job.output.exists() {
        return job.skip("database already exists");
    }
    let client = job.source.open(context.env.clone())?;
    let runtime = context.runtime()?;
    if job.args.dry_run {
        let retrier = ReplayOptions::default().retrier;
        let bounds = job.within_bounds();
        let plan = plan(client.as_ref(), runtime.handle(), job.target, bounds, &retrier)
            .map_err(|e| job.explain(e))?;
        return job.print_plan(client.as_ref(), &plan);
    }
    job.restore(&client, &runtime)
}

impl Job {
    fn new(args: Args, context: &Context) -> std::result::Result<Job, Failure> {
        let argument = match args.positionals.as_slice() {
            [one] => one.clone(),
            [] => return Err(Failure::usage("database path or replica URL required", HINT)),
            _ => return Err(Failure::usage("too many arguments", HINT)),
        };
        let check = args.integrity_check.parse()?;
        let target = match (args.txid, &args.timestamp) {
            (Some(_), Some(_)) => {
                let text = "cannot specify both TXID & timestamp to restore";
                return Err(Failure::usage(text, HINT));
            }
            (Some(txid), None) => Target::Txid(txid),
            (None, Some(text)) => Target::Timestamp(time::parse_timestamp(text)?),
            (None, None) => Target::Latest,
        };
        let source = Source::resolve(&argument, &args.config, context)?;
        let output = match (args.o.clone(), &source.database) {
            (Some(path), _) if !path.as_os_str().is_empty() => path,
            (_, Some(database)) => database.clone(),
            _ => return Err(Failure::usage("output path required", HINT)),
        };
        Ok(Job { argument, source, output, target, check, args })
    }

    /// A replica named by its URL answers for the times it has.
    fn within_bounds(&self) -> bool {
        self.source.database.is_none()
    }

    fn restore(
        &self,
        client: &Arc<dyn ReplicaClient>,
        runtime: &tokio::runtime::Runtime,
    ) -> Outcome {
        let start = Instant::now();
        let bar = Arc::new(Bar::new());
        let check = |path: &Path| self.verify(path);
        let options = RestoreOptions {
            output: self.output.clone(),
            target: self.target,
            within_bounds: self.within_bounds(),
            force: self.args.force,
            replay: ReplayOptions {
                parallelism: self.args.parallelism,
                progress: bar.clone(),
                ..ReplayOptions::default()
            },
            check: Some(&check),
        };
        let result = restore(client, runtime.handle(), &options);
        bar.clear();
        let summary = match result.map_err(|e| self.explain(e)) {
            Ok(summary) => summary,
            Err(e) if e.kind() == ErrorKind::NotFound && self.args.if_replica_exists => {
                return self.skip("no matching backups found");
            }
            Err(e) => return Err(e.into()),
        };
        if !self.args.json {
            return Ok(());
        }
        output::print_json(&Summary {
            db_path: &self.output,
            replica: client.kind(),
            txid: summary.txid.to_string(),
            duration_ms: start.elapsed().as_millis() as u64,
            integrity_check: self.check.word(),
        })
    }

    fn verify(&self, path: &Path) -> crate::error::Result<()> {
        for part in integrity::check(path, self.check)? {
            super::warn(&format!("Warning: {part} was not checked\n"));
        }
        Ok(())
    }

    /// Where nothing was found, an older layout may be the reason.
    fn explain(&self, e: Error) -> Error {
        match e.kind() {
            ErrorKind::NotFound => legacy::explain(&self.source.url, e),
            _ => e,
        }
    }

    fn skip(&self, reason: &str) -> Outcome {
        match self.args.json {
            true => output::print_json(&Skipped { db_path: &self.output, skipped: reason }),
            false => output::print(&format!("{reason}, skipping: {}\n", self.output.display())),
        }
    }

    fn print_plan(&self, client: &dyn ReplicaClient, plan: &RestorePlan) -> Outcome {
        let report = DryRun {
            source: &self.argument,
            target_path: &self.output,
            replica: client.kind(),
            min_txid: plan.min_txid().to_string(),
            max_txid: plan.max_txid().to_string(),
            files: plan.files.iter().map(planned).collect(),
        };
        match self.args.json {
            true => output::print_json(&report),
            false => output::print(&report.text(client.url())),
        }
    }
}

fn planned(file: &crate::replica_client::FileInfo) -> PlannedFile {
    PlannedFile {
        level: file.id.level,
        name: file.id.file_name(),
        min_txid: file.id.min.to_string(),
        max_txid: file.id.max.to_string(),
        size: file.size,
        timestamp: time::format_timestamp(file.created_at_ms),
    }
}

impl DryRun<'_> {
    fn text(self, url: &str) -> String {
        let header = ["level", "file", "min_txid", "max_txid", "size", "timestamp"];
        let cells = |f: PlannedFile| {
            let size = f.size.to_string();
            vec![f.level.to_string(), f.name, f.min_txid, f.max_txid, size, f.timestamp]
        };
        let rows: Vec<_> = self.files.into_iter().map(cells).collect();
        format!(
            "Restore plan:\n  source:     {url}\n  target:     {}\n  replica:    {}\n  \
             txid range: {} - {}\n\nFiles:\n{}",
            self.target_path.display(),
            self.replica,
            self.min_txid,
            self.max_txid,
            table::render("  ", &header, &rows)
        )
    }
}
