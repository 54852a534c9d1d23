//! Making the open segment a whole state of the database while commits go on.
//!
//! Commits are captured into the segment from the begin of the backfill, and
//! every page that they did not write is copied from the database file, at any
//! pace and without any lock on it. A page that a transaction changes meanwhile
//! may be copied torn or too old, but then the end of that transaction appends
//! it again, and the newest copy counts; a page that the segment holds is not
//! copied. So when every page is there and no transaction is under way, the
//! segment is the state of the last commit: it is sealed as a snapshot.

use crate::capture::frames;
use crate::capture::position::{CleanMark, SegmentMark, WalPosition};
use crate::capture::segment::Segment;
use crate::capture::{Capture, Gap, Stop};
use crate::error::Result;
use crate::ltx::{Pgno, Txid, lock_pgno};
use crate::os::disk as os;

/// What a backfill begins with.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Page size in bytes.
    pub page_size: u32,
    /// Pages of the database file.
    pub commit: Pgno,
    /// State of the database file.
    pub mark: CleanMark,
    /// Its connections have a WAL: frames of the present one lie over the file.
    pub in_wal: bool,
    /// TXID that the segment gets.
    pub txid: Txid,
    /// Pages of the state in storage that copies are compared with; 0: none.
    pub stored: Pgno,
}

/// One backfill; another one of the same database has another number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backfill(u64);

impl Capture {
    /// The backfill under way, by whatever process.
    pub fn backfill(&self) -> Option<Backfill> {
        let p = &self.position;
        (p.following && p.backfill != 0).then_some(Backfill(p.backfill))
    }

    /// Begins to follow from the present state, with every page to be copied.
    /// The gap stays until [`Capture::end_backfill`].
    ///
    /// # Errors
    /// The WAL could not be read, or the position not be written.
    pub fn begin_backfill(&mut self, start: &Start) -> Result<Backfill> {
        self.wal = None;
        let header = if start.in_wal { self.read_wal_header()? } else { None };
        let dropped = self.drop_segment();
        let p = &mut self.position;
        p.following = true;
        p.page_size = start.page_size;
        p.commit = start.commit;
        p.next_salts = None;
        p.snapshot_pending = Txid(0);
        (p.wal, p.clean) = match header.filter(|h| h.page_size == start.page_size) {
            Some(frames::Header { salts, checksum, .. }) => {
                (WalPosition { salts, frame: 0, checksum }, None)
            }
            None => (WalPosition::default(), Some(start.mark)),
        };
        p.segment = SegmentMark {
            txid: start.txid,
            generation: 0,
            len: 0,
            start_frame: 0,
            restarted: true,
            // Beyond what storage has, every page has to be there.
            min_commit: start.stored.min(start.commit),
        };
        p.backfill = p.backfill_serial.wrapping_add(1).max(1);
        p.backfill_serial = p.backfill;
        p.head = None;
        let id = Backfill(p.backfill);
        self.partial = false;
        let made = self.attach_segment().map_err(Stop::into_error);
        if let Err(e) = made.and_then(|()| self.write_position()) {
            (self.position, self.segment) = (self.sure, None);
            return Err(e);
        }
        // Of the same name it is the new one.
        let named = self.segment.as_ref().map(Segment::path);
        match dropped.filter(|path| named != Some(path)) {
            Some(path) => os::remove_file(&path).map(|()| id),
            None => Ok(id),
        }
    }

    /// The next pages from `from` on that `backfill` has to copy, all within
    /// `max` pages, and the last page that was looked at. Pages that are `known`
    /// equal to what storage has need no copy. `None`: it was overtaken by a gap
    /// or by another one. The segment is loaded.
    pub fn to_copy(
        &self,
        backfill: Backfill,
        from: Pgno,
        max: u32,
        known: impl Fn(Pgno) -> bool,
    ) -> Option<(Vec<Pgno>, Pgno)> {
        if self.backfill() != Some(backfill) {
            return None;
        }
        let lock = lock_pgno(self.position.page_size);
        let held = |p: Pgno| self.segment.as_ref().is_some_and(|s| s.contains(p));
        let wanted = |p: &Pgno| *p != lock && !held(*p) && !known(*p);
        let first = (from..=self.position.commit).find(|p| wanted(p));
        let Some(first) = first else { return Some((Vec::new(), self.position.commit)) };
        let last = first.saturating_add(max - 1).min(self.position.commit);
        Some(((first..=last).filter(wanted).collect(), last))
    }

    /// Appends copies of pages that commits did not bring meanwhile. False:
    /// `backfill` was overtaken.
    ///
    /// # Errors
    /// `Full` and other errors of the spool.
    pub fn fill(&mut self, backfill: Backfill, pages: &[(Pgno, &[u8])]) -> Result<bool> {
        if self.backfill() != Some(backfill) {
            return Ok(false);
        }
        let commit = self.position.commit;
        self.load_open()?;
        let Some(segment) = &mut self.segment else { return Ok(false) };
        let wanted: Vec<(Pgno, &[u8])> =
            pages.iter().copied().filter(|(p, _)| *p <= commit && !segment.contains(*p)).collect();
        segment.append(wanted.into_iter())?;
        self.write_position()?;
        Ok(true)
    }

    /// Whether `backfill` has every page and no transaction is under way.
    pub fn is_filled(&self, backfill: Backfill, known: impl Fn(Pgno) -> bool) -> bool {
        let rest = self.to_copy(backfill, 1, 1, known);
        rest.is_some_and(|(pages, _)| pages.is_empty()) && !self.position.dirty && !self.partial
    }

    /// With the segment storage has the whole state: the gap is closed.
    ///
    /// # Errors
    /// The position could not be written.
    pub fn end_backfill(&mut self) -> Result<Option<Gap>> {
        self.position.backfill = 0;
        let gap = self.position.gap.take();
        self.write_position()?;
        Ok(gap)
    }
}
