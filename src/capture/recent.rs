//! The pages that were appended to a segment last, to append only what differs
//! when they come again: a small transaction changes few bytes of few pages.

use crate::ltx::Pgno;

/// Bytes that are compared at once; every page size is a multiple.
const BLOCK: usize = 64;
/// Pages that are remembered at most, and bytes of them.
const PAGES_MAX: usize = 8;
const BYTES_MAX: usize = 64 << 10;
/// Runs since a page was appended whole, at which it is appended whole again:
/// bounds what a reader puts together.
const RUNS_MAX: usize = 64;

/// A part of a page that differs from what the segment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Page number.
    pub pgno: Pgno,
    /// Offset in the page in bytes.
    pub at: u32,
    /// Length in bytes.
    pub len: u32,
}

/// The newest content of some pages that the segment has.
#[derive(Debug, Default)]
pub(super) struct Recent {
    pages: Vec<Kept>,
    /// Which one makes room for the next.
    oldest: usize,
}

#[derive(Debug)]
struct Kept {
    pgno: Pgno,
    /// Runs since it was appended whole.
    runs: usize,
    data: Box<[u8]>,
}

impl Recent {
    /// Whether transactions of so many pages are small enough to be remembered.
    pub(super) fn takes(pages: usize) -> bool {
        pages <= PAGES_MAX
    }

    /// Adds to `runs` where `data` differs from what the segment has; false: it
    /// has to be appended whole, and nothing was added.
    pub(super) fn differences(&self, pgno: Pgno, data: &[u8], runs: &mut Vec<Run>) -> bool {
        let Some(kept) = self.pages.iter().find(|k| k.pgno == pgno) else { return false };
        if kept.data.len() != data.len() || !data.len().is_multiple_of(BLOCK) {
            return false;
        }
        let (first, mut bytes) = (runs.len(), 0);
        let blocks = kept.data.chunks_exact(BLOCK).zip(data.chunks_exact(BLOCK)).enumerate();
        for (at, _) in blocks.filter(|(_, (old, new))| old != new) {
            let at = (at * BLOCK) as u32;
            bytes += BLOCK;
            match runs[first..].last_mut() {
                Some(run) if run.at + run.len == at => run.len += BLOCK as u32,
                _ => runs.push(Run { pgno, at, len: BLOCK as u32 }),
            }
        }
        if bytes * 2 > data.len() || kept.runs + runs.len() - first > RUNS_MAX {
            runs.truncate(first);
            return false;
        }
        true
    }

    /// `data` was appended: whole, or by so many `runs`.
    pub(super) fn keep(&mut self, pgno: Pgno, data: &[u8], runs: Option<usize>) {
        if let Some(kept) = self.pages.iter_mut().find(|k| k.pgno == pgno) {
            kept.runs = runs.map_or(0, |n| kept.runs + n);
            if kept.data.len() == data.len() {
                kept.data.copy_from_slice(data);
            } else {
                kept.data = data.into();
            }
            return;
        }
        let kept = Kept { pgno, runs: 0, data: data.into() };
        if self.pages.len() < (BYTES_MAX / data.len().max(1)).clamp(1, PAGES_MAX) {
            self.pages.push(kept);
        } else {
            self.oldest %= self.pages.len();
            self.pages[self.oldest] = kept;
            self.oldest += 1;
        }
    }

    /// The segment got another copy of `pgno`.
    pub(super) fn forget(&mut self, pgno: Pgno) {
        self.pages.retain(|k| k.pgno != pgno);
    }

    /// The segment forgot every page after `commit`.
    pub(super) fn retain_up_to(&mut self, commit: Pgno) {
        self.pages.retain(|k| k.pgno <= commit);
    }

    /// The segment is another one, or somebody else appended to it.
    pub(super) fn clear(&mut self) {
        *self = Recent::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(recent: &Recent, pgno: Pgno, data: &[u8]) -> Option<Vec<(u32, u32)>> {
        let mut runs = vec![Run { pgno: 99, at: 0, len: 64 }];
        let whole = !recent.differences(pgno, data, &mut runs);
        assert_eq!(runs.remove(0).pgno, 99);
        assert!(runs.iter().all(|r| r.pgno == pgno) && (!whole || runs.is_empty()));
        (!whole).then(|| runs.iter().map(|r| (r.at, r.len)).collect())
    }

    #[test]
    fn what_differs_is_told_in_blocks() {
        let mut recent = Recent::default();
        let mut page = [0u8; 512];
        assert_eq!(runs(&recent, 1, &page), None);
        recent.keep(1, &page, None);
        assert_eq!(runs(&recent, 1, &page), Some(vec![]));
        assert_eq!(runs(&recent, 2, &page), None);
        for at in [0, 130, 200, 511] {
            page[at] = 1;
        }
        assert_eq!(runs(&recent, 1, &page), Some(vec![(0, 64), (128, 128), (448, 64)]));
        page[300] = 1;
        assert_eq!(runs(&recent, 1, &page), None, "more than half of it differs");
        assert_eq!(runs(&recent, 1, &page[..256]), None);
    }

    #[test]
    fn a_page_is_appended_whole_again_after_a_while() {
        let mut recent = Recent::default();
        let mut page = [0u8; 512];
        recent.keep(1, &page, None);
        for n in 0..RUNS_MAX {
            page[0] = n as u8 + 1;
            assert_eq!(runs(&recent, 1, &page), Some(vec![(0, 64)]), "{n}");
            recent.keep(1, &page, Some(1));
        }
        page[0] = 0;
        assert_eq!(runs(&recent, 1, &page), None);
        recent.keep(1, &page, None);
        page[0] = 1;
        assert!(runs(&recent, 1, &page).is_some());
    }

    #[test]
    fn what_is_not_known_to_be_there_is_not_remembered() {
        let mut recent = Recent::default();
        let page = [0u8; 512];
        for pgno in 1..=20 {
            recent.keep(pgno, &page, None);
        }
        assert_eq!(recent.pages.len(), PAGES_MAX);
        assert!(runs(&recent, 20, &page).is_some() && runs(&recent, 1, &page).is_none());
        recent.forget(20);
        recent.retain_up_to(18);
        assert!(runs(&recent, 20, &page).is_none() && runs(&recent, 19, &page).is_none());
        assert!(runs(&recent, 18, &page).is_some());
        recent.clear();
        assert!(runs(&recent, 18, &page).is_none());
        recent.keep(1, &[0; 65536], None);
        recent.keep(2, &[0; 65536], None);
        assert_eq!(recent.pages.len(), 1);
    }
}
