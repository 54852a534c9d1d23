//! How a session follows its replica.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use litestream::ErrorKind;
use litestream::log::Level;
use litestream::ltx::Txid;
use litestream::plan::Target;
use litestream::view::SourceOptions;

use crate::common::replica::{Replica, database_states, noise};
use crate::support::{
    NEVER, PS, Reader, eventually, image, pinned_image, put, quiet, remove, says,
};

#[test]
fn refresh_shows_what_was_written() {
    let (replica, states) = (Replica::new(), database_states());
    replica.put_snapshot(0, 1, &states[0], PS);
    let reader = Reader::new();
    let mut session = reader.open(&replica);
    for n in 2..=states.len() as u64 {
        let before = session.sequence();
        assert_eq!(session.refresh().unwrap(), Txid(n - 1));
        assert_eq!(session.sequence(), before, "nothing new");
        put(&replica, &states, 0, n, n);
        assert_eq!(session.txid(), Txid(n - 1));
        assert_eq!(session.refresh().unwrap(), Txid(n));
        assert!(session.sequence() != before);
        assert!(image(&mut session).unwrap() == states[n as usize - 1], "{n}");
    }
}

#[test]
fn several_new_files_come_with_one_poll() {
    let (replica, states) = (Replica::new(), database_states());
    replica.put_snapshot(0, 1, &states[0], PS);
    let mut session = Reader::new().open(&replica);
    (2..=6).for_each(|n| put(&replica, &states, 0, n, n));
    assert_eq!(session.refresh().unwrap(), Txid(6));
    assert!(image(&mut session).unwrap() == states[5]);
}

#[test]
fn a_refresh_reaches_the_newest_of_a_thousand_files() {
    let states = history(1_000);
    let replica = Replica::new();
    replica.put_snapshot(0, 1, &states[0], 512);
    let mut session = Reader::new().open(&replica);
    for n in 2..=states.len() as u64 {
        let (old, new) = (&states[n as usize - 2], &states[n as usize - 1]);
        replica.put_change(0, n, n, old, new, 512);
    }
    assert_eq!(session.refresh().unwrap(), Txid(1_000));
    assert!(image(&mut session).unwrap() == states[999]);
}

#[test]
fn a_pinned_state_stays() {
    let (replica, states) = (Replica::new(), database_states());
    replica.put_snapshot(0, 1, &states[0], PS);
    let reader = Reader::new();
    let (mut old, mut new) = (reader.open(&replica), reader.open(&replica));
    old.pin().unwrap();
    for n in 2..=states.len() as u64 {
        put(&replica, &states, 0, n, n);
        new.refresh().unwrap();
        assert!(pinned_image(&mut old).unwrap() == states[0]);
        assert!(image(&mut new).unwrap() == states[n as usize - 1]);
        old.pin().unwrap();
        assert_eq!(old.txid(), Txid(1));
    }
    old.unpin();
    assert_eq!(old.sequence(), new.sequence());
    assert!(image(&mut old).unwrap() == *states.last().unwrap());
}

#[test]
fn polls_find_new_files_by_themselves() {
    let (replica, states) = (Replica::new(), database_states());
    replica.put_snapshot(0, 1, &states[0], PS);
    let options =
        SourceOptions { poll_interval: Duration::from_millis(5), ..quiet(&replica.url()) };
    let session = Reader::new().sources.open(&options, Target::Latest).unwrap();
    for n in 2..=states.len() as u64 {
        put(&replica, &states, 0, n, n);
        eventually("the new transaction", || session.txid() == Txid(n));
    }
    assert!(session.lag().unwrap() < NEVER);
}

#[test]
fn what_is_waited_for_comes_or_is_late() {
    let (replica, states) = (Replica::new(), database_states());
    replica.put_snapshot(0, 1, &states[0], PS);
    let session = Reader::new().open(&replica);
    assert_eq!(session.wait(Txid(1), Duration::ZERO).unwrap(), Txid(1));
    let e = session.wait(Txid(2), Duration::from_millis(20)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Transient);
    assert!(says(&e, &["0000000000000002 is not there yet", "0000000000000001"]), "{e}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || session.wait(Txid(2), NEVER));
        std::thread::sleep(Duration::from_millis(20));
        put(&replica, &states, 0, 2, 2);
        assert_eq!(waiting.join().unwrap().unwrap(), Txid(2));
    });
}

/// The original stalls here for ever.
#[test]
fn merged_files_beyond_the_view_are_taken() {
    let (replica, states) = (Replica::new(), database_states());
    replica.put_snapshot(0, 1, &states[0], PS);
    put(&replica, &states, 0, 2, 2);
    let mut session = Reader::new().open(&replica);
    // All level-0 files are gone before the session looks again.
    put(&replica, &states, 1, 1, 3);
    put(&replica, &states, 1, 4, 5);
    remove(&replica, 0, 1, 1);
    remove(&replica, 0, 2, 2);
    eventually("the merged files", || session.refresh().unwrap() == Txid(5));
    assert!(image(&mut session).unwrap() == states[4]);
    put(&replica, &states, 0, 6, 6);
    eventually("the next file", || session.refresh().unwrap() == Txid(6));
    assert!(image(&mut session).unwrap() == states[5]);
}

#[test]
fn merging_and_retention_go_unnoticed() {
    let states = history(120);
    let replica = Replica::new();
    replica.put_snapshot(9, 1, &states[0], 512);
    let reader = Reader::new();
    let (mut session, mut slow) = (reader.open(&replica), reader.open(&replica));
    slow.pin().unwrap();
    let merge = |level: u8, min: u64, max: u64| {
        let old = &states[min as usize - 2];
        replica.put_change(level, min, max, old, &states[max as usize - 1], 512);
    };
    for n in 2..=states.len() as u64 {
        merge(0, n, n);
        if n % 5 == 1 {
            merge(1, n - 4, n);
            (n - 4..=n).filter(|_| n % 3 == 0).for_each(|n| remove(&replica, 0, n, n));
        }
        if n % 20 == 1 {
            merge(2, n - 19, n);
            (0..4).for_each(|i| remove(&replica, 1, n - 19 + i * 5, n - 15 + i * 5));
        }
        eventually("the transaction", || session.refresh().unwrap() == Txid(n));
        assert!(image(&mut session).unwrap() == states[n as usize - 1], "{n}");
    }
    assert!(pinned_image(&mut slow).unwrap() == states[0]);
}

/// Databases that change a little each time, of 20 to 40 pages.
fn history(len: usize) -> Vec<Vec<u8>> {
    let mut states = vec![noise(1, 30, 512)];
    for n in 1..len {
        let mut next = states[n - 1].clone();
        let pages = 20 + n * 7 % 21;
        let grown = noise(n as u64 + 1_000, 40, 512);
        let had = next.len();
        next.resize(pages * 512, 0);
        if next.len() > had {
            next[had..].copy_from_slice(&grown[had..pages * 512]);
        }
        let changed = n * 11 % pages;
        next[changed * 512..(changed + 1) * 512].copy_from_slice(&grown[..512]);
        states.push(next);
    }
    states
}

#[test]
fn a_chain_that_is_begun_anew_is_told() {
    let (replica, states) = (Replica::new(), database_states());
    (1..=4).for_each(|n| put(&replica, &states, 0, n, n));
    let reader = Reader::new();
    let mut session = reader.open(&replica);
    assert!(image(&mut session).unwrap() == states[3]);
    session.pin().unwrap();
    let mut page = vec![0; 100];
    session.read(&mut page, 0).unwrap();
    // The same names with other content, and beyond.
    let others = history(8);
    (1..=4).for_each(|n| remove(&replica, 0, n, n));
    replica.put_snapshot(0, 1, &others[0], 512);
    for n in 2..=8_u64 {
        let (old, new) = (&others[n as usize - 2], &others[n as usize - 1]);
        replica.put_change(0, n, n, old, new, 512);
    }
    eventually("the new chain", || session.refresh().is_ok_and(|txid| txid == Txid(8)));
    match pinned_image(&mut session) {
        Ok(image) => assert!(image == states[3], "never the other chain"),
        Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound, "{e}"),
    }
    session.unpin();
    assert!(image(&mut session).unwrap() == others[7]);
    assert_eq!(reader.log.count(Level::Warn, &["begun anew"]), 1);
    assert_eq!(session.status().restarts, 1);
}

/// Not where the next transaction is asked for, and not behind a gap either.
#[test]
fn what_is_only_in_merged_files_is_found_while_the_end_is_still_there() {
    let (replica, states) = (Replica::new(), database_states());
    (1..=4).for_each(|n| put(&replica, &states, 0, n, n));
    let mut session = Reader::new().open(&replica);
    put(&replica, &states, 1, 2, 6);
    assert!((0..100).any(|_| session.refresh().unwrap() == Txid(6)));
    assert!(image(&mut session).unwrap() == states[5]);
    // Also at the level that is looked at least.
    let mut late = states.clone();
    late.push(noise(9, 30, PS));
    put(&replica, &late, 7, 5, 7);
    assert!((0..1_000).any(|_| session.refresh().unwrap() == Txid(7)));
    assert!(image(&mut session).unwrap() == late[6]);
}

/// As long as the one before, with the same names, and found after the newest
/// file had been merged.
#[test]
fn a_new_chain_with_the_same_names_is_found_within_a_few_polls() {
    let (replica, states) = (Replica::new(), database_states());
    (1..=4).for_each(|n| put(&replica, &states, 0, n, n));
    let mut session = Reader::new().open(&replica);
    put(&replica, &states, 1, 1, 4);
    (1..=4).for_each(|n| remove(&replica, 0, n, n));
    (0..40).for_each(|_| assert_eq!(session.refresh().unwrap(), Txid(4)));
    let others = history(4);
    remove(&replica, 1, 1, 4);
    replica.put_snapshot(1, 4, &others[3], 512);
    let found = (0..40).any(|_| {
        let _ = session.refresh();
        session.page_size() == 512
    });
    assert!(found);
    assert!(image(&mut session).unwrap() == others[3]);
}

#[test]
fn a_shorter_chain_is_believed_when_it_stays_so() {
    let (replica, states) = (Replica::new(), database_states());
    (1..=4).for_each(|n| put(&replica, &states, 0, n, n));
    let reader = Reader::new();
    let mut session = reader.open(&replica);
    (1..=4).for_each(|n| remove(&replica, 0, n, n));
    eventually("the empty replica", || session.refresh().is_err());
    assert!(session.status().error.unwrap().contains("empty now"));
    let other = noise(5, 12, 512);
    replica.put_snapshot(0, 1, &other, 512);
    eventually("the new chain", || session.refresh().is_ok_and(|txid| txid == Txid(1)));
    assert!(image(&mut session).unwrap() == other);
}

/// An hour of looks, one a second, while nothing is written.
#[test]
fn an_idle_hour_costs_a_request_a_second() {
    let (replica, states) = (Replica::new(), database_states());
    (1..=3).for_each(|n| put(&replica, &states, 0, n, n));
    let session = Reader::new().open(&replica);
    let cost_of_an_hour = || {
        let before = session.status().requests;
        (0..3_600).for_each(|_| assert_eq!(session.refresh().unwrap(), Txid(3)));
        let after = session.status().requests;
        (after.get - before.get, after.list - before.list)
    };
    let (gets, lists) = cost_of_an_hour();
    assert!(gets + lists <= 3_600, "{gets} GETs, {lists} listings");
    // The same after the newest file was merged and deleted.
    put(&replica, &states, 1, 1, 3);
    (1..=3).for_each(|n| remove(&replica, 0, n, n));
    let (gets, lists) = cost_of_an_hour();
    assert!(gets + lists <= 3_620, "{gets} GETs, {lists} listings");
}

#[test]
fn sessions_that_come_and_go_do_not_hold_polls_back() {
    let (replica, states) = (Replica::new(), database_states());
    replica.put_snapshot(0, 1, &states[0], PS);
    let reader = Reader::new();
    let options =
        SourceOptions { poll_interval: Duration::from_millis(50), ..quiet(&replica.url()) };
    let session = reader.sources.open(&options, Target::Latest).unwrap();
    put(&replica, &states, 0, 2, 2);
    eventually("the new transaction", || {
        drop(reader.sources.open(&options, Target::Latest).unwrap());
        session.txid() == Txid(2)
    });
}

#[test]
fn a_thousand_sessions_cost_what_one_costs() {
    let (replica, states) = (Replica::new(), database_states());
    (1..=5).for_each(|n| put(&replica, &states, 0, n, n));
    let reader = Reader::new();
    let mut sessions: Vec<_> = (0..1_000).map(|_| reader.open(&replica)).collect();
    let opened = sessions[0].status().requests;
    assert!(opened.list == 10 && opened.get <= 6, "{opened:?}");
    std::thread::scope(|scope| {
        for part in sessions.chunks_mut(125) {
            let state = &states[4];
            scope.spawn(move || {
                for session in part {
                    assert!(image(session).unwrap() == *state);
                }
            });
        }
    });
    let read = sessions[0].status().requests;
    assert!(read.list == 10 && read.get < 100, "{read:?}");
    put(&replica, &states, 0, 6, 6);
    sessions[0].refresh().unwrap();
    assert!(sessions.iter().all(|session| session.txid() == Txid(6)));
}

#[test]
fn many_threads_share_one_poller() {
    let (replica, states) = (Replica::new(), database_states());
    replica.put_snapshot(0, 1, &states[0], PS);
    let reader = Reader::new();
    let options =
        SourceOptions { poll_interval: Duration::from_millis(2), ..quiet(&replica.url()) };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let mut session = reader.sources.open(&options, Target::Latest).unwrap();
            let (states, done) = (&states, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    session.pin().unwrap();
                    let image = pinned_image(&mut session).unwrap();
                    assert!(image == states[session.txid().0 as usize - 1]);
                    session.unpin();
                }
                assert!(image(&mut session).unwrap() == *states.last().unwrap());
            });
        }
        let session = reader.sources.open(&options, Target::Latest).unwrap();
        for n in 2..=states.len() as u64 {
            put(&replica, &states, 0, n, n);
            eventually("the new transaction", || session.txid() == Txid(n));
        }
        assert_eq!(reader.sources.status().len(), 1);
        done.store(true, Ordering::Relaxed);
    });
}
