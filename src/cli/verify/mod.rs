//! `litestream verify`: whether a replica is the database.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{ArgAction, Parser};
use serde::Serialize;

use super::args::{self, Request};
use super::config::ConfigFlags;
use super::failure::{Failure, Outcome};
use super::progress::Bar;
use super::source::{Source, canonical, database_path};
use super::{Context, help, output};
use crate::config::parse_duration;
use crate::ltx::lock_pgno;
use crate::os::disk;
use crate::restore::{PARALLELISM_DEFAULT, PARALLELISM_MAX, ReplayOptions};
use compare::{Comparison, Finding, Verdict};
use local::Local;

mod compare;
mod database;
mod local;

const HINT: &str = "litestream verify app.db s3://BUCKET/PATH";
/// Pages that are named.
const PAGES_NAMED: usize = 20;
/// Exit codes beside 0 and 1.
const EXIT_DIFFERS: u8 = 2;
const EXIT_BEHIND: u8 = 3;
/// Where our files are, when they are not beside the database.
const META_VARIABLE: &str = "LITESTREAM_META_PATH";

#[derive(Debug, Parser)]
#[command(name = "verify", args_override_self = true, disable_help_flag = true)]
struct Args {
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    json: bool,
    #[arg(long, default_value = "10s", value_parser = parse_timeout)]
    timeout: Duration,
    #[arg(long, default_value_t = PARALLELISM_DEFAULT, value_parser = parse_parallelism)]
    parallelism: usize,
    #[arg(long)]
    meta_path: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigFlags,
    positionals: Vec<String>,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    parse_duration("timeout", text).map_err(|e| e.to_string())
}

fn parse_parallelism(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=PARALLELISM_MAX).contains(&n) => Ok(n),
        _ => Err(format!("must be a number from 1 to {PARALLELISM_MAX}")),
    }
}

#[derive(Serialize)]
struct Report {
    db_path: PathBuf,
    replica: String,
    /// `equal`, `differs` or `behind`.
    result: &'static str,
    /// The replica's state that the database was compared with.
    txid: String,
    /// Whether the TXID is what local state says that storage acknowledged.
    local_state: bool,
    page_size: u32,
    db_pages: u32,
    replica_pages: u32,
    pages_compared: u64,
    pages_differing: u64,
    pages_busy: u64,
    /// The first pages that differ.
    pages: Vec<u32>,
    duration_ms: u64,
}

pub(super) fn run(words: &[OsString], context: &Context) -> Outcome {
    let args: Args = match args::parse(words).map_err(Failure::flag)? {
        Request::Run(args) => args,
        Request::Help => return output::print(&help::with_config(help::VERIFY, context)),
    };
    let start = Instant::now();
    let (path, source) = match args.positionals.as_slice() {
        [db] => (database_path(db, context)?, Source::resolve(db, &args.config, context)?),
        [db, url] => (database_path(db, context)?, Source::resolve(url, &args.config, context)?),
        [] => return Err(Failure::usage("database path required", HINT)),
        _ => return Err(Failure::usage("too many arguments", HINT)),
    };
    if disk::stat(&path)?.is_none() {
        return Err(Failure::new(format!("database not found: {}", path.display())));
    }
    let client = source.open(context.env.clone())?;
    let runtime = context.runtime()?;
    let dir = spool_dir(&path, &args, context);
    let local = runtime.block_on(Local::find(&dir, client.as_ref()))?;
    let local_state = local.is_some();
    let bar = Arc::new(Bar::new());
    let options = ReplayOptions {
        parallelism: args.parallelism,
        progress: bar.clone(),
        ..ReplayOptions::default()
    };
    let comparison = Comparison {
        path: &path,
        client: Arc::clone(&client),
        rt: runtime.handle(),
        local,
        options,
        timeout: args.timeout,
    };
    let found = comparison.run();
    bar.clear();
    let found = found?;
    let report = Report::new(path, client.url().to_owned(), &found, local_state, start);
    match args.json {
        true => output::print_json(&report)?,
        false => output::print(&report.text())?,
    }
    match found.verdict {
        Verdict::Equal => Ok(()),
        Verdict::Differs => Err(Failure::silent(EXIT_DIFFERS)),
        Verdict::Behind => Err(Failure::silent(EXIT_BEHIND)),
    }
}

/// Where the processes that replicate the database keep their files.
fn spool_dir(path: &Path, args: &Args, context: &Context) -> PathBuf {
    let configured = args.meta_path.clone();
    let configured = configured.or_else(|| context.env.filled(META_VARIABLE).map(PathBuf::from));
    let meta = configured.unwrap_or_else(|| {
        let path = canonical(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        path.with_file_name(format!(".{name}-litestream"))
    });
    meta.join("vfs")
}

impl Report {
    fn new(path: PathBuf, replica: String, f: &Finding, local_state: bool, start: Instant) -> Self {
        Report {
            db_path: path,
            replica,
            result: match f.verdict {
                Verdict::Equal => "equal",
                Verdict::Differs => "differs",
                Verdict::Behind => "behind",
            },
            txid: f.txid.to_string(),
            local_state,
            page_size: f.page_size,
            db_pages: f.commits.0,
            replica_pages: f.commits.1,
            pages_compared: f.compared,
            pages_differing: f.differing,
            pages_busy: f.busy,
            pages: f.pages.iter().copied().take(PAGES_NAMED).collect(),
            duration_ms: start.elapsed().as_millis() as u64,
        }
    }

    fn text(&self) -> String {
        let Report { txid, replica, pages_compared, pages_differing, .. } = self;
        let path = self.db_path.display();
        let mut text = match self.result {
            "equal" => format!("equal: {path} is TXID {txid} of {replica}\n"),
            "differs" => format!("differs: {path} is not TXID {txid} of {replica}\n"),
            _ => format!(
                "behind: {path} has commits that {replica} does not have yet; the pages that \
                 differ from its TXID {txid} may be theirs\n"
            ),
        };
        text.push_str(&format!("  pages compared: {pages_compared}\n"));
        if *pages_differing > 0 {
            let named: Vec<String> = self.pages.iter().map(u32::to_string).collect();
            let more = if self.pages.len() as u64 == *pages_differing { "" } else { ", ..." };
            text.push_str(&format!(
                "  pages that differ: {pages_differing} (page {}{more})\n",
                named.join(", ")
            ));
        }
        if self.db_pages != self.replica_pages {
            text.push_str(&format!(
                "  size in pages: {} here, {} there\n",
                self.db_pages, self.replica_pages
            ));
        }
        if self.pages_busy > 0 {
            text.push_str(&format!(
                "  written all the time, not compared: {} pages\n",
                self.pages_busy
            ));
        }
        if lock_pgno(self.page_size) <= self.replica_pages {
            text.push_str("  SQLite's lock page has no content and was left out\n");
        }
        if !self.local_state {
            text.push_str(
                "  no local state of this replica was found beside the database: it was compared \
                 with the newest TXID there\n",
            );
        }
        text
    }
}
