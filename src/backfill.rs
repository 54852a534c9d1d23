//! Snapshots of databases that cannot be held still: outside WAL mode, where a
//! read lock of ours would be in the way of commits, and in exclusive locking
//! mode, where none can be had. The state is gathered in the open segment while
//! commits go on (`capture/backfill.rs`), then sealed and shipped as any file.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::capture::backfill::{Backfill, Start};
use crate::capture::{Capture, Gap};
use crate::db::{Db, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::host::DatabaseFile;
use crate::log::Level;
use crate::ltx::Pgno;
use crate::pages::page_size_of;
use crate::snapshot::in_wal_mode;

/// Bytes that are copied between two looks at the capture state: what a commit
/// may have to wait for is the appending of this much to the page cache.
const SLICE_BYTES: u32 = 256 << 10;
/// How long a begin looks for a moment without a writer, and an end waits for
/// the transaction under way, before they are tried again later.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_micros(500);

/// Whether the database is in use outside WAL mode, so that nothing else can be done.
pub(crate) fn is_needed(db: &Db) -> Result<bool> {
    Ok(db.connections.load(Ordering::Acquire) > 0 && !in_wal_mode(db)?)
}

/// Gathers a snapshot into the open segment and seals it. `None`: there is
/// nothing to take one of.
///
/// # Errors
/// `Transient` when it has to be begun or continued later.
pub(crate) fn take(db: &Arc<Db>) -> Result<Option<Gap>> {
    let mut file = db.host.open_unlocked()?;
    let Some(backfill) = begin(db, &mut *file)? else { return Ok(None) };
    let mut at = 1;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(next) = copy(db, &mut *file, backfill, at)? {
            at = next;
            continue;
        }
        if let Some(reason) = finish(db, backfill)? {
            return Ok(Some(reason));
        }
        if Instant::now() >= deadline + PATIENCE && at > 1 {
            return Err(later("a transaction is under way"));
        }
        // What grew meanwhile, or was missed, is looked for again.
        at = 1;
        std::thread::sleep(PAUSE);
    }
}

fn later(why: &str) -> Error {
    Error::new(ErrorKind::Transient, format!("the snapshot is taken later: {why}"))
}

fn begin(db: &Arc<Db>, file: &mut dyn DatabaseFile) -> Result<Option<Backfill>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut guard = db.capture();
        let Some(capture) = guard.as_mut() else { return Ok(None) };
        if let Some(under_way) = capture.backfill() {
            return Ok(Some(under_way));
        }
        if capture.gap().is_none() {
            return Ok(None);
        }
        let in_wal = db.wal_was_open();
        let quiet = in_wal || is_quiet(db, capture, file)?;
        if quiet {
            return begin_locked(db, capture, file, in_wal);
        }
        drop(guard);
        if Instant::now() >= deadline {
            return Err(later("another process holds the write lock"));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether the file is the state of a commit: nobody but a connection of this
/// process can be in the midst of a transaction, and that one has not begun to
/// write.
fn is_quiet(db: &Db, capture: &mut Capture, file: &mut dyn DatabaseFile) -> Result<bool> {
    let ours = db.has_writer();
    if capture.position().dirty {
        // Who set it and died is not waited for.
        if !ours && !file.is_reserved()? {
            capture.abandon_rollback()?;
        }
        return Ok(false);
    }
    if ours {
        return Ok(true);
    }
    if file.is_reserved()? {
        return Ok(false);
    }
    if db.journal_is_hot() && !file.is_reserved()? {
        return Err(later("a journal has to be played back first, by the next connection"));
    }
    Ok(true)
}

fn begin_locked(
    db: &Arc<Db>,
    capture: &mut Capture,
    file: &mut dyn DatabaseFile,
    in_wal: bool,
) -> Result<Option<Backfill>> {
    let Some(mark) = db.mark() else {
        return Err(later("the database file was replaced"));
    };
    let mut head = [0u8; 100];
    let got = file.read_at(&mut head, 0)?;
    let page_size = page_size_of(&head[..got]).unwrap_or(db.page_size_seen());
    if page_size == 0 {
        return Err(later("the page size is not known yet (encrypted?)"));
    }
    let size = file.size()?;
    let commit = Pgno::try_from(size / u64::from(page_size)).unwrap_or(Pgno::MAX);
    if commit == 0 && !in_wal {
        return Ok(None);
    }
    if size > db.config.spool_bytes_max {
        return Err(later(
            "it is larger than spool_bytes_max and in use in a way that allows no other snapshot",
        ));
    }
    crate::sibling::refuse_other(db, page_size)?;
    let txid = lock(&db.ship).acked.next();
    let backfill = capture.begin_backfill(&Start { page_size, commit, mark, in_wal, txid })?;
    {
        let mut ship = lock(&db.ship);
        ship.sealed_txid = txid.prev();
        ship.changed = true;
    }
    db.counters.snapshot_bytes_of(commit, page_size);
    if in_wal {
        db.recapture();
    }
    Ok(Some(backfill))
}

/// Copies the next slice; `None` when there is none.
fn copy(
    db: &Arc<Db>,
    file: &mut dyn DatabaseFile,
    backfill: Backfill,
    from: Pgno,
) -> Result<Option<Pgno>> {
    let (pages, last, page_size) = {
        let guard = db.capture();
        let Some(capture) = guard.as_ref() else { return Err(overtaken()) };
        let page_size = capture.position().page_size;
        let per_slice = (SLICE_BYTES / page_size).max(1);
        let (pages, last) =
            capture.to_copy(backfill, from, per_slice).ok_or_else(overtaken)?;
        (pages, last, page_size as usize)
    };
    let (Some(&first), Some(&end)) = (pages.first(), pages.last()) else { return Ok(None) };
    let mut data = vec![0u8; (end - first + 1) as usize * page_size];
    let got = file.read_at(&mut data, u64::from(first - 1) * page_size as u64)?;
    data[got..].fill(0);
    let page = |p: Pgno| {
        let at = (p - first) as usize * page_size;
        (p, &data[at..at + page_size])
    };
    let copies: Vec<(Pgno, &[u8])> = pages.iter().map(|&p| page(p)).collect();
    let mut guard = db.capture();
    let Some(capture) = guard.as_mut() else { return Err(overtaken()) };
    if !capture.fill(backfill, &copies)? {
        return Err(overtaken());
    }
    db.bound_spool(capture)?;
    Ok(Some(last.saturating_add(1)))
}

fn overtaken() -> Error {
    later("it was interrupted by a gap")
}

/// Seals the segment if it is whole; false: something is missing yet.
fn finish(db: &Arc<Db>, backfill: Backfill) -> Result<Option<Gap>> {
    let mut guard = db.capture();
    let Some(capture) = guard.as_mut() else { return Err(overtaken()) };
    db.capture_locked(capture)?;
    if capture.backfill() != Some(backfill) {
        return Err(overtaken());
    }
    if !capture.is_filled(backfill) {
        return Ok(None);
    }
    let clean = capture.position().clean;
    if clean.is_some() && clean != db.mark() {
        db.declare_gap(capture, Gap::Unproven)?;
        return Err(later("the database was written by somebody else meanwhile"));
    }
    let reason = capture.end_backfill()?.unwrap_or(Gap::Unproven);
    let since_ms = db.armed_since_ms();
    db.seal_locked(capture, since_ms)?;
    db.log(Level::Debug, "a snapshot was gathered while commits went on");
    Ok(Some(reason))
}
