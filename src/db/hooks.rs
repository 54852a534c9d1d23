//! What the host's connections tell, each in its own thread, inside its own
//! callback.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::capture::{Capture, Gap, Outcome, Published};
use crate::db::{Db, lock};
use crate::error::Result;
use crate::host::WalIndexHeader;
use crate::log::Level;
use crate::ltx::is_valid_page_size;
use crate::tasks;

/// Frames that a connection which wants to restart the WAL captures itself
/// instead of waiting for the worker.
const INLINE_FRAMES_MAX: u32 = 256;
/// How long such a connection waits for the worker before it hears BUSY.
const RESTART_WAIT: Duration = Duration::from_millis(10);

/// How long a connection that takes a WAL away waits for another process's batch.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Who did not give the lock back in that time is not waited for again so soon.
const STUCK: Duration = Duration::from_secs(10);

/// How long restarts of the WAL are refused while capture makes no progress.
const REFUSALS: Duration = Duration::from_secs(1);

/// How long to wait for storage.
pub type Wait = Duration;

impl Db {
    /// A writer is about to release the WAL's write lock. No I/O, no
    /// allocation; wakes the worker at most once per batch.
    #[inline]
    pub fn note_published(&self, header: &WalIndexHeader) {
        let note = (u64::from(header.salts[0]) << 32) | u64::from(header.mx_frame);
        if self.handover.publish(note) {
            self.arm();
        }
    }

    /// What [`Db::first_read`] wants to know from before the header was read.
    pub fn noted(&self) -> u64 {
        self.handover.noted()
    }

    #[cold]
    pub(crate) fn arm(&self) {
        if !self.handover.arm() {
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
        let first = !self.started.swap(true, Ordering::AcqRel) && !self.is_faulted();
        if first {
            self.begin_baseline();
        }
        self.note_if(noted, header);
        if first {
            self.kick();
        }
    }

    /// Notes an end that was read after the note was `noted`. A newer note stands.
    pub(crate) fn note_if(&self, noted: u64, header: &WalIndexHeader) {
        let note = (u64::from(header.salts[0]) << 32) | u64::from(header.mx_frame);
        if self.handover.renew(noted, note) {
            self.arm();
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

    /// A checkpointer has its lock: soon the WAL may be restarted. What that
    /// connection would capture itself is left to it: while other processes read,
    /// every commit tries a checkpoint, and few of them lead to a restart.
    pub fn checkpoint_granted(&self) {
        if self.uncaptured_frames() > INLINE_FRAMES_MAX
            && let Some(store) = self.store.upgrade()
        {
            store.capture_soon(self.identity);
        }
    }

    /// A connection wants to restart the WAL while it holds the write lock.
    /// False: it should be told BUSY. `holds_ckpt`: it is a checkpoint of mode
    /// RESTART or TRUNCATE, which is never refused.
    pub fn before_wal_restart(&self, holds_ckpt: bool) -> bool {
        if self.has_retired() || self.is_caught_up() {
            return true;
        }
        if holds_ckpt {
            self.capture_now("the WAL is restarted", LAST_WAIT, |_| Ok(Outcome::UpToDate));
            return true;
        }
        if self.uncaptured_frames() <= INLINE_FRAMES_MAX {
            let why = "the WAL is restarted";
            return self.capture_now(why, RESTART_WAIT, |_| Ok(Outcome::UpToDate))
                || self.refuse_restart();
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
                drop(seen);
                return self.refuse_restart();
            }
            seen = signal.wait_for(generation, seen, left);
        }
        true
    }

    fn uncaptured_frames(&self) -> u32 {
        let captured = self.handover.captured_to();
        let Published { salt1, mx_frame } = self.published();
        if (captured >> 32) as u32 == salt1 {
            mx_frame.saturating_sub(captured as u32)
        } else {
            mx_frame
        }
    }

    /// Captures in the caller's thread because the WAL goes away, and lets `last`
    /// record that; what cannot be captured is a gap. False: another process is
    /// in the midst of a batch.
    fn capture_now(
        &self,
        why: &str,
        wait: Duration,
        last: impl FnOnce(&mut Capture) -> Result<Outcome>,
    ) -> bool {
        if self.is_faulted() {
            return true;
        }
        let stuck = lock(&self.stuck_until).is_some_and(|until| tasks::now() < until);
        let mut guard = self.capture_within(if stuck { Duration::ZERO } else { wait });
        let Some(capture) = guard.as_mut() else {
            if wait == LAST_WAIT && !stuck {
                *lock(&self.stuck_until) = Some(tasks::now() + STUCK);
            }
            return false;
        };
        let captured = self.capture_locked(capture);
        let before = capture.gap();
        let done = captured.and_then(|()| last(capture));
        if let Err(e) = done {
            self.log(Level::Error, &format!("{why} and its end cannot be captured: {e}"));
            // The gap holds in memory even when its record cannot be written.
            let _ = self.declare_gap(capture, Gap::CaptureFailed);
            self.handover.captured(self.handover.noted());
        } else if let (None, Some(gap)) = (before, capture.gap()) {
            self.count_gap(gap);
        }
        let found = before.is_none() && capture.gap().is_some();
        if self.is_in_conflict() {
            // Nobody else would close what this opened.
            capture.release();
        }
        drop(guard);
        if found {
            self.arm();
        }
        true
    }

    /// As [`Db::capture_now`], where nothing can be refused: a process that was
    /// stopped in the midst of a batch makes it a gap.
    fn capture_last(&self, why: &str, last: impl FnOnce(&mut Capture) -> Result<Outcome>) {
        if !self.capture_now(why, LAST_WAIT, last) {
            self.log(Level::Error, &format!("{why} while another process captures: a gap"));
            self.let_go_of_wal();
        }
    }

    /// What is in the WAL goes with it: a gap, recorded as soon as that can be.
    fn let_go_of_wal(&self) {
        self.peek().remember_gap(Gap::CaptureFailed);
        self.handover.captured(self.handover.noted());
        self.arm();
    }

    /// Whether a restart may be refused once more. Refusals without any progress
    /// of capture come to an end: the WAL would grow for as long as they last.
    fn may_refuse(&self) -> bool {
        let (at, now) = (self.handover.captured_to(), tasks::now());
        let mut refused = lock(&self.refused);
        match *refused {
            Some((seen, since)) if seen == at => {
                if now.saturating_duration_since(since) < REFUSALS {
                    return true;
                }
                *refused = None;
                false
            }
            _ => {
                *refused = Some((at, now));
                true
            }
        }
    }

    /// BUSY, unless that was answered for too long.
    fn refuse_restart(&self) -> bool {
        if self.may_refuse() {
            return false;
        }
        self.log(
            Level::Error,
            "the WAL is restarted with frames that could not be captured for a while: a gap",
        );
        self.let_go_of_wal();
        true
    }

    /// The header of a new WAL generation is about to be written.
    pub fn before_wal_header(&self, header: &[u8]) {
        if header.len() < 32 {
            return;
        }
        let word =
            |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap_or_default());
        self.note_page_size(word(8));
        let salts = [word(16), word(20)];
        self.capture_last("a new WAL begins", |capture| capture.expect_generation(salts));
    }

    /// The WAL is about to be cut to nothing.
    pub fn before_wal_truncate(&self) {
        self.capture_last("the WAL is truncated", |capture| self.mark_clean(capture));
    }

    /// The WAL is about to be deleted.
    pub fn before_wal_delete(&self) {
        self.capture_last("the WAL is deleted", |capture| self.mark_clean(capture));
        self.peek().release_wal();
        // With the WAL its end is gone: measured against a snapshot of the closed
        // database it would look like frames that were never captured.
        self.handover.forget();
    }

    /// Everything is captured and the database file is as the checkpoint left
    /// it: its state proves continuity when it is found again.
    fn mark_clean(&self, capture: &mut Capture) -> Result<Outcome> {
        let proven = capture.prove_end()?;
        if proven == Outcome::UpToDate {
            capture.mark_clean()?;
            if !self.ships() && self.is_caught_up() && !capture.has_open() {
                // Nobody else would close what this opened.
                capture.release();
            }
        }
        Ok(proven)
    }

    /// A connection with a private wal-index committed into the WAL.
    pub fn wal_written(&self) {
        self.handover.hide();
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
}
