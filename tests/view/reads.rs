//! What a session reads is what a restore gives.

use litestream::ErrorKind;
use litestream::ltx::Txid;
use litestream::plan::Target;
use litestream::view::SourceOptions;

use crate::common::Interop;
use crate::common::replica::{Replica, at, encode, noise};
use crate::support::{PS, Reader, chain, image, put, quiet, restored, says, txid};

#[test]
fn every_replica_of_litestream_reads_as_it_restores_at_every_transaction() {
    for interop in Interop::all() {
        let replica = Replica::copy(&interop.path());
        let reader = Reader::new();
        let mut newest = reader.open(&replica);
        assert!(image(&mut newest).unwrap() == restored(&replica, Target::Latest).unwrap());
        let last = newest.txid().0;
        let mut read = 0;
        for n in 1..=last + 1 {
            let session = reader.at(&replica, txid(n));
            match restored(&replica, txid(n)) {
                Ok(want) => {
                    let mut session = session.unwrap();
                    assert!(image(&mut session).unwrap() == want, "{} {n}", interop.name);
                    assert_eq!(session.txid(), Txid(n));
                    read += 1;
                }
                Err(_) => assert_eq!(session.unwrap_err().kind(), ErrorKind::NotFound),
            }
        }
        assert!(read > 1, "{}", interop.name);
    }
}

#[test]
fn every_replica_of_litestream_reads_as_it_restores_at_every_time() {
    for interop in Interop::all() {
        let replica = Replica::copy(&interop.path());
        let reader = Reader::new();
        let history = reader.open(&replica).history().unwrap();
        assert_eq!(history.len(), replica.files().len());
        let mut times: Vec<i64> = history.iter().map(|f| f.info.created_at_ms).collect();
        times.sort_unstable();
        times.dedup();
        for ms in times.iter().flat_map(|t| [t - 1, *t, t + 1]) {
            let target = Target::Timestamp(ms);
            match (reader.at(&replica, target), restored(&replica, target)) {
                (Ok(mut session), Ok(want)) => assert!(image(&mut session).unwrap() == want),
                (Err(e), Err(_)) => assert_eq!(e.kind(), ErrorKind::NotFound, "{e}"),
                (a, b) => panic!("{} {ms}: {:?} {:?}", interop.name, a.err(), b.err()),
            }
        }
    }
}

#[test]
fn a_database_that_shrinks_and_grows_reads_as_it_was() {
    let (replica, states) = chain();
    let sizes: Vec<usize> = states.iter().map(Vec::len).collect();
    assert!(sizes.windows(2).any(|s| s[1] < s[0]) && sizes.windows(2).any(|s| s[1] > s[0]));
    let reader = Reader::new();
    for (n, state) in states.iter().enumerate() {
        let mut session = reader.at(&replica, txid(n as u64 + 1)).unwrap();
        assert!(image(&mut session).unwrap() == *state, "{n}");
        assert_eq!(session.size(), state.len() as u64);
        assert_eq!(session.time_ms(), Some(at(n as u64 + 1)));
    }
}

#[test]
fn levels_may_interleave_and_overlap() {
    let (replica, states) = chain();
    put(&replica, &states, 1, 2, 3);
    put(&replica, &states, 1, 3, 5);
    put(&replica, &states, 2, 2, 4);
    put(&replica, &states, 9, 1, 3);
    let reader = Reader::new();
    assert!(image(&mut reader.open(&replica)).unwrap() == *states.last().unwrap());
    for n in 1..=states.len() as u64 {
        let mut session = reader.at(&replica, txid(n)).unwrap();
        assert!(image(&mut session).unwrap() == states[n as usize - 1], "{n}");
    }
}

#[test]
fn every_page_size_reads() {
    for shift in 9..=16 {
        let ps = 1 << shift;
        let (replica, state) = (Replica::new(), noise(shift, 30, ps));
        replica.put_snapshot(0, 1, &state, ps);
        let mut session = Reader::new().open(&replica);
        assert_eq!((session.page_size() as usize, session.commit()), (ps, 30));
        assert!(image(&mut session).unwrap() == state);
    }
}

#[test]
fn any_range_reads_and_ends_with_the_database() {
    let (replica, state) = (Replica::new(), noise(1, 9, 512));
    replica.put_snapshot(0, 1, &state, 512);
    let mut session = Reader::new().open(&replica);
    for offset in [0, 1, 24, 511, 512, 513, 2_000, 4_607, 4_608, 5_000] {
        for len in [0, 1, 16, 511, 512, 513, 1_500, 10_000] {
            let mut buf = vec![0xcc; len];
            let n = session.read(&mut buf, offset as u64).unwrap();
            let from = offset.min(state.len());
            let want = &state[from..(from + len).min(state.len())];
            assert!(buf[..n] == *want, "{offset} {len}");
            assert!(buf[n..].iter().all(|b| *b == 0xcc));
        }
    }
}

#[test]
fn a_page_that_no_file_holds_is_an_error() {
    let (replica, state) = (Replica::new(), noise(1, 4, 512));
    replica.put_snapshot(0, 1, &state, 512);
    let page = noise(2, 1, 512);
    replica.put(0, 2, 2, &encode(2, 2, 6, 512, &[(6, &page)]), at(2));
    let mut session = Reader::new().open(&replica);
    let mut buf = vec![0; 512];
    assert_eq!(session.read(&mut buf, 5 * 512).unwrap(), 512);
    assert!(buf == page);
    let e = session.read(&mut buf, 4 * 512).unwrap_err();
    assert!(e.kind() == ErrorKind::Corrupt && says(&e, &["page 5", &replica.url()]), "{e}");
    assert_eq!(restored(&replica, Target::Latest).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn the_lock_page_is_zeros() {
    // 65536-byte pages: the lock page is 16385, behind a gigabyte that is not stored.
    const PAGES: u32 = 16_390;
    let (replica, ps) = (Replica::new(), 65_536);
    let zeros = vec![0; ps];
    let last = noise(7, 1, ps);
    let pages: Vec<(u32, &[u8])> = (1..=PAGES)
        .filter(|pgno| *pgno != 16_385)
        .map(|pgno| (pgno, if pgno == PAGES { &last[..] } else { &zeros[..] }))
        .collect();
    replica.put(9, 1, 1, &encode(1, 1, PAGES, ps, &pages), at(1));
    let mut session = Reader::new().open(&replica);
    let mut page = vec![1; ps];
    assert_eq!(session.read(&mut page, 16_384 * ps as u64).unwrap(), ps);
    assert!(page == zeros);
    assert_eq!(session.read(&mut page, u64::from(PAGES - 1) * ps as u64).unwrap(), ps);
    assert!(page == last);
}

#[test]
fn an_empty_replica_fails_at_once_or_is_waited_for() {
    let replica = Replica::new();
    let e = Reader::new().at(&replica, Target::Latest).unwrap_err();
    assert!(e.kind() == ErrorKind::NotFound && says(&e, &["empty", &replica.url()]), "{e}");
    let e = Reader::new().at(&replica, txid(3)).unwrap_err();
    assert!(e.kind() == ErrorKind::NotFound && says(&e, &["empty"]), "{e}");

    let options = SourceOptions {
        poll_interval: std::time::Duration::from_millis(5),
        wait_timeout: crate::support::NEVER,
        ..SourceOptions::new(replica.url())
    };
    std::thread::scope(|scope| {
        let reader = Reader::new();
        let waiting = scope.spawn(move || {
            let mut session = reader.sources.open(&options, Target::Latest).unwrap();
            image(&mut session).unwrap()
        });
        std::thread::sleep(std::time::Duration::from_millis(30));
        let state = noise(1, 3, 512);
        replica.put_snapshot(0, 1, &state, 512);
        assert!(waiting.join().unwrap() == state);
    });
}

#[test]
fn a_chain_without_a_beginning_is_named() {
    let (replica, states) = (Replica::new(), chain().1);
    put(&replica, &states, 0, 3, 3);
    let e = Reader::new().at(&replica, Target::Latest).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
    assert!(says(&e, &[&replica.url(), "0000000000000003", "no snapshot"]), "{e}");
}

#[test]
fn sessions_at_different_times_share_one_source() {
    let (replica, states) = chain();
    let reader = Reader::new();
    let mut sessions: Vec<_> =
        (1..=states.len() as u64).map(|n| reader.at(&replica, txid(n)).unwrap()).collect();
    sessions.push(reader.open(&replica));
    assert_eq!(reader.sources.status().len(), 1);
    let mut sequences: Vec<u32> = sessions.iter().map(|s| s.sequence()).collect();
    sequences.sort_unstable();
    sequences.dedup();
    assert!(sequences.len() >= states.len());
    let twin = reader.at(&replica, txid(2)).unwrap();
    assert_eq!(twin.sequence(), sessions[1].sequence());
    for (session, state) in sessions.iter_mut().zip(&states) {
        assert!(image(session).unwrap() == *state);
    }
    drop((sessions, twin));
    assert!(reader.sources.status().is_empty());
}

#[test]
fn a_session_travels_and_comes_back() {
    let (replica, states) = chain();
    let reader = Reader::new();
    let mut session = reader.open(&replica);
    let newest = session.sequence();
    session.set_target(txid(2)).unwrap();
    assert_eq!((session.txid(), session.target(), session.lag()), (Txid(2), txid(2), None));
    assert!(image(&mut session).unwrap() == states[1]);
    assert!(session.sequence() != newest);
    let e = session.set_target(txid(99)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert_eq!(session.txid(), Txid(2), "nothing has changed");

    session.pin().unwrap();
    session.set_target(Target::Timestamp(at(4))).unwrap();
    assert_eq!(session.txid(), Txid(2), "what is pinned stays");
    session.unpin();
    assert_eq!(session.txid(), Txid(3));
    session.set_target(Target::Latest).unwrap();
    assert_eq!((session.sequence(), session.target()), (newest, Target::Latest));
    assert!(image(&mut session).unwrap() == *states.last().unwrap());
}

#[test]
fn settings_that_are_wrong_are_refused() {
    let reader = Reader::new();
    for (url, kind) in [
        ("/no/url", ErrorKind::InvalidInput),
        ("gs://bucket/x", ErrorKind::Unsupported),
        ("file:///x?unknown=1", ErrorKind::InvalidInput),
    ] {
        let e = reader.sources.open(&quiet(url), Target::Latest).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
    }
    assert!(reader.sources.status().is_empty());
    let _ = PS;
}
