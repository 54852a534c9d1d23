//! One primary database: what the host's connections tell, what capture has,
//! what waits for storage, and how healthy all that is.
//!
//! The commit path touches atomics only. Lock order: `shipper`, then `capture`,
//! then `ship`, then `pin`; the host's threads take `capture` only where a WAL
//! is about to go away.

mod client;
mod handover;
mod hold;
mod hooks;
mod moved;
mod open;
mod pin;
mod retire;
mod rollback;
mod ship;
pub mod status;
mod waiting;

pub(crate) use client::Client;
pub use hooks::Wait;
pub(crate) use open::{
    Opened, canonical_identity, local_state_exists, meta_dir, replica_hash, vfs_dir,
};
pub(crate) use ship::{History, Pending, Ship};

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use crate::capture::{Capture, Gap, Published};
use crate::clock::{Clock, Random};
use crate::config::DbConfig;
use crate::db::handover::Handover;
use crate::error::Result;
use crate::history::{self, Baseline};
use crate::host::Host;
use crate::log::Level;
use crate::ltx::Txid;
use crate::node::{Node, Subject};
use crate::os::disk::{File, Owner};
use crate::pace::Pace;
use crate::store::Store;
pub(crate) use crate::tasks::lock;
use crate::tasks::{self, Signal, Task};

/// Sealed segments that wait for storage at most; while so many wait, the
/// open segment grows instead.
pub const SEALED_MAX: usize = 8;

/// One replicated database of this process.
pub struct Db {
    pub(crate) path: PathBuf,
    pub(crate) wal_path: PathBuf,
    pub(crate) identity: (u64, u64),
    pub(crate) meta_dir: PathBuf,
    pub(crate) owner: Option<Owner>,
    pub(crate) config: DbConfig,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) store: Weak<Store>,
    pub(crate) client: Arc<Client>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,

    /// What was published and what was captured.
    handover: Handover,
    /// Wall-clock milliseconds of the oldest commit that is not sealed; 0: none.
    armed_at_ms: AtomicU64,
    /// Page size as connections showed it: by whole pages read in the file, by
    /// the header of a WAL; 0: not seen.
    page_size: AtomicU32,
    /// A connection opened a WAL since a rollback-mode write was last seen.
    in_wal: AtomicBool,
    /// Connections of this process that hold the write lock outside WAL mode.
    writers: AtomicUsize,
    /// Connections of this process that have the file exclusively.
    holders: AtomicUsize,
    /// The meta directory belongs to a database that took the path.
    let_go: AtomicBool,
    /// The first read after the open was seen.
    started: AtomicBool,
    faulted: AtomicBool,
    pub(crate) connections: AtomicUsize,
    pub(crate) closing: AtomicBool,

    pub(crate) capture: Mutex<Capture>,
    /// The file with the shipper lock while this process has it.
    shipper: Mutex<Option<File>>,
    /// As `shipper` says; changed only with the capture state held.
    ships: AtomicBool,
    /// Until when the process that has the capture lock is taken for stopped.
    stuck_until: Mutex<Option<Instant>>,
    /// How far capture was when a restart of the WAL was first refused, and when.
    refused: Mutex<Option<(handover::Note, Instant)>>,
    /// The process that shipped died: what it committed last may not be captured.
    orphaned: AtomicBool,
    /// The disk was in the way when the record was to be opened.
    unopened: AtomicBool,
    /// A connection of this process is between its first write of a transaction
    /// outside WAL mode and that transaction's end, recorded or not.
    writing: AtomicBool,
    /// Nothing is opened any more.
    ended: AtomicBool,
    /// Signalled when a capture ends: for a connection that wants to restart the WAL.
    captured_signal: (Mutex<u64>, Signal),
    pub(crate) ship: Mutex<Ship>,
    /// Signalled on every acknowledgement and change of health.
    pub(crate) ship_signal: Signal,
    /// Wakes the shipper.
    pub(crate) ship_notify: tokio::sync::Notify,
    pub(crate) pin: pin::Pin,
    /// The checksums of the database as of the first read, when nothing local knew it.
    pub(crate) baseline: Mutex<Option<Task<Option<Baseline>>>>,
    /// The number that this database's files carry, once storage was asked.
    pub(crate) node: Mutex<Option<Node>>,
    pub(crate) last_seal: Mutex<Option<Instant>>,
    pub(crate) counters: status::Counters,
    pub(crate) pace: Mutex<Pace>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Db {
    /// Path of the database as the host gave it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// URL of the replica, without credentials.
    pub fn replica_url(&self) -> &str {
        self.client.url()
    }

    /// Settings.
    pub fn config(&self) -> &DbConfig {
        &self.config
    }

    /// Directory of the spool.
    pub(crate) fn vfs_dir(&self) -> PathBuf {
        open::vfs_dir(&self.meta_dir)
    }

    /// What the node number belongs to.
    pub(crate) fn subject(&self) -> Subject {
        Subject { identity: self.identity, replica: replica_hash(&self.client) }
    }

    /// The node id for the headers of files; 0 before storage was asked.
    pub(crate) fn node_id(&self) -> u64 {
        lock(&self.node).map_or(0, |n| n.id)
    }

    /// Some connection read or wrote the database since it was opened.
    pub(crate) fn was_used(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// The capture state as this process last knew it.
    pub(crate) fn peek(&self) -> MutexGuard<'_, Capture> {
        lock(&self.capture)
    }

    pub(crate) fn log(&self, level: Level, message: &str) {
        if let Some(store) = self.store.upgrade() {
            store.log(level, &format!("{}: {message}", self.path.display()));
        }
    }

    pub(crate) fn published(&self) -> Published {
        let n = self.handover.noted();
        Published { salt1: (n >> 32) as u32, mx_frame: n as u32 }
    }

    pub(crate) fn is_caught_up(&self) -> bool {
        self.handover.is_caught_up()
    }

    /// A fault of ours was caught at the border: replication of this database
    /// stops, the database itself goes on.
    pub fn fault(&self, what: &str) {
        if !self.faulted.swap(true, Ordering::AcqRel) {
            self.log(Level::Error, &format!("replication stopped by an internal fault: {what}"));
            self.set_error(format!("internal fault: {what}; replication of this database stopped"));
            self.retire_soon();
        }
    }

    pub(crate) fn is_faulted(&self) -> bool {
        self.faulted.load(Ordering::Acquire)
    }

    /// The newest replication error, until the next success.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.ship).last_error.clone()
    }

    pub(crate) fn set_error(&self, message: String) {
        let mut ship = lock(&self.ship);
        if ship.last_error.as_deref() != Some(message.as_str()) {
            ship.last_error = Some(message);
            ship.changed = true;
        }
        drop(ship);
        self.ship_signal.notify_all();
    }

    /// Captures what is published, with `capture` locked by the caller.
    ///
    /// A gap is no error here: it makes the shipper take a snapshot.
    pub(crate) fn capture_locked(&self, capture: &mut Capture) -> Result<()> {
        let note = self.handover.noted();
        self.stop_if_moved();
        if self.is_in_conflict() {
            // Nothing is shipped from here: the WAL need not wait and the spool not
            // grow. The record is true as it is, and others may go on from it.
            self.handover.captured(note);
            return Ok(());
        }
        let hidden = self.handover.take_hidden();
        let before = capture.gap();
        let published = Published { salt1: (note >> 32) as u32, mx_frame: note as u32 };
        let outcome = if hidden { capture.capture_hidden() } else { capture.capture_to(published) };
        match outcome {
            Ok(_) => {
                self.handover.captured(note);
                if before.is_none()
                    && let Some(gap) = capture.gap()
                {
                    self.count_gap(gap);
                }
                self.bound_spool(capture)
            }
            Err(e) => {
                if hidden {
                    self.handover.hide();
                }
                self.set_error(format!("{e}; commits stay in the WAL and are captured later"));
                Err(e)
            }
        }
    }

    pub(crate) fn bound_spool(&self, capture: &mut Capture) -> Result<()> {
        let waiting: u64 = lock(&self.ship).pending.iter().map(|p| p.segment.len()).sum();
        if capture.open_bytes().saturating_add(waiting) > self.config.spool_bytes_max
            && capture.has_open()
        {
            self.declare_gap(capture, Gap::SpoolFull)?;
        }
        Ok(())
    }

    pub(crate) fn declare_gap(&self, capture: &mut Capture, gap: Gap) -> Result<()> {
        if capture.gap().is_none() {
            self.count_gap(gap);
        }
        capture.declare_gap(gap)
    }

    pub(crate) fn count_gap(&self, gap: Gap) {
        self.counters.gap(gap);
        self.log(
            Level::Warn,
            &format!("gap in the replica ({}): the database is compared with it", gap.name()),
        );
        lock(&self.ship).changed = true;
    }

    /// Signals connections that wait for capture.
    pub(crate) fn signal_captured(&self) {
        let mut generation = lock(&self.captured_signal.0);
        *generation += 1;
        drop(generation);
        self.captured_signal.1.notify_all();
    }

    /// Captures and seals what there is, and hands it to the shipper. Called
    /// by the worker, by waiters and at close.
    pub(crate) fn capture_and_seal(&self) -> Result<()> {
        if self.has_retired() {
            self.retire();
            return Ok(());
        }
        if self.orphaned.swap(false, Ordering::AcqRel) {
            self.look_at_wal();
        }
        loop {
            self.take_shipper().inspect_err(|_| self.try_again())?;
            match self.batch()? {
                // Whoever shipped may have gone to rest before it could see this batch.
                Some(_) if !self.take_shipper()? => {
                    self.watch();
                    return Ok(());
                }
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    /// One batch. The TXID that another process has to ship, if it does.
    fn batch(&self) -> Result<Option<Txid>> {
        let mut guard = self.capture();
        let Some(capture) = guard.as_mut() else {
            // The commits stay in the WAL; another process may capture them.
            drop(guard);
            self.handover.begin();
            self.signal_captured();
            self.try_again();
            return Ok(None);
        };
        if self.handover.begin() {
            self.counters.change();
        }
        let since_ms = self.armed_at_ms.load(Ordering::Acquire);
        let ships = self.ships();
        let mut result = self.capture_locked(capture);
        if result.is_ok() && ships {
            result = self.seal_locked(capture, since_ms);
        }
        let kick = ships && self.needs_shipping(capture);
        if self.is_caught_up() {
            capture.rest();
        }
        let left = if ships { None } else { self.left_to_others(capture) };
        if !ships && left.is_none() {
            self.armed_at_ms.store(0, Ordering::Release);
            capture.release();
        }
        drop(guard);
        self.signal_captured();
        if kick {
            self.kick();
        } else if ships {
            self.rest();
        }
        if result.is_err() {
            self.try_again();
        }
        result.map(|()| left)
    }

    /// A capture failed for want of room or the like: the worker comes back,
    /// at the pace of sealing, for as long as it does.
    fn try_again(&self) {
        if let Some(store) = self.store.upgrade() {
            let pause = self.config.sync_interval.clamp(RETRY_PAUSES.0, RETRY_PAUSES.1);
            store.schedule(self.identity, pause);
        }
    }

    pub(crate) fn seal_locked(&self, capture: &mut Capture, since_ms: u64) -> Result<()> {
        history::reclaim(self, capture)?;
        let room = {
            let ship = lock(&self.ship);
            ship.pending.len() < SEALED_MAX && ship.history == History::Agreed
        };
        if !room || capture.position().snapshot_pending != Txid(0) {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        if let Some(segment) = capture.seal(now_ms)? {
            self.armed_at_ms.store(0, Ordering::Release);
            *lock(&self.last_seal) = Some(tasks::now());
            let mut ship = lock(&self.ship);
            ship.sealed_txid = segment.txid();
            ship.pending.push_back(Arc::new(Pending { segment, since_ms }));
            ship.changed = true;
        } else if !capture.has_open() {
            self.armed_at_ms.store(0, Ordering::Release);
        }
        Ok(())
    }

    /// Captures only, to let a checkpoint restart the WAL soon.
    pub(crate) fn capture_only(&self) {
        if self.is_faulted() || self.is_caught_up() {
            return;
        }
        let mut guard = self.capture();
        if let Some(capture) = guard.as_mut() {
            // The error is in the status; the WAL keeps the frames.
            let _ = self.capture_locked(capture);
        }
        drop(guard);
        self.signal_captured();
    }

    fn needs_shipping(&self, capture: &Capture) -> bool {
        let ship = lock(&self.ship);
        !ship.pending.is_empty()
            || (ship.history == History::Unknown)
            || (capture.gap().is_some() && ship.history == History::Agreed)
    }

    /// How long the worker may wait before it seals what was armed now.
    pub(crate) fn seal_delay(&self) -> Duration {
        let interval = self.config.sync_interval;
        let first = interval.min(COALESCE);
        match *lock(&self.last_seal) {
            Some(at) => interval.saturating_sub(tasks::now() - at).max(first),
            None => first,
        }
    }

    /// Starts the shipper unless it runs.
    pub(crate) fn kick(&self) {
        let Some(store) = self.store.upgrade() else { return };
        {
            let mut ship = lock(&self.ship);
            if ship.running {
                let pauses = ship.failing;
                drop(ship);
                if !pauses {
                    self.ship_notify.notify_one();
                }
                return;
            }
            ship.running = true;
        }
        store.spawn_shipper(self.identity);
    }

    /// As [`Db::kick`], for somebody who waits: ends the pause after a failure.
    pub(crate) fn hurry(&self) {
        self.kick();
        self.ship_notify.notify_one();
    }
}

/// Pauses between attempts to capture after a failure, shortest and longest.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// After a pause the first commit waits this long for company.
const COALESCE: Duration = Duration::from_millis(50);

#[cfg(test)]
#[path = "db_tests.rs"]
mod db_tests;
