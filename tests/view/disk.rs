//! The directory in which what was read is kept.

use std::path::Path;
use std::sync::Arc;

use litestream::ErrorKind;
use litestream::plan::Target;
use litestream::replica_client::{CountingClient, FaultPlan, ReplicaClient, RequestCounts};
use litestream::view::{Session, SourceOptions};

use crate::common::clients::open_url;
use crate::common::replica::{Replica, noise};
use crate::support::{PS, Reader, chain, eventually, faulty, image, put, quiet, says};

fn kept_in(dir: &Path, url: &str) -> SourceOptions {
    SourceOptions { cache_dir: Some(dir.to_owned()), ..quiet(url) }
}

fn open(
    reader: &Reader,
    options: &SourceOptions,
    client: Arc<dyn ReplicaClient>,
) -> litestream::Result<Session> {
    reader.sources.open_client(options, Target::Latest, client)
}

/// A client of `replica` and what passes through it.
fn counted(replica: &Replica) -> (Arc<dyn ReplicaClient>, Arc<RequestCounts>) {
    let counts = Arc::new(RequestCounts::default());
    (Arc::new(CountingClient::new(open_url(&replica.url()), counts.clone())), counts)
}

#[test]
fn a_later_process_fetches_nothing_again() {
    let (replica, state) = (Replica::new(), noise(9, 2_000, 4096));
    replica.put_snapshot(9, 1, &state, 4096);
    let dir = tempfile::tempdir().unwrap();
    let options = kept_in(dir.path(), &replica.url());
    let first = Reader::new();
    let mut session = open(&first, &options, counted(&replica).0).unwrap();
    assert!(image(&mut session).unwrap() == state);
    // What is on its way to the disk gets there while the session is open.
    eventually("everything is on the disk", || {
        let (client, counts) = counted(&replica);
        let mut later = open(&Reader::new(), &options, client).unwrap();
        assert!(image(&mut later).unwrap() == state);
        counts.snapshot().get == 0
    });
}

#[test]
fn a_replica_opens_without_storage_when_that_is_allowed() {
    let (replica, states) = chain();
    let last = states.len() as u64;
    let dir = tempfile::tempdir().unwrap();
    let allowed = SourceOptions { offline: true, ..kept_in(dir.path(), &replica.url()) };
    let away = || {
        let client = faulty(&replica, 4);
        client.set_plan(FaultPlan::outage());
        client
    };
    let e = open(&Reader::new(), &allowed, away()).unwrap_err();
    assert!(e.kind() == ErrorKind::Transient && says(&e, &["nothing was kept"]), "{e}");

    let first = Reader::new();
    let mut session = open(&first, &allowed, open_url(&replica.url())).unwrap();
    assert!(image(&mut session).unwrap() == states[last as usize - 1]);
    // One more transaction, found by following.
    let mut states = states;
    let mut newer = states[last as usize - 1].clone();
    newer[PS * 2 + 100] ^= 1;
    states.push(newer.clone());
    put(&replica, &states, 0, last + 1, last + 1);
    session.refresh().unwrap();
    assert!(image(&mut session).unwrap() == newer);

    eventually("everything is on the disk", || {
        let offline = Reader::new();
        let Ok(mut session) = open(&offline, &allowed, away()) else { return false };
        let Ok(found) = image(&mut session) else { return false };
        if found != newer {
            // The chain before the last transaction.
            assert!(found == states[last as usize - 1]);
            return false;
        }
        let status = offline.sources.status().remove(0);
        assert!(status.error.is_some() && status.lag.is_none(), "{status:?}");
        true
    });
    let refused = SourceOptions { offline: false, ..allowed.clone() };
    let e = open(&Reader::new(), &refused, away()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Transient, "{e}");
}

#[test]
fn storage_that_comes_back_is_followed() {
    let (replica, mut states) = chain();
    let last = states.len() as u64;
    let dir = tempfile::tempdir().unwrap();
    let allowed = SourceOptions { offline: true, ..kept_in(dir.path(), &replica.url()) };
    let first = Reader::new();
    let mut session = open(&first, &allowed, open_url(&replica.url())).unwrap();
    image(&mut session).unwrap();
    let client = faulty(&replica, 5);
    client.set_plan(FaultPlan::outage());
    let reader = Reader::new();
    let mut offline = None;
    eventually("the chain is on the disk", || {
        offline = open(&reader, &allowed, client.clone()).ok();
        offline.is_some()
    });
    let mut offline = offline.unwrap();
    let mut newer = states[last as usize - 1].clone();
    newer[PS + 7] ^= 1;
    states.push(newer.clone());
    put(&replica, &states, 0, last + 1, last + 1);
    client.set_plan(FaultPlan::default());
    offline.refresh().unwrap();
    assert!(image(&mut offline).unwrap() == newer);
    assert!(reader.sources.status()[0].lag.is_some());
}

#[test]
fn damage_in_the_directory_changes_nothing() {
    let (replica, state) = (Replica::new(), noise(5, 300, 4096));
    replica.put_snapshot(9, 1, &state, 4096);
    let dir = tempfile::tempdir().unwrap();
    let options = kept_in(dir.path(), &replica.url());
    for round in 0..8_u8 {
        let reader = Reader::new();
        let mut session = open(&reader, &options, open_url(&replica.url())).unwrap();
        assert!(image(&mut session).unwrap() == state);
        drop(session);
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            for at in (usize::from(round)..bytes.len()).step_by(997) {
                bytes[at] ^= 1 << (round % 8);
            }
            bytes.truncate(bytes.len() - bytes.len() / 9);
            std::fs::write(&path, bytes).unwrap();
        }
    }
}
