//! Faults of other readers that must not come back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use litestream::ErrorKind;
use litestream::clock::{Random, SeededRandom};
use litestream::log::Level;
use litestream::ltx::Txid;
use litestream::plan::{Target, calc_restore_plan};
use litestream::replica_client::{FaultPlan, FileId, ReplicaClient};

use crate::common::clients::Scripted;
use crate::common::replica::{Replica, at, database_states, encode, noise};
use crate::support::{
    PS, Reader, chain, eventually, faulty, image, pinned_image, put, quiet, remove, says, txid,
};

/// Polls until a stall must be visible.
const POLLS_MAX: usize = 20;

#[test]
fn r_23_a_gap_that_nothing_bridges_is_told_within_a_few_polls() {
    let (replica, states) = (Replica::new(), database_states());
    (1..=3).for_each(|n| put(&replica, &states, 0, n, n));
    let reader = Reader::new();
    let mut session = reader.open(&replica);
    put(&replica, &states, 0, 5, 5);
    for _ in 0..POLLS_MAX {
        assert_eq!(session.refresh().unwrap(), Txid(3));
    }
    let gap = session.status().gap.unwrap();
    assert!(gap.contains("0000000000000003") && gap.contains("0000000000000005"), "{gap}");
    assert_eq!(reader.log.count(Level::Warn, &["files are missing", &replica.url()]), 1);
    assert!(image(&mut session).unwrap() == states[2]);

    put(&replica, &states, 0, 4, 4);
    eventually("the end of the gap", || session.refresh().unwrap() == Txid(5));
    assert_eq!(session.status().gap, None);
    assert!(image(&mut session).unwrap() == states[4]);
}

#[test]
fn r_23_a_view_behind_a_gap_grows_old() {
    let (replica, states) = (Replica::new(), database_states());
    put(&replica, &states, 0, 1, 1);
    put(&replica, &states, 0, 3, 3);
    let reader = Reader::new();
    let limit = Duration::from_millis(20);
    let options =
        litestream::view::SourceOptions { max_staleness: Some(limit), ..quiet(&replica.url()) };
    let mut session = reader.sources.open(&options, Target::Latest).unwrap();
    assert_eq!(reader.log.count(Level::Warn, &["files are missing"]), 1);
    assert!(session.status().gap.is_some());
    std::thread::sleep(limit * 2);
    let e = session.pin().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Transient);
    assert!(says(&e, &["max_staleness", "files are missing"]), "{e}");
    put(&replica, &states, 0, 2, 2);
    eventually("the end of the gap", || session.refresh().unwrap() == Txid(3));
    session.pin().unwrap();
}

#[test]
fn r_23_a_follower_whose_next_file_was_pruned_goes_on() {
    let (replica, states) = (Replica::new(), database_states());
    (1..=2).for_each(|n| put(&replica, &states, 0, n, n));
    let mut session = Reader::new().open(&replica);
    put(&replica, &states, 1, 1, 6);
    (1..=2).for_each(|n| remove(&replica, 0, n, n));
    assert!((0..POLLS_MAX).any(|_| session.refresh().unwrap() == Txid(6)));
    assert!(image(&mut session).unwrap() == states[5]);
}

#[test]
fn r_26_stale_listings_and_short_answers_never_show() {
    let (replica, states) = (Replica::new(), database_states());
    put(&replica, &states, 0, 1, 1);
    for seed in 0..8 {
        let replica = Replica::copy(replica.path());
        let client = faulty(&replica, seed);
        let mut session = Reader::new().open_client(client.clone()).unwrap();
        client.set_plan(FaultPlan { stale_list: 0.5, truncated_read: 0.3, ..FaultPlan::default() });
        let mut shown = Txid(1);
        for n in 2..=states.len() as u64 {
            put(&replica, &states, 0, n, n);
            if n % 3 == 0 {
                put(&replica, &states, 1, n - 2, n);
                remove(&replica, 0, n - 1, n - 1);
            }
            eventually("the transaction", || {
                let newest = session.refresh().unwrap_or(shown);
                assert!(newest >= shown, "it never goes back");
                shown = newest;
                newest == Txid(n)
            });
            eventually("an answer", || match image(&mut session) {
                Ok(image) => {
                    assert!(image == states[n as usize - 1], "{seed} {n}");
                    true
                }
                Err(e) => {
                    assert!(matches!(e.kind(), ErrorKind::Transient | ErrorKind::NotFound), "{e}");
                    false
                }
            });
        }
    }
}

#[test]
fn r_27_any_set_of_overlapping_files_reads_as_it_restores() {
    let states = database_states();
    let last = states.len() as u64;
    let random = SeededRandom::new(27);
    let draw = |n: u64| random.next_u64() % n;
    for round in 0..40 {
        let replica = Replica::new();
        for _ in 0..3 + draw(12) {
            let min = 1 + draw(last);
            let max = min + draw(last - min + 1);
            let level = if min == 1 && draw(3) == 0 { 9 } else { draw(4) as u8 };
            put(&replica, &states, level, min, max);
        }
        let reader = Reader::new();
        let levels: Vec<Vec<_>> = (0..10)
            .map(|level| {
                let files = replica.files().into_iter().filter(|f| f.0 == level);
                files.map(|(l, min, max)| info(&replica, l, min, max)).collect()
            })
            .collect();
        for n in 1..=last {
            let planned = calc_restore_plan(&levels, txid(n)).is_ok();
            match reader.at(&replica, txid(n)) {
                Ok(mut session) => {
                    assert!(planned && image(&mut session).unwrap() == states[n as usize - 1]);
                }
                Err(e) => assert!(!planned && e.kind() == ErrorKind::NotFound, "{round} {n} {e}"),
            }
        }
    }
}

fn info(replica: &Replica, level: u8, min: u64, max: u64) -> litestream::replica_client::FileInfo {
    let size = std::fs::metadata(replica.file(level, min, max)).unwrap().len();
    let id = FileId::new(level, Txid(min), Txid(max));
    litestream::replica_client::FileInfo { id, size, created_at_ms: at(max) }
}

#[test]
fn r_32_a_file_that_vanishes_before_it_is_read_is_planned_around() {
    let (replica, states) = chain();
    let url = replica.url();
    let once = AtomicBool::new(true);
    // Compaction and retention between the listing and the GET.
    let copy = Replica::copy(replica.path());
    let client = Scripted::new(&copy.url(), move |id, _| {
        let hit = id.level == 0 && id.min == Txid(3) && once.swap(false, Ordering::SeqCst);
        hit.then_some(ErrorKind::NotFound)
    });
    let mut session = Reader::new().open_client(client).unwrap();
    assert!(image(&mut session).unwrap() == *states.last().unwrap());

    let client = Scripted::new(&url, |id, _| {
        (id.level == 0 && id.min == Txid(3)).then_some(ErrorKind::NotFound)
    });
    let e = Reader::new().open_client(client.clone()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert!(says(&e, &["0000000000000003"]), "{e}");
    assert!(client.lists.load(Ordering::SeqCst) <= 100, "bounded");
}

#[test]
fn r_34_a_reader_goes_on_from_merged_files_without_noticing() {
    let (replica, states) = chain();
    let last = states.len() as u64;
    let reader = Reader::new();
    let (mut session, mut past) = (reader.open(&replica), reader.at(&replica, txid(4)).unwrap());
    session.pin().unwrap();
    let (sequence, size) = (session.sequence(), session.size());
    past.pin().unwrap();
    // Nothing that small files brought along may help.
    let mut cold = Reader::new().open(&replica);
    cold.pin().unwrap();
    put(&replica, &states, 2, 1, 4);
    put(&replica, &states, 1, 5, last);
    for (level, min, max) in replica.files() {
        if level == 0 || level == 9 {
            remove(&replica, level, min, max);
        }
    }
    assert!(pinned_image(&mut session).unwrap() == *states.last().unwrap());
    assert_eq!((session.sequence(), session.size()), (sequence, size));
    assert!(pinned_image(&mut past).unwrap() == states[3]);
    assert!(pinned_image(&mut cold).unwrap() == *states.last().unwrap());
}

/// States of 400 pages of 512 bytes, so that no file comes whole at the open.
fn large(n: u64) -> Vec<u8> {
    let mut state = noise(1, 400, 512);
    let change = noise(100 + n, 200, 512);
    state[..change.len()].copy_from_slice(&change);
    state
}

fn large_chain(len: u64) -> Replica {
    let replica = Replica::new();
    replica.put_snapshot(9, 1, &large(1), 512);
    for n in 2..=len {
        replica.put_change(0, n, n, &large(n - 1), &large(n), 512);
    }
    replica
}

#[test]
fn r_34_pages_of_deleted_files_come_from_the_merged_one() {
    let replica = large_chain(4);
    let reader = Reader::new();
    let mut sessions: Vec<_> = (0..3).map(|_| reader.open(&replica)).collect();
    sessions.iter_mut().for_each(|session| session.pin().unwrap());
    let sequence = sessions[0].sequence();
    replica.put_change(1, 2, 4, &large(1), &large(4), 512);
    (2..=4).for_each(|n| remove(&replica, 0, n, n));
    for session in &mut sessions {
        assert!(pinned_image(session).unwrap() == large(4));
        assert_eq!(session.sequence(), sequence);
    }
    let requests = sessions[0].status().requests;
    assert!(requests.list <= 20, "one new plan for all: {requests:?}");
}

#[test]
fn r_34_what_is_cached_stays_of_use_when_files_are_merged() {
    let replica = large_chain(4);
    let mut session = Reader::new().open(&replica);
    assert!(image(&mut session).unwrap() == large(4));
    let before = session.status().requests.get;
    session.pin().unwrap();
    replica.put_change(1, 2, 4, &large(1), &large(4), 512);
    (2..=4).for_each(|n| remove(&replica, 0, n, n));
    assert!(pinned_image(&mut session).unwrap() == large(4));
    assert_eq!(session.status().requests.get, before, "all of it is in memory");
}

#[test]
fn r_34_a_state_that_is_gone_ends_the_transaction_and_not_the_session() {
    let replica = large_chain(4);
    let reader = Reader::new();
    let mut session = reader.open(&replica);
    let mut fresh = reader.open(&replica);
    session.pin().unwrap();
    fresh.pin().unwrap();
    let mut page = vec![0; 512];
    // A page of the snapshot, which stays.
    session.read(&mut page, 300 * 512).unwrap();
    replica.put_change(0, 5, 5, &large(4), &large(5), 512);
    replica.put_change(1, 2, 5, &large(1), &large(5), 512);
    (2..=5).for_each(|n| remove(&replica, 0, n, n));
    let e = session.read(&mut page, 100 * 512).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert!(says(&e, &["0000000000000004", "read again", &replica.url()]), "{e}");
    session.unpin();
    assert!(image(&mut session).unwrap() == large(5));
    // A transaction that has not seen anything yet just begins later.
    fresh.read(&mut page, 150 * 512).unwrap();
    assert_eq!(fresh.txid(), Txid(5));
    assert!(pinned_image(&mut fresh).unwrap_or_else(|e| panic!("{e}")) == large(5));
}

#[test]
fn r_40_ten_thousand_small_files_cost_one_request_each() {
    const FILES: u64 = 10_000;
    let (replica, page) = (Replica::new(), noise(1, 1, 512));
    replica.put_snapshot(0, 1, &page, 512);
    for n in 2..=FILES {
        let page = noise(n, 1, 512);
        replica.put(0, n, n, &encode(n, n, 1, 512, &[(1, &page)]), at(n));
    }
    let mut session = Reader::new().open(&replica);
    assert_eq!(session.txid(), Txid(FILES));
    let requests = session.status().requests;
    assert_eq!((requests.list, requests.head), (10, 0));
    assert!(requests.get <= FILES + 2, "{requests:?}");
    assert!(image(&mut session).unwrap() == noise(FILES, 1, 512));
}

#[test]
fn r_43_the_first_request_is_repeated() {
    let (replica, states) = chain();
    let client = Scripted::new(&replica.url(), |_, n| (n < 2).then_some(ErrorKind::Transient));
    let mut session = Reader::new().open_client(client).unwrap();
    assert!(image(&mut session).unwrap() == *states.last().unwrap());
    let client = Scripted::new(&replica.url(), |_, _| Some(ErrorKind::Denied));
    let e = Reader::new().open_client(client.clone()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
    assert!(client.reads.load(Ordering::SeqCst) <= states.len(), "refusals are not repeated");
    let _ = (client.url(), PS);
}
