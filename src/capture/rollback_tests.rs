//! Transactions outside WAL mode, and whole states gathered beside them.

use std::cell::{Cell, RefCell};
use std::path::Path;

use super::*;
use crate::capture::backfill::Start;
use crate::capture::recover::{Acquired, Place};
use crate::capture::segment::Segment;
use crate::ltx::Txid;
use crate::os::disk::{self, File};

const PAGE: u32 = 512;

/// A database file of whole pages, written as a connection would.
struct Fake {
    file: File,
    writes: RefCell<Writes>,
    /// How often it was read.
    reads: Cell<u32>,
}

impl OwnFile for Fake {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.reads.set(self.reads.get() + 1);
        self.file.read_at(buf, offset)
    }

    fn size(&self) -> Result<u64> {
        self.file.len()
    }
}

impl Fake {
    fn write(&self, pgno: Pgno, byte: u8) {
        let at = u64::from(pgno - 1) * u64::from(PAGE);
        self.writes.borrow_mut().write(at, PAGE);
        self.file.write_all_at(&[byte; PAGE as usize], at).unwrap();
    }

    fn cut(&self, pages: u32) {
        let size = u64::from(pages) * u64::from(PAGE);
        self.writes.borrow_mut().truncate(size);
        self.file.set_len(size).unwrap();
    }
}

struct Lab {
    _tmp: tempfile::TempDir,
    capture: Capture,
    file: Fake,
}

impl Lab {
    /// A database of `pages` pages that capture follows.
    fn new(pages: u32) -> Lab {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("db");
        let file = File::open_private(&path, None).unwrap();
        file.write_all_at(&vec![b'a'; (pages * PAGE) as usize], 0).unwrap();
        let stat = disk::stat(&path).unwrap().unwrap();
        let place = Place {
            dir: tmp.path().join("vfs"),
            wal_path: tmp.path().join("db-wal"),
            identity: (stat.dev, stat.ino),
            path,
            replica: 1,
            owner: None,
        };
        let mut capture = Capture::new(place);
        assert_eq!(capture.try_acquire().unwrap(), Acquired::Held);
        let header = crate::host::WalIndexHeader {
            n_page: pages,
            page_size: PAGE,
            ..crate::host::WalIndexHeader::default()
        };
        capture.follow_from(&header, Txid(0), Txid(1)).unwrap();
        let file = Fake { file, writes: RefCell::default(), reads: Cell::new(0) };
        Lab { _tmp: tmp, capture, file }
    }

    fn mark(&self) -> Option<CleanMark> {
        self.capture.clean_mark().unwrap()
    }

    fn begin(&mut self) {
        let mark = self.mark();
        self.capture.begin_rollback(mark, &self.file).unwrap();
    }

    fn end(&mut self) -> Outcome {
        let mark = self.mark();
        let mut writes = self.file.writes.take();
        self.capture.end_rollback(&mut writes, &self.file, || mark).unwrap()
    }

    fn sealed(&mut self) -> (u32, Vec<(Pgno, u8)>) {
        let segment = self.capture.seal(1).unwrap().unwrap();
        (segment.sealed().unwrap().commit, pages_of(&segment))
    }
}

fn pages_of(segment: &Segment) -> Vec<(Pgno, u8)> {
    let mut found = Vec::new();
    segment
        .for_each_page(|pgno, page| {
            assert!(page.iter().all(|b| *b == page[0]));
            found.push((pgno, page[0]));
            Ok(())
        })
        .unwrap();
    found
}

/// A writer that keeps no locks and comes while the pages are read back is
/// found by the next transaction: the mark is of before.
#[test]
fn the_mark_is_older_than_what_is_read_back() {
    let mut lab = Lab::new(3);
    lab.begin();
    lab.file.write(1, b'b');
    lab.file.write(3, b'b');
    lab.file.reads.set(0);
    let mark = lab.mark();
    let mut writes = lab.file.writes.take();
    let reads = &lab.file.reads;
    let asked = || {
        assert_eq!(reads.get(), 0);
        mark
    };
    assert_eq!(lab.capture.end_rollback(&mut writes, &lab.file, asked).unwrap(), Outcome::UpToDate);
    assert_eq!(lab.file.reads.get(), 2, "each page once, and nothing else");
    assert_eq!(lab.capture.position().head, Some([b'b'; 16]));
}

/// The lock is kept over a short commit, and its end gives it back.
#[test]
fn a_batch_under_a_kept_lock_continues_the_last_one() {
    let mut lab = Lab::new(2);
    lab.begin();
    lab.file.write(1, b'b');
    let before = *lab.capture.position();
    assert_eq!(lab.capture.try_acquire().unwrap(), Acquired::Held);
    assert_eq!(*lab.capture.position(), before);
    assert_eq!(lab.end(), Outcome::UpToDate);
    lab.capture.let_go();
    // A gap that could not be recorded is not forgotten under a kept lock.
    assert_eq!(lab.capture.try_acquire().unwrap(), Acquired::Held);
    lab.capture.remember_gap(Gap::CaptureFailed);
    assert_eq!(lab.capture.try_acquire().unwrap(), Acquired::Held);
    assert_eq!(lab.capture.position().gap, Some(Gap::CaptureFailed));
}

#[test]
fn a_commit_brings_what_the_file_holds_then() {
    let mut lab = Lab::new(3);
    lab.begin();
    lab.file.write(2, b'x');
    lab.file.write(6, b'y');
    lab.file.write(2, b'b');
    assert_eq!(lab.end(), Outcome::UpToDate);
    // Pages 4 and 5 are holes of the growth: nobody wrote them.
    assert_eq!(lab.sealed(), (6, vec![(2, b'b'), (4, 0), (5, 0), (6, b'y')]));
}

#[test]
fn a_shrink_drops_pages_and_a_later_growth_brings_them_anew() {
    let mut lab = Lab::new(5);
    lab.begin();
    lab.file.write(5, b'x');
    assert_eq!(lab.end(), Outcome::UpToDate);
    lab.begin();
    lab.file.write(1, b'b');
    lab.file.cut(2);
    assert_eq!(lab.end(), Outcome::UpToDate);
    lab.begin();
    lab.file.write(4, b'c');
    assert_eq!(lab.end(), Outcome::UpToDate);
    assert_eq!(lab.sealed(), (4, vec![(1, b'b'), (3, 0), (4, b'c')]));
}

#[test]
fn a_write_by_somebody_else_is_a_gap() {
    let mut lab = Lab::new(3);
    lab.begin();
    lab.file.write(1, b'b');
    lab.end();
    lab.file.file.set_len(u64::from(4 * PAGE)).unwrap();
    lab.begin();
    assert_eq!(lab.capture.gap(), Some(Gap::Unproven));
}

/// A foreign commit in the same tick of the clock leaves size and times alone.
#[test]
fn another_change_counter_is_a_gap_though_the_times_agree() {
    let mut lab = Lab::new(3);
    lab.begin();
    lab.file.write(1, b'b');
    lab.end();
    lab.file.file.write_all_at(b"cccc", HEAD_OFFSET).unwrap();
    let mark = lab.capture.position().clean;
    lab.capture.begin_rollback(mark, &lab.file).unwrap();
    assert_eq!(lab.capture.gap(), Some(Gap::Unproven));
}

#[test]
fn a_transaction_that_nobody_ended_is_a_gap() {
    let mut lab = Lab::new(3);
    lab.begin();
    lab.begin();
    assert_eq!(lab.capture.gap(), Some(Gap::Interrupted));
    let mut lab = Lab::new(3);
    lab.begin();
    lab.capture.abandon_rollback().unwrap();
    assert_eq!(lab.capture.gap(), Some(Gap::Interrupted));
    assert!(!lab.capture.position().dirty);
}

#[test]
fn pages_of_another_size_are_a_gap() {
    let mut lab = Lab::new(4);
    lab.begin();
    lab.file.writes.borrow_mut().write(0, 1024);
    assert_eq!(lab.end(), Outcome::NotFollowing);
    assert_eq!(lab.capture.gap(), Some(Gap::RollbackMode));
}

impl Lab {
    fn start(&self, stored: Pgno) -> Start {
        let commit = u32::try_from(self.file.size().unwrap()).unwrap() / PAGE;
        let mark = self.mark().unwrap();
        Start { page_size: PAGE, commit, mark, in_wal: false, txid: Txid(7), stored }
    }
}

#[test]
fn a_backfill_takes_the_newest_copy_of_every_page() {
    let mut lab = Lab::new(4);
    lab.capture.declare_gap(Gap::Unproven).unwrap();
    let id = lab.capture.begin_backfill(&lab.start(0)).unwrap();
    let (pages, last) = lab.capture.to_copy(id, 1, 2, |_| false).unwrap();
    assert_eq!((pages, last), (vec![1, 2], 2));
    lab.begin();
    lab.file.write(2, b'n');
    // What is copied in the midst of a transaction may be torn.
    let (torn, good) = ([b't'; PAGE as usize], [b'a'; PAGE as usize]);
    assert!(lab.capture.fill(id, &[(2, &torn[..]), (1, &good[..])]).unwrap());
    assert!(!lab.capture.is_filled(id, |p| p > 2));
    assert_eq!(lab.end(), Outcome::UpToDate);
    // Too late: the commit has brought it.
    assert!(lab.capture.fill(id, &[(2, &torn[..]), (3, &good[..])]).unwrap());
    assert!(lab.capture.seal(1).unwrap().is_none());
    assert!(!lab.capture.is_filled(id, |_| false));
    assert!(lab.capture.fill(id, &[(4, &good[..])]).unwrap());
    assert!(lab.capture.is_filled(id, |_| false));
    assert_eq!(lab.capture.end_backfill().unwrap(), Some(Gap::Unproven));
    assert_eq!(lab.sealed(), (4, vec![(1, b'a'), (2, b'n'), (3, b'a'), (4, b'a')]));
}

#[test]
fn a_gap_or_another_backfill_overtakes_one() {
    let mut lab = Lab::new(2);
    lab.capture.declare_gap(Gap::First).unwrap();
    let first = lab.capture.begin_backfill(&lab.start(0)).unwrap();
    lab.capture.declare_gap(Gap::Unproven).unwrap();
    assert!(lab.capture.to_copy(first, 1, 9, |_| false).is_none());
    let second = lab.capture.begin_backfill(&lab.start(0)).unwrap();
    assert_ne!(first, second);
    assert!(!lab.capture.fill(first, &[]).unwrap() && lab.capture.fill(second, &[]).unwrap());
}

#[test]
fn with_a_ledger_only_pages_beyond_it_and_different_ones_are_needed() {
    let mut lab = Lab::new(4);
    lab.capture.declare_gap(Gap::Unproven).unwrap();
    let id = lab.capture.begin_backfill(&lab.start(3)).unwrap();
    let same = |p: Pgno| p == 1 || p == 3;
    assert_eq!(lab.capture.to_copy(id, 1, 9, same).unwrap().0, [2, 4]);
    let page = [b'a'; PAGE as usize];
    lab.capture.fill(id, &[(2, &page[..]), (4, &page[..])]).unwrap();
    assert!(lab.capture.is_filled(id, same));
    lab.capture.end_backfill().unwrap();
    assert_eq!(lab.sealed(), (4, vec![(2, b'a'), (4, b'a')]));
}

/// The record of a dead process tells the next one.
#[test]
fn a_mark_of_a_dead_process_is_a_gap_at_the_next_open() {
    let mut lab = Lab::new(2);
    lab.begin();
    lab.capture.position.dirty_writer = u32::MAX >> 1;
    lab.capture.write_position().unwrap();
    lab.capture.let_go();
    let mut next = Capture::new(lab.capture.place.clone());
    assert_eq!(next.try_acquire().unwrap(), Acquired::Held);
    assert_eq!(next.gap(), Some(Gap::Interrupted));
    assert!(Path::new(next.dir()).exists());
}
