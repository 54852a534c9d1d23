//! Snapshots of databases that cannot be held still: outside WAL mode, where a
//! read lock of ours would be in the way of commits, and in exclusive locking
//! mode, where none can be had. The state is gathered in the open segment while
//! commits go on (`capture/backfill.rs`), then sealed and shipped as any file.

use std::sync::Arc;
use std::time::Duration;

use crate::capture::backfill::{Backfill, Start};
use crate::capture::{Capture, Gap};
use crate::db::status::Repair;
use crate::db::{Db, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::host::DatabaseFile;
use crate::ledger::Ledger;
use crate::ltx::{Pgno, page_checksum};
use crate::pages::{Pages, page_size_of};
use crate::restore::PageSet;
use crate::sibling::Sibling;
use crate::snapshot::in_wal_mode;
use crate::{history, shipped, sibling, tasks};

/// Bytes that are copied between two looks at the capture state: what a commit
/// may have to wait for is the appending of this much to the page cache.
const SLICE_BYTES: u32 = 256 << 10;
/// How long a begin looks for a moment without a writer, and an end waits for
/// the transaction under way, before they are tried again later.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_micros(500);

/// Whether one was begun, here or by a process that is gone.
pub(crate) fn is_under_way(db: &Db) -> bool {
    db.peek().backfill().is_some()
}

/// Whether, of a database in WAL mode that gave no read transaction but `e`, this
/// process alone knows the end of the WAL: one of its connections has the file
/// exclusively, or it has a WAL with an index that no other process sees. Any
/// other hindrance is one of the moment, and others may commit meanwhile.
pub(crate) fn is_alone(db: &Db, e: &Error) -> bool {
    db.has_holder() || (e.kind() == ErrorKind::Unsupported && db.wal_was_open())
}

/// Gathers the state into the open segment, or the pages that differ from
/// `ledger`, and seals it. `None`: there is nothing to gather.
///
/// # Errors
/// `Transient` when it has to be begun or continued later.
pub(crate) fn take(db: &Arc<Db>, ledger: Option<Ledger>) -> Result<Option<Repair>> {
    let file = db.host.open_unlocked()?;
    let (equal, compared) = (PageSet::default(), 0);
    let needed = shipped::is_doubtful(&db.vfs_dir(), lock(&db.ship).acked, None)?;
    let mut gathering = Gathering { db, file, ledger, equal, compared, needed };
    let Some(backfill) = gathering.begin()? else { return Ok(None) };
    let (mut at, mut deadline) = (1, None);
    loop {
        if let Some(next) = gathering.copy(backfill, at)? {
            at = next;
            continue;
        }
        if let Some(repair) = gathering.finish(backfill)? {
            return Ok(Some(repair));
        }
        let deadline = *deadline.get_or_insert_with(|| tasks::now() + PATIENCE);
        if tasks::now() >= deadline {
            return Err(later("a transaction is under way"));
        }
        // What was cut off and grew again meanwhile is looked for.
        at = 1;
        tasks::sleep_blocking(PAUSE);
    }
}

fn later(why: &str) -> Error {
    Error::new(ErrorKind::Transient, format!("the snapshot is taken later: {why}"))
}

fn overtaken() -> Error {
    later("it was interrupted by a gap")
}

struct Gathering<'a> {
    db: &'a Arc<Db>,
    file: Box<dyn DatabaseFile>,
    /// What storage has, if it is known.
    ledger: Option<Ledger>,
    /// Pages that were found equal to it.
    equal: PageSet,
    /// Pages that were compared with it.
    compared: u64,
    /// A file is needed also when nothing differs: an earlier one may be in storage.
    needed: bool,
}

impl Gathering<'_> {
    fn begin(&mut self) -> Result<Option<Backfill>> {
        let deadline = tasks::now() + PATIENCE;
        loop {
            let mut guard = self.db.capture();
            let Some(capture) = guard.as_mut() else { return Err(history::not_now(self.db)) };
            if let Some(under_way) = capture.backfill() {
                return Ok(Some(under_way));
            }
            if capture.gap().is_none() {
                return Ok(None);
            }
            let in_wal =
                self.db.wal_was_open() && in_wal_mode(self.db)? && !self.db.journal_is_hot();
            // A WAL without an index that a commit was noted from may be one whose index
            // is made a moment later: its last frames are perhaps not committed yet.
            if in_wal && !self.db.has_holder() && self.db.published().mx_frame == 0 {
                return Err(later("its wal-index is just being made"));
            }
            if in_wal || self.is_quiet(capture)? {
                return self.begin_locked(capture, in_wal);
            }
            drop(guard);
            if tasks::now() >= deadline {
                return Err(later("a transaction is under way"));
            }
            tasks::sleep_blocking(PAUSE);
        }
    }

    /// Whether the file is the state of a commit: nobody but a connection of
    /// this process can be in the midst of a transaction, and that one has not
    /// begun to write.
    fn is_quiet(&mut self, capture: &mut Capture) -> Result<bool> {
        let ours = self.db.has_writer();
        if capture.position().dirty {
            // Who set it and died is not waited for.
            if !ours && !self.file.is_reserved()? {
                capture.abandon_rollback()?;
            }
            return Ok(false);
        }
        // Its begin could not be recorded.
        if self.db.is_writing() {
            return Ok(false);
        }
        if ours {
            return Ok(true);
        }
        if self.file.is_reserved()? {
            return Ok(false);
        }
        if self.db.journal_is_hot() && !self.file.is_reserved()? {
            return Err(later("a journal has to be played back first, by the next connection"));
        }
        Ok(true)
    }

    fn begin_locked(&mut self, capture: &mut Capture, in_wal: bool) -> Result<Option<Backfill>> {
        let db = self.db;
        let Some(mark) = db.mark() else { return Err(later("the database file was replaced")) };
        let mut head = [0u8; 100];
        let got = self.file.read_at(&mut head, 0)?;
        let page_size = page_size_of(&head[..got]).unwrap_or(db.page_size_seen());
        if page_size == 0 {
            return Err(later("the page size is not known yet (encrypted?)"));
        }
        let size = self.file.size()?;
        let commit = Pgno::try_from(size / u64::from(page_size)).unwrap_or(Pgno::MAX);
        if commit == 0 && !in_wal {
            return Ok(None);
        }
        self.ledger = self.ledger.take().filter(|l| l.header().page_size == page_size);
        if self.ledger.is_none() && size > db.config.spool_bytes_max {
            return Err(later(
                "the database is larger than spool_bytes_max and held in a way that allows no \
                 other snapshot: raise it, or close the database",
            ));
        }
        if in_wal && !capture.is_chain_whole()? {
            return Err(later("SQLite left a frame of the WAL unfilled, so its end is not known"));
        }
        sibling::refuse_other(db, page_size)?;
        Sibling::settle(&db.vfs_dir(), &db.config.replica_url, db.owner)?;
        let txid = lock(&db.ship).acked.next();
        let stored = self.ledger.as_ref().map_or(0, |l| l.header().commit);
        let start = Start { page_size, commit, mark, in_wal, txid, stored };
        let backfill = capture.begin_backfill(&start)?;
        {
            let mut ship = lock(&db.ship);
            ship.sealed_txid = txid.prev();
            ship.changed = true;
        }
        if in_wal {
            db.recapture();
        }
        Ok(Some(backfill))
    }

    /// Copies the next slice and tells where to go on; `None` when nothing is missing.
    fn copy(&mut self, backfill: Backfill, from: Pgno) -> Result<Option<Pgno>> {
        let (pages, last, commit, page_size) = {
            let mut guard = self.db.capture();
            let Some(capture) = guard.as_mut() else { return Err(overtaken()) };
            capture.load_open()?;
            let p = capture.position();
            let per_slice = (SLICE_BYTES / p.page_size).max(1);
            let (pages, last) = capture
                .to_copy(backfill, from, per_slice, |p| self.equal.contains(p))
                .ok_or_else(overtaken)?;
            (pages, last, p.commit, p.page_size as usize)
        };
        let (Some(&first), Some(&end)) = (pages.first(), pages.last()) else { return Ok(None) };
        let mut data = vec![0u8; (end - first + 1) as usize * page_size];
        let got = self.file.read_at(&mut data, u64::from(first - 1) * page_size as u64)?;
        data[got..].fill(0);
        let mut copies: Vec<(Pgno, &[u8])> = Vec::with_capacity(pages.len());
        for pgno in pages {
            let at = (pgno - first) as usize * page_size;
            let page = &data[at..at + page_size];
            if !self.is_stored(pgno, page, commit)? {
                copies.push((pgno, page));
            }
        }
        let mut guard = self.db.capture();
        let Some(capture) = guard.as_mut() else { return Err(overtaken()) };
        if !capture.fill(backfill, &copies)? {
            return Err(overtaken());
        }
        self.db.bound_spool(capture)?;
        Ok(Some(last.saturating_add(1)))
    }

    /// Whether storage has this page. A new size of the database travels with page 1.
    fn is_stored(&mut self, pgno: Pgno, page: &[u8], commit: Pgno) -> Result<bool> {
        let Some(ledger) = &mut self.ledger else { return Ok(false) };
        self.compared += 1;
        let stored = ledger.header().commit;
        let same = pgno <= stored
            && (pgno != 1 || (stored == commit && !self.needed))
            && ledger.sums().get(pgno)? == page_checksum(pgno, page);
        if same {
            self.equal.insert(pgno);
        }
        Ok(same)
    }

    /// Notes the end of the WAL as of now. The frames of other processes, captured
    /// before the position went back to the first frame, are due to nobody; and a
    /// checkpoint of theirs may have copied them while the file was copied here.
    fn find_end(&self) -> Result<()> {
        let db = self.db;
        let noted = db.noted();
        if db.has_holder() || !in_wal_mode(db)? {
            return Ok(());
        }
        match db.host.pin() {
            Ok(reader) => {
                db.note_if(noted, &reader.header());
                Ok(())
            }
            Err(e) if is_alone(db, &e) => Ok(()),
            // Turned to WAL mode, and no connection has opened a WAL yet.
            Err(e) if e.kind() == ErrorKind::Unsupported && Pages::at_rest(db)?.is_some() => Ok(()),
            Err(e) => Err(later(&e.to_string())),
        }
    }

    /// Seals the segment if it is whole; `None`: something is missing yet.
    fn finish(&mut self, backfill: Backfill) -> Result<Option<Repair>> {
        let db = self.db;
        self.find_end()?;
        let mut guard = db.capture();
        let Some(capture) = guard.as_mut() else { return Err(overtaken()) };
        db.capture_locked(capture)?;
        capture.load_open()?;
        if capture.backfill() != Some(backfill) {
            return Err(overtaken());
        }
        if !capture.is_filled(backfill, |p| self.equal.contains(p)) {
            return Ok(None);
        }
        let clean = capture.position().clean;
        if clean.is_some() && clean != db.mark() {
            db.declare_gap(capture, Gap::Unproven)?;
            return Err(later("the database was written by somebody else meanwhile"));
        }
        let (pages, txid) = (capture.open_pages() as u64, capture.open_txid());
        let reason = capture.end_backfill()?.unwrap_or(Gap::Unproven);
        db.seal_locked(capture, db.armed_since_ms())?;
        Ok(Some(Repair {
            reason,
            at_ms: db.clock.now_ms(),
            txid: if pages == 0 { txid.prev() } else { txid },
            full: self.ledger.is_none(),
            compared: self.compared,
            pages,
        }))
    }
}
