//! The WAL reader against a log that SQLite 3.40.1 wrote, and against logs
//! built here.

use std::io::Cursor;

use litestream::sqlite::wal::frame_offset;
use litestream::sqlite::{
    CheckpointInfo, Checksum, DatabaseHeader, JournalMode, WalHeader, WalIndexHeader,
};
use litestream::wal_reader::{
    NewestPages, SeekSource, Transaction, WalPosition, WalReader, WalSource, newest_pages,
};
use proptest::prelude::*;

const DB: &[u8] = include_bytes!("data/wal/small.db");
const WAL: &[u8] = include_bytes!("data/wal/small.db-wal");
const SHM: &[u8] = include_bytes!("data/wal/small.db-shm");
const CHECKPOINTED: &[u8] = include_bytes!("data/wal/checkpointed.db");

fn start(wal: &[u8]) -> WalPosition {
    WalPosition::start(&WalHeader::decode(wal).unwrap())
}

fn slice(wal: &[u8]) -> SeekSource<Cursor<&[u8]>> {
    SeekSource(Cursor::new(wal))
}

fn all(wal: &[u8], at: WalPosition) -> Vec<Transaction> {
    let mut reader = WalReader::verified(slice(wal), at);
    std::iter::from_fn(|| reader.next_transaction().unwrap()).collect()
}

fn apply(db: &[u8], wal: &[u8], newest: &NewestPages) -> Vec<u8> {
    let size = newest.end.page_size as usize;
    let mut db = db.to_vec();
    db.resize(newest.commit as usize * size, 0);
    for (&pgno, &frame) in &newest.pages {
        let from = frame_offset(frame, newest.end.page_size) as usize + 24;
        let to = (pgno as usize - 1) * size;
        db[to..to + size].copy_from_slice(&wal[from..from + size]);
    }
    db
}

/// A log of 512-byte pages: per transaction (commit size, page numbers).
fn build(big_endian: bool, salt: u32, transactions: &[(u32, &[u32])]) -> Vec<u8> {
    let mut wal = Vec::new();
    for word in [0x377f_0682 | u32::from(big_endian), 3_007_000, 512, 0, salt, 9] {
        wal.extend(word.to_be_bytes());
    }
    let mut sum = Checksum::default().update(big_endian, &wal);
    wal.extend(sum.0.to_be_bytes());
    wal.extend(sum.1.to_be_bytes());
    for (commit, pages) in transactions {
        for (i, pgno) in pages.iter().enumerate() {
            let commit = if i + 1 == pages.len() { *commit } else { 0 };
            let head = [pgno.to_be_bytes(), commit.to_be_bytes()].concat();
            let page = vec![*pgno as u8; 512];
            sum = sum.update(big_endian, &head).update(big_endian, &page);
            wal.extend(&head);
            for word in [salt, 9, sum.0, sum.1] {
                wal.extend(word.to_be_bytes());
            }
            wal.extend(&page);
        }
    }
    wal
}

#[test]
fn the_headers_of_a_real_database() {
    let header = DatabaseHeader::decode(DB).unwrap();
    assert_eq!((header.page_size, header.journal_mode()), (512, JournalMode::Wal));
    assert_eq!(header.valid_page_count(), Some(3));
    let index = WalIndexHeader::decode(SHM).unwrap();
    assert_eq!(index.page_size, 512);
    assert_eq!(index.page_count as usize, CHECKPOINTED.len() / 512);
    assert_eq!(index.salts, start(WAL).salts);
    assert!(frame_offset(index.max_frame + 1, 512) < WAL.len() as u64, "a tail is expected");
    assert_eq!(CheckpointInfo::decode(SHM).unwrap().backfilled, 0);
}

#[test]
fn both_modes_give_the_checkpointed_database() {
    let index = WalIndexHeader::decode(SHM).unwrap();
    let end = WalPosition::end_of(&index);
    let verified = newest_pages(&mut WalReader::verified(slice(WAL), start(WAL))).unwrap().unwrap();
    let mut reader = WalReader::trusted(slice(WAL), start(WAL), index.max_frame);
    let trusted = newest_pages(&mut reader).unwrap().unwrap();
    assert_eq!(verified, trusted);
    assert_eq!(verified.end, end);
    assert_eq!(reader.position(), &end);
    assert_eq!(verified.transactions, 17);
    assert_eq!(verified.missing_growth(3), None);
    assert!(apply(DB, WAL, &verified) == CHECKPOINTED);
    assert!(end.is_in(&mut slice(WAL)).unwrap());
}

#[test]
fn reading_goes_on_from_any_commit() {
    let txs = all(WAL, start(WAL));
    assert!(txs.is_sorted_by_key(|tx| tx.end.frame));
    assert!(!txs.is_sorted_by_key(|tx| tx.commit), "a shrink is expected");
    for (i, tx) in txs.iter().enumerate() {
        assert_eq!(all(WAL, tx.end), txs[i + 1..]);
        assert!(tx.end.is_in(&mut slice(WAL)).unwrap());
    }
}

/// After a shrink, frames beyond the new end were kept and came back as stale pages.
#[test]
fn r_09_frames_above_commit_are_dropped() {
    let wal = build(false, 1, &[(6, &[1, 4, 5, 6]), (3, &[1, 5]), (5, &[4, 5])]);
    let mut reader = WalReader::verified(slice(&wal), start(&wal));
    let mut newest = NewestPages::new(&reader.next_transaction().unwrap().unwrap());
    newest.fold(&reader.next_transaction().unwrap().unwrap());
    assert_eq!(newest.pages.keys().copied().collect::<Vec<_>>(), [1]);
    newest.fold(&reader.next_transaction().unwrap().unwrap());
    assert_eq!(newest.pages.into_iter().collect::<Vec<_>>(), [(1, 5), (4, 7), (5, 8)]);
}

/// A growth whose pages were not all captured was published all the same.
#[test]
fn r_01_missing_growth_is_found() {
    let fold = |txs: &[(u32, &[u32])]| {
        let wal = build(true, 1, txs);
        newest_pages(&mut WalReader::verified(slice(&wal), start(&wal))).unwrap().unwrap()
    };
    assert_eq!(fold(&[(4, &[1, 3, 4])]).missing_growth(2), None);
    assert_eq!(fold(&[(4, &[1, 4])]).missing_growth(2), Some(3));
    assert_eq!(fold(&[(4, &[1, 3])]).missing_growth(2), Some(4));
    assert_eq!(fold(&[(4, &[1])]).missing_growth(4), None);
    assert_eq!(fold(&[(2, &[1]), (4, &[3])]).missing_growth(4), Some(4));
    assert_eq!(fold(&[(2, &[1]), (4, &[3, 4])]).missing_growth(4), None);
}

/// A position exactly behind the header was taken for a broken one.
#[test]
fn r_10_wal_offset_at_header() {
    for big in [false, true] {
        let wal = build(big, 7, &[(1, &[1])]);
        let at = start(&wal);
        assert_eq!((at.offset(), at.frame), (32, 0));
        assert!(at.is_in(&mut slice(&wal)).unwrap());
        assert!(at.is_in(&mut slice(&wal[..32])).unwrap());
        assert!(!at.is_in(&mut slice(&wal[..31])).unwrap());
        assert!(!at.is_in(&mut slice(&build(big, 8, &[]))).unwrap());
        assert_eq!(all(&wal, at).len(), 1);
        assert_eq!(all(&wal[..32], at), []);
    }
}

#[test]
fn torn_and_uncommitted_tails_are_the_end() {
    let wal = build(false, 1, &[(2, &[1, 2]), (2, &[2])]);
    let at = start(&wal);
    let lens: Vec<usize> = (32..=wal.len()).map(|n| all(&wal[..n], at).len()).collect();
    let want: Vec<usize> = (32..=wal.len()).map(|n| ((n - 32) / 536).saturating_sub(1)).collect();
    assert_eq!(lens, want);
    for i in 32..wal.len() {
        let mut bad = wal.clone();
        bad[i] ^= 0x10;
        assert!(all(&bad, at).len() < 2, "{i}");
    }
}

#[test]
fn a_grown_log_is_read_on() {
    let wal = build(false, 1, &[(1, &[1]), (2, &[1, 2])]);
    let visible = std::cell::Cell::new(568);
    let source = |buf: &mut [u8], offset: u64| slice(&wal[..visible.get()]).read_at(buf, offset);
    let mut reader = WalReader::verified(source, start(&wal));
    assert_eq!(reader.next_transaction().unwrap().unwrap().commit, 1);
    assert!(reader.next_transaction().unwrap().is_none());
    visible.set(568 + 536);
    assert!(reader.next_transaction().unwrap().is_none());
    visible.set(wal.len());
    assert_eq!(reader.next_transaction().unwrap().unwrap().frames, [(1, 2), (2, 3)]);
}

#[test]
fn trust_does_not_reach_beyond_the_generation() {
    let wal = build(false, 1, &[(2, &[1, 2]), (2, &[2])]);
    let trusted = |wal: &[u8], max| {
        let mut reader = WalReader::trusted(slice(wal), start(wal), max);
        newest_pages(&mut reader).map(|n| n.map(|n| n.end.frame))
    };
    assert_eq!(trusted(&wal, 3).unwrap(), Some(3));
    assert_eq!(trusted(&wal, 2).unwrap(), Some(2));
    assert_eq!(trusted(&wal, 0).unwrap(), None);
    assert!(trusted(&wal, 1).unwrap_err().to_string().contains("not the end of a commit"));
    assert!(trusted(&wal, 4).unwrap_err().to_string().contains("ends before committed frame 4"));
    let mut other = wal.clone();
    other[frame_offset(3, 512) as usize + 8] ^= 1;
    assert!(trusted(&other, 3).unwrap_err().to_string().contains("another generation"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        mut wal in proptest::collection::vec(any::<u8>(), 0..2000),
        flips in proptest::collection::vec((0..WAL.len(), any::<u8>()), 0..5),
    ) {
        let at = start(WAL);
        let index = WalIndexHeader::decode(SHM).unwrap();
        let mut damaged = WAL.to_vec();
        for (i, b) in flips {
            damaged[i] ^= b;
        }
        for bytes in [&wal[..], &damaged] {
            let _ = newest_pages(&mut WalReader::verified(slice(bytes), at)).unwrap();
            let _ = newest_pages(&mut WalReader::trusted(slice(bytes), at, index.max_frame));
            let _ = at.is_in(&mut slice(bytes)).unwrap();
            let _ = WalHeader::decode(bytes);
            let _ = DatabaseHeader::decode(bytes);
        }
        wal.truncate(200);
        let _ = (WalIndexHeader::decode(&wal), CheckpointInfo::decode(&wal));
    }
}
