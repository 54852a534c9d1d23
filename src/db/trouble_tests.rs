//! What a process leaves to others, and to itself, when something fails midway.

use super::*;
use crate::capture::POSITION_FILE;
use crate::capture::backfill::Start;
use crate::capture::position::CleanMark;
use crate::capture::recover::{Acquired, Place};
use crate::host::OwnFile;
use crate::{backfill, shipped, snapshot};

impl Bench {
    /// With one commit in storage, and at rest.
    fn rested() -> Bench {
        let mut bench = Bench::new();
        bench.commit(2, 2);
        bench.db.sync(PATIENCE).unwrap();
        bench.until("does not rest", |db| !db.ships() && !lock(&db.ship).running);
        bench
    }

    fn declare_gap(&self) {
        self.db.capture().as_mut().map(|c| c.declare_gap(Gap::Unproven)).unwrap().unwrap();
    }

    fn mark(&self) -> CleanMark {
        self.db.mark().unwrap()
    }
}

/// The lock went to others while the task of the shipper waited for storage, which
/// then moved their record.
#[test]
fn a_fault_leaves_the_lock_to_the_task_that_is_under_way() {
    let bench = Bench::rested();
    assert!(bench.db.take_shipper().unwrap());
    // As in the midst of a request.
    lock(&bench.db.ship).running = true;
    bench.db.fault("a test");
    bench.db.capture_and_seal().unwrap();
    assert!(bench.db.hold_shipper().is_some());
    bench.db.retire_now();
    assert!(bench.db.hold_shipper().is_none() && !bench.db.ships());
    lock(&bench.db.ship).running = false;
}

#[test]
fn without_the_lock_a_snapshot_is_given_up_without_a_gap() {
    let bench = Bench::rested();
    snapshot::abandon(&bench.db);
    assert_eq!(bench.db.peek().gap(), None);
    assert!(bench.db.take_shipper().unwrap());
    snapshot::abandon(&bench.db);
    assert_eq!(bench.db.peek().gap(), Some(Gap::SnapshotInterrupted));
}

/// Turned to WAL mode while its state was gathered, it had no WAL to find the end of.
#[test]
fn a_gathering_ends_without_a_wal() {
    let bench = Bench::rested();
    std::fs::remove_file(&bench.db.wal_path).unwrap();
    lock(&bench.index).page_size = 0;
    bench.db.in_wal.store(false, std::sync::atomic::Ordering::Release);
    bench.declare_gap();
    let start = Start {
        page_size: PAGE as u32,
        commit: 3,
        mark: bench.mark(),
        in_wal: false,
        txid: lock(&bench.db.ship).acked.next(),
        stored: 0,
    };
    bench.db.capture().as_mut().map(|c| c.begin_backfill(&start)).unwrap().unwrap();
    bench.db.handover.forget();
    assert!(backfill::take(&bench.db, None).unwrap().is_some());
    assert_eq!(bench.db.peek().gap(), None);
}

/// The whole database was gathered again and again, each time in vain.
#[test]
fn nothing_is_gathered_while_the_end_of_the_wal_cannot_be_found() {
    let mut bench = Bench::rested();
    lock(&bench.index).page_size = 0;
    bench.declare_gap();
    bench.wal.bytes[32 + 8..32 + 24].fill(0);
    bench.wal.write(&bench.db.wal_path);
    assert_eq!(kind(backfill::take(&bench.db, None)), Some(ErrorKind::Transient));
    let position = *bench.db.peek().position();
    assert_eq!((position.backfill_serial, position.gap), (0, Some(Gap::Unproven)));
}

/// The record of a stranger that could not be replaced at the open, for want of
/// room, was nobody's for the life of the process.
#[test]
fn what_the_disk_refused_at_an_open_is_done_when_it_can_be() {
    let mut bench = Bench::rested();
    let place = Place {
        dir: bench.db.vfs_dir(),
        path: bench.db.path.clone(),
        wal_path: bench.db.wal_path.clone(),
        identity: bench.db.identity,
        replica: 1,
        owner: None,
    };
    let mut stranger = Capture::new(place);
    assert!(matches!(stranger.try_acquire().unwrap(), Acquired::Stranger(_)));
    stranger.reset().unwrap();
    drop(stranger);
    assert!(bench.db.vfs_dir().join(POSITION_FILE).exists());
    shipped::forget(&bench.db.vfs_dir()).unwrap();
    assert!(bench.db.capture().is_none());
    bench.db.unopened.store(true, std::sync::atomic::Ordering::Release);
    bench.commit(2, 3);
    bench.until("it is a stranger's still", |db| !db.capture().is_none());
    assert!(!bench.db.unopened.load(std::sync::atomic::Ordering::Acquire));
}

struct Own(os::File);

impl OwnFile for Own {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn size(&self) -> Result<u64> {
        self.0.len()
    }
}

/// A commit that failed in exclusive locking mode kept the lock from others for as
/// long as its application was idle.
#[test]
fn the_lock_of_a_commit_that_failed_is_given_back() {
    let bench = Bench::rested();
    let file = Own(os::File::open(bench.db.path()).unwrap());
    bench.db.rollback_begin(true, true, &file);
    bench.until("the lock is kept", |db| !db.peek().is_locked());
}
