//! What people and monitors are told about one database.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::capture::Gap;
use crate::db::{Db, History, lock};
use crate::ltx::{Header, Txid};
use crate::os::disk;

/// Name of the status file in the spool directory.
pub const STATUS_FILE: &str = "status.json";

/// Repairs that the status tells one by one; older ones are only counted.
const REPAIRS_MAX: usize = 16;

/// How the chain was begun, or continued after a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Repair {
    /// Why.
    pub reason: Gap,
    /// Milliseconds since the epoch.
    pub at_ms: i64,
    /// The TXID with the state; an earlier one when nothing was shipped.
    pub txid: Txid,
    /// All pages were shipped, none compared.
    pub full: bool,
    /// Pages compared with what storage has.
    pub compared: u64,
    /// Pages shipped.
    pub pages: u64,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Repair { txid, pages, compared, .. } = self;
        let reason = self.reason.name();
        if self.full {
            write!(f, "snapshot {txid} of {pages} pages stored, reason: {reason}")
        } else if *pages == 0 {
            write!(f, "none of {compared} pages differs from TXID {txid}, reason: {reason}")
        } else {
            write!(f, "{txid}: {pages} of {compared} pages differed, stored; reason: {reason}")
        }
    }
}

#[derive(Debug, Default)]
struct Repairs {
    last: VecDeque<Repair>,
    compared: u64,
    pages: u64,
}

impl Repairs {
    fn add(&mut self, repair: Repair) {
        if self.last.len() == REPAIRS_MAX {
            self.last.pop_front();
        }
        self.last.push_back(repair);
        self.compared += repair.compared;
        self.pages += repair.pages;
    }

    fn json(&self) -> Value {
        let one = |r: &Repair| {
            json!({
                "reason": r.reason.name(),
                "at_ms": r.at_ms,
                "txid": r.txid.to_string(),
                "full": r.full,
                "pages_compared": r.compared,
                "pages_shipped": r.pages,
            })
        };
        json!({
            "pages_compared": self.compared,
            "pages_shipped": self.pages,
            "last": self.last.iter().map(one).collect::<Vec<_>>(),
        })
    }
}

/// Counts since the open.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    gaps: [AtomicU64; Gap::ALL.len()],
    snapshots: [AtomicU64; Gap::ALL.len()],
    differences: [AtomicU64; Gap::ALL.len()],
    repairs: Mutex<Repairs>,
    files: AtomicU64,
    upload_errors: AtomicU64,
    snapshot_bytes: AtomicU64,
    /// Counts what may make a snapshot possible that was not before.
    changes: AtomicU64,
    /// One more than `changes` was when a snapshot was last found impossible.
    pointless_at: AtomicU64,
    pub(crate) bystander: AtomicBool,
    last_status: Mutex<String>,
}

fn index(gap: Gap) -> usize {
    Gap::ALL.iter().position(|g| *g == gap).unwrap_or(0)
}

impl Counters {
    /// The host did something.
    pub(crate) fn change(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// A snapshot was found impossible by a look that began at `changes`.
    pub(crate) fn pointless(&self, changes: u64) {
        self.pointless_at.store(changes + 1, Ordering::SeqCst);
    }

    /// Nothing changed since a snapshot was last found impossible.
    pub(crate) fn is_pointless(&self) -> bool {
        self.pointless_at.load(Ordering::SeqCst) == self.changes() + 1
    }

    pub(crate) fn gap(&self, gap: Gap) {
        self.gaps[index(gap)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn repaired(&self, repair: Repair) {
        let counts = if repair.full { &self.snapshots } else { &self.differences };
        counts[index(repair.reason)].fetch_add(1, Ordering::Relaxed);
        lock(&self.repairs).add(repair);
    }

    pub(crate) fn shipped(&self, _header: &Header) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn upload_failed(&self) {
        self.upload_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot_bytes_of(&self, pages: u64, page_size: u32) {
        let bytes = pages * u64::from(page_size);
        self.snapshot_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

fn by_reason(counts: &[AtomicU64]) -> Value {
    let pairs = Gap::ALL.iter().zip(counts);
    let filled = pairs.filter_map(|(gap, n)| {
        let n = n.load(Ordering::Relaxed);
        (n > 0).then(|| (gap.name().to_owned(), json!(n)))
    });
    Value::Object(filled.collect())
}

impl Db {
    /// The status as one JSON object.
    pub fn status_json(&self) -> String {
        self.status_value().to_string()
    }

    fn status_value(&self) -> Value {
        let lag = self.lag_seconds();
        let txid = self.txid();
        let (open_bytes, open_pages, gap, captured) = {
            let c = self.peek();
            let p = c.position();
            (
                c.open_bytes(),
                c.open_pages(),
                c.gap(),
                json!({
                    "salt": format!("{:08x}{:08x}", p.wal.salts[0], p.wal.salts[1]),
                    "frame": p.wal.frame,
                    "pages": p.commit,
                    "page_size": p.page_size,
                }),
            )
        };
        let published = self.published();
        let ship = lock(&self.ship);
        let bystander = self.counters.bystander.load(Ordering::Relaxed);
        let state = if self.is_faulted() {
            "faulted"
        } else {
            match ship.history {
                History::Conflict(_) => "conflict",
                _ if bystander => "bystander",
                History::Unknown => "connecting",
                History::Agreed if gap.is_some() => "snapshot_due",
                History::Agreed if ship.last_error.is_some() => "degraded",
                History::Agreed => "ok",
            }
        };
        let sealed_bytes: u64 = ship.pending.iter().map(|p| p.segment.len()).sum();
        json!({
            "role": "primary",
            "state": state,
            "database": self.path.to_string_lossy(),
            "replica": self.client.url(),
            "meta_path": self.meta_dir.to_string_lossy(),
            "pid": crate::tasks::process_id(),
            "txid": txid.map(|t| t.to_string()),
            "spooled_txid": ship.sealed_txid.to_string(),
            "replicated_txid": ship.acked.to_string(),
            "replicated_at_ms": ship.acked_at_ms,
            "lag_seconds": lag,
            "captured": captured,
            "published_frame": published.mx_frame,
            "spool": {
                "open_bytes": open_bytes,
                "open_pages": open_pages,
                "sealed_files": ship.pending.len(),
                "sealed_bytes": sealed_bytes,
            },
            "gap": gap.map(Gap::name),
            "last_error": ship.last_error,
            "conflict": match &ship.history { History::Conflict(why) => Some(why), _ => None },
            "snapshots": by_reason(&self.counters.snapshots),
            "differences": by_reason(&self.counters.differences),
            "repairs": lock(&self.counters.repairs).json(),
            "snapshot_bytes": self.counters.snapshot_bytes.load(Ordering::Relaxed),
            "gaps": by_reason(&self.counters.gaps),
            "files": self.counters.files.load(Ordering::Relaxed),
            "upload_errors": self.counters.upload_errors.load(Ordering::Relaxed),
            "requests": self.client.counts.snapshot(),
            "sqlite_version": self.host.sqlite_version(),
            "wal_reset": self.host.wal_reset().0,
            "checkpoints_refused": self.host.wal_reset().1,
            "version": env!("CARGO_PKG_VERSION"),
        })
    }

    /// Writes `status.json` when something changed since the last time.
    pub(crate) fn write_status(&self) {
        if self.ships() {
            self.put_status();
        }
    }

    /// As [`Db::write_status`], for whoever has the shipper lock.
    pub(crate) fn put_status(&self) {
        if !std::mem::take(&mut lock(&self.ship).changed) {
            return;
        }
        let mut text = serde_json::to_string_pretty(&self.status_value()).unwrap_or_default();
        text.push('\n');
        let mut last = lock(&self.counters.last_status);
        if *last == text {
            return;
        }
        let path = self.vfs_dir().join(STATUS_FILE);
        if let Err(e) = disk::write_private(&path, text.as_bytes(), self.owner) {
            self.log(crate::log::Level::Warn, &e.to_string());
        }
        *last = text;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_are_bounded_and_summed() {
        let mut repairs = Repairs::default();
        for n in 0..50 {
            let (reason, txid) = (Gap::Unproven, Txid(n));
            repairs.add(Repair { reason, at_ms: 1, txid, full: false, compared: 10, pages: 2 });
        }
        let json = repairs.json();
        assert_eq!((&json["pages_compared"], &json["pages_shipped"]), (&json!(500), &json!(100)));
        let last = json["last"].as_array().unwrap();
        assert_eq!((last.len(), &last[15]["txid"]), (REPAIRS_MAX, &json!("0000000000000031")));
    }
}
