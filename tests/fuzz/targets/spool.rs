//! Segments of the spool.

use std::collections::BTreeMap;

use litestream::capture::segment::{Seal, Segment, file_name};
use litestream::ltx::{Pgno, Txid, crc64};

use super::Input;

const TXID: Txid = Txid(7);

fn pages_of(segment: &Segment) -> BTreeMap<Pgno, Vec<u8>> {
    let mut pages = BTreeMap::new();
    segment
        .for_each_page(|pgno, page| {
            assert!(pages.insert(pgno, page.to_vec()).is_none());
            Ok(())
        })
        .unwrap();
    assert_eq!(pages.len(), segment.page_count());
    pages
}

/// Any bytes as a segment, as they are and with the checksums of its batches
/// put right.
pub fn segments(bytes: &[u8]) {
    check(bytes);
    let mut sealed = bytes.to_vec();
    sealed.resize(bytes.len().max(64), 0);
    sealed[..8].copy_from_slice(b"LSVFSSEG");
    sealed[8..12].copy_from_slice(&1_u32.to_le_bytes());
    let size = 512_u32 << (sealed[12] % 4);
    sealed[12..16].copy_from_slice(&size.to_le_bytes());
    sealed[16..24].copy_from_slice(&TXID.0.to_le_bytes());
    seal_batches(&mut sealed);
    check(&sealed);
}

fn seal_batches(bytes: &mut [u8]) {
    let mut at = 64;
    while bytes.len() - at >= 32 {
        let len = u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap());
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len() - at - 32);
        let body = crc64(&bytes[at + 32..at + 32 + len]);
        bytes[at + 16..at + 24].copy_from_slice(&body.to_le_bytes());
        let head = crc64(&bytes[at..at + 24]);
        bytes[at + 24..at + 32].copy_from_slice(&head.to_le_bytes());
        at += 32 + len;
    }
}

fn check(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(file_name(TXID, 0)), bytes).unwrap();
    for len in [None, Some(bytes.len() as u64 / 2), Some(u64::MAX)] {
        let Ok(mut segment) = Segment::open(dir.path(), TXID, 0, len, None) else { continue };
        assert!(segment.len() <= bytes.len() as u64);
        let (pages, seal) = (pages_of(&segment), segment.sealed());
        // Without its garbage it says the same.
        if seal.is_none() && segment.rewrite(dir.path()).is_ok() {
            assert_eq!(pages_of(&segment), pages);
        }
    }
}

/// A segment written by the input's orders, closed and opened again.
pub fn made(bytes: &[u8]) {
    let mut input = Input(bytes);
    let dir = tempfile::tempdir().unwrap();
    let size = 512_u32 << (input.byte() % 3);
    let mut segment = Segment::create(dir.path(), TXID, 0, size, None).unwrap();
    let mut model: BTreeMap<Pgno, Vec<u8>> = BTreeMap::new();
    while !input.0.is_empty() {
        match input.byte() % 6 {
            0 => {
                let commit = u32::from(input.byte());
                segment.shrink(commit).unwrap();
                model.split_off(&(commit.saturating_add(1)));
            }
            1 => segment = reopened(segment, dir.path()),
            2 => {
                let old = segment.rewrite(dir.path()).unwrap();
                assert!(old.starts_with(dir.path()));
            }
            n => {
                let list: Vec<_> = (0..=n)
                    .map(|_| (u32::from(input.byte()) + 1, input.page(size as usize)))
                    .collect();
                segment.append(list.iter().map(|(p, d)| (*p, d.as_slice()))).unwrap();
                model.extend(list);
            }
        }
        assert_eq!(pages_of(&segment), model);
    }
    let seal = Seal {
        commit: input.number(),
        timestamp_ms: 5,
        wal_offset: 32,
        wal_size: 9,
        wal_salts: [1, 2],
    };
    segment.seal(seal).unwrap();
    let segment = reopened(segment, dir.path());
    assert_eq!((pages_of(&segment), segment.sealed()), (model, Some(seal)));
}

fn reopened(segment: Segment, dir: &std::path::Path) -> Segment {
    let (len, generation) = (segment.len(), segment.generation());
    drop(segment);
    Segment::open(dir, TXID, generation, Some(len), None).unwrap()
}
