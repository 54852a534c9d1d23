use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::clock::{Random, SeededRandom};
use crate::ltx::{HEADER_SIZE, IndexEntry, PageIndex, Txid};
use crate::replica_client::{FileId, Tag};
use crate::view::file::{FileIndex, next_uid};

fn file(txid: u64, pages: impl IntoIterator<Item = Pgno>) -> Arc<RemoteFile> {
    let mut index = PageIndex::default();
    let mut offset = HEADER_SIZE as u64;
    for pgno in pages {
        index.push(IndexEntry { pgno, offset, size: 50 }).unwrap();
        offset += 50;
    }
    Arc::new(RemoteFile {
        uid: next_uid().unwrap(),
        id: FileId::new(0, Txid(txid), Txid(txid)),
        size: offset,
        tag: Tag::new("t"),
        page_size: 512,
        created_at_ms: 0,
        index: FileIndex::new(&index),
        checksum: 0,
        disk_key: Default::default(),
    })
}

/// What the index says: page, file's TXID.
fn content(index: &Index) -> BTreeMap<Pgno, u64> {
    let end = index.commit() + CHUNK as u32;
    let of = |pgno| index.get(pgno).map(|(file, _)| (pgno, file.id.max.0));
    (0..=end).filter_map(of).collect()
}

#[test]
fn newer_files_lie_over_older_ones() {
    let mut index = Index::default();
    index.apply(&file(1, 1..=10), 10);
    let before = index.clone();
    index.apply(&file(2, [3, 11]), 11);
    assert_eq!(content(&before), (1..=10).map(|p| (p, 1)).collect());
    let mut want: BTreeMap<Pgno, u64> = (1..=10).map(|p| (p, 1)).collect();
    want.extend([(3, 2), (11, 2)]);
    assert_eq!(content(&index), want);
    let (found, position) = index.get(11).unwrap();
    assert_eq!(found.index.get(position).unwrap().pgno, 11);
}

#[test]
fn pages_beyond_the_end_come_back_with_it() {
    let mut index = Index::default();
    index.apply(&file(1, 1..=2_000), 2_000);
    index.apply(&file(2, [1]), 5);
    assert_eq!(content(&index), [(1, 2), (2, 1), (3, 1), (4, 1), (5, 1)].into_iter().collect());
    index.apply(&file(3, [7, 3_000]), 8);
    assert_eq!(content(&index).into_iter().skip(5).collect::<Vec<_>>(), [(6, 1), (7, 3), (8, 1)]);
    index.apply(&file(4, []), 4_000);
    let all = content(&index);
    assert_eq!((all.len(), all[&2_000], all[&3_000]), (2_001, 1, 3));
}

#[test]
fn a_page_far_out_takes_no_memory_for_those_before_it() {
    let mut index = Index::default();
    index.apply(&file(1, [1, u32::MAX]), 1);
    assert!(index.memory() < 100 << 20);
    assert_eq!(content(&index).len(), 1);
}

#[test]
fn files_without_pages_are_let_go() {
    let mut index = Index::default();
    for txid in 1..1_000 {
        index.apply(&file(txid, 1..=5), 5);
        index.apply(&file(txid, []), 5);
    }
    assert_eq!(index.files().count(), 1);
    assert!(index.files.len() <= 2);
}

#[test]
fn pages_of_files_that_are_gone_move_and_others_stay() {
    let mut index = Index::default();
    for (txid, step) in [(1, 1), (2, 3), (3, 7), (4, 50)] {
        index.apply(&file(txid, (1..=2_000).step_by(step)), 1_500);
    }
    let mut merged = Index::default();
    merged.apply(&file(10, 1..=1_500), 1_500);
    merged.apply(&file(11, (1..=1_500).step_by(3)), 1_500);
    let moved = index.with_moved(&merged, |file| file.id.max.0 % 2 == 1);
    let (before, other, after) = (content(&index), content(&merged), content(&moved));
    for pgno in 1..=1_500 {
        let want = if before[&pgno] % 2 == 1 { before[&pgno] } else { other[&pgno] };
        assert_eq!(after[&pgno], want, "{pgno}");
        let (file, position) = moved.get(pgno).unwrap();
        assert_eq!(file.index.get(position).unwrap().pgno, pgno);
    }
    assert_eq!(content(&index), before);
    let gone = index.with_moved(&merged, |_| false);
    assert_eq!(content(&gone), other);
    let here = index.with_moved(&merged, |_| true);
    assert_eq!((content(&here), here.files().count()), (before, 4));
}

#[test]
fn it_takes_less_than_sixteen_bytes_a_page() {
    const PAGES: u32 = 100_000;
    let mut index = Index::default();
    index.apply(&file(1, 1..=PAGES), PAGES);
    for txid in 2..40 {
        index.apply(&file(txid, (txid as u32..PAGES).step_by(1_000)), PAGES);
    }
    assert!(index.memory() < 16 * PAGES as usize, "{}", index.memory());
}

#[test]
fn random_histories_give_what_a_map_gives() {
    let random = SeededRandom::new(41);
    let draw = |n: u64| random.next_u64() % n;
    for _ in 0..30 {
        let (mut index, mut map) = (Index::default(), BTreeMap::new());
        let mut earlier: Vec<(Index, BTreeMap<Pgno, u64>)> = Vec::new();
        for txid in 1..60 {
            let commit = if draw(4) == 0 { draw(3_000) } else { 1_000 + draw(50) } as u32 + 1;
            let step = 1 + draw(300) as usize;
            let pages: Vec<Pgno> = (1 + draw(20) as u32..commit + 9).step_by(step).collect();
            index.apply(&file(txid, pages.iter().copied()), commit);
            map.extend(pages.iter().map(|p| (*p, txid)));
            let shown: BTreeMap<Pgno, u64> = map.range(..=commit).map(|(p, t)| (*p, *t)).collect();
            assert_eq!(content(&index), shown);
            earlier.push((index.clone(), shown));
        }
        for (index, map) in earlier {
            assert_eq!(content(&index), map);
        }
    }
}
