//! Restores from storage that fails, lies or changes under the reader.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::clients::{Scripted, open_url};
use common::names;
use common::replica::{Replica, database_states, encode, noise};
use litestream::clock::{ManualClock, SeededRandom};
use litestream::ltx::Pgno;
use litestream::plan::{RestorePlan, Target, calc_restore_plan, list_levels};
use litestream::replica_client::{FaultClient, FaultPlan, FileId, ReplicaClient};
use litestream::restore::{
    PageSink, ReplayOptions, ReplaySummary, RestoreOptions, replay, restore,
};
use litestream::{Error, ErrorKind, Result};
use tokio::runtime::Runtime;

const PS: usize = 4096;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Options whose pauses take no time.
fn fast() -> ReplayOptions {
    let mut options = ReplayOptions::default();
    options.retrier.clock = Arc::new(ManualClock::new(0));
    options
}

fn restore_with(client: Arc<dyn ReplicaClient>, out: &Path, force: bool) -> Result<ReplaySummary> {
    let options = RestoreOptions {
        output: out.to_owned(),
        target: Target::Latest,
        within_bounds: false,
        force,
        replay: fast(),
        check: None,
    };
    restore(&client, runtime().handle(), &options)
}

/// Restores to a fresh path: the bytes, or the error; nothing else may remain.
fn restored(client: Arc<dyn ReplicaClient>) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("app.db");
    match restore_with(client, &out, false) {
        Ok(_) => {
            assert_eq!(names(dir.path()), ["app.db"]);
            Ok(fs::read(&out).unwrap())
        }
        Err(e) => {
            assert_eq!(names(dir.path()), [""; 0]);
            Err(e)
        }
    }
}

fn fails(replica: &Replica, kind: ErrorKind, parts: &[&str]) {
    let e = restored(open_url(&replica.url())).unwrap_err();
    assert_eq!(e.kind(), kind, "{e}");
    for part in parts {
        assert!(e.to_string().contains(part), "no {part:?} in: {e}");
    }
}

/// A replica of single-transaction files and its newest state.
fn chain() -> (Replica, Vec<u8>) {
    let replica = Replica::new();
    let states = database_states();
    replica.put_snapshot(9, 1, &states[0], PS);
    for (n, pair) in states.windows(2).enumerate() {
        let txid = n as u64 + 2;
        replica.put_change(0, txid, txid, &pair[0], &pair[1], PS);
    }
    (replica, states.last().unwrap().clone())
}

#[test]
fn growth_shrink_and_regrowth_give_the_newest_state() {
    let (replica, newest) = chain();
    assert_eq!(restored(open_url(&replica.url())).unwrap(), newest);
}

/// Checks the contract of a sink while it collects the pages.
struct Collect {
    page_size: usize,
    pages: Vec<Option<Vec<u8>>>,
}

impl PageSink for Collect {
    fn begin(&mut self, page_size: u32, commit: Pgno) -> Result<()> {
        assert!(self.pages.is_empty());
        self.page_size = page_size as usize;
        self.pages = vec![None; commit as usize];
        Ok(())
    }

    fn page(&mut self, pgno: Pgno, data: &[u8]) -> Result<()> {
        assert_eq!(data.len(), self.page_size);
        let slot = &mut self.pages[pgno as usize - 1];
        assert!(slot.replace(data.to_vec()).is_none(), "page {pgno} twice");
        Ok(())
    }
}

fn latest_plan(client: &dyn ReplicaClient, rt: &Runtime) -> RestorePlan {
    let levels = rt.block_on(list_levels(client, false)).unwrap();
    calc_restore_plan(&levels, Target::Latest).unwrap()
}

#[test]
fn a_sink_gets_every_page_once() {
    let (replica, newest) = chain();
    let (client, rt) = (open_url(&replica.url()), runtime());
    let plan = latest_plan(client.as_ref(), &rt);
    let mut sink = Collect { page_size: 0, pages: Vec::new() };
    let summary = replay(client, rt.handle(), &plan, &fast(), &mut sink).unwrap();
    let pages: Vec<u8> = sink.pages.into_iter().flat_map(Option::unwrap).collect();
    assert_eq!(pages, newest);
    assert_eq!(summary.pages * PS as u64, newest.len() as u64);
    assert_eq!(summary.txid, plan.max_txid());
}

#[test]
fn a_sink_may_refuse() {
    struct Refuse;
    impl PageSink for Refuse {
        fn begin(&mut self, _: u32, _: Pgno) -> Result<()> {
            Ok(())
        }
        fn page(&mut self, _: Pgno, _: &[u8]) -> Result<()> {
            Err(Error::new(ErrorKind::Full, "the sink is full"))
        }
    }
    let (replica, _) = chain();
    let (client, rt) = (open_url(&replica.url()), runtime());
    let plan = latest_plan(client.as_ref(), &rt);
    let e = replay(client, rt.handle(), &plan, &fast(), &mut Refuse).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Full);
}

/// Counts pages and refuses the lock page.
struct Count {
    lock: Pgno,
    pages: u32,
}

impl PageSink for Count {
    fn begin(&mut self, page_size: u32, commit: Pgno) -> Result<()> {
        self.lock = litestream::ltx::lock_pgno(page_size);
        assert_eq!(commit, self.lock + 1);
        Ok(())
    }

    fn page(&mut self, pgno: Pgno, _: &[u8]) -> Result<()> {
        assert_ne!(pgno, self.lock);
        self.pages += 1;
        Ok(())
    }
}

#[test]
fn r_55_the_lock_page_is_neither_delivered_nor_missed() {
    const LARGE: usize = 65_536;
    let lock = litestream::ltx::lock_pgno(LARGE as u32);
    let (replica, page) = (Replica::new(), vec![0; LARGE]);
    let pages: Vec<(Pgno, &[u8])> =
        (1..=lock + 1).filter(|&n| n != lock).map(|n| (n, page.as_slice())).collect();
    replica.put(9, 1, 1, &encode(1, 1, lock + 1, LARGE, &pages), 1);
    let (client, rt) = (open_url(&replica.url()), runtime());
    let plan = latest_plan(client.as_ref(), &rt);
    let mut sink = Count { lock: 0, pages: 0 };
    let summary = replay(client, rt.handle(), &plan, &fast(), &mut sink).unwrap();
    assert_eq!((summary.commit, sink.pages), (lock + 1, lock));
}

#[test]
fn r_41_empty_and_truncated_files_are_named() {
    let (replica, _) = chain();
    let path = replica.file(0, 3, 3);
    let whole = fs::read(&path).unwrap();
    for size in [0, 99] {
        fs::write(&path, &whole[..size]).unwrap();
        let text = format!(
            "invalid ltx file: level=0 min=0000000000000003 max=0000000000000003 \
             has size {size} bytes (minimum 100)"
        );
        fails(&replica, ErrorKind::Corrupt, &[&text]);
    }
    for size in [100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..size]).unwrap();
        fails(&replica, ErrorKind::Corrupt, &["0000000000000003-0000000000000003.ltx", "level 0"]);
    }
}

#[test]
fn every_flipped_byte_is_noticed() {
    let (replica, newest) = chain();
    let path = replica.file(0, 2, 2);
    let whole = fs::read(&path).unwrap();
    let step = (whole.len() / 150).max(1);
    for at in (0..whole.len()).step_by(step).chain(whole.len() - 140..whole.len()) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        match restored(open_url(&replica.url())) {
            // A compressed page may have several forms.
            Ok(bytes) => assert_eq!(bytes, newest, "byte {at}"),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "byte {at}: {e}"),
        }
    }
}

#[test]
fn a_file_under_another_name_is_refused() {
    let (replica, _) = chain();
    fs::copy(replica.file(0, 4, 4), replica.file(0, 5, 5)).unwrap();
    fails(&replica, ErrorKind::Corrupt, &["0000000000000005-0000000000000005.ltx", "header says"]);
}

#[test]
fn files_of_another_page_size_are_refused() {
    let (replica, _) = chain();
    let page = noise(3, 1, 512);
    replica.put(0, 7, 7, &encode(7, 7, 4, 512, &[(1, &page)]), 1);
    fails(&replica, ErrorKind::Corrupt, &["page size is 4096, that of newer files 512"]);
}

#[test]
fn missing_pages_are_named() {
    let replica = Replica::new();
    let pages = noise(4, 3, PS);
    let page = |n: usize| &pages[n * PS..(n + 1) * PS];
    replica.put(9, 1, 1, &encode(1, 1, 2, PS, &[(1, page(0)), (2, page(1))]), 1);
    replica.put(0, 2, 2, &encode(2, 2, 11, PS, &[(1, page(2)), (5, page(1))]), 2);
    let parts = ["replica", "is incomplete", "8 of 11 pages", "page 3, 4, 6, 7, 8, ..."];
    fails(&replica, ErrorKind::Corrupt, &parts);
}

#[test]
fn an_unbelievable_size_costs_no_memory() {
    let replica = Replica::new();
    let page = noise(5, 1, 65_536);
    replica.put(0, 1, 1, &encode(1, 1, 1, 65_536, &[(1, &page)]), 1);
    replica.put(0, 2, 2, &encode(2, 2, Pgno::MAX, 65_536, &[(Pgno::MAX, &page)]), 2);
    let e = restored(open_url(&replica.url())).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Full), "{e}");
}

/// Restores through faults of twenty seeds.
fn restores_despite(plan: FaultPlan) {
    let (replica, newest) = chain();
    for seed in 0..20 {
        let (clock, random) = (ManualClock::new(0), SeededRandom::new(seed));
        let inner = open_url(&replica.url());
        let faulty = FaultClient::new(inner, plan, Arc::new(clock), Arc::new(random));
        assert_eq!(restored(Arc::new(faulty)).unwrap(), newest, "seed {seed}");
    }
}

#[test]
fn r_38_downloads_that_break_off_go_on() {
    restores_despite(FaultPlan { truncated_read: 0.4, ..FaultPlan::default() });
}

#[test]
fn r_43_refused_requests_are_repeated() {
    restores_despite(FaultPlan { refuse: 0.25, ..FaultPlan::default() });
}

#[test]
fn r_38_storage_that_stays_away_is_given_up() {
    let (replica, _) = chain();
    let client = Scripted::new(&replica.url(), |_, _| Some(ErrorKind::Transient));
    let e = restored(client.clone()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Transient);
    assert!(e.to_string().contains("scripted failure"), "{e}");
    assert!(client.reads.load(Ordering::SeqCst) < 100);
}

#[test]
fn r_32_a_file_that_vanishes_leads_to_a_new_plan() {
    let (replica, newest) = chain();
    let gone = AtomicBool::new(false);
    let (old, merged, url) = (replica.file(0, 4, 4), replica.file(1, 2, 6), replica.url());
    // What a compactor does while we read: merge, then delete the inputs.
    let inputs: Vec<_> = (2..=6).map(|n| replica.file(0, n, n)).collect();
    let client = Scripted::new(&url, move |id: &FileId, _| {
        if id.level == 0 && !gone.swap(true, Ordering::SeqCst) {
            let files = inputs.iter().map(|p| fs::File::open(p).unwrap()).collect();
            let out = Vec::new();
            let form = litestream::ltx::PageForm::Block;
            let (bytes, ..) = litestream::compactor::merge(files, out, form).unwrap();
            fs::create_dir_all(merged.parent().unwrap()).unwrap();
            fs::write(&merged, bytes).unwrap();
            inputs.iter().for_each(|p| fs::remove_file(p).unwrap());
        }
        None
    });
    assert_eq!(restored(client.clone()).unwrap(), newest);
    assert!(!old.exists());
    assert_eq!(client.lists.load(Ordering::SeqCst), 20);
}

#[test]
fn r_32_new_plans_are_bounded() {
    let (replica, _) = chain();
    let client = Scripted::new(&replica.url(), |id: &FileId, _| {
        (id.level == 0).then_some(ErrorKind::NotFound)
    });
    let e = restored(client.clone()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Transient);
    assert!(e.to_string().contains("keep disappearing"), "{e}");
    assert_eq!(client.lists.load(Ordering::SeqCst), 50);
}

#[test]
fn r_45_an_existing_database_survives_a_failure_at_any_read() {
    let (replica, newest) = chain();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("app.db");
    fs::write(&out, b"old").unwrap();
    fs::write(dir.path().join("app.db-wal"), b"old wal").unwrap();
    let mut n = 0;
    loop {
        let client =
            Scripted::new(&replica.url(), move |_, i| (i == n).then_some(ErrorKind::Denied));
        match restore_with(client, &out, true) {
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Denied);
                assert_eq!(fs::read(&out).unwrap(), b"old");
                assert_eq!(names(dir.path()), ["app.db", "app.db-wal"]);
            }
            Ok(_) => break,
        }
        n += 1;
    }
    assert_eq!(n, 6);
    assert_eq!(fs::read(&out).unwrap(), newest);
    assert_eq!(names(dir.path()), ["app.db"]);
}

#[test]
fn r_80_parallelism_counts() {
    let (replica, newest) = chain();
    for parallelism in [1, 3, 64] {
        let client = Scripted::slow(&replica.url(), Duration::from_millis(20), |_, _| None);
        let (rt, dir) = (runtime(), tempfile::tempdir().unwrap());
        let out = dir.path().join("app.db");
        let options = RestoreOptions {
            output: out.clone(),
            target: Target::Latest,
            within_bounds: false,
            force: false,
            replay: ReplayOptions { parallelism, ..fast() },
            check: None,
        };
        let dynamic: Arc<dyn ReplicaClient> = client.clone();
        restore(&dynamic, rt.handle(), &options).unwrap();
        assert_eq!(fs::read(&out).unwrap(), newest);
        let files = 6;
        let running = client.running_max.load(Ordering::SeqCst);
        assert_eq!(running, files.min(parallelism as i64));
    }
}

#[test]
fn many_small_files_are_read_ahead() {
    let replica = Replica::new();
    let mut state = noise(7, 4, 512);
    replica.put_snapshot(9, 1, &state, 512);
    for txid in 2..=400u64 {
        let old = state.clone();
        let at = txid as usize % 4 * 512;
        state[at..at + 512].copy_from_slice(&noise(txid, 1, 512));
        replica.put_change(0, txid, txid, &old, &state, 512);
    }
    let client = Scripted::slow(&replica.url(), Duration::from_millis(10), |_, _| None);
    let start = std::time::Instant::now();
    assert_eq!(restored(client.clone()).unwrap(), state);
    // One after the other they take four seconds.
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(client.reads.load(Ordering::SeqCst), 400);
}
