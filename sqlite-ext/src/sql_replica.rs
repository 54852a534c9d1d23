//! What functions and pragmas answer on replicas.

use litestream::clock::{Clock, SystemClock};
use litestream::config::parse_bool;
use litestream::ltx::{Txid, format_timestamp};
use litestream::moment;
use litestream::plan::Target;
use serde_json::json;

use crate::replica_options::{NO_WRITES, target_of};
use crate::replica_vfs::ReplicaFile;
use crate::sql::{self, Answer, Call, Outcome};

fn replica<'a>(call: &'a Call<'_>) -> Result<&'a ReplicaFile, String> {
    call.replica().ok_or_else(|| {
        "this database is not a replica: open one by its URL through the VFS 'litestream', or \
         name the schema under which it is attached"
            .to_owned()
    })
}

/// `litestream_status` in JSON: what the connection sees, and what is known of
/// the replica in this process.
pub(crate) fn status(replica: &ReplicaFile) -> Outcome {
    let moment = replica.moment()?;
    let last_error = replica.last_error();
    let (status, target, view) = replica.ask(|session| {
        let view = json!({
            "txid": session.txid().to_string(),
            "commit": session.commit(),
            "page_size": session.page_size(),
            "time": session.time_ms().map(format_timestamp),
            "pinned": session.is_pinned(),
        });
        Ok((session.status(), session.target(), view))
    })?;
    let target = match target {
        Target::Latest => "latest".to_owned(),
        Target::Txid(txid) => txid.to_string(),
        Target::Timestamp(ms) => moment.unwrap_or_else(|| format_timestamp(ms)),
    };
    let status = json!({
        "role": "replica",
        "url": replica.url(),
        "target": target,
        "view": view,
        "txid": status.txid.to_string(),
        "commit": status.commit,
        "page_size": status.page_size,
        "time": status.time_ms.map(format_timestamp),
        "lag_seconds": status.lag.map(|lag| lag.as_secs_f64()),
        "files": status.files,
        "index_bytes": status.index_bytes,
        "cache_bytes": status.cache_bytes,
        "requests": status.requests,
        "poll_failures": status.failures,
        "poll_error": status.error,
        "hydration": status.hydration.map(|copy| json!({
            "path": copy.path,
            "pages": copy.pages,
            "pages_total": copy.pages_total,
            "error": copy.error,
        })),
        "gap": status.gap,
        "restarts": status.restarts,
        "last_error": last_error,
        "version": sql::litestream_version(),
        "sqlite_version": crate::ffi::api::api().version_text(),
    });
    Ok(Answer::Text(status.to_string()))
}

/// The transaction that the connection sees, or would see next.
pub(crate) fn txid(replica: &ReplicaFile) -> Outcome {
    let txid = replica.ask(|session| Ok(session.txid()))?;
    Ok(Answer::Text(txid.to_string()))
}

/// Why the connection's last call failed, else the last look at storage.
pub(crate) fn last_error(replica: &ReplicaFile) -> Option<String> {
    let of_poll = || replica.ask(|session| Ok(session.status().error)).unwrap_or_else(Some);
    replica.last_error().or_else(of_poll)
}

/// Whole seconds since storage was last asked with success.
pub(crate) fn lag(replica: &ReplicaFile) -> Outcome {
    let lag = replica.ask(|session| Ok(session.lag()))?;
    let seconds = lag.map_or(-1, |lag| i64::try_from(lag.as_secs()).unwrap_or(i64::MAX));
    Ok(Answer::Integer(seconds))
}

/// The moment that was asked for, or when the newest file in use was made.
pub(crate) fn time(call: &Call<'_>) -> Outcome {
    let Some(replica) = call.replica() else { return Ok(Answer::Null) };
    if let Some(moment) = replica.moment()? {
        return Ok(Answer::Text(moment));
    }
    let ms = replica.ask(|session| Ok(session.time_ms()))?;
    Ok(Answer::Text(ms.map_or_else(|| "latest".to_owned(), format_timestamp)))
}

/// `litestream_set_time(text)`.
pub(crate) fn set_time(call: &Call<'_>) -> Outcome {
    let replica = replica(call)?;
    let text = call.text(0).ok_or("timestamp required")?;
    travel(replica, text)?;
    Ok(Answer::Null)
}

fn travel(replica: &ReplicaFile, text: &str) -> Result<(), String> {
    let moment = moment::parse(text, SystemClock.now_ms()).map_err(|e| e.to_string())?;
    let (target, text) = target_of(moment);
    replica.travel(target, text)
}

/// `litestream_refresh()`: asks storage now.
pub(crate) fn refresh(call: &Call<'_>) -> Outcome {
    let txid = replica(call)?.ask(|session| session.refresh())?;
    Ok(Answer::Text(txid.to_string()))
}

/// `litestream_wait(txid, timeout_ms)`.
pub(crate) fn wait(call: &Call<'_>) -> Outcome {
    let replica = replica(call)?;
    let text = call.text(0).ok_or("litestream_wait: which TXID? It is NULL")?;
    let txid: Txid = text.trim().parse().map_err(|e| format!("litestream_wait: {e}"))?;
    let timeout = sql::timeout(call, 1, "litestream_wait")?;
    let reached = replica.ask(|session| session.wait(txid, timeout))?;
    Ok(Answer::Text(reached.to_string()))
}

/// The rows of `litestream_history`.
pub(crate) fn history(call: &Call<'_>) -> Result<Vec<Vec<Answer>>, String> {
    let files = replica(call)?.ask(|session| session.history())?;
    Ok(files
        .into_iter()
        .map(|file| {
            vec![
                Answer::Integer(i64::from(file.info.id.level)),
                Answer::Text(file.info.id.min.to_string()),
                Answer::Text(file.info.id.max.to_string()),
                Answer::Text(format_timestamp(file.info.created_at_ms)),
                Answer::Integer(i64::try_from(file.info.size).unwrap_or(i64::MAX)),
                file.pages.map_or(Answer::Null, |n| Answer::Integer(i64::from(n))),
            ]
        })
        .collect())
}

/// Answers the pragmas that are no functions, or not only.
pub(crate) fn pragma(
    replica: &ReplicaFile,
    name: &str,
    value: Option<&str>,
) -> Option<Result<String, String>> {
    match name.to_ascii_lowercase().as_str() {
        "litestream_time" => value.map(|value| {
            travel(replica, value)?;
            let call = Call { arguments: &[], database: Some(sql::Database::Replica(replica)) };
            match time(&call)? {
                Answer::Text(text) => Ok(text),
                _ => Ok(String::new()),
            }
        }),
        "litestream_write_enabled" => Some(write_enabled(value)),
        name @ ("litestream_hydration_progress" | "litestream_hydration_file") => {
            Some(match value {
                Some(_) => Err(format!("{name} is read-only")),
                None => hydration(replica, name == "litestream_hydration_file"),
            })
        }
        _ => None,
    }
}

/// The local copy's file, empty without one or a name of it; or how much of the
/// newest state it has, in percent, `0` without one.
fn hydration(replica: &ReplicaFile, is_file: bool) -> Result<String, String> {
    let copy = replica.ask(|session| Ok(session.status().hydration))?;
    Ok(match copy {
        _ if is_file => {
            let path = copy.and_then(|copy| copy.path);
            path.map_or_else(String::new, |path| path.to_string_lossy().into_owned())
        }
        Some(copy) => {
            let whole = f64::from(copy.pages_total.max(1));
            format!("{:.1}", f64::from(copy.pages) * 100.0 / whole)
        }
        None => "0".to_owned(),
    })
}

fn write_enabled(value: Option<&str>) -> Result<String, String> {
    let Some(value) = value else { return Ok("0".to_owned()) };
    match parse_bool("litestream_write_enabled", value) {
        Ok(false) => Ok("0".to_owned()),
        Ok(true) => Err(NO_WRITES.to_owned()),
        Err(_) => Err(format!("invalid value for litestream_write_enabled: {value} (use 0 or 1)")),
    }
}
