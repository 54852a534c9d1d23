use super::*;
use crate::clock::{Random, SeededRandom};

const PAGE: usize = 4096;

fn key(pgno: Pgno) -> PageKey {
    PageKey { file: 7, pgno }
}

/// A page that tells its key.
fn page(key: PageKey, len: usize) -> Vec<u8> {
    let mut page = vec![key.pgno as u8; len];
    page[..4].copy_from_slice(&key.file.to_le_bytes());
    page[4..8].copy_from_slice(&key.pgno.to_le_bytes());
    page
}

fn add(cache: &PageCache, key: PageKey, kind: PageKind) {
    cache.insert(key, &page(key, PAGE), kind);
}

/// Reads as a connection does: from storage what is not here.
fn visit(cache: &PageCache, key: PageKey, kind: PageKind) -> bool {
    let mut out = vec![0; PAGE];
    let hit = cache.read(key, &mut out);
    if hit {
        assert_eq!(out, page(key, PAGE));
    } else {
        add(cache, key, kind);
    }
    hit
}

fn cache_of(pages: usize) -> PageCache {
    PageCache::new(pages * (PAGE + ENTRY_OVERHEAD))
}

#[test]
fn finds_exactly_what_was_put_in() {
    let cache = cache_of(100);
    let (a, b) = (PageKey { file: 1, pgno: 2 }, PageKey { file: 2, pgno: 1 });
    add(&cache, a, PageKind::Other);
    let mut out = vec![0; PAGE];
    assert!(!cache.read(b, &mut out));
    assert!(cache.read(a, &mut out));
    assert_eq!(out, page(a, PAGE));
    assert!(cache.contains(a) && !cache.contains(b));
    let totals = cache.totals();
    assert_eq!((totals.pages, totals.hits, totals.misses), (1, 1, 1));
    assert_eq!(totals.bytes as usize, cache.used());
}

#[test]
fn a_page_of_another_length_is_a_miss() {
    let cache = cache_of(10);
    add(&cache, key(1), PageKind::Other);
    assert!(!cache.read(key(1), &mut [0; 512]));
    cache.insert(key(2), &vec![0; 1 << 20], PageKind::Other);
    assert!(!cache.contains(key(2)));
}

#[test]
fn bytes_stay_within_the_bound_with_pages_of_all_sizes() {
    let random = SeededRandom::new(1);
    let cache = PageCache::new(3 << 20);
    for _ in 0..20_000 {
        let n = random.next_u64();
        let pgno = (n >> 32) as u32 % 600;
        let key = PageKey { file: pgno % 8, pgno };
        let len = 512 << (key.file % 8);
        let kind = if n.is_multiple_of(5) { PageKind::Interior } else { PageKind::Other };
        let mut out = vec![0; len];
        if cache.read(key, &mut out) {
            assert_eq!(out, page(key, len));
        } else {
            cache.insert(key, &page(key, len), kind);
        }
        assert!(cache.used() <= cache.capacity());
    }
    let totals = cache.totals();
    assert_eq!(totals.bytes as usize, cache.used());
    assert!(totals.hits > 0 && totals.pages > 50, "{totals:?}");
    for shard in &cache.shards {
        let shard = tasks::lock(shard);
        assert_eq!(shard.map.len(), shard.slots.len());
        let queued: usize = shard.lines.iter().map(|line| line.slots.len()).sum();
        let bytes: usize = shard.lines.iter().map(|line| line.bytes).sum();
        assert_eq!((queued, bytes), (shard.slots.len(), shard.used));
        assert!(shard.ghosts.len() <= shard.slots.len());
    }
}

#[test]
fn a_scan_leaves_what_is_read_again() {
    let cache = cache_of(200);
    for round in 0..4 {
        for pgno in 1..=50 {
            visit(&cache, key(pgno), PageKind::Other);
        }
        for pgno in 1_000..1_030 {
            visit(&cache, key(pgno + round * 30), PageKind::Other);
        }
    }
    for pgno in 10_000..20_000 {
        visit(&cache, key(pgno), PageKind::Other);
    }
    let kept = (1..=50).filter(|&pgno| cache.contains(key(pgno))).count();
    assert_eq!(kept, 50);
}

#[test]
fn a_scan_leaves_interior_pages() {
    let cache = cache_of(200);
    for pgno in 1..=40 {
        visit(&cache, key(pgno), PageKind::Interior);
    }
    for pgno in 10_000..20_000 {
        visit(&cache, key(pgno), PageKind::Other);
    }
    assert!((1..=40).all(|pgno| cache.contains(key(pgno))));
    // More of them than their share make room for others.
    for pgno in 100..400 {
        visit(&cache, key(pgno), PageKind::Interior);
    }
    for pgno in 10_000..20_000 {
        visit(&cache, key(pgno), PageKind::Other);
    }
    let kept = (1..400).filter(|&pgno| cache.contains(key(pgno))).count();
    assert!((40..=51).contains(&kept), "{kept}");
}

#[test]
fn repeated_scans_of_more_than_fits_find_a_part() {
    let cache = cache_of(500);
    let scan = || (1..=850).filter(|&pgno| visit(&cache, key(pgno), PageKind::Other)).count();
    let hits: Vec<usize> = (0..5).map(|_| scan()).collect();
    assert_eq!(hits[0], 0);
    assert!(hits[4] > 300, "{hits:?}");
}

/// Prints what a hit costs: `cargo test --release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_hit() {
    let cache = PageCache::new(128 << 20);
    let pages = 27_400;
    for pgno in 1..=pages {
        add(&cache, key(pgno), PageKind::Other);
    }
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &vec![1; PAGE * pages as usize]).unwrap();
    let random = SeededRandom::new(3);
    let mut out = vec![0; PAGE];
    let rounds = 2_000_000_u32;
    for name in ["random", "in order"] {
        let start = tasks::now();
        for n in 0..rounds {
            let pgno = if name == "random" { random.next_u64() as u32 } else { n } % pages + 1;
            assert!(cache.read(key(pgno), &mut out));
        }
        println!("{name}: {} ns", start.elapsed().as_nanos() / u128::from(rounds));
        let start = tasks::now();
        for n in 0..rounds {
            let pgno = if name == "random" { random.next_u64() as u32 } else { n } % pages;
            crate::os::read_at(&file, &mut out, u64::from(pgno) * PAGE as u64).unwrap();
        }
        println!("  a local file: {} ns", start.elapsed().as_nanos() / u128::from(rounds));
    }
}
