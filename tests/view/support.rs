//! Sessions on replicas made for the occasion.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use litestream::clock::{SeededRandom, SystemClock};
use litestream::log::{Level, Log};
use litestream::ltx::Txid;
use litestream::plan::Target;
use litestream::replica_client::{FaultClient, FaultPlan, ReplicaClient};
use litestream::restore::{ReplayOptions, RestoreOptions, restore};
use litestream::view::{Session, SourceOptions, Sources};
use litestream::{Error, Result};

use crate::common::clients::open_url;
use crate::common::replica::{Replica, database_states};

pub const PS: usize = 4096;
/// Longer than any test: who is looked for is found by asking.
pub const NEVER: Duration = Duration::from_secs(3_600);

/// Messages, kept.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Vec<(Level, String)>>);

impl Log for Kept {
    fn log(&self, level: Level, message: &str) {
        self.0.lock().unwrap().push((level, message.to_owned()));
    }
}

impl Kept {
    /// How many messages of at least `level` have all of `parts`.
    pub fn count(&self, level: Level, parts: &[&str]) -> usize {
        let has = |text: &str| parts.iter().all(|part| text.contains(part));
        self.0.lock().unwrap().iter().filter(|m| m.0 >= level && has(&m.1)).count()
    }
}

/// One process that reads replicas.
pub struct Reader {
    pub sources: Arc<Sources>,
    pub log: Arc<Kept>,
}

impl Reader {
    pub fn new() -> Reader {
        let log = Arc::new(Kept::default());
        Reader { sources: Sources::new(log.clone()), log }
    }

    /// A session that only looks when it is told to.
    pub fn open(&self, replica: &Replica) -> Session {
        self.sources.open(&quiet(&replica.url()), Target::Latest).unwrap()
    }

    pub fn open_client(&self, client: Arc<dyn ReplicaClient>) -> Result<Session> {
        self.sources.open_client(&quiet(client.url()), Target::Latest, client)
    }

    pub fn at(&self, replica: &Replica, target: Target) -> Result<Session> {
        self.sources.open(&quiet(&replica.url()), target)
    }
}

/// Options without polls.
pub fn quiet(url: &str) -> SourceOptions {
    SourceOptions { poll_interval: NEVER, ..SourceOptions::new(url) }
}

/// The whole database in one read and page by page in a transaction, which must
/// be the same.
pub fn image(session: &mut Session) -> Result<Vec<u8>> {
    session.pin()?;
    let image = pinned_image(session);
    session.unpin();
    image
}

/// [`image`] of the state that is pinned.
pub fn pinned_image(session: &mut Session) -> Result<Vec<u8>> {
    let (size, page_size) = (session.size() as usize, session.page_size() as usize);
    let mut all = vec![0xaa; size + 10];
    assert_eq!(session.read(&mut all, 0)?, size, "short at the end");
    all.truncate(size);
    let mut page = vec![0xbb; page_size];
    for (n, want) in all.chunks(page_size).enumerate() {
        assert_eq!(session.read(&mut page, (n * page_size) as u64)?, page_size);
        assert!(page == want, "page {} differs from itself", n + 1);
    }
    Ok(all)
}

/// What a restore of `target` gives.
pub fn restored(replica: &Replica, target: Target) -> Result<Vec<u8>> {
    restored_from(&open_url(&replica.url()), target)
}

/// The same from a client.
pub fn restored_from(client: &Arc<dyn ReplicaClient>, target: Target) -> Result<Vec<u8>> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.db");
    let options = RestoreOptions {
        output: output.clone(),
        target,
        within_bounds: false,
        force: false,
        replay: ReplayOptions::default(),
        check: None,
    };
    restore(client, runtime.handle(), &options)?;
    Ok(std::fs::read(output).unwrap())
}

/// A replica of a snapshot and one file per transaction, and the states.
pub fn chain() -> (Replica, Vec<Vec<u8>>) {
    let (replica, states) = (Replica::new(), database_states());
    replica.put_snapshot(9, 1, &states[0], PS);
    for txid in 2..=states.len() as u64 {
        put(&replica, &states, 0, txid, txid);
    }
    (replica, states)
}

/// Writes the file of `level` from the state before `min` to that after `max`.
pub fn put(replica: &Replica, states: &[Vec<u8>], level: u8, min: u64, max: u64) {
    let empty = Vec::new();
    let old = if min == 1 { &empty } else { &states[min as usize - 2] };
    replica.put_change(level, min, max, old, &states[max as usize - 1], PS);
}

pub fn remove(replica: &Replica, level: u8, min: u64, max: u64) {
    std::fs::remove_file(replica.file(level, min, max)).unwrap();
}

/// A client of `replica` that fails by a plan.
pub fn faulty(replica: &Replica, seed: u64) -> Arc<FaultClient<Arc<dyn ReplicaClient>>> {
    let random = Arc::new(SeededRandom::new(seed));
    let inner = open_url(&replica.url());
    Arc::new(FaultClient::new(inner, FaultPlan::default(), Arc::new(SystemClock), random))
}

/// Waits until `is`, or fails; the bound is generous.
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if is() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never: {what}");
}

pub fn txid(n: u64) -> Target {
    Target::Txid(Txid(n))
}

/// Whether an error says all of `parts`.
pub fn says(e: &Error, parts: &[&str]) -> bool {
    parts.iter().all(|part| e.to_string().contains(part))
}
