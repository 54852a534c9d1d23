//! Files of the real Litestream, byte for byte.

mod ltx_support;

use litestream::ltx::page_index::{self, SUFFIX_LEN};
use litestream::ltx::{
    Header, PageForm, PageIndex, Suffix, Txid, decode_page, file_name, parse_file_name, verify,
};
use ltx_support::{decode, encode, raw_file};

/// One row in a database of 512-byte pages, written by Litestream 0.5.17:
/// lines of an offset and big-endian words.
fn example_a() -> Vec<u8> {
    let text = include_str!("data/example_a.hex");
    let digits: String = text
        .lines()
        .flat_map(|line| line.split_once(':').unwrap().1.chars())
        .filter(|c| !c.is_whitespace())
        .collect();
    let byte = |i: usize| u8::from_str_radix(&digits[i..i + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn example_a_header() -> Header {
    Header {
        wal_offset: 32,
        wal_size: 2144,
        wal_salt1: 0x001e_c04d,
        wal_salt2: 0x40da_f9a3,
        ..Header::new(512, 4, Txid(1), Txid(1), 1_795_371_600_586)
    }
}

/// The README of the format was wrong about what the file checksum covers.
#[test]
fn r_53_file_checksum_vectors() {
    let file = example_a();
    assert_eq!(file.len(), 511);
    let (header, trailer) = verify(&file[..]).unwrap();
    assert_eq!(header, example_a_header());
    assert_eq!(trailer.file_checksum, 0x8ea4_a331_7a27_4d45);
    assert_eq!(trailer.post_apply_checksum, 0);
}

#[test]
fn example_a_decodes_and_reencodes() {
    let file = example_a();
    let (header, pages, _) = decode(&file).unwrap();
    assert_eq!(pages.len(), 4);
    assert!(pages[0].1.starts_with(b"SQLite format 3\0"));
    assert!(pages[1].1.ends_with(b"hello"));
    let mut empty_leaf = vec![0; 512];
    empty_leaf[0] = 0x0d;
    empty_leaf[5] = 0x02;
    assert_eq!(pages[2].1, empty_leaf);
    let ours = encode(header, &pages, PageForm::Block);
    assert_eq!(ours[..100], file[..100]);
    assert_eq!(decode(&ours).unwrap().1, pages);
    assert_eq!(ours, raw_file(header.encode(), &pages, PageForm::Block, 0));
}

/// Litestream 0.5.15 wrote the same pages as LZ4 frames around equal blocks.
#[test]
fn example_b_layout() {
    let a = example_a();
    let (header, pages, _) = decode(&a).unwrap();
    let mut b = a[..100].to_vec();
    for ((at, n), (_, page)) in [(110, 227), (347, 33), (390, 32), (432, 32)].iter().zip(&pages) {
        b.extend(&a[at - 10..at - 6]);
        b.extend([0, 0, 0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7]);
        b.extend(u32::to_le_bytes(*n));
        b.extend(&a[*at..at + *n as usize]);
        b.extend([0; 4]);
        b.extend(twox_hash::XxHash32::oneshot(0, page).to_le_bytes());
    }
    assert_eq!(b[463..467], [0x2c, 0xf6, 0x40, 0x29]);
    assert_eq!(b.len(), 524);
    let mut hashed = b[..100].to_vec();
    for (pgno, page) in &pages {
        hashed.extend(pgno.to_be_bytes());
        hashed.extend([0, 0]);
        hashed.extend(page);
    }
    let tail = [
        &[0; 6][..],
        &[1, 0x64, 0xfc, 1, 2, 0xe0, 2, 0x3a, 3, 0x9a, 3, 0x39, 4, 0xd3, 3, 0x39, 0],
        &17_u64.to_be_bytes(),
        &[0; 8],
    ]
    .concat();
    b.extend(&tail);
    hashed.extend(&tail);
    b.extend([0; 8]);
    let b = ltx_support::reseal(b, &hashed);
    assert_eq!(b.len(), 571);
    assert_eq!(decode(&b).unwrap().1, pages);
    let ours = encode(header, &pages, PageForm::Frame);
    assert_eq!(decode(&ours).unwrap().1, pages);
    assert_eq!(ours[106..113], b[106..113]);
}

/// Readers fetch the last 32 KiB and expect the index there, its length in
/// front of the trailer.
#[test]
fn r_58_page_index_is_in_the_suffix() {
    let file = example_a();
    let size = file.len() as u64;
    let Suffix::Index(index) = PageIndex::from_suffix(&file, size).unwrap() else {
        panic!("index expected")
    };
    assert_eq!(page_index::encode(&index), file[470..487]);
    let rows: Vec<_> = index.iter().map(|e| (e.pgno, e.offset, e.size)).collect();
    assert_eq!(rows, [(1, 100, 237), (2, 337, 43), (3, 380, 42), (4, 422, 42)]);
    let mut page = [0; 512];
    for entry in index.iter() {
        let at = entry.offset as usize;
        let frame = &file[at..at + entry.size as usize];
        assert_eq!(decode_page(frame, 512, &mut page).unwrap(), entry.pgno);
    }
    assert_eq!(PageIndex::from_suffix(&file[470..], size).unwrap(), Suffix::Index(index.clone()));
    assert_eq!(PageIndex::from_suffix(&file[471..], size).unwrap(), Suffix::ReadFrom(470));
    assert_eq!(PageIndex::from_suffix(&file[487..], size).unwrap(), Suffix::ReadFrom(470));
    assert_eq!(SUFFIX_LEN, 32_768);
}

/// A short answer to the index read made a slice go out of range.
#[test]
fn r_42_truncated_page_index_is_an_error() {
    let file = example_a();
    for n in 0..24 {
        let e = PageIndex::from_suffix(&file[file.len() - n..], file.len() as u64).unwrap_err();
        assert_eq!(e.kind(), litestream::ErrorKind::Corrupt);
        assert!(e.to_string().contains("too short to contain a page index"), "{e}");
    }
    for cut in 0..file.len() {
        let part = &file[..cut];
        if let Ok(Suffix::Index(index)) = PageIndex::from_suffix(part, cut as u64) {
            panic!("{} entries out of a file cut to {cut} bytes", index.len());
        }
    }
    for n in 0..17 {
        assert!(page_index::decode(&file[470..470 + n], 464).is_err(), "{n}");
    }
}

/// Transaction numbers were once printed in decimal and parsed as hexadecimal.
#[test]
fn r_57_txid_names_are_hex() {
    for n in [1, 9, 10, 15, 16, 0xff, 1 << 40, u64::MAX] {
        let name = file_name(Txid(n), Txid(n));
        assert_eq!(name, format!("{n:016x}-{n:016x}.ltx"));
        assert_eq!(parse_file_name(&name), Some((Txid(n), Txid(n))));
        assert_eq!(Txid(n).to_string().parse::<Txid>().unwrap(), Txid(n));
    }
}
