//! Capture of transactions outside WAL mode, on the thread and inside the
//! callbacks of the connection that makes them.
//!
//! While no WAL is in use the mark in the position (size and times of the
//! database file) says what was captured last. A transaction begins by proving
//! it, under the host's write lock, and by setting `dirty`; its commit reads
//! the changed pages back, appends them, and leaves a new mark. Whatever comes
//! between, a killed process or a writer without the library, is a gap.

use std::ops::Range;

use crate::capture::position::{CleanMark, HEAD_OFFSET, Head, WalPosition};
use crate::capture::segment;
use crate::capture::writes::Writes;
use crate::capture::{Capture, Gap, Outcome, Stop};
use crate::error::Result;
use crate::host::OwnFile;
use crate::ltx::Pgno;
use crate::pages::page_size_of;

/// Bytes of pages that are read back and appended at once.
const BATCH_BYTES: usize = 1 << 20;
/// The head in the first page.
const HEAD_AT: Range<usize> = HEAD_OFFSET as usize..HEAD_OFFSET as usize + size_of::<Head>();

impl Capture {
    /// A transaction outside WAL mode is about to change the database file,
    /// which is as `found` and `file` say; the caller holds the write lock.
    ///
    /// # Errors
    /// The position could not be written.
    pub fn begin_rollback(&mut self, found: Option<CleanMark>, file: &dyn OwnFile) -> Result<()> {
        let proven = || found.is_some() && self.position.clean == found && self.is_head_of(file);
        // Under the write lock a mark of another transaction is that of a dead one.
        let gap = match (self.position.following, self.position.dirty) {
            (true, true) => Some(Gap::Interrupted),
            (true, false) if !proven() => Some(Gap::Unproven),
            _ => None,
        };
        // The transaction begins also when this cannot be recorded: it stays noted.
        self.position.dirty = true;
        self.position.dirty_writer = self.process;
        match gap {
            Some(gap) => self.declare_gap(gap),
            None => self.write_record(),
        }
    }

    /// The transaction is over and the file holds its outcome: what it changed
    /// is read back and appended. `mark` tells the file's state after that.
    ///
    /// # Errors
    /// As [`Capture::capture_to`]; the caller makes a gap of them, since the
    /// pages cannot be read again later.
    pub fn end_rollback(
        &mut self,
        writes: &mut Writes,
        file: &dyn OwnFile,
        mark: impl FnOnce() -> Option<CleanMark>,
    ) -> Result<Outcome> {
        let done = self.try_end_rollback(writes, file, mark);
        // It is over, whether or not that could be recorded.
        self.position.dirty = false;
        done
    }

    fn try_end_rollback(
        &mut self,
        writes: &mut Writes,
        file: &dyn OwnFile,
        mark: impl FnOnce() -> Option<CleanMark>,
    ) -> Result<Outcome> {
        self.position.dirty = false;
        if !self.position.following {
            self.write_position()?;
            return Ok(Outcome::NotFollowing);
        }
        // What changes the file while it is read back is not covered by the mark.
        let clean = mark();
        match self.read_back(writes, file) {
            Ok((commit, head)) => {
                self.position.commit = commit;
                self.position.clean = clean;
                self.position.head = head.or_else(|| head_of(file));
                // There is no WAL any more, or not yet.
                self.position.wal = WalPosition::default();
                self.position.next_salts = None;
                self.position.segment.start_frame = 0;
                self.position.segment.restarted = true;
                self.partial = false;
                self.write_position()?;
                self.rewrite_if_wanted()?;
                Ok(Outcome::UpToDate)
            }
            Err(Stop::Gap(gap)) => {
                self.declare_gap(gap)?;
                Ok(Outcome::NotFollowing)
            }
            Err(Stop::Error(e)) => Err(e),
        }
    }

    /// Whether the file begins as it did when it was captured last.
    fn is_head_of(&self, file: &dyn OwnFile) -> bool {
        self.position.head.is_none_or(|known| head_of(file) == Some(known))
    }

    /// Nobody knows what the transaction left in the file.
    ///
    /// # Errors
    /// The position could not be written.
    pub fn abandon_rollback(&mut self) -> Result<()> {
        self.position.dirty = false;
        if self.position.following {
            return self.declare_gap(Gap::Interrupted);
        }
        self.write_position()
    }

    /// Appends what changed; returns the size of the database in pages, and its
    /// head when that was read with the first page.
    fn read_back(
        &mut self,
        writes: &mut Writes,
        file: &dyn OwnFile,
    ) -> std::result::Result<(Pgno, Option<Head>), Stop> {
        let page_size = self.position.page_size;
        let size = file.size()?;
        let whole = size.is_multiple_of(u64::from(page_size));
        let same = writes.page_size().is_none_or(|written| written == page_size);
        let commit = match u32::try_from(size / u64::from(page_size)) {
            Ok(commit) if whole && same && !writes.is_uneven() => commit,
            // Another page size, or a file that no commit leaves.
            _ => return Err(Stop::Gap(Gap::RollbackMode)),
        };
        let kept = writes.kept(self.position.commit, page_size);
        let changed = writes.changed(kept, commit, page_size);
        self.partial = true;
        self.attach_segment()?;
        if kept.min(commit) < self.position.commit
            && let Some(segment) = &mut self.segment
        {
            segment.shrink(kept.min(commit))?;
        }
        let min_commit = self.position.segment.min_commit.min(kept).min(commit);
        self.position.segment.min_commit = min_commit;
        let per_batch = (BATCH_BYTES / page_size as usize).clamp(1, segment::BATCH_PAGES_MAX);
        let mut head = None;
        for pages in changed.chunks(per_batch) {
            self.append_from(pages, file)?;
            if pages[0] == 1 {
                head = self.buf.get(HEAD_AT).and_then(|b| b.try_into().ok());
            }
        }
        Ok((commit, head))
    }

    fn append_from(&mut self, pages: &[Pgno], file: &dyn OwnFile) -> std::result::Result<(), Stop> {
        let page_len = self.position.page_size as usize;
        self.buf.resize(pages.len() * page_len, 0);
        let mut done = 0;
        for run in pages.chunk_by(|a, b| a + 1 == *b) {
            let at = u64::from(run[0] - 1) * page_len as u64;
            let buf = &mut self.buf[done..done + run.len() * page_len];
            let got = file.read_at(buf, at)?;
            buf[got..].fill(0);
            done += buf.len();
        }
        if pages[0] == 1 && page_size_of(&self.buf).is_some_and(|s| s != self.position.page_size) {
            return Err(Stop::Gap(Gap::RollbackMode));
        }
        if let Some(segment) = &mut self.segment {
            let data = self.buf.chunks_exact(page_len);
            segment.append_changes(pages.iter().copied().zip(data))?;
        }
        Ok(())
    }
}

fn head_of(file: &dyn OwnFile) -> Option<Head> {
    let mut head = Head::default();
    let got = file.read_at(&mut head, HEAD_OFFSET);
    got.is_ok_and(|n| n == head.len()).then_some(head)
}

#[cfg(test)]
#[path = "rollback_tests.rs"]
mod tests;
