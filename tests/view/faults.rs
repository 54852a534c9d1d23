//! Storage that is away, lies or holds damaged files.

use std::fs;
use std::time::Duration;

use litestream::ErrorKind;
use litestream::log::Level;
use litestream::ltx::Txid;
use litestream::plan::Target;
use litestream::replica_client::FaultPlan;
use litestream::view::{Session, SourceOptions};

use crate::common::replica::{Replica, at, change, database_states, noise};
use crate::support::{PS, Reader, chain, eventually, faulty, image, put, quiet, says};

/// A replica whose only file has 400 pages of 512 bytes.
fn large() -> (Replica, Vec<u8>) {
    let (replica, state) = (Replica::new(), noise(3, 400, 512));
    replica.put_snapshot(9, 1, &state, 512);
    (replica, state)
}

fn read_page(session: &mut Session, pgno: u64) -> litestream::Result<Vec<u8>> {
    let mut page = vec![0; session.page_size() as usize];
    let offset = (pgno - 1) * page.len() as u64;
    session.read(&mut page, offset).map(|_| page)
}

#[test]
fn storage_that_was_away_is_read_again() {
    let (replica, state) = large();
    let client = faulty(&replica, 1);
    let reader = Reader::new();
    let mut session = reader.open_client(client.clone()).unwrap();
    let first = read_page(&mut session, 1).unwrap();
    assert!(first == state[..512]);
    client.set_plan(FaultPlan::outage());
    assert!(read_page(&mut session, 1).unwrap() == first, "what is here is served");
    let e = read_page(&mut session, 399).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Transient, "{e}");
    for _ in 0..2 {
        let e = session.refresh().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Transient, "{e}");
    }
    let status = session.status();
    assert!(status.failures == 2 && status.error.unwrap().contains("injected fault"));
    assert!(reader.log.count(Level::Warn, &["poll failed", &replica.url()]) >= 1);
    client.set_plan(FaultPlan::default());
    assert!(image(&mut session).unwrap() == state);
    session.refresh().unwrap();
    let status = session.status();
    assert_eq!((status.failures, status.error), (0, None));
    assert_eq!(reader.log.count(Level::Info, &["answers again"]), 1);
}

#[test]
fn a_second_session_opens_while_storage_is_away() {
    let (replica, state) = large();
    let client = faulty(&replica, 1);
    let reader = Reader::new();
    let mut session = reader.open_client(client.clone()).unwrap();
    assert!(image(&mut session).unwrap() == state);
    client.set_plan(FaultPlan::outage());
    let mut second = reader.open_client(client).unwrap();
    assert!(image(&mut second).unwrap() == state);
}

#[test]
fn reads_fail_rather_than_be_older_than_allowed() {
    let (replica, state) = large();
    let client = faulty(&replica, 1);
    let limit = Duration::from_millis(50);
    let options = SourceOptions { max_staleness: Some(limit), ..quiet(&replica.url()) };
    let reader = Reader::new();
    let mut session = reader.sources.open_client(&options, Target::Latest, client.clone()).unwrap();
    std::thread::sleep(limit * 2);
    assert!(image(&mut session).unwrap() == state, "it looks before it fails");
    session.pin().unwrap();
    client.set_plan(FaultPlan::outage());
    std::thread::sleep(limit * 2);
    let e = read_page(&mut session, 1).unwrap_err();
    assert!(says(&e, &["max_staleness", "injected fault"]), "{e}");
    assert_eq!(e.kind(), ErrorKind::Transient);
    session.unpin();
    assert_eq!(session.pin().unwrap_err().kind(), ErrorKind::Transient);
    client.set_plan(FaultPlan::default());
    assert!(image(&mut session).unwrap() == state);
    // Who did not ask for it reads on, and a look back is never too old.
    let mut other = reader.sources.open(&options, Target::Txid(Txid(1))).unwrap();
    client.set_plan(FaultPlan::outage());
    std::thread::sleep(limit * 2);
    assert!(image(&mut other).unwrap() == state);
}

#[test]
fn r_41_damaged_files_are_refused_by_name() {
    let (replica, _) = large();
    let path = replica.file(9, 1, 1);
    let good = fs::read(&path).unwrap();
    let size = good.len();
    let flipped = |at: usize| {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        bad
    };
    let cases = [
        ("empty", Vec::new()),
        ("only a header", good[..100].to_vec()),
        ("half", good[..size / 2].to_vec()),
        ("the end missing", good[..size - 1].to_vec()),
        ("magic", flipped(0)),
        ("page size", flipped(10)),
        ("first transaction", flipped(23)),
        ("index length", flipped(size - 18)),
        ("index", flipped(size - 40)),
        ("end of index", flipped(size - 25)),
    ];
    for (what, bad) in cases {
        replica.put(9, 1, 1, &bad, at(1));
        let e = match Reader::new().at(&replica, Target::Latest) {
            Err(e) => e,
            Ok(_) => panic!("{what}"),
        };
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{what}: {e}");
        assert!(says(&e, &["level 9", "0000000000000001.ltx", &replica.url()]), "{what}: {e}");
    }
}

#[test]
fn a_damaged_page_is_an_error_and_others_are_read() {
    let (replica, state) = large();
    let path = replica.file(9, 1, 1);
    let mut bytes = fs::read(&path).unwrap();
    // The frame of page 300 says that it is another page.
    let frame = (0..bytes.len() - 6).find(|at| bytes[*at..*at + 6] == [0, 0, 1, 44, 0, 1]).unwrap();
    bytes[frame + 3] = 45;
    replica.put(9, 1, 1, &bytes, at(1));
    let mut session = Reader::new().open(&replica);
    let e = read_page(&mut session, 300).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
    assert!(says(&e, &["level 9"]), "{e}");
    assert!(read_page(&mut session, 299).unwrap() == state[298 * 512..299 * 512]);
}

#[test]
fn a_damaged_next_file_stops_following_until_it_is_whole() {
    let (replica, states) = (Replica::new(), database_states());
    put(&replica, &states, 0, 1, 1);
    let reader = Reader::new();
    let mut session = reader.open(&replica);
    let good = change(2, 2, &states[0], &states[1], PS);
    for bad in [&good[..0], &good[..good.len() / 2], &[&good[..], b"x"].concat()] {
        replica.put(0, 2, 2, bad, at(2));
        for _ in 0..3 {
            let e = session.refresh().unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
            assert!(says(&e, &["0000000000000002.ltx"]), "{e}");
        }
        assert!(image(&mut session).unwrap() == states[0]);
        assert!(session.status().error.is_some());
    }
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    replica.put(0, 2, 2, &bad, at(2));
    assert_eq!(session.refresh().unwrap_err().kind(), ErrorKind::Corrupt);
    replica.put(0, 2, 2, &good, at(2));
    assert_eq!(session.refresh().unwrap(), Txid(2));
    assert!(image(&mut session).unwrap() == states[1]);
}

/// A file of another name would be applied at the wrong place.
#[test]
fn a_file_under_another_files_name_is_refused() {
    let (replica, states) = (Replica::new(), database_states());
    put(&replica, &states, 0, 1, 1);
    let session = Reader::new().open(&replica);
    replica.put(0, 2, 2, &change(3, 3, &states[0], &states[2], PS), at(2));
    let e = session.refresh().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
    assert!(says(&e, &["it holds 0000000000000003"]), "{e}");
}

#[test]
fn slow_and_failing_storage_is_read_without_a_wrong_page() {
    for seed in 0..4 {
        let (replica, states) = chain();
        let client = faulty(&replica, seed);
        client.set_plan(FaultPlan {
            refuse: 0.1,
            truncated_read: 0.1,
            delay_probability: 0.2,
            delay: Duration::from_millis(5),
            ..FaultPlan::default()
        });
        let reader = Reader::new();
        let mut open = None;
        eventually("an open", || {
            open = reader.open_client(client.clone()).ok();
            open.is_some()
        });
        let mut session = open.unwrap();
        eventually("an answer", || match image(&mut session) {
            Ok(image) => {
                assert!(image == *states.last().unwrap());
                true
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Transient, "{e}");
                false
            }
        });
    }
}
