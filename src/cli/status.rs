//! `litestream status`: what processes wrote beside their databases.
//!
//! The process that ships a database keeps `vfs/status.json` in the database's
//! meta directory, one JSON object whose fields are its own business.
//! Litestream's daemon keeps `ltx/0/` there, whose newest file tells the TXID.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Parser};
use serde_json::{Map, Value, json};

use super::args::{self, Request};
use super::config::{self, ConfigFlags, meta_dir};
use super::failure::{Failure, Outcome};
use super::source::database_path;
use super::{Context, help, output, table};
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::parse_file_name;
use crate::os;
use crate::os::replace::with_suffix;

/// The TXID that stands for none.
const NONE_TEXT: &str = "0000000000000000";
const META_PREFIX: &str = ".";
const META_SUFFIX: &str = "-litestream";
const STATUS_FILE: &str = "vfs/status.json";
const LOCAL_L0: &str = "ltx/0";
/// Fields of the status object that tell the newest local transaction.
const LOCAL_TXID_FIELDS: [&str; 2] = ["spooled_txid", "replicated_txid"];
const STATE_FIELD: &str = "state";
const PID_FIELD: &str = "pid";

#[derive(Debug, Parser)]
#[command(name = "status", args_override_self = true, disable_help_flag = true)]
struct Args {
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    json: bool,
    #[command(flatten)]
    config: ConfigFlags,
    positionals: Vec<String>,
}

/// What is known of one database.
struct Report {
    database: PathBuf,
    status: String,
    local_txid: String,
    wal_size: String,
    /// The status object, as it was written.
    detail: Option<Map<String, Value>>,
    error: Option<String>,
}

pub(super) fn run(words: &[OsString], context: &Context) -> Outcome {
    let args: Args = match args::parse(words).map_err(Failure::flag)? {
        Request::Run(args) => args,
        Request::Help => return output::print(&help::with_config(help::STATUS, context)),
    };
    let file = args.config.load_if_any(context)?;
    let mut databases = Vec::new();
    match &file {
        None if args.positionals.is_empty() => {
            let hint = "litestream status DB_PATH";
            return Err(Failure::usage("database path or directory required", hint));
        }
        Some(file) if args.positionals.is_empty() => {
            databases.extend(config::databases(file)?.into_iter().map(|(path, _)| path));
        }
        _ => {}
    }
    for argument in &args.positionals {
        let path = database_path(argument, context)?;
        match path.is_dir() {
            true => databases.extend(databases_in(&path)?),
            false => databases.push(path),
        }
    }
    let report = |path: &PathBuf| report(path, &meta_dir(file.as_ref(), path));
    let reports: Vec<Report> = databases.iter().map(report).collect();
    match args.json {
        true => output::print_json(&reports.iter().map(Report::json).collect::<Vec<_>>()),
        false => output::print(&text(&reports)),
    }
}

/// The databases of a directory that have a meta directory, by name.
fn databases_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut names: Vec<String> = os::list_dir(dir)?
        .into_iter()
        .filter(|entry| entry.is_dir)
        .filter_map(|entry| {
            let name = entry.name.strip_prefix(META_PREFIX)?.strip_suffix(META_SUFFIX)?;
            (!name.is_empty()).then(|| name.to_owned())
        })
        .collect();
    names.sort();
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

fn report(database: &Path, meta: &Path) -> Report {
    let mut report = Report {
        database: database.to_owned(),
        status: "no database".to_owned(),
        local_txid: "-".to_owned(),
        wal_size: "-".to_owned(),
        detail: None,
        error: None,
    };
    if let Err(e) = report.read(meta) {
        report.status = "error".to_owned();
        report.error = Some(e.to_string());
    }
    report
}

impl Report {
    fn read(&mut self, meta: &Path) -> Result<()> {
        self.detail = read_object(&meta.join(STATUS_FILE))?;
        if !self.database.exists() {
            return Ok(());
        }
        let wal = std::fs::metadata(with_suffix(&self.database, "-wal")).map_or(0, |m| m.len());
        self.wal_size = human_size(wal);
        let from_daemon = newest_local(&meta.join(LOCAL_L0))?;
        let spooled = LOCAL_TXID_FIELDS.iter().filter_map(|name| self.field(name));
        let local = spooled.max().filter(|txid| *txid != NONE_TEXT).or(from_daemon);
        self.status = match (self.field(STATE_FIELD), &self.detail, &local) {
            (Some(word), ..) => word,
            (None, None, None) => "not initialized".to_owned(),
            _ => "ok".to_owned(),
        };
        self.local_txid = local.unwrap_or_else(|| "-".to_owned());
        Ok(())
    }

    /// The field `name`, if it is a string.
    fn field(&self, name: &str) -> Option<String> {
        Some(self.detail.as_ref()?.get(name)?.as_str()?.to_owned())
    }

    /// Whether the process that wrote the status object still lives; none where
    /// that cannot be told.
    fn is_running(&self) -> Option<bool> {
        let pid = self.detail.as_ref()?.get(PID_FIELD)?.as_u64()?;
        let processes = Path::new("/proc");
        processes.join("self").exists().then(|| processes.join(pid.to_string()).exists())
    }

    fn json(&self) -> Value {
        let mut object = json!({
            "database": self.database,
            "status": self.status,
            "local_txid": self.local_txid,
            "wal_size": self.wal_size,
            "running": self.is_running(),
            "vfs": self.detail,
        });
        if let Some(error) = &self.error {
            object["error"] = json!(error);
        }
        object
    }
}

fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    let bytes = match os::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        _ => {
            let text = format!("{} is not a JSON object", path.display());
            Err(Error::new(ErrorKind::Corrupt, text))
        }
    }
}

/// The highest TXID among the files of Litestream's daemon.
fn newest_local(dir: &Path) -> Result<Option<String>> {
    let newest =
        os::list_dir(dir)?.iter().filter_map(|e| parse_file_name(&e.name)).map(|r| r.1).max();
    Ok(newest.map(|txid| txid.to_string()))
}

fn text(reports: &[Report]) -> String {
    let header = ["database", "status", "local txid", "wal size"];
    let cells = |r: &Report| {
        let database = r.database.display().to_string();
        vec![database, r.status.clone(), r.local_txid.clone(), r.wal_size.clone()]
    };
    let mut out = table::render("", &header, &reports.iter().map(cells).collect::<Vec<_>>());
    for report in reports {
        if let Some(error) = &report.error {
            out.push_str(&format!("\n{}: {error}\n", report.database.display()));
        }
        if let Some(detail) = &report.detail {
            let ended = match report.is_running() {
                Some(false) => " (written by a process that has ended)",
                _ => "",
            };
            let database = report.database.display();
            out.push_str(&format!("\n{database}{ended}:\n{}", details(detail)));
        }
    }
    out
}

/// Fields as aligned lines; nested objects by dotted names.
fn details(detail: &Map<String, Value>) -> String {
    let mut fields = Vec::new();
    flatten("", detail, &mut fields);
    let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + 1;
    fields
        .iter()
        .map(|(name, value)| format!("  {:<width$} {value}\n", format!("{name}:")))
        .collect()
}

fn flatten(prefix: &str, object: &Map<String, Value>, out: &mut Vec<(String, String)>) {
    for (name, value) in object {
        let name = format!("{prefix}{name}");
        match value {
            Value::Null => {}
            Value::Object(inner) => flatten(&format!("{name}."), inner, out),
            Value::String(text) => out.push((name, text.clone())),
            other => out.push((name, other.to_string())),
        }
    }
}

/// Bytes with an SI unit, as `37 kB` or `1.2 MB`.
fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit > 0 && value < 9.95 {
        true => format!("{value:.1} {}", UNITS[unit]),
        false => format!("{value:.0} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (37_112, "37 kB"),
            (4_152_992, "4.2 MB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }

    #[test]
    fn details_are_aligned_and_dotted() {
        let object = json!({"role": "primary", "requests": {"put": 3}, "last_error": null});
        let text = details(object.as_object().unwrap());
        assert_eq!(text, "  requests.put: 3\n  role:         primary\n");
    }
}
