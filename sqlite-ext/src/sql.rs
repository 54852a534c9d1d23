//! The SQL surface: `litestream_...` as functions on every connection and as
//! pragmas of replicated databases and replicas. Safe: `ffi::functions` brings
//! the arguments. What replicas answer is in `sql_replica`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use litestream::db::Db;

use crate::options::{self, process_env};
use crate::primary_vfs::{CONFIGURED, IS_DEFAULT, MainFile};
use crate::replica_vfs::ReplicaFile;
use crate::{ffi, last_error, registry, sql_replica};

/// How the names of all functions and pragmas begin.
pub(crate) const PREFIX: &str = "litestream_";
/// The answer of a process whose replication stopped.
pub(crate) const FAULTED: &str =
    "litestream: replication stopped after an internal fault; restart the process to resume it";

/// An argument.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Argument {
    /// SQL NULL.
    Null,
    /// Any other value, as text.
    Text(String),
}

/// A result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    /// SQL NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// A text.
    Text(String),
}

/// A result or the message of an SQL error.
pub(crate) type Outcome = Result<Answer, String>;

/// A database of ours.
#[derive(Clone, Copy)]
pub(crate) enum Database<'a> {
    /// A local database that is replicated.
    Primary(&'a MainFile),
    /// A replica that is read.
    Replica(&'a ReplicaFile),
}

/// One SQL function.
pub(crate) struct Function {
    /// Its whole name.
    pub name: &'static str,
    /// How many arguments it takes.
    pub arguments: &'static [i32],
    /// Which argument is the schema (`main`, or an attached database's name).
    pub schema_at: Option<usize>,
    /// It changes something: not to be called by triggers and views.
    pub has_effects: bool,
    run: fn(&Call<'_>) -> Outcome,
}

/// One call.
pub(crate) struct Call<'a> {
    /// The arguments.
    pub arguments: &'a [Argument],
    /// The database that the call is about, if it is one of ours.
    pub database: Option<Database<'a>>,
}

/// Every function, in the order of their registration.
pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "litestream_status",
        arguments: &[0, 1],
        schema_at: Some(0),
        has_effects: false,
        run: status,
    },
    Function {
        name: "litestream_txid",
        arguments: &[0, 1],
        schema_at: Some(0),
        has_effects: false,
        run: txid,
    },
    Function {
        name: "litestream_lag",
        arguments: &[0, 1],
        schema_at: Some(0),
        has_effects: false,
        run: lag,
    },
    Function {
        name: "litestream_time",
        arguments: &[0, 1],
        schema_at: Some(0),
        has_effects: false,
        run: sql_replica::time,
    },
    Function {
        name: "litestream_set_time",
        arguments: &[1, 2],
        schema_at: Some(1),
        has_effects: true,
        run: sql_replica::set_time,
    },
    Function {
        name: "litestream_refresh",
        arguments: &[0, 1],
        schema_at: Some(0),
        has_effects: true,
        run: sql_replica::refresh,
    },
    Function {
        name: "litestream_wait",
        arguments: &[1, 2, 3],
        schema_at: Some(2),
        has_effects: true,
        run: sql_replica::wait,
    },
    Function {
        name: "litestream_checksum",
        arguments: &[0, 1],
        schema_at: Some(0),
        has_effects: false,
        run: checksum,
    },
    Function {
        name: "litestream_sync",
        arguments: &[0, 1, 2],
        schema_at: Some(1),
        has_effects: true,
        run: sync,
    },
    Function {
        name: "litestream_last_error",
        arguments: &[0, 1],
        schema_at: Some(0),
        has_effects: false,
        run: last_error_text,
    },
    Function {
        name: "litestream_configure",
        arguments: &[3],
        schema_at: None,
        has_effects: true,
        run: configure,
    },
    Function {
        name: "litestream_default_vfs",
        arguments: &[1],
        schema_at: None,
        has_effects: true,
        run: default_vfs,
    },
    Function {
        name: "litestream_version",
        arguments: &[0],
        schema_at: None,
        has_effects: false,
        run: version,
    },
];

/// Runs a function.
pub(crate) fn call(function: &Function, call: &Call<'_>) -> Outcome {
    (function.run)(call)
}

/// Answers `PRAGMA name = value`; `None` for a name that is not ours.
pub(crate) fn pragma(
    database: Database<'_>,
    name: &str,
    value: Option<&str>,
) -> Option<Result<String, String>> {
    if let Database::Replica(replica) = database
        && let Some(answer) = sql_replica::pragma(replica, name, value)
    {
        return Some(answer);
    }
    let function = FUNCTIONS.iter().find(|f| f.name.eq_ignore_ascii_case(name))?;
    let arguments: Vec<Argument> =
        value.map(|v| Argument::Text(v.to_owned())).into_iter().collect();
    // A pragma names its schema in front: `PRAGMA aux.litestream_status`.
    let fits = function.arguments.contains(&(arguments.len() as i32));
    if function.schema_at == Some(0) && value.is_some() {
        return Some(Err(format!("{} is read-only", function.name)));
    }
    if !fits {
        return Some(Err(format!("wrong number of values for PRAGMA {}", function.name)));
    }
    let call = Call { arguments: &arguments, database: Some(database) };
    Some((function.run)(&call).map(|answer| match answer {
        Answer::Null => String::new(),
        Answer::Integer(n) => n.to_string(),
        Answer::Real(x) => format!("{x:.3}"),
        Answer::Text(text) => text,
    }))
}

impl Call<'_> {
    /// The argument `index` as text; none when it is NULL or missing.
    pub(crate) fn text(&self, index: usize) -> Option<&str> {
        match self.arguments.get(index)? {
            Argument::Null => None,
            Argument::Text(text) => Some(text),
        }
    }

    fn db(&self) -> Option<&Db> {
        match self.database? {
            Database::Primary(file) => file.db().map(|db| &**db),
            Database::Replica(_) => None,
        }
    }

    /// The replica that the call is about.
    pub(crate) fn replica(&self) -> Option<&ReplicaFile> {
        match self.database? {
            Database::Primary(_) => None,
            Database::Replica(file) => Some(file),
        }
    }

    fn replicated(&self) -> Result<&Db, String> {
        if self.replica().is_some() {
            return Err("this is a replica, which nobody writes: litestream_refresh() and \
                        litestream_wait() bring newer states"
                .to_owned());
        }
        self.db().ok_or_else(|| {
            "this database is not replicated: open it through the VFS 'litestream' with a \
             replica_url"
                .to_owned()
        })
    }
}

fn status(call: &Call<'_>) -> Outcome {
    if let Some(replica) = call.replica() {
        return sql_replica::status(replica);
    }
    Ok(Answer::Text(match call.db() {
        Some(db) => db.status_json(),
        None => serde_json::json!({
            "role": "none",
            "library_version": litestream_version(),
            "sqlite_version": ffi::api::api().version_text(),
            "wal_reset": crate::shield::report().0,
        })
        .to_string(),
    }))
}

fn txid(call: &Call<'_>) -> Outcome {
    if let Some(replica) = call.replica() {
        return sql_replica::txid(replica);
    }
    let known = call.db().and_then(Db::txid);
    Ok(known.map_or(Answer::Null, |txid| Answer::Text(txid.to_string())))
}

/// Litestream's checksum of the database at the acknowledged transaction.
fn checksum(call: &Call<'_>) -> Outcome {
    let known = call.db().and_then(Db::replicated_checksum);
    Ok(known.map_or(Answer::Null, |(_, sum)| Answer::Text(format!("{sum:016x}"))))
}

fn lag(call: &Call<'_>) -> Outcome {
    if let Some(replica) = call.replica() {
        return sql_replica::lag(replica);
    }
    Ok(call.db().map_or(Answer::Null, |db| Answer::Real(db.lag_seconds())))
}

/// Waits when no timeout is given.
const TIMEOUT_MS: u64 = 10_000;

/// The argument `index` of `function` as a number of milliseconds.
///
/// # Errors
/// Text about an argument that is none.
pub(crate) fn timeout(call: &Call<'_>, index: usize, function: &str) -> Result<Duration, String> {
    let ms = match call.text(index) {
        None => TIMEOUT_MS,
        Some(text) => text
            .trim()
            .parse()
            .map_err(|_| format!("{function}: '{text}' is not a number of milliseconds"))?,
    };
    Ok(Duration::from_millis(ms))
}

fn sync(call: &Call<'_>) -> Outcome {
    let db = call.replicated()?;
    let txid = db.sync(timeout(call, 0, "litestream_sync")?).map_err(|e| e.to_string())?;
    Ok(Answer::Text(txid.to_string()))
}

fn last_error_text(call: &Call<'_>) -> Outcome {
    if let Some(text) = call.replica().and_then(sql_replica::last_error) {
        return Ok(Answer::Text(text));
    }
    let of_open = last_error::get();
    if !of_open.is_empty() {
        return Ok(Answer::Text(of_open));
    }
    // A connection without a replica of its own speaks for the whole process.
    let text = match call.database {
        Some(Database::Replica(_)) => None,
        Some(Database::Primary(_)) => call.db().and_then(Db::last_error),
        None => registry::all().iter().find_map(|db| db.last_error()),
    };
    Ok(text.map_or(Answer::Null, Answer::Text))
}

/// The rows of `litestream_history`, in the order of its columns.
///
/// # Errors
/// Text about a database that is no replica, or storage that cannot be read.
pub(crate) fn history(database: Option<Database<'_>>) -> Result<Vec<Vec<Answer>>, String> {
    sql_replica::history(&Call { arguments: &[], database })
}

fn configure(call: &Call<'_>) -> Outcome {
    let (Some(database), Some(key), Some(value)) = (call.text(0), call.text(1), call.text(2))
    else {
        return Err(
            "litestream_configure(database, key, value): none of them may be NULL".to_owned()
        );
    };
    CONFIGURED.set(database, key, value)?;
    Ok(Answer::Null)
}

fn default_vfs(call: &Call<'_>) -> Outcome {
    let value = call.text(0).unwrap_or_default();
    let on = litestream::config::parse_bool("litestream_default_vfs", value)
        .map_err(|e| e.to_string())?;
    set_default(on)?;
    Ok(Answer::Integer(i64::from(on)))
}

/// Makes ours the VFS of opens that name none, or the host's own again.
///
/// # Errors
/// Text about an environment that does not fit the mode, or SQLite's refusal.
pub(crate) fn set_default(on: bool) -> Result<(), String> {
    if on {
        options::check_default_mode(&process_env)?;
    }
    ffi::vfs::set_default(on).map_err(|rc| format!("sqlite3_vfs_register answered {rc}"))?;
    IS_DEFAULT.store(on, Ordering::Relaxed);
    Ok(())
}

fn version(_: &Call<'_>) -> Outcome {
    Ok(Answer::Text(litestream_version().to_owned()))
}

/// The version of this library.
pub(crate) const fn litestream_version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
