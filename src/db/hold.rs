//! The two locks of a database among processes: who captures just now, and who
//! ships.
//!
//! The capture lock is held for one batch at a time, by any process. The shipper
//! lock is held by one process while something waits for storage and a little
//! longer; only its holder seals, ships, and records what storage has. It is
//! taken and given back with the capture lock held, so that nothing is captured
//! between the holder's last look and its going.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::capture::recover::{Acquired, Stranger};
use crate::capture::sealed::Read;
use crate::capture::{Capture, Gap};
use crate::db::open::OPEN_WAIT;
use crate::db::{Db, History, Pending, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::log::Level;
use crate::ltx::Txid;
use crate::os::disk::{self, File};
use crate::shipped::{self, Shipped};
use crate::tasks;

/// The file that carries the shipper lock.
pub(crate) const SHIPPER_FILE: &str = "shipper";
/// How long a batch waits for another process's batch: far longer than one
/// takes. A process that was stopped in the midst of one makes the others go
/// without, which ends in a gap.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// Pauses between attempts, first and longest.
const LOCK_PAUSES: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(2));

/// The capture state while this process has it for itself; nothing when that
/// could not be had.
pub(crate) struct Held<'a> {
    guard: MutexGuard<'a, Capture>,
    held: bool,
}

impl Held<'_> {
    /// Ends the batch without giving the lock back to other processes, for a
    /// commit outside WAL mode that goes on at once: nobody else can write the
    /// database until it ends. The next batch of any thread of this process
    /// finds the lock held, and gives it back at its end.
    pub(crate) fn keep_lock(mut self) {
        self.held = false;
    }

    /// The state, if it could be had.
    pub(crate) fn as_mut(&mut self) -> Option<&mut Capture> {
        if self.held { Some(&mut self.guard) } else { None }
    }

    /// What was missed because it could not be had.
    pub(crate) fn remember_gap(&mut self, gap: Gap) {
        self.guard.remember_gap(gap);
    }

    /// Whether it could not be had.
    pub(crate) fn is_none(&self) -> bool {
        !self.held
    }
}

impl Deref for Held<'_> {
    type Target = Capture;

    /// The state as this process knows it, which may be old unless it is held.
    fn deref(&self) -> &Capture {
        &self.guard
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.held {
            self.guard.let_go();
        }
    }
}

/// Lets the shipper lock go and says that nothing is left to do.
fn give_back(slot: &mut Option<File>) {
    if let Some(file) = slot.take() {
        // Otherwise others look after what is not there.
        let _ = file.set_len(0);
    }
}

impl Db {
    /// The capture state for one batch.
    pub(crate) fn capture(&self) -> Held<'_> {
        self.capture_within(LOCK_WAIT)
    }

    /// As [`Db::capture`], with a bound on the wait for another process.
    pub(crate) fn capture_within(&self, wait: Duration) -> Held<'_> {
        let deadline = tasks::now() + wait;
        let mut pause = LOCK_PAUSES.0;
        loop {
            let mut guard = lock(&self.capture);
            if self.has_let_go() || self.ended.load(Ordering::Acquire) {
                guard.let_go();
                return Held { guard, held: false };
            }
            let found = guard.try_acquire();
            self.tell_notes(&mut guard);
            match found {
                Ok(Acquired::Held) => return Held { guard, held: true },
                Ok(Acquired::Stranger(s)) => return self.meet(guard, s),
                Err(e) => {
                    self.set_error(e.to_string());
                    return Held { guard, held: false };
                }
                Ok(Acquired::Busy) if tasks::now() >= deadline => {
                    return Held { guard, held: false };
                }
                Ok(Acquired::Busy) => {}
            }
            // Others of this process may be quicker meanwhile.
            drop(guard);
            tasks::sleep_blocking(pause);
            pause = (pause * 2).min(LOCK_PAUSES.1);
        }
    }

    fn tell_notes(&self, capture: &mut Capture) {
        for note in capture.take_notes() {
            self.log(Level::Warn, &note);
        }
    }

    /// The record is not ours to continue. While this process ships nobody else
    /// can have meant to begin another one.
    fn meet<'a>(&'a self, mut guard: MutexGuard<'a, Capture>, stranger: Stranger) -> Held<'a> {
        if stranger == Stranger::Damaged && self.ships() {
            self.log(Level::Warn, stranger.text());
            if let Err(e) = guard.reset() {
                self.set_error(e.to_string());
            } else {
                return Held { guard, held: true };
            }
        }
        guard.let_go();
        self.set_error(match stranger {
            Stranger::Database => self.moved_text(),
            Stranger::Replica => format!(
                "another process replicates {} to another URL than {}: give all of them one URL",
                self.path.display(),
                self.client.url()
            ),
            Stranger::Damaged => format!(
                "the position record in {} is damaged: it is begun anew by the process that ships",
                self.vfs_dir().display()
            ),
        });
        Held { guard, held: false }
    }

    /// Reads the local state at an open, or begins one.
    pub(crate) fn open_capture(&self, wait: Duration) -> Result<()> {
        let mut slot = lock(&self.shipper);
        let deadline = tasks::now() + wait;
        loop {
            let mut guard = lock(&self.capture);
            let found = guard.try_acquire()?;
            match found {
                Acquired::Held => {}
                Acquired::Stranger(s) => {
                    let begun = self.begin_anew(&mut guard, s);
                    if begun.is_err() {
                        guard.let_go();
                    }
                    begun?;
                }
                // Whoever has it takes care of what there is; the first batch looks again.
                Acquired::Busy if tasks::now() >= deadline => break,
                Acquired::Busy => {
                    drop(guard);
                    tasks::sleep_blocking(LOCK_PAUSES.1);
                    continue;
                }
            }
            self.tell_notes(&mut guard);
            if let Some(gap) = guard.gap()
                && gap != Gap::First
            {
                self.counters.gap(gap);
                self.log(Level::Warn, &format!("gap found at open: {}", gap.name()));
            }
            if !guard.position().unknown_chain && self.page_size_seen() == 0 {
                self.note_page_size(guard.position().page_size);
            }
            // A connection that is never used holds nothing.
            guard.release();
            self.unopened.store(false, Ordering::Release);
            break;
        }
        *slot = None;
        Ok(())
    }

    /// Repeats what the disk was in the way of at the open: nobody else begins a
    /// record anew that is a stranger's.
    fn open_again(&self) -> Result<()> {
        let over = self.has_retired() || self.has_let_go() || self.ended.load(Ordering::Acquire);
        if over || !self.unopened.load(Ordering::Acquire) {
            return Ok(());
        }
        self.open_capture(OPEN_WAIT).inspect_err(|e| {
            if e.kind() == ErrorKind::Conflict {
                // Somebody ships from it: it is his from now on.
                self.unopened.store(false, Ordering::Release);
            }
            self.set_error(e.to_string());
        })
    }

    /// Begins a new record in place of a stranger's, unless somebody ships from it.
    fn begin_anew(&self, capture: &mut Capture, stranger: Stranger) -> Result<()> {
        if self.lock_shipper()?.is_none() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "another process is replicating {} to another URL than {}, or another file \
                     of that name: give all of them one URL, or let it finish",
                    self.path.display(),
                    self.client.url()
                ),
            ));
        }
        self.log(Level::Warn, stranger.text());
        shipped::forget(&self.vfs_dir())?;
        capture.reset()
    }

    /// The file with the shipper lock; none when another process has it.
    fn lock_shipper(&self) -> Result<Option<File>> {
        let dir = self.vfs_dir();
        disk::create_private_dir(&dir, self.owner)?;
        let path = dir.join(SHIPPER_FILE);
        // Those who watch the file are told whenever somebody closes it who could
        // write it: not for every attempt.
        if File::is_locked(&path) {
            return Ok(None);
        }
        let file = File::open_private(&path, self.owner)?;
        Ok((file.try_lock()? && file.is_in_place()).then_some(file))
    }

    /// The file that carries the shipper lock, made if need be.
    pub(crate) fn shipper_file(&self) -> Result<PathBuf> {
        let path = self.vfs_dir().join(SHIPPER_FILE);
        if disk::stat(&path)?.is_none() {
            // Closing a second descriptor would drop a lock that is held.
            let slot = lock(&self.shipper);
            if slot.is_none() {
                drop(File::open_private(&path, self.owner)?);
            }
        }
        Ok(path)
    }

    /// Somebody closed the shipper's file: to ask the one that ships for haste,
    /// or because it went to rest or died.
    pub(crate) fn shipper_moved(&self) {
        let Some(store) = self.store.upgrade() else { return };
        if self.has_retired() {
            return;
        }
        if !self.ships() && self.shipper_died() {
            self.orphaned.store(true, Ordering::Release);
        } else if !self.ships() {
            return;
        }
        store.schedule(self.identity, Duration::ZERO);
    }

    /// Whether the process that shipped went without saying so.
    fn shipper_died(&self) -> bool {
        let slot = lock(&self.shipper);
        let path = self.vfs_dir().join(SHIPPER_FILE);
        let said = matches!(disk::stat(&path), Ok(Some(s)) if s.size == 0);
        slot.is_none() && !said && !File::is_locked(&path)
    }

    /// Asks the process that ships to seal at once: somebody waits.
    pub(crate) fn ask_for_haste(&self) {
        let slot = lock(&self.shipper);
        if slot.is_none() && !self.ended.load(Ordering::Acquire) {
            // Without the file nobody ships.
            drop(File::open_existing(&self.vfs_dir().join(SHIPPER_FILE)));
        }
    }

    /// The wal-index tells what a process that died had committed.
    pub(crate) fn look_at_wal(&self) {
        let noted = self.noted();
        if !self.host.threadsafe() || !self.wal_was_open() {
            return;
        }
        match self.host.pin() {
            Ok(reader) => {
                let header = reader.header();
                drop(reader);
                self.note_if(noted, &header);
            }
            // The next commit, or the next open, tells.
            Err(e) => self.log(Level::Debug, &format!("the WAL could not be looked at: {e}")),
        }
    }

    /// This process has the shipper lock.
    pub(crate) fn ships(&self) -> bool {
        self.ships.load(Ordering::Acquire)
    }

    /// Keeps the shipper lock from being given back; none without it.
    pub(crate) fn hold_shipper(&self) -> Option<MutexGuard<'_, Option<File>>> {
        let slot = lock(&self.shipper);
        slot.is_some().then_some(slot)
    }

    /// Whether another process wrote the record since this one knows it; if so
    /// its state is taken over.
    pub(crate) fn others_captured(&self) -> bool {
        self.peek().is_moved() && !self.capture().is_none()
    }

    /// Becomes the process that ships, if no other one is. Not to be called
    /// with the capture state held.
    ///
    /// # Errors
    /// The spool cannot be used.
    pub(crate) fn take_shipper(&self) -> Result<bool> {
        self.open_again()?;
        let mut slot = lock(&self.shipper);
        if self.has_retired() {
            return Ok(false);
        }
        if slot.is_some() {
            return Ok(true);
        }
        if self.has_let_go() || self.ended.load(Ordering::Acquire) {
            return Ok(false);
        }
        let Some(file) = self.lock_shipper()? else {
            self.counters.bystander.store(true, Ordering::Relaxed);
            return Ok(false);
        };
        let stored = Shipped::load(&self.vfs_dir())?.map(|(txid, _)| txid);
        // Before commits have to wait for it. Nobody else changes what is sealed now.
        let unread = match self.capture().as_mut() {
            Some(capture) => capture.unread(stored)?,
            None => return Ok(false),
        };
        let read = unread.read();
        let mut guard = self.capture();
        let Some(capture) = guard.as_mut() else { return Ok(false) };
        self.load_spool(capture, stored, read)?;
        self.counters.bystander.store(false, Ordering::Relaxed);
        // Until it is emptied, the file says that somebody ships, or died of it.
        file.set_len(0)?;
        file.write_all_at(format!("{}\n", tasks::process_id()).as_bytes(), 0)?;
        self.ships.store(true, Ordering::Release);
        *slot = Some(file);
        Ok(true)
    }

    /// What waits for storage, as whoever shipped before left it.
    fn load_spool(&self, capture: &mut Capture, stored: Option<Txid>, read: Read) -> Result<()> {
        if capture.backfill().is_some() {
            // Whoever gathered is gone, and what he found equal to storage is not known.
            capture.declare_gap(Gap::SnapshotInterrupted)?;
        }
        let sealed = capture.take_sealed(stored, read);
        self.tell_notes(capture);
        let sealed = sealed?;
        let position = *capture.position();
        let last = position.segment.txid.prev();
        let since_ms = self.clock.now_ms().max(1) as u64;
        let mut ship = lock(&self.ship);
        let first = last.0.saturating_sub(sealed.len() as u64);
        // Once storage was asked, what its only writers recorded is as good.
        let known = ship.history == History::Agreed
            && !position.unknown_chain
            && position.snapshot_pending == Txid(0)
            && stored == Some(Txid(first));
        if known {
            ship.acked = Txid(first);
        } else if ship.history == History::Agreed {
            (ship.history, ship.acked) = (History::Unknown, Txid(0));
            // What was read at the first open is of another time.
            drop(lock(&self.baseline).take());
        }
        ship.trusted = !position.unknown_chain;
        ship.sealed_txid = last;
        ship.pending =
            sealed.into_iter().map(|segment| Pending { segment, since_ms }.into()).collect();
        ship.changed = true;
        Ok(())
    }

    /// Before a rest beside other processes: one may have died with commits that
    /// it had not captured.
    pub(crate) fn look_before_rest(&self) {
        if !self.peek().is_shared() || !self.ships() || self.is_faulted() {
            return;
        }
        self.look_at_wal();
        if let Some(store) = self.store.upgrade()
            && !self.is_caught_up()
        {
            store.schedule(self.identity, Duration::ZERO);
        }
    }

    /// Gives the shipper lock and every descriptor back when there is nothing to
    /// do, here or by what other processes captured; that is sealed soon.
    pub(crate) fn rest(&self) {
        let mut slot = lock(&self.shipper);
        let mut guard = self.capture();
        let busy = {
            let ship = lock(&self.ship);
            ship.running || !ship.pending.is_empty()
        };
        if busy || !self.is_caught_up() {
            return;
        }
        match guard.as_mut() {
            Some(capture) if !capture.has_open() => {
                self.ships.store(false, Ordering::Release);
                give_back(&mut slot);
                capture.release();
            }
            _ => {
                drop(guard);
                if let Some(store) = self.store.upgrade() {
                    store.schedule(self.identity, self.seal_delay());
                }
            }
        }
    }

    /// Gives everything up: the last connection is gone.
    pub(crate) fn end(&self) {
        self.pin.yield_now();
        let mut slot = lock(&self.shipper);
        let mut capture = lock(&self.capture);
        self.ended.store(true, Ordering::Release);
        let left = {
            let mut ship = lock(&self.ship);
            let left = !ship.pending.is_empty() || capture.has_open();
            ship.pending.clear();
            left
        };
        self.ships.store(false, Ordering::Release);
        if left {
            // As if it had died: another process takes over.
            *slot = None;
        } else {
            give_back(&mut slot);
        }
        capture.release();
    }
}
