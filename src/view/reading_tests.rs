//! What reading a replica costs, told by a reader of b-trees that asks for pages as
//! SQLite does. Run with a replica of a database whose first table is
//! `t(id INTEGER PRIMARY KEY, ...)`:
//!
//! ```text
//! READ_BENCH='s3://bucket/app?endpoint=http://127.0.0.1:9000' \
//!   cargo test --release -p litestream --lib reading -- --ignored --nocapture
//! ```

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use super::build::build;
use super::fetch::Fetcher;
use super::load::Files;
use super::page_cache::PageCache;
use super::prefetch::Readahead;
use super::state::View;
use crate::ltx::Pgno;
use crate::plan::Target;
use crate::replica_client::{
    CountingClient, ReplicaClient, ReplicaOptions, RequestCounts, Retrier, RetryPolicy, open,
};
use crate::tasks::{self, Runtime};

/// Pages that SQLite keeps by default, at 4 KiB each.
const PAGER_PAGES: usize = 500;

struct Bench {
    runtime: Runtime,
    counts: Arc<RequestCounts>,
    client: Arc<dyn ReplicaClient>,
}

struct Reader<'a> {
    fetcher: &'a Fetcher,
    view: &'a View,
    ahead: Readahead,
    pager: HashMap<Pgno, Vec<u8>>,
    order: VecDeque<Pgno>,
}

impl Reader<'_> {
    fn page(&mut self, pgno: Pgno) -> Vec<u8> {
        if let Some(page) = self.pager.get(&pgno) {
            return page.clone();
        }
        let mut page = vec![0; self.view.page_size() as usize];
        self.fetcher.page(self.view, pgno, &mut self.ahead, &mut page).unwrap();
        let full = self.order.len() == PAGER_PAGES;
        if let Some(old) = full.then(|| self.order.pop_front()).flatten() {
            self.pager.remove(&old);
        }
        // Interior pages are read again and again, so SQLite keeps them.
        if !matches!(page[0], 2 | 5) {
            self.order.push_back(pgno);
        }
        self.pager.insert(pgno, page.clone());
        page
    }

    fn children(&self, page: &[u8], pgno: Pgno) -> Option<Vec<Pgno>> {
        super::btree::children(page, pgno, self.view.commit())
    }

    /// Reads every page of a tree in key order; the number of its leaves.
    fn scan(&mut self, root: Pgno) -> usize {
        let page = self.page(root);
        match self.children(&page, root) {
            Some(children) => children.into_iter().map(|child| self.scan(child)).sum(),
            None => 1,
        }
    }

    /// Reads down to the leaf of row `id`; the last one when it is beyond.
    fn lookup(&mut self, root: Pgno, id: u64) {
        let mut pgno = root;
        loop {
            let page = self.page(pgno);
            let Some(children) = self.children(&page, pgno) else { return };
            let cells = children.len() - 1;
            let key = |n: usize| {
                let at = usize::from(u16::from_be_bytes([page[12 + 2 * n], page[13 + 2 * n]]));
                varint(&page[at + 4..])
            };
            let n = (0..cells).find(|n| key(*n) >= id).unwrap_or(cells);
            pgno = children[n];
        }
    }
}

fn varint(bytes: &[u8]) -> u64 {
    let mut value = 0;
    for byte in bytes {
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn memory_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

impl Bench {
    fn start(url: &str) -> Bench {
        let runtime = Runtime::start().unwrap();
        let counts = Arc::new(RequestCounts::default());
        let client = open(url, &ReplicaOptions::default()).unwrap();
        let client = Arc::new(CountingClient::new(client, counts.clone()));
        Bench { runtime, counts, client }
    }

    fn open(&self, cache: usize) -> (Fetcher, View) {
        let options = ReplicaOptions::default();
        let (policy, clock, random) = (RetryPolicy::default(), options.clock, options.random);
        let files = Files::new(self.client.clone(), Retrier { policy, clock, random }, None);
        let handle = self.runtime.handle();
        let built = handle.block_on(build(&files, Target::Latest)).unwrap().unwrap();
        let fetcher =
            Fetcher::new(self.client.clone(), handle, Arc::new(PageCache::new(cache)), None);
        for loaded in &built.loaded {
            if let Some(front) = &loaded.front {
                fetcher.give(&loaded.file, 0, front);
            }
        }
        (fetcher, built.view)
    }

    /// Runs `work` and prints what it took.
    fn measure<T>(&self, name: &str, work: impl FnOnce() -> T) -> T {
        let before = self.counts.snapshot();
        let start = tasks::now();
        let result = work();
        let took = start.elapsed();
        let after = self.counts.snapshot();
        println!(
            "{name:24} {:8.1} ms  {:3} lists {:4} gets {:6.1} MB  rss {} MiB (most {})",
            took.as_secs_f64() * 1e3,
            after.list - before.list,
            after.get - before.get,
            (after.bytes_down - before.bytes_down) as f64 / 1e6,
            memory_kib("VmRSS") / 1024,
            memory_kib("VmHWM") / 1024,
        );
        result
    }
}

fn reader<'a>(fetcher: &'a Fetcher, view: &'a View) -> Reader<'a> {
    let (ahead, pager) = (Readahead::default(), HashMap::new());
    Reader { fetcher, view, ahead, pager, order: VecDeque::new() }
}

#[test]
#[ignore = "a measurement"]
fn reading_costs() {
    let url = std::env::var("READ_BENCH").unwrap();
    let bench = Bench::start(&url);
    let (fetcher, view) = bench.measure("open", || {
        let (fetcher, view) = bench.open(64 << 20);
        reader(&fetcher, &view).lookup(2, 1);
        (fetcher, view)
    });
    let mut points = reader(&fetcher, &view);
    bench.measure("last row", || points.lookup(2, u64::MAX));
    let mut draw = 88_172_645_463_325_252_u64;
    let mut random = || {
        draw ^= draw << 13;
        draw ^= draw >> 7;
        draw ^= draw << 17;
        (draw >> 1) % 187_245 + 1
    };
    bench.measure("200 lookups", || (0..200).for_each(|_| points.lookup(2, random())));
    bench.measure("200 more", || (0..200).for_each(|_| points.lookup(2, random())));
    println!("{:?}", fetcher.totals());
    drop(points);
    drop(fetcher);
    for cache in [64 << 20, 128 << 20] {
        let (fetcher, view) = bench.measure("open", || bench.open(cache));
        for name in ["scan, cold", "scan again", "and again"] {
            let leaves = bench.measure(name, || reader(&fetcher, &view).scan(2));
            assert!(leaves > 1_000);
        }
        println!("{:?}", fetcher.totals());
    }
    let (fetcher, view) = bench.open(64 << 20);
    bench.measure("index, cold", || reader(&fetcher, &view).scan(3));
    let (fetcher, view) = bench.open(64 << 20);
    bench.measure("all pages by number", || {
        let mut reader = reader(&fetcher, &view);
        (1..=view.commit()).for_each(|pgno| drop(reader.page(pgno)));
    });
    bench.measure("one plain read", || plain_read(&bench, &view));
    bench.runtime.shutdown_timeout(Duration::from_secs(1));
}

fn plain_read(bench: &Bench, view: &View) {
    let id = view.newest().id;
    bench.runtime.handle().block_on(bench.client.read(&id, 0, None)).unwrap();
}
