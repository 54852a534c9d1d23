//! WAL files and the first page of a wal-index.

use std::io::Cursor;

use litestream::sqlite::wal::{Checksum, FRAME_HEADER_SIZE, WAL_HEADER_SIZE};
use litestream::sqlite::{CheckpointInfo, DatabaseHeader, WalHeader, WalIndexHeader};
use litestream::wal_reader::{SeekSource, Transaction, WalPosition, WalReader, newest_pages};

use super::Input;

/// Any bytes as a WAL, a wal-index, a database header.
pub fn files(bytes: &[u8]) {
    let _ = (WalIndexHeader::decode(bytes), CheckpointInfo::decode(bytes));
    let _ = DatabaseHeader::decode(bytes);
    let Ok(header) = WalHeader::decode(bytes) else { return };
    check(bytes, &header);
}

fn source(bytes: &[u8]) -> SeekSource<Cursor<&[u8]>> {
    SeekSource(Cursor::new(bytes))
}

fn check(bytes: &[u8], header: &WalHeader) {
    let start = WalPosition::start(header);
    assert!(start.is_in(&mut source(bytes)).unwrap());
    let mut reader = WalReader::verified(source(bytes), start);
    let (mut found, mut at) = (Vec::new(), start);
    while let Some(tx) = reader.next_transaction().unwrap() {
        follows(bytes, &at, &tx);
        at = tx.end;
        found.push(tx);
    }
    assert_eq!(*reader.position(), at);
    assert_eq!(committed(bytes, header), at.frame);
    // The same frames, when the wal-index calls them committed.
    let mut trusted = WalReader::trusted(source(bytes), start, at.frame);
    for tx in &found {
        assert_eq!(trusted.next_transaction().unwrap().as_ref(), Some(tx));
    }
    assert_eq!(trusted.next_transaction().unwrap(), None);
    for max in [1, at.frame.saturating_add(1), u32::MAX] {
        let _ = newest_pages(&mut WalReader::trusted(source(bytes), start, max));
    }
    let newest = newest_pages(&mut WalReader::verified(source(bytes), start)).unwrap();
    assert_eq!(newest.is_some(), !found.is_empty());
    if let Some(newest) = newest {
        assert!(newest.pages.keys().all(|p| *p <= newest.commit));
        assert_eq!(newest.end, at);
        for previous in [0, 1, newest.commit, u32::MAX] {
            let _ = newest.missing_growth(previous);
        }
    }
}

fn follows(bytes: &[u8], at: &WalPosition, tx: &Transaction) {
    let numbers: Vec<u32> = tx.frames.iter().map(|f| f.1).collect();
    assert_eq!(numbers, (at.frame + 1..=tx.end.frame).collect::<Vec<_>>());
    assert!(tx.commit != 0);
    assert!(tx.end.offset() <= bytes.len() as u64);
    assert!(tx.end.is_in(&mut source(bytes)).unwrap());
}

/// Frames up to the last commit, by the format's definition.
fn committed(bytes: &[u8], header: &WalHeader) -> u32 {
    let word = |b: &[u8], at: usize| u32::from_be_bytes(b[at..at + 4].try_into().unwrap());
    let (mut sum, mut last) = (header.checksum, 0);
    let size = FRAME_HEADER_SIZE + header.page_size as usize;
    for (i, frame) in bytes[WAL_HEADER_SIZE..].chunks_exact(size).enumerate() {
        sum = sum.update(header.big_endian_checksum, &frame[..8]);
        sum = sum.update(header.big_endian_checksum, &frame[FRAME_HEADER_SIZE..]);
        let salts = (word(frame, 8), word(frame, 12)) == (header.salts.salt1, header.salts.salt2);
        if word(frame, 0) == 0 || !salts || Checksum(word(frame, 16), word(frame, 20)) != sum {
            break;
        }
        if word(frame, 4) != 0 {
            last = i as u32 + 1;
        }
    }
    last
}

/// A WAL with right checksums up to a change, made of the input's numbers.
pub fn made(bytes: &[u8]) {
    let mut input = Input(bytes);
    let big = input.byte() & 1 != 0;
    let page_size = 512_u32 << (input.byte() % 3);
    let salts = [input.number(), input.number()];
    let mut wal = Vec::new();
    for word in [0x377f_0682 | u32::from(big), 3_007_000, page_size, input.number()] {
        wal.extend_from_slice(&word.to_be_bytes());
    }
    salts.iter().for_each(|s| wal.extend_from_slice(&s.to_be_bytes()));
    let mut sum = Checksum::default().update(big, &wal);
    push(&mut wal, sum);
    for _ in 0..input.byte() % 16 {
        let mut head = Vec::new();
        let commit = if input.byte() & 1 == 0 { 0 } else { input.number() };
        let pgno = if input.byte() & 7 == 0 { input.number() } else { u32::from(input.byte()) };
        for word in [pgno, commit, salts[0], salts[1]] {
            head.extend_from_slice(&word.to_be_bytes());
        }
        let page = input.page(page_size as usize);
        sum = sum.update(big, &head[..8]).update(big, &page);
        push(&mut head, sum);
        wal.extend_from_slice(&head);
        wal.extend_from_slice(&page);
    }
    let header = WalHeader::decode(&wal).unwrap();
    check(&wal, &header);
    let at = input.number() as usize % wal.len();
    wal[at] ^= input.byte();
    wal.truncate(wal.len() - usize::from(input.byte()).min(wal.len()));
    files(&wal);
}

fn push(to: &mut Vec<u8>, sum: Checksum) {
    to.extend_from_slice(&sum.0.to_be_bytes());
    to.extend_from_slice(&sum.1.to_be_bytes());
}
