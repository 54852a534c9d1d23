use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::clock::{Random, SeededRandom};
use crate::tasks::Runtime;
use crate::view::btree::interior_page;
use crate::view::testing::{Fault, Storage, leaf, leaves, view_of};

const PAGE: usize = 4096;

struct World {
    storage: Arc<Storage>,
    fetcher: Arc<Fetcher>,
    view: Arc<View>,
    pages: BTreeMap<Pgno, Vec<u8>>,
    _runtime: Runtime,
}

impl World {
    fn new(pages: BTreeMap<Pgno, Vec<u8>>, cache: usize) -> World {
        let storage = Arc::new(Storage::default());
        let commit = *pages.keys().next_back().unwrap();
        let view = Arc::new(view_of(&[(storage.add(1, &pages), commit)]));
        let runtime = Runtime::start().unwrap();
        let cache = Arc::new(PageCache::new(cache));
        let fetcher = Arc::new(Fetcher::new(storage.clone(), runtime.handle(), cache, None));
        World { storage, fetcher, view, pages, _runtime: runtime }
    }

    fn read(&self, pgno: Pgno, reader: &mut Readahead) -> Result<()> {
        let mut buf = vec![0; self.view.page_size() as usize];
        self.fetcher.page(&self.view, pgno, reader, &mut buf)?;
        assert_eq!(buf, self.pages[&pgno], "page {pgno}");
        Ok(())
    }

    fn scan(&self, order: impl IntoIterator<Item = Pgno>) -> usize {
        let before = self.storage.requests();
        let mut reader = Readahead::default();
        for pgno in order {
            self.read(pgno, &mut reader).unwrap();
        }
        self.storage.requests() - before
    }
}

/// A tree on page 2 with `leaves` in key order, spread over a database.
fn tree(key_order: &[Pgno], fanout: usize, page: usize) -> (BTreeMap<Pgno, Vec<u8>>, Vec<Pgno>) {
    let last = *key_order.iter().max().unwrap();
    let mut pages = leaves(last, page);
    let (mut order, mut inner) = (vec![2], Vec::new());
    for (pgno, group) in (last + 1..).zip(key_order.chunks(fanout)) {
        pages.insert(pgno, interior_page(group, page));
        inner.push(pgno);
        order.push(pgno);
        order.extend(group);
    }
    pages.insert(2, interior_page(&inner, page));
    (pages, order)
}

#[test]
fn every_page_is_served_right() {
    for len in [512, 4096, 65536] {
        let count = if len == 65536 { 60 } else { 500 };
        let world = World::new(leaves(count, len), 1 << 20);
        let random = SeededRandom::new(len as u64);
        let mut reader = Readahead::default();
        for _ in 0..3_000 {
            world.read(random.next_u64() as u32 % count + 1, &mut reader).unwrap();
        }
        world.scan(1..=count);
        world.scan((1..=count).rev());
        assert!(world.storage.most() <= 16);
    }
}

#[test]
fn random_reads_take_one_request_each_at_most() {
    let world = World::new(leaves(20_000, PAGE), 64 << 20);
    world.storage.set_latency(Duration::from_millis(1));
    let random = SeededRandom::new(5);
    let requests = world.scan((0..200).map(|_| random.next_u64() as u32 % 20_000 + 1));
    assert!(requests <= 200, "{requests}");
    assert!(requests > 90, "{requests}");
}

#[test]
fn a_scan_takes_few_large_requests() {
    let world = World::new(leaves(20_000, PAGE), 1 << 20);
    for order in [(1..=20_000).collect::<Vec<_>>(), (1..=20_000).rev().collect()] {
        let before = world.storage.bytes();
        let requests = world.scan(order);
        let fetched = world.storage.bytes() - before;
        assert!(requests < 280, "{requests}");
        assert!(fetched < 90 << 20, "{fetched}");
    }
}

#[test]
fn a_tree_is_read_ahead_in_the_order_of_its_children() {
    // Leaves lie in an order that page numbers do not tell.
    let random = SeededRandom::new(12);
    let mut leaves: Vec<Pgno> = (3..=6_000).collect();
    for n in (1..leaves.len()).rev() {
        leaves.swap(n, random.next_u64() as usize % (n + 1));
    }
    let (pages, order) = tree(&leaves, 300, PAGE);
    let world = World::new(pages, 64 << 20);
    world.storage.set_latency(Duration::from_millis(5));
    world.scan(order.iter().copied());
    assert!(world.storage.most() >= 8, "{}", world.storage.most());
    // Now what a cursor does that goes down the keys.
    let world = World::new(world.pages, 64 << 20);
    world.storage.set_latency(Duration::from_millis(5));
    let mut down = vec![2];
    for group in order[1..].chunks(301).rev() {
        down.push(group[0]);
        down.extend(group[1..].iter().rev());
    }
    world.scan(down);
    assert!(world.storage.most() >= 8, "{}", world.storage.most());
}

#[test]
fn lookups_in_a_tree_bring_nothing_ahead() {
    let (pages, _) = tree(&(3..=15_000).collect::<Vec<_>>(), 300, PAGE);
    let world = World::new(pages, 64 << 20);
    let random = SeededRandom::new(3);
    let mut order = Vec::new();
    for _ in 0..100 {
        let leaf = random.next_u64() as u32 % 14_998 + 3;
        order.extend([2, 15_001 + (leaf - 3) / 300, leaf]);
    }
    let reads = order.len();
    let requests = world.scan(order);
    assert!(requests <= 160, "{requests} of {reads}");
    assert!(world.fetcher.totals().ranges.wasted == 0);
}

#[test]
fn interleaved_scans_keep_their_own_windows() {
    let world = World::new(leaves(20_000, PAGE), 1 << 20);
    let (a, b) = (1..=6_000, 10_001..=16_000);
    let requests = world.scan(a.zip(b).flat_map(|(a, b)| [a, b]));
    assert!(requests < 240, "{requests}");
}

#[test]
fn connections_share_requests() {
    let world = Arc::new(World::new(leaves(3_000, PAGE), 64 << 20));
    world.storage.set_latency(Duration::from_millis(3));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let world = world.clone();
            std::thread::spawn(move || world.scan(1..=3_000))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(world.storage.bytes() < 14 << 20, "{}", world.storage.bytes());
    assert!(world.storage.most() <= 16);
}

#[test]
fn newer_files_win_and_their_bytes_are_taken() {
    let world = World::new(leaves(100, PAGE), 64 << 20);
    let mut reader = Readahead::default();
    world.read(7, &mut reader).unwrap();
    let changed: BTreeMap<Pgno, Vec<u8>> = [(7, leaf(7, 2, PAGE)), (9, leaf(9, 2, PAGE))].into();
    let newer = world.storage.add(2, &changed);
    let older = world.view.index().get(1).unwrap().0.clone();
    let view = view_of(&[(older, 100), (newer.clone(), 100)]);
    let content = world.storage.content(&newer);
    world.fetcher.absorb(&newer, &content, &world.view);
    let before = world.storage.requests();
    let mut buf = vec![0; PAGE];
    world.fetcher.page(&view, 7, &mut reader, &mut buf).unwrap();
    assert_eq!(buf, changed[&7]);
    world.fetcher.page(&world.view, 7, &mut reader, &mut buf).unwrap();
    assert_eq!(buf, world.pages[&7]);
    assert_eq!(world.storage.requests(), before);
}

#[test]
fn a_garbled_answer_is_asked_for_again_and_never_served() {
    let world = World::new(leaves(100, PAGE), 1 << 20);
    let mut reader = Readahead::default();
    tasks::lock(&world.storage.faults).push_back(Fault::Garbled);
    world.read(50, &mut reader).unwrap();
    assert_eq!(world.storage.requests(), 2);
    tasks::lock(&world.storage.faults).extend([Fault::Garbled; 2]);
    let error = world.read(5, &mut reader).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let text = error.to_string();
    for part in ["page 5 ", "level 0 ", "memory://storage"] {
        assert!(text.contains(part), "{text}");
    }
    world.read(5, &mut reader).unwrap();
}

#[test]
fn a_frame_of_another_page_is_never_served() {
    // An index that gives the place of page 3 to page 4.
    let world = World::new(leaves(8, PAGE), 1 << 20);
    let file = world.view.index().get(3).unwrap().0.clone();
    let mut frame = file.index.get(2).unwrap();
    frame.pgno = 4;
    let mut buf = vec![0; PAGE];
    let error = world.fetcher.obtain(&file, &frame, false, &mut buf).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("page 3 is in its place"), "{error}");
}

#[test]
fn errors_reach_who_waits_and_pass() {
    let world = World::new(leaves(3_000, PAGE), 1 << 20);
    let mut reader = Readahead::default();
    for kind in [ErrorKind::Transient, ErrorKind::Denied] {
        tasks::lock(&world.storage.faults).push_back(Fault::Fails(kind));
        assert_eq!(world.read(50, &mut reader).unwrap_err().kind(), kind);
    }
    world.read(50, &mut reader).unwrap();
    let file = world.view.index().get(1).unwrap().0.clone();
    world.storage.remove(&file.id);
    assert_eq!(world.read(2_000, &mut reader).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(world.fetcher.downloads.ranges.totals().under_way, 0);
}

#[test]
fn failures_ahead_of_a_reader_are_not_its_errors() {
    let world = World::new(leaves(3_000, PAGE), 1 << 20);
    let mut reader = Readahead::default();
    for pgno in 1..=3_000 {
        if pgno % 100 == 0 {
            let faults = [Fault::Fails(ErrorKind::Transient)];
            // Whatever is asked for next, for this page or ahead of it.
            tasks::lock(&world.storage.faults).extend(faults);
        }
        if world.read(pgno, &mut reader).is_err() {
            tasks::lock(&world.storage.faults).clear();
            world.read(pgno, &mut reader).unwrap();
        }
    }
}

#[test]
fn a_page_that_no_file_holds_is_an_error() {
    let world = World::new(leaves(10, PAGE), 1 << 20);
    let mut buf = vec![0; PAGE];
    let mut reader = Readahead::default();
    for pgno in [0, 11, u32::MAX] {
        let error = world.fetcher.page(&world.view, pgno, &mut reader, &mut buf).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn a_slow_request_is_sent_a_second_time() {
    let world = World::new(leaves(3_000, PAGE), 1 << 20);
    let mut reader = Readahead::default();
    for n in 0..12 {
        world.read(1 + n * 200, &mut reader).unwrap();
    }
    tasks::lock(&world.storage.faults).push_back(Fault::Late(Duration::from_secs(300)));
    world.read(2_900, &mut reader).unwrap();
    assert_eq!(world.fetcher.totals().hedged, 1);
}

#[test]
fn the_end_of_the_threads_ends_the_waiting() {
    let world = World::new(leaves(3_000, PAGE), 1 << 20);
    world.storage.set_latency(Duration::from_secs(300));
    let World { fetcher, view, _runtime, storage, .. } = world;
    let waiting = std::thread::spawn(move || {
        let mut buf = vec![0; PAGE];
        fetcher.page(&view, 9, &mut Readahead::default(), &mut buf).unwrap_err()
    });
    while storage.requests() == 0 {
        tasks::sleep_blocking(Duration::from_millis(1));
    }
    _runtime.shutdown_timeout(Duration::from_secs(5));
    let error = waiting.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains("memory://storage"), "{error}");
}

#[test]
fn an_encrypted_database_is_only_slower() {
    // Noise whose first bytes look like interior pages.
    let mut pages = leaves(3_000, 1024);
    for (pgno, page) in &mut pages {
        page[0] = [2, 5, 13][*pgno as usize % 3];
    }
    let world = World::new(pages, 1 << 20);
    assert!(world.scan(1..=3_000) < 30);
}

/// A second process: nothing in memory.
fn reopened(world: &World, dir: &std::path::Path) -> World {
    let (storage, pages) = (world.storage.clone(), world.pages.clone());
    let runtime = Runtime::start().unwrap();
    let cache = Arc::new(PageCache::new(1 << 20));
    let disk = Arc::new(DiskCache::open(dir, 64 << 20, Arc::new(crate::log::NoLog)));
    let fetcher = Fetcher::new(storage.clone(), runtime.handle(), cache, Some(disk));
    let view = world.view.clone();
    World { storage, fetcher: Arc::new(fetcher), view, pages, _runtime: runtime }
}

#[test]
fn a_later_process_reads_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let world = reopened(&World::new(leaves(2_000, PAGE), 1 << 20), dir.path());
    world.scan(1..=2_000);
    // What is on its way there.
    while world.fetcher.downloads.is_saving() {
        tasks::sleep_blocking(Duration::from_millis(1));
    }
    let file = world.view.index().get(1).unwrap().0.clone();
    let content = world.storage.content(&file);
    world.storage.remove(&file.id);
    let later = reopened(&world, dir.path());
    assert_eq!(later.scan(1..=2_000), 0);
    assert_eq!(later.scan((1..=2_000).rev()), 0);
    // Damaged, it is fetched again.
    world.storage.put_back(&file, content);
    for entry in crate::os::list_dir(dir.path()).unwrap() {
        let path = dir.path().join(entry.name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.iter_mut().for_each(|b| *b ^= 1);
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(later.scan(1..=2_000) > 0);
}

#[test]
fn garbled_answers_do_not_get_to_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let world = reopened(&World::new(leaves(100, PAGE), 1 << 20), dir.path());
    tasks::lock(&world.storage.faults).extend([Fault::Garbled; 2]);
    world.read(50, &mut Readahead::default()).unwrap_err();
    while world.fetcher.downloads.is_saving() {
        tasks::sleep_blocking(Duration::from_millis(1));
    }
    let kept = crate::os::list_dir(dir.path()).unwrap();
    assert!(kept.iter().all(|file| file.size == 0), "{kept:?}");
}

#[test]
fn a_wrong_chunk_on_the_disk_is_fetched_from_storage() {
    let dir = tempfile::tempdir().unwrap();
    let world = reopened(&World::new(leaves(100, PAGE), 1 << 20), dir.path());
    let file = world.view.index().get(50).unwrap().0.clone();
    let chunk = chunk_of(file.index.get(49).unwrap().offset);
    let (_, _, len) = crate::view::ranges::chunk_span(&file, chunk, chunk).unwrap();
    // Complete, with a checksum that is right, and not what it should be.
    let key = crate::view::download::file_key("memory://storage", &file);
    let disk = DiskCache::open(dir.path(), 64 << 20, Arc::new(crate::log::NoLog));
    disk.put(key, &[(chunk, &vec![1; len as usize])], i64::MAX);
    world.read(50, &mut Readahead::default()).unwrap();
    assert_eq!(world.storage.requests(), 1);
}
