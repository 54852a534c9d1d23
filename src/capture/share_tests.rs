//! Two processes' capture states on one directory, as they take turns. (In one
//! process the lock excludes nobody, so the tests take turns by themselves.)

use std::path::Path;

use crate::capture::position::Position;
use crate::capture::recover::{Acquired, Place};
use crate::capture::sealed::Read;
use crate::capture::segment::{Segment, file_name};
use crate::capture::test_wal::{PAGE, Wal};
use crate::capture::{Capture, Gap, Outcome, POSITION_FILE, Published};
use crate::host::{Salts, WalIndexHeader};
use crate::ltx::Txid;
use crate::os::disk::{self as os, File};

fn place(dir: &Path) -> Place {
    let path = dir.join("db");
    std::fs::write(&path, [0u8; 3 * PAGE]).unwrap();
    let stat = os::stat(&path).unwrap().unwrap();
    Place {
        dir: dir.join("vfs"),
        wal_path: dir.join("db-wal"),
        identity: (stat.dev, stat.ino),
        path,
        replica: 1,
        owner: None,
    }
}

fn header(salts: Salts, mx_frame: u32) -> WalIndexHeader {
    WalIndexHeader { mx_frame, n_page: 3, page_size: PAGE as u32, salts }
}

fn acquire(capture: &mut Capture) -> &mut Capture {
    assert_eq!(capture.try_acquire().unwrap(), Acquired::Held);
    capture
}

fn end(salts: Salts, mx_frame: u32) -> Published {
    Published { salt1: salts[0], mx_frame }
}

/// Two states that follow from the first frame of a WAL with salts 7, 1.
fn two(place: &Place) -> (Wal, Capture, Capture) {
    let mut wal = Wal::new([7, 1]);
    wal.commit(1, 1).write(&place.wal_path);
    let (mut a, b) = (Capture::new(place.clone()), Capture::new(place.clone()));
    acquire(&mut a).follow_from(&header([7, 1], 1), Txid(0), Txid(5)).unwrap();
    a.let_go();
    (wal, a, b)
}

fn pages(segment: &Segment) -> Vec<(u32, u8)> {
    let mut found = Vec::new();
    segment
        .for_each_page(|pgno, page| {
            found.push((pgno, page[0]));
            Ok(())
        })
        .unwrap();
    found
}

#[test]
fn what_one_captures_the_other_continues_and_seals() {
    let tmp = tempfile::tempdir().unwrap();
    let place = place(tmp.path());
    let (mut wal, mut a, mut b) = two(&place);
    wal.commit(2, 2).commit(3, 3).write(&place.wal_path);
    for (capture, mx_frame) in [(&mut a, 2), (&mut b, 3)] {
        acquire(capture).capture_to(end([7, 1], mx_frame)).unwrap();
        capture.let_go();
    }
    wal.commit(2, 4).write(&place.wal_path);
    // What A noted last is behind what B has captured since.
    assert_eq!(acquire(&mut a).capture_to(end([7, 1], 2)).unwrap(), Outcome::UpToDate);
    assert_eq!((a.position().wal.frame, a.is_shared()), (3, true));
    a.capture_to(end([7, 1], 4)).unwrap();
    let sealed = a.seal(9).unwrap().unwrap();
    a.let_go();
    assert_eq!((sealed.txid(), pages(&sealed)), (Txid(5), vec![(2, 4), (3, 3)]));
    wal.commit(1, 5).write(&place.wal_path);
    acquire(&mut b).capture_to(end([7, 1], 5)).unwrap();
    let next = b.seal(10).unwrap().unwrap();
    assert_eq!((next.txid(), pages(&next)), (Txid(6), vec![(1, 5)]));
}

#[test]
fn a_gap_is_everybodys_and_survives_what_could_not_be_recorded() {
    let tmp = tempfile::tempdir().unwrap();
    let place = place(tmp.path());
    let (wal, mut a, mut b) = two(&place);
    Wal::new([8, 2]).commit(1, 9).write(&place.wal_path);
    assert_eq!(acquire(&mut a).capture_to(end([8, 2], 1)).unwrap(), Outcome::NotFollowing);
    a.let_go();
    assert_eq!(acquire(&mut b).gap(), Some(Gap::WalReplaced));
    wal.write(&place.wal_path);
    b.follow_from(&header([7, 1], 1), Txid(0), Txid(6)).unwrap();
    b.let_go();
    assert_eq!(acquire(&mut a).gap(), None);
    a.let_go();
    b.remember_gap(Gap::CaptureFailed);
    acquire(&mut b).let_go();
    assert_eq!(acquire(&mut a).gap(), Some(Gap::CaptureFailed));
}

/// A program without the library appended and let the WAL restart: the end that
/// ours knows is not the end.
#[test]
fn a_new_wal_is_recorded_only_from_its_proven_end() {
    let tmp = tempfile::tempdir().unwrap();
    let place = place(tmp.path());
    let (mut wal, mut a, mut b) = two(&place);
    assert_eq!(acquire(&mut a).expect_generation([8, 2]).unwrap(), Outcome::UpToDate);
    a.let_go();
    let mut next = Wal::new([8, 2]);
    next.commit(3, 6).write(&place.wal_path);
    acquire(&mut b).capture_to(end([8, 2], 1)).unwrap();
    assert_eq!((b.gap(), b.position().wal.salts), (None, [8, 2]));
    b.let_go();
    next.commit(2, 7).write(&place.wal_path);
    assert_eq!(acquire(&mut a).expect_generation([9, 3]).unwrap(), Outcome::NotFollowing);
    assert_eq!(a.gap(), Some(Gap::WalReplaced));
    wal.commit(1, 1);
}

/// The write of a WAL's header failed, so there is none: each repair was followed
/// by another gap for as long as nothing was committed.
#[test]
fn a_header_that_was_announced_and_not_written_is_no_gap() {
    let tmp = tempfile::tempdir().unwrap();
    let place = place(tmp.path());
    let (_, mut a, _) = two(&place);
    acquire(&mut a).mark_clean().unwrap();
    std::fs::write(&place.wal_path, b"").unwrap();
    a.release_wal();
    assert_eq!(a.expect_generation([8, 2]).unwrap(), Outcome::UpToDate);
    a.declare_gap(Gap::CaptureFailed).unwrap();
    a.follow_from(&header([8, 2], 0), Txid(0), Txid(6)).unwrap();
    assert_eq!(a.capture_to(end([8, 2], 0)).unwrap(), Outcome::UpToDate);
    assert_eq!(a.expect_generation([9, 3]).unwrap(), Outcome::UpToDate);
    Wal::new([9, 3]).commit(2, 8).write(&place.wal_path);
    assert_eq!(a.capture_to(end([9, 3], 1)).unwrap(), Outcome::UpToDate);
    assert_eq!(pages(&a.seal(9).unwrap().unwrap()), [(2, 8)]);
}

#[test]
fn the_first_wal_after_a_clean_state_is_captured_whoever_wrote_it() {
    let tmp = tempfile::tempdir().unwrap();
    let place = place(tmp.path());
    let (_, mut a, _) = two(&place);
    acquire(&mut a).prove_end().unwrap();
    a.mark_clean().unwrap();
    a.release();
    Wal::new([70, 4]).commit(2, 8).write(&place.wal_path);
    let mut b = Capture::new(place.clone());
    acquire(&mut b).capture_to(end([70, 4], 1)).unwrap();
    assert_eq!((b.gap(), b.open_bytes() > 0), (None, true));
    b.release();
    // But not once the file was written.
    let mut c = Capture::new(place.clone());
    acquire(&mut c).prove_end().unwrap();
    c.mark_clean().unwrap();
    c.release();
    std::fs::write(&place.path, [1u8; 4 * PAGE]).unwrap();
    Wal::new([90, 4]).commit(2, 8).write(&place.wal_path);
    assert_eq!(acquire(&mut Capture::new(place.clone())).gap(), Some(Gap::WalReplaced));
}

/// Killed between the append and the record, and between the seal and the record.
#[test]
fn what_a_killed_process_left_behind_the_record_is_written_over() {
    for sealed in [false, true] {
        let tmp = tempfile::tempdir().unwrap();
        let place = place(tmp.path());
        let (mut wal, mut a, mut b) = two(&place);
        wal.commit(2, 2).write(&place.wal_path);
        acquire(&mut a).capture_to(end([7, 1], 2)).unwrap();
        let record = os::read(&place.dir.join(POSITION_FILE)).unwrap().unwrap();
        wal.commit(3, 3).commit(3, 4).write(&place.wal_path);
        if sealed {
            a.seal(1).unwrap().unwrap();
        } else {
            a.capture_to(end([7, 1], 4)).unwrap();
        }
        let file = File::open_existing(&place.dir.join(POSITION_FILE)).unwrap();
        file.write_all_at(&record, 0).unwrap();
        drop((a, file));
        acquire(&mut b).capture_to(end([7, 1], 3)).unwrap();
        let found = b.seal(2).unwrap().unwrap();
        assert_eq!((found.txid(), pages(&found)), (Txid(5), vec![(2, 2), (3, 3)]), "{sealed}");
    }
}

/// After a power loss the record may be older than what storage was sent.
#[test]
fn a_record_behind_storage_is_a_gap() {
    let tmp = tempfile::tempdir().unwrap();
    let place = place(tmp.path());
    let (_, mut a, _) = two(&place);
    acquire(&mut a).rebase(Txid(5)).unwrap();
    assert!(a.take_sealed(Some(Txid(4)), Read::default()).unwrap().is_empty() && a.gap().is_none());
    assert!(a.take_sealed(Some(Txid(5)), Read::default()).unwrap().is_empty());
    assert_eq!(a.gap(), Some(Gap::SpoolDamaged));
    let record = os::read(&place.dir.join(POSITION_FILE)).unwrap().unwrap();
    assert_eq!(Position::decode(&record).unwrap().gap, Some(Gap::SpoolDamaged));
}

/// With a private wal-index the checksums alone tell where the commits end.
#[test]
fn a_frame_that_sqlite_left_unfilled_hides_no_commit() {
    for (at, captured) in [(2_usize, 1), (2, 2), (1, 1)] {
        let tmp = tempfile::tempdir().unwrap();
        let place = place(tmp.path());
        let (mut wal, mut a, _) = two(&place);
        wal.commit(2, 2);
        let frame = 32 + (at - 1) * (24 + PAGE);
        wal.bytes[frame + 8..frame + 24].fill(0);
        wal.write(&place.wal_path);
        acquire(&mut a).follow_from(&header([7, 1], captured), Txid(0), Txid(5)).unwrap();
        if captured == at as u32 && at == 2 {
            // It is the end as far as the WAL tells.
            assert_eq!(a.capture_hidden().unwrap(), Outcome::UpToDate);
            wal.commit(3, 3).write(&place.wal_path);
        }
        assert_eq!(a.capture_hidden().unwrap(), Outcome::NotFollowing);
        assert_eq!(a.gap(), Some(Gap::BadFrame), "{at} {captured}");
    }
}

/// What somebody else committed ends at such a frame, or begins behind one: the
/// WAL went as if there were nothing.
#[test]
fn a_frame_that_sqlite_left_unfilled_proves_no_end() {
    for (at, captured) in [(3_usize, 2), (2, 2)] {
        let tmp = tempfile::tempdir().unwrap();
        let place = place(tmp.path());
        let (mut wal, mut a, _) = two(&place);
        wal.commit(2, 2);
        let frame = 32 + (at - 1) * (24 + PAGE);
        if at == 3 {
            wal.commit(3, 3);
        }
        wal.bytes[frame + 8..frame + 24].fill(0);
        wal.write(&place.wal_path);
        acquire(&mut a).follow_from(&header([7, 1], captured), Txid(0), Txid(5)).unwrap();
        assert!(!a.is_chain_whole().unwrap());
        if at == 2 {
            assert_eq!(a.prove_end().unwrap(), Outcome::UpToDate);
            wal.commit(3, 3);
            // Unfilled as well.
            let next = frame + 24 + PAGE;
            wal.bytes[next + 8..next + 24].fill(0);
            wal.write(&place.wal_path);
        }
        assert_eq!(a.expect_generation([8, 2]).unwrap(), Outcome::NotFollowing, "{at}");
        assert_eq!(a.gap(), Some(Gap::WalReplaced));
    }
}

/// A new TXID copied the open segment while commits waited. Of a capture that
/// had failed in its midst the copy kept the newer pages only, and the record the
/// length of what it had copied from.
#[test]
fn a_new_txid_moves_no_page() {
    let tmp = tempfile::tempdir().unwrap();
    let place = place(tmp.path());
    let (mut wal, mut a, mut b) = two(&place);
    wal.commit(2, 2).write(&place.wal_path);
    acquire(&mut a).capture_to(end([7, 1], 2)).unwrap();
    let inode = |txid| os::stat(&place.dir.join(file_name(Txid(txid), 0))).unwrap().map(|s| s.ino);
    let before = inode(5);
    // Pages that the record does not count.
    a.partial = true;
    a.segment.as_mut().unwrap().append([(2, [9u8; PAGE].as_slice())].into_iter()).unwrap();
    a.rebase(Txid(9)).unwrap();
    assert_eq!((inode(5), inode(9)), (None, before));
    a.let_go();
    let sealed = acquire(&mut b).seal(9).unwrap().unwrap();
    assert_eq!((sealed.txid(), pages(&sealed), b.gap()), (Txid(9), vec![(2, 2)], None));
}

/// The record could not be written: its file keeps the name that it has there.
#[test]
fn a_new_txid_that_is_not_recorded_is_taken_back() {
    let tmp = tempfile::tempdir().unwrap();
    let place = place(tmp.path());
    let (mut wal, mut a, mut b) = two(&place);
    wal.commit(2, 2).write(&place.wal_path);
    acquire(&mut a).capture_to(end([7, 1], 2)).unwrap();
    a.locked = false;
    assert!(a.rebase(Txid(9)).is_err());
    a.release();
    let sealed = acquire(&mut b).seal(9).unwrap().unwrap();
    assert_eq!((sealed.txid(), pages(&sealed), b.gap()), (Txid(5), vec![(2, 2)], None));
}

/// What could not be recorded did not happen: others go by the record. (Without
/// the lock no write succeeds.)
#[test]
fn what_could_not_be_recorded_is_taken_back() {
    let tmp = tempfile::tempdir().unwrap();
    let place = place(tmp.path());
    let (mut wal, mut a, mut b) = two(&place);
    wal.commit(2, 2).write(&place.wal_path);
    a.capture_to(end([7, 1], 2)).unwrap_err();
    assert_eq!((a.position().wal.frame, a.has_open()), (1, false));
    acquire(&mut a).capture_to(end([7, 1], 2)).unwrap();
    a.let_go();
    a.expect_generation([8, 2]).unwrap_err();
    assert_eq!(a.position().next_salts, None);
    a.follow_from(&header([7, 1], 2), Txid(9), Txid(9)).unwrap_err();
    assert_eq!((a.position().segment.txid, a.gap()), (Txid(5), None));
    let sealed = acquire(&mut b).seal(9).unwrap().unwrap();
    assert_eq!(pages(&sealed), [(2, 2)]);
    b.declare_gap(Gap::CaptureFailed).unwrap();
    b.let_go();
    assert_eq!(acquire(&mut a).gap(), Some(Gap::CaptureFailed));
    a.let_go();
    a.follow_from(&header([7, 1], 2), Txid(0), Txid(6)).unwrap_err();
    assert_eq!((a.position().following, a.gap()), (false, Some(Gap::CaptureFailed)));
    b.remember_gap(Gap::Rewind);
    b.follow_from(&header([7, 1], 2), Txid(0), Txid(6)).unwrap_err();
    assert_eq!(b.gap(), Some(Gap::CaptureFailed));
    assert!(acquire(&mut b).seal(9).unwrap().is_none());
}
