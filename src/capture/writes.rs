//! What a transaction outside WAL mode did to the database file, as its
//! connection's calls told: which pages may differ from the last commit. What
//! they hold is read back, never taken from the calls.

use crate::ltx::{Pgno, is_valid_page_size, lock_pgno};

/// Page numbers that are kept with repetitions before they are made unique.
const REPEATED_MAX: usize = 4096;

/// The pages that were written and the sizes that the file was cut to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Writes {
    /// Unsorted, with repetitions.
    pages: Vec<Pgno>,
    /// Length at which repetitions are taken out.
    unique_at: usize,
    /// Bytes of every write; 0: none yet.
    page_size: u32,
    /// Writes were not all of whole pages of one size.
    uneven: bool,
    /// Smallest size in bytes that the file was cut to.
    cut: Option<u64>,
    /// The file was to be synced after the last change.
    complete: bool,
}

impl Writes {
    /// Nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.cut.is_none() && !self.uneven
    }

    /// `len` bytes are about to be written at byte `offset`.
    pub fn write(&mut self, offset: u64, len: u32) {
        self.complete = false;
        if self.page_size == 0 {
            self.page_size = len;
        }
        let size = u64::from(self.page_size);
        let fits = len == self.page_size && is_valid_page_size(len) && offset.is_multiple_of(size);
        match u32::try_from(offset / size.max(1)) {
            Ok(before) if fits && before < u32::MAX => self.page(before + 1),
            _ => self.uneven = true,
        }
    }

    fn page(&mut self, pgno: Pgno) {
        if self.pages.last() == Some(&pgno) {
            return;
        }
        if self.pages.len() >= self.unique_at.max(REPEATED_MAX) {
            self.pages.sort_unstable();
            self.pages.dedup();
            self.unique_at = self.pages.len().saturating_mul(2);
        }
        self.pages.push(pgno);
    }

    /// The file is about to be cut to, or grown to, `size` bytes.
    pub fn truncate(&mut self, size: u64) {
        self.complete = false;
        self.cut = Some(self.cut.map_or(size, |cut| cut.min(size)));
    }

    /// Everything that the connection wanted to write is written: it asks for a sync.
    pub fn synced(&mut self) {
        self.complete = true;
    }

    /// The last thing that the connection did was to ask for a sync: a commit
    /// and a finished rollback both do, an interrupted rollback does not.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Bytes of a page, when every write was of one whole page in its place;
    /// `None` also when nothing was written.
    pub fn page_size(&self) -> Option<u32> {
        (!self.uneven && self.page_size != 0).then_some(self.page_size)
    }

    /// Writes were not all of whole pages of one size.
    pub fn is_uneven(&self) -> bool {
        self.uneven
    }

    /// Pages up to which the file kept what it had, of `old` before.
    pub fn kept(&self, old: Pgno, page_size: u32) -> Pgno {
        let cut = self.cut.map_or(u64::MAX, |bytes| bytes / u64::from(page_size.max(1)));
        u32::try_from(cut).map_or(old, |cut| cut.min(old))
    }

    /// The pages that may differ, ascending: those written, and those that a
    /// growth brought from `kept` to `commit` without any write (holes). The
    /// lock page is left out.
    pub fn changed(&mut self, kept: Pgno, commit: Pgno, page_size: u32) -> Vec<Pgno> {
        let lock = lock_pgno(page_size);
        let mut pages = std::mem::take(&mut self.pages);
        pages.extend(kept.saturating_add(1)..=commit);
        pages.sort_unstable();
        pages.dedup();
        pages.retain(|&p| p <= commit && p != lock);
        pages
    }

    /// Forgets everything: the transaction is over.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.pages.shrink_to(REPEATED_MAX);
        *self = Writes { pages: std::mem::take(&mut self.pages), ..Writes::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pages: &[Pgno]) -> Writes {
        let mut w = Writes::default();
        for p in pages {
            w.write(u64::from(p - 1) * 512, 512);
        }
        w
    }

    #[test]
    fn written_pages_and_holes_of_a_growth_are_read_back() {
        let mut w = written(&[3, 1, 3, 9]);
        assert_eq!(w.page_size(), Some(512));
        assert_eq!(w.kept(5, 512), 5);
        assert_eq!(w.changed(5, 9, 512), [1, 3, 6, 7, 8, 9]);
    }

    #[test]
    fn pages_that_were_cut_off_and_grew_again_are_read_back() {
        let mut w = written(&[1]);
        w.truncate(3 * 512);
        w.truncate(6 * 512);
        assert_eq!(w.kept(8, 512), 3);
        assert_eq!(w.changed(3, 5, 512), [1, 4, 5]);
    }

    #[test]
    fn pages_past_the_end_and_the_lock_page_are_not() {
        let lock = lock_pgno(65536);
        let mut w = Writes::default();
        for p in [1, lock, lock + 1, lock + 2] {
            w.write(u64::from(p - 1) * 65536, 65536);
        }
        assert_eq!(w.changed(lock - 1, lock + 1, 65536), [1, lock + 1]);
    }

    #[test]
    fn odd_writes_are_noticed() {
        for (offset, len) in [(100, 512), (512, 1024), (0, 100), (1, 512)] {
            let mut w = written(&[2]);
            w.write(offset, len);
            assert!(w.is_uneven() && w.page_size().is_none(), "{offset} {len}");
        }
    }

    #[test]
    fn only_a_sync_after_the_last_change_completes() {
        let mut w = written(&[1]);
        assert!(!w.is_complete());
        w.synced();
        assert!(w.is_complete());
        w.truncate(0);
        assert!(!w.is_complete());
        w.synced();
        w.write(0, 512);
        assert!(!w.is_complete() && !w.is_empty());
        w.clear();
        assert!(w.is_empty() && !w.is_complete() && w.page_size().is_none());
    }

    #[test]
    fn repetitions_do_not_pile_up() {
        let mut w = Writes::default();
        for n in 0..100_000u64 {
            w.write((n % 10) * 4096, 4096);
        }
        assert!(w.pages.len() <= REPEATED_MAX + 1);
        assert_eq!(w.changed(10, 10, 4096).len(), 10);
    }
}
