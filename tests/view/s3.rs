//! The same over S3 servers: ranges, versions, listings and times are theirs.

use std::sync::Arc;

use litestream::ErrorKind;
use litestream::ltx::Txid;
use litestream::plan::Target;
use litestream::replica_client::{Body, FileId, ReplicaClient, WriteMode};
use tokio::runtime::Runtime;

use crate::backends::Backend;
use crate::common::replica::{at, change, noise};
use crate::support::{Reader, eventually, image, pinned_image, quiet};

const PAGE: usize = 512;

struct Bucket {
    client: Arc<dyn ReplicaClient>,
    runtime: Runtime,
}

impl Bucket {
    fn new(backend: Backend) -> Bucket {
        let runtime = Runtime::new().unwrap();
        Bucket { client: backend.replica().client, runtime }
    }

    /// Writes the file that brings `states` from before `min` to after `max`.
    fn put(&self, states: &[Vec<u8>], level: u8, min: u64, max: u64, mode: WriteMode) {
        let empty = Vec::new();
        let old = if min == 1 { &empty } else { &states[min as usize - 2] };
        let bytes = change(min, max, old, &states[max as usize - 1], PAGE);
        let id = FileId::new(level, Txid(min), Txid(max));
        let written = self.client.write(&id, at(max), Body::Bytes(bytes.into()), mode);
        self.runtime.block_on(written).unwrap();
    }

    fn remove(&self, level: u8, min: u64, max: u64) {
        let id = FileId::new(level, Txid(min), Txid(max));
        self.runtime.block_on(self.client.delete(&[id])).unwrap();
    }
}

/// Databases of 400 pages of which half change each time.
fn states(seed: u64) -> Vec<Vec<u8>> {
    let base = noise(seed, 400, PAGE);
    let state = |n: u64| {
        let mut state = base.clone();
        let fresh = noise(seed + n, 200, PAGE);
        state[..fresh.len()].copy_from_slice(&fresh);
        state
    };
    (1..=6).map(state).collect()
}

fn a_replica_is_read_followed_and_read_on(backend: Backend) {
    let (bucket, states) = (Bucket::new(backend), states(1));
    bucket.put(&states, 9, 1, 1, WriteMode::Create);
    (2..=4).for_each(|n| bucket.put(&states, 0, n, n, WriteMode::Create));
    let reader = Reader::new();
    let mut session = reader.open_client(bucket.client.clone()).unwrap();
    let requests = session.status().requests;
    assert_eq!((requests.list, requests.head), (10, 0));
    assert_eq!(requests.get, 5, "one for each index, one for the newest header");
    assert!(image(&mut session).unwrap() == states[3]);

    // An earlier time, of the headers and not of the uploads.
    let options = quiet(bucket.client.url());
    let target = Target::Timestamp(at(3));
    let mut past = reader.sources.open_client(&options, target, bucket.client.clone()).unwrap();
    assert_eq!((past.txid(), past.time_ms()), (Txid(2), Some(at(2))));
    assert!(image(&mut past).unwrap() == states[1]);

    bucket.put(&states, 0, 5, 5, WriteMode::Create);
    assert_eq!(session.refresh().unwrap(), Txid(5));
    // Merged and deleted under a transaction, of which nothing is in memory.
    let mut cold = Reader::new().open_client(bucket.client.clone()).unwrap();
    cold.pin().unwrap();
    bucket.put(&states, 1, 2, 5, WriteMode::Create);
    (2..=5).for_each(|n| bucket.remove(0, n, n));
    assert!(pinned_image(&mut cold).unwrap() == states[4]);
    assert!(image(&mut session).unwrap() == states[4]);
    bucket.put(&states, 0, 6, 6, WriteMode::Create);
    eventually("the next file", || session.refresh().unwrap() == Txid(6));
    assert!(image(&mut session).unwrap() == states[5]);
}

fn a_replaced_object_is_never_mixed_in(backend: Backend) {
    let (bucket, states, others) = (Bucket::new(backend), states(1), states(77));
    bucket.put(&states, 9, 1, 1, WriteMode::Create);
    bucket.put(&states, 0, 2, 2, WriteMode::Create);
    let mut session = Reader::new().open_client(bucket.client.clone()).unwrap();
    session.pin().unwrap();
    let mut page = vec![0; PAGE];
    session.read(&mut page, 0).unwrap();
    bucket.put(&others, 9, 1, 1, WriteMode::Overwrite);
    bucket.put(&others, 0, 2, 2, WriteMode::Overwrite);
    let mut refused = 0;
    for n in 0..400 {
        match session.read(&mut page, (n * PAGE) as u64) {
            Ok(_) => assert!(page == states[1][n * PAGE..(n + 1) * PAGE], "{n}"),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    session.unpin();
    eventually("the other chain", || image(&mut session).is_ok_and(|image| image == others[1]));
}

macro_rules! on_servers {
    ($($test:ident),*) => {
        mod ministack {
            $(#[test] fn $test() { super::$test(super::Backend::Ministack); })*
        }
        mod seaweedfs {
            $(#[test] fn $test() { super::$test(super::Backend::Seaweedfs); })*
        }
    };
}

on_servers!(a_replica_is_read_followed_and_read_on, a_replaced_object_is_never_mixed_in);
