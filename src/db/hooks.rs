//! What the host's connections tell, each in its own thread, inside its own
//! callback.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::capture::position::CleanMark;
use crate::capture::{Gap, Published};
use crate::db::{Db, History, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::host::WalIndexHeader;
use crate::log::Level;
use crate::ltx::{Txid, is_valid_page_size};
use crate::os::disk as os;
use crate::tasks;

/// Frames that a connection which wants to restart the WAL captures itself
/// instead of waiting for the worker.
const INLINE_FRAMES_MAX: u32 = 256;
/// How long such a connection waits for the worker before it hears BUSY.
const RESTART_WAIT: Duration = Duration::from_millis(10);

/// How long to wait for storage.
pub type Wait = Duration;

impl Db {
    /// A writer is about to release the WAL's write lock. No I/O, no
    /// allocation; wakes the worker at most once per batch.
    #[inline]
    pub fn note_published(&self, header: &WalIndexHeader) {
        let note = (u64::from(header.salts[0]) << 32) | u64::from(header.mx_frame);
        if self.note.load(Ordering::Relaxed) == note {
            return;
        }
        // In one order with the worker, which clears `armed` before it looks at
        // the note: one of the two sees what the other one did.
        self.note.store(note, Ordering::SeqCst);
        if !self.armed.load(Ordering::SeqCst) {
            self.arm();
        }
    }

    /// What [`Db::first_read`] wants to know from before the header was read.
    pub fn noted(&self) -> u64 {
        self.note.load(Ordering::SeqCst)
    }

    #[cold]
    pub(crate) fn arm(&self) {
        if self.armed.swap(true, Ordering::SeqCst) {
            return;
        }
        self.counters.change();
        if self.armed_at_ms.load(Ordering::Relaxed) == 0 {
            self.armed_at_ms.store(self.clock.now_ms().max(1) as u64, Ordering::Release);
        }
        if let Some(store) = self.store.upgrade() {
            store.schedule(self.identity, self.seal_delay());
        }
    }

    /// The first read lock of a connection after its open was granted, and
    /// `header` was read after the note was `noted`. A newer note stands.
    pub fn first_read(self: &Arc<Self>, noted: u64, header: &WalIndexHeader) {
        let first = !self.started.swap(true, Ordering::AcqRel);
        if first {
            self.begin_baseline();
        }
        let note = (u64::from(header.salts[0]) << 32) | u64::from(header.mx_frame);
        let newer = self.note.compare_exchange(noted, note, Ordering::SeqCst, Ordering::SeqCst);
        if newer.is_ok() && note != noted {
            self.arm();
        }
        if first {
            self.kick();
        }
    }

    /// A connection read or wrote a whole page of this many bytes in its place,
    /// or the header of a WAL says so.
    pub fn note_page_size(&self, bytes: u32) {
        if is_valid_page_size(bytes) {
            self.page_size.store(bytes, Ordering::Relaxed);
        }
    }

    /// The page size as connections showed it, 0 when they did not.
    pub(crate) fn page_size_seen(&self) -> u32 {
        self.page_size.load(Ordering::Relaxed)
    }

    /// A connection opened its WAL.
    pub fn wal_opened(&self) {
        if !self.in_wal.swap(true, Ordering::AcqRel) {
            self.counters.change();
        }
    }

    /// The last connection that used the file did so in WAL mode.
    pub(crate) fn wal_was_open(&self) -> bool {
        self.in_wal.load(Ordering::Acquire)
    }

    /// A checkpointer has its lock: soon the WAL may be restarted.
    pub fn checkpoint_granted(&self) {
        if !self.is_caught_up()
            && let Some(store) = self.store.upgrade()
        {
            store.capture_soon(self.identity);
        }
    }

    /// A connection wants to restart the WAL while it holds the write lock.
    /// False: it should be told BUSY. `holds_ckpt`: it is a checkpoint of mode
    /// RESTART or TRUNCATE, which is never refused.
    pub fn before_wal_restart(&self, holds_ckpt: bool) -> bool {
        if self.is_faulted() || self.is_caught_up() {
            return true;
        }
        // A bystander never refuses, but captures when the other process is at rest.
        let bystander = self.counters.bystander.load(Ordering::Relaxed);
        if bystander || holds_ckpt || self.uncaptured_frames() <= INLINE_FRAMES_MAX {
            self.capture_now("the WAL is restarted");
            return true;
        }
        let deadline = tasks::now() + RESTART_WAIT;
        if let Some(store) = self.store.upgrade() {
            store.capture_soon(self.identity);
        }
        let (generation, signal) = &self.captured_signal;
        let mut seen = lock(generation);
        while !self.is_caught_up() {
            let left = deadline.saturating_duration_since(tasks::now());
            if left.is_zero() {
                return false;
            }
            seen = signal.wait_for(generation, seen, left);
        }
        true
    }

    fn uncaptured_frames(&self) -> u32 {
        let captured = self.captured.load(Ordering::Acquire);
        let Published { salt1, mx_frame } = self.published();
        if (captured >> 32) as u32 == salt1 {
            mx_frame.saturating_sub(captured as u32)
        } else {
            mx_frame
        }
    }

    /// Captures in the caller's thread because the WAL goes away; what cannot
    /// be captured is a gap.
    fn capture_now(&self, why: &str) {
        if self.is_faulted() {
            return;
        }
        let mut guard = self.capture();
        if guard.is_none()
            && let Err(e) = self.take_over(&mut guard)
        {
            self.set_error(e.to_string());
        }
        let Some(capture) = guard.as_mut() else { return };
        if self.is_caught_up() {
            return;
        }
        if let Err(e) = self.capture_locked(capture) {
            self.log(Level::Error, &format!("{why} and its end cannot be captured: {e}"));
            // The gap holds in memory even when its record cannot be written.
            let _ = self.declare_gap(capture, Gap::CaptureFailed);
            self.captured.store(self.note.load(Ordering::Acquire), Ordering::Release);
        }
    }

    /// The header of a new WAL generation is about to be written.
    pub fn before_wal_header(&self, header: &[u8]) {
        if header.len() < 32 || self.is_faulted() {
            return;
        }
        let word =
            |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap_or_default());
        self.note_page_size(word(8));
        self.capture_now("a new WAL begins");
        let mut guard = self.capture();
        let Some(capture) = guard.as_mut() else { return };
        if let Some(gap) = capture.gap_before_wal(|| self.mark()) {
            let _ = self.declare_gap(capture, gap);
        }
        if let Err(e) = capture.expect_generation([word(16), word(20)]) {
            self.log(Level::Error, &format!("a new WAL begins unrecorded: {e}"));
            let _ = self.declare_gap(capture, Gap::CaptureFailed);
        }
    }

    /// The WAL is about to be cut to nothing.
    pub fn before_wal_truncate(&self) {
        self.capture_now("the WAL is truncated");
        self.mark_clean();
    }

    /// The WAL is about to be deleted.
    pub fn before_wal_delete(&self) {
        self.capture_now("the WAL is deleted");
        self.mark_clean();
        let mut guard = self.capture();
        if let Some(capture) = guard.as_mut() {
            capture.release_wal();
        }
        // With the WAL its end is gone: measured against a snapshot of the closed
        // database it would look like frames that were never captured.
        self.note.store(0, Ordering::Release);
        self.captured.store(0, Ordering::Release);
    }

    /// Everything is captured and the database file is as the checkpoint left
    /// it: its state proves continuity when it is found again.
    fn mark_clean(&self) {
        let mut guard = self.capture();
        let Some(capture) = guard.as_mut() else { return };
        let stat = match os::stat(&self.path) {
            Ok(Some(s)) if (s.dev, s.ino) == self.identity => s,
            _ => return,
        };
        let mark = CleanMark { size: stat.size, mtime_ns: stat.mtime_ns, ctime_ns: stat.ctime_ns };
        if let Err(e) = capture.set_clean(Some(mark)) {
            self.log(Level::Warn, &format!("the clean close is unrecorded: {e}"));
        }
        self.rest_locked(capture);
    }

    /// A connection with a private wal-index committed into the WAL.
    pub fn wal_written(&self) {
        self.hidden_wal.store(true, Ordering::Release);
        if !self.started.swap(true, Ordering::AcqRel) {
            self.kick();
        }
        self.arm();
    }

    /// A connection wants the database file exclusively: our own reads give way.
    pub fn before_exclusive(&self) {
        self.pin.yield_now();
    }

    /// The host closed one connection. When it was the last one this flushes
    /// what is pending, for at most `close_timeout`.
    pub fn connection_closed(&self) {
        if self.connections.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(store) = self.store.upgrade()
        {
            store.close_database(self.identity);
        }
    }

    /// The smallest TXID sure to contain what is committed now; none while
    /// storage has not told where the chain stands.
    pub fn txid(&self) -> Option<Txid> {
        let (trusted, history) = {
            let ship = lock(&self.ship);
            (ship.trusted, ship.history.clone())
        };
        match history {
            History::Agreed => Some(self.txid_if_agreed()),
            History::Unknown if trusted => Some(self.txid_if_agreed()),
            _ => None,
        }
    }

    fn txid_if_agreed(&self) -> Txid {
        let guard = lock(&self.capture);
        let ship = lock(&self.ship);
        let open = guard.as_ref().is_some_and(|c| c.has_open() || c.gap().is_some());
        if self.is_caught_up() && !open { ship.sealed_txid } else { ship.sealed_txid.next() }
    }

    /// Age in seconds of the oldest commit that storage has not acknowledged.
    pub fn lag_seconds(&self) -> f64 {
        let ship = lock(&self.ship);
        let armed = self.armed_at_ms.load(Ordering::Acquire);
        let oldest = ship
            .pending
            .iter()
            .map(|p| p.since_ms)
            .chain([armed, ship.snapshot_since_ms])
            .filter(|&ms| ms != 0)
            .min();
        match oldest {
            Some(ms) => (self.clock.now_ms() as f64 - ms as f64).max(0.0) / 1000.0,
            None => 0.0,
        }
    }

    /// Waits until storage has acknowledged everything committed so far.
    ///
    /// # Errors
    /// `Transient` when `timeout` passes first, `Conflict` when nothing is
    /// shipped because the replica holds another history.
    pub fn sync(&self, timeout: Wait) -> Result<Txid> {
        let deadline = tasks::now() + timeout;
        self.capture_and_seal()?;
        self.hurry();
        let (mut target, mut target_elsewhere) = (None, None);
        loop {
            if target.is_none() {
                target = self.txid();
            }
            if let Some(elsewhere) = self.elsewhere()? {
                if target_elsewhere.is_none() && elsewhere.captured {
                    target_elsewhere = Some(elsewhere.target);
                }
                if elsewhere.safe || target_elsewhere.is_some_and(|t| elsewhere.acked >= t) {
                    return Ok(elsewhere.acked);
                }
            }
            let all = self.is_all_shipped();
            let ship = lock(&self.ship);
            if ship.history == History::Agreed && (all || target.is_some_and(|t| ship.acked >= t)) {
                return Ok(ship.acked);
            }
            if let History::Conflict(why) = &ship.history {
                return Err(Error::new(ErrorKind::Conflict, why.clone()));
            }
            let left = deadline.saturating_duration_since(tasks::now());
            if left.is_zero() {
                let why = ship.last_error.clone().unwrap_or_else(|| "no answer yet".to_owned());
                return Err(Error::new(
                    ErrorKind::Transient,
                    match target {
                        Some(t) => format!("storage has not acknowledged TXID {t} in time: {why}"),
                        None => format!("storage has not answered in time: {why}"),
                    },
                ));
            }
            // A full queue makes room only with acknowledgements, each of which signals.
            let slice = left.min(Duration::from_millis(200));
            let ship = self.ship_signal.wait_for(&self.ship, ship, slice);
            // After a failure the shipper's pause decides when to try again.
            let room = ship.history == History::Agreed
                && ship.pending.is_empty()
                && ship.last_error.is_none();
            drop(ship);
            let bystander = lock(&self.capture).is_none();
            if room || bystander {
                self.capture_and_seal()?;
                self.kick();
            }
        }
    }

    /// Nothing is captured, spooled or on its way that storage has not acknowledged.
    fn is_all_shipped(&self) -> bool {
        let guard = lock(&self.capture);
        let ship = lock(&self.ship);
        let rests = guard.as_ref().is_some_and(|c| {
            !c.has_open() && c.gap().is_none() && c.position().snapshot_pending == Txid(0)
        });
        rests && ship.pending.is_empty() && self.is_caught_up()
    }
}
