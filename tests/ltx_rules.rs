//! The rules of the format: what is refused, what is read, what is written.

mod ltx_support;

use litestream::ErrorKind;
use litestream::compactor::merge;
use litestream::ltx::{
    CHECKSUM_FLAG, Checks, Decoder, Encoder, HEADER_NO_CHECKSUM, Header, PageForm, Pgno,
    RollingChecksum, Trailer, Txid, decode_page, lock_pgno, page_checksum, verify,
};
use ltx_support::{Pages, decode, encode, page, pages, raw_file, reseal};

const FORMS: [PageForm; 2] = [PageForm::Block, PageForm::Frame];

fn header(commit: Pgno, min: u64, max: u64) -> Header {
    Header::new(512, commit, Txid(min), Txid(max), 1000 + max as i64)
}

fn file(commit: Pgno, min: u64, max: u64, numbers: &[Pgno]) -> Vec<u8> {
    let content = numbers.iter().map(|&n| (n, page(n + 1000 * max as u32, 512))).collect();
    encode(header(commit, min, max), &content, PageForm::Block)
}

fn merged(files: &[Vec<u8>]) -> litestream::Result<(Header, Pages, Trailer)> {
    let inputs = files.iter().map(|f| &f[..]).collect();
    let (out, header, trailer) = merge(inputs, Vec::new(), PageForm::Block)?;
    let decoded = decode(&out)?;
    assert_eq!((decoded.0, decoded.2), (header, trailer));
    Ok(decoded)
}

fn refusal(result: litestream::Result<(Header, Pages, Trailer)>) -> String {
    let e = result.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
    e.to_string()
}

fn encoding_refusal(header: Header, numbers: &[Pgno]) -> String {
    let mut encoder = Encoder::new(Vec::new(), header, PageForm::Block).unwrap();
    for &n in numbers {
        if let Err(e) = encoder.encode_page(n, &page(n, header.page_size as usize)) {
            assert_eq!(e.kind(), ErrorKind::InvalidInput);
            assert!(encoder.finish().is_err());
            return e.to_string();
        }
    }
    encoder.finish().unwrap_err().to_string()
}

/// A growing transaction's new pages were missing, which nobody saw until a restore.
#[test]
fn r_01_growth_gap_is_refused() {
    let text = encoding_refusal(header(3, 1, 1), &[1, 3]);
    assert_eq!(text, "nonsequential page numbers in snapshot transaction: 1,3");
    assert!(encoding_refusal(header(3, 1, 1), &[1, 2]).contains("ends at page 2 of 3"));

    let gap = raw_file(header(3, 1, 1).encode(), &pages([1, 3], 512), PageForm::Block, 0);
    assert!(refusal(decode(&gap)).contains("nonsequential"));
    let short = raw_file(header(3, 1, 1).encode(), &pages([1, 2], 512), PageForm::Block, 0);
    assert!(refusal(decode(&short)).contains("ends at page 2 of 3"));

    let first = file(2, 1, 1, &[1, 2]);
    let text = refusal(merged(&[first.clone(), file(4, 2, 2, &[1, 4])]));
    assert_eq!(text, "nonsequential page numbers in snapshot transaction: 2,4");
    assert_eq!(merged(&[first, file(4, 2, 2, &[3, 4])]).unwrap().1.len(), 4);
    let text = refusal(merged(&[file(2, 5, 5, &[1]), file(4, 6, 6, &[1]), file(4, 7, 7, &[4])]));
    assert!(text.contains("from 2 to 4 pages but lacks 2 of the new pages"), "{text}");
}

/// After a shrink, pages beyond the new end stayed in the chain.
#[test]
fn r_09_pages_above_commit_are_dropped() {
    let chain = [file(2, 1, 1, &[1, 2]), file(5, 2, 2, &[1, 3, 4, 5]), file(3, 3, 3, &[2])];
    let (header, content, _) = merged(&chain).unwrap();
    assert_eq!((header.commit, header.min_txid, header.max_txid), (3, Txid(1), Txid(3)));
    let want: Pages = [(1, 2001), (2, 3002), (3, 2003)].map(|(n, c)| (n, page(c, 512))).into();
    assert_eq!(content, want);
    assert!(encoding_refusal(header, &[1, 2, 3, 4]).contains("out-of-bounds for commit size 3"));
}

/// Files with real checksums are refused by Litestream's restore.
#[test]
fn r_50_checksums_are_never_written() {
    assert_eq!(header(1, 1, 1).flags, HEADER_NO_CHECKSUM);
    let tracked = Header { flags: 0, ..header(1, 1, 1) };
    let content = pages([1], 512);
    let mut sum = RollingChecksum::EMPTY;
    sum.toggle(page_checksum(1, &content[0].1));
    let first = raw_file(tracked.encode(), &content, PageForm::Block, sum.value());
    let next = Header { flags: 0, pre_apply_checksum: sum.value(), ..header(1, 2, 2) };
    let second = raw_file(next.encode(), &content, PageForm::Block, sum.value());
    for chain in [&[first.clone(), second.clone()][..], &[first], &[second]] {
        let (header, _, trailer) = merged(chain).unwrap();
        assert_eq!((header.flags, header.pre_apply_checksum), (HEADER_NO_CHECKSUM, 0));
        assert_eq!(trailer.post_apply_checksum, 0);
    }
}

/// Readers of before 0.5.16 know only frames, files of today have blocks: even
/// both in one file are read.
#[test]
fn r_51_both_page_forms_are_read() {
    let content = pages([1, 2, 3], 512);
    let [block, frame] = FORMS.map(|form| encode(header(3, 1, 1), &content, form));
    assert_eq!(block[104..106], [0, 1]);
    assert_eq!(frame[104..106], [0, 0]);
    assert_eq!(decode(&block).unwrap().1, content);
    assert_eq!(decode(&frame).unwrap().1, content);
    let next = file(3, 2, 2, &[2]);
    for form in FORMS {
        let (out, ..) = merge(vec![&frame[..], &next[..]], Vec::new(), form).unwrap();
        let got = decode(&out).unwrap().1;
        assert_eq!(got[0], content[0]);
        assert_eq!(got[1].1, page(2002, 512));
    }
}

/// A frame reader looked for a concatenated frame and ate the next page's header.
#[test]
fn r_52_frame_pages_decode_from_exact_slices() {
    let content = pages(1..=40, 512);
    let file = encode(header(40, 1, 1), &content, PageForm::Frame);
    for step in [1, 7, 64, 4096] {
        let mut decoder = Decoder::new(Trickle { rest: &file, step }).unwrap();
        let mut buf = [0; 512];
        for (pgno, want) in &content {
            let at = decoder.offset() as usize;
            assert_eq!(decoder.next_page(&mut buf).unwrap(), Some(*pgno));
            assert_eq!(buf[..], want[..]);
            let frame = &file[at..decoder.offset() as usize];
            assert_eq!(decode_page(frame, 512, &mut buf).unwrap(), *pgno);
            assert!(decode_page(&file[at..at + frame.len() + 1], 512, &mut buf).is_err());
            assert!(decode_page(&frame[..frame.len() - 1], 512, &mut buf).is_err());
        }
        assert_eq!(decoder.next_page(&mut buf).unwrap(), None);
        decoder.finish().unwrap();
    }
}

struct Trickle<'a> {
    rest: &'a [u8],
    step: usize,
}

impl std::io::Read for Trickle<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.step.min(buf.len()).min(self.rest.len());
        buf[..n].copy_from_slice(&self.rest[..n]);
        self.rest = &self.rest[n..];
        Ok(n)
    }
}

/// Version 0.5.0 refused the flag and replication was dead for existing databases.
#[test]
fn r_54_no_checksum_flag_is_accepted() {
    let bytes = file(2, 2, 2, &[2]);
    let (header, trailer) = verify(&bytes[..]).unwrap();
    assert!(header.no_checksum());
    assert_eq!((header.pre_apply_checksum, trailer.post_apply_checksum), (0, 0));
}

/// The lock page was copied into files and counted in checksums.
#[test]
fn r_55_lock_page_is_skipped() {
    for shift in 9..=16 {
        let size = 1_u32 << shift;
        let lock = lock_pgno(size);
        let above = Header::new(size, lock + 1, Txid(2), Txid(2), 0);
        let text = encoding_refusal(above, &[lock - 1, lock]);
        assert_eq!(text, format!("cannot encode lock page: pgno={lock}"));
        let around = pages([lock - 1, lock + 1], size as usize);
        let written = encode(above, &around, PageForm::Block);
        assert_eq!(decode(&written).unwrap().1, around);

        let bad = raw_file(above.encode(), &pages([lock], size as usize), PageForm::Block, 0);
        assert!(refusal(decode(&bad)).contains("lock page"));
        let mut lenient = Decoder::with_checks(&bad[..], Checks::AsLitestream).unwrap();
        let mut buf = vec![0; size as usize];
        assert_eq!(lenient.next_page(&mut buf).unwrap(), Some(lock));

        let before = Header::new(size, lock - 1, Txid(2), Txid(2), 0);
        let grown = Header::new(size, lock + 1, Txid(3), Txid(3), 0);
        let chain = [encode(before, &pages([1], size as usize), PageForm::Block), {
            encode(grown, &pages([lock + 1], size as usize), PageForm::Block)
        }];
        assert_eq!(merged(&chain).unwrap().1.len(), 2);
    }
}

#[test]
fn pages_that_break_the_order_are_refused() {
    let table: [(Header, &[Pgno], &str); 6] = [
        (header(3, 1, 1), &[2], "snapshot transaction file must start with page number 1"),
        (header(3, 1, 1), &[1, 1], "nonsequential page numbers in snapshot transaction: 1,1"),
        (header(3, 2, 2), &[4], "page number 4 out-of-bounds for commit size 3"),
        (header(3, 2, 2), &[2, 2], "out-of-order page numbers: 2,2"),
        (header(3, 2, 2), &[3, 1], "out-of-order page numbers: 3,1"),
        (header(0, 2, 2), &[], "post-apply checksum must be empty for zero-length database"),
    ];
    for (header, numbers, text) in table {
        assert_eq!(encoding_refusal(header, numbers), text);
        if !numbers.is_empty() {
            let raw = raw_file(header.encode(), &pages(numbers.to_vec(), 512), PageForm::Block, 0);
            assert_eq!(refusal(decode(&raw)), text);
        }
    }
    assert_eq!(encoding_refusal(header(3, 2, 2), &[0]), "page number required");
    let mut encoder = Encoder::new(Vec::new(), header(3, 2, 2), PageForm::Block).unwrap();
    let e = encoder.encode_page(1, &[0; 511]).unwrap_err();
    assert_eq!(e.to_string(), "invalid page buffer size: 511, expecting 512");
}

#[test]
fn litestreams_own_leniency_is_at_hand() {
    let content: Pages = pages([2, 2, 9, 1], 512);
    let raw = raw_file(header(3, 2, 2).encode(), &content, PageForm::Frame, 0);
    assert!(decode(&raw).is_err());
    let mut decoder = Decoder::with_checks(&raw[..], Checks::AsLitestream).unwrap();
    let mut buf = [0; 512];
    for (pgno, data) in &content {
        assert_eq!(decoder.next_page(&mut buf).unwrap(), Some(*pgno));
        assert_eq!(buf[..], data[..]);
    }
    assert_eq!(decoder.next_page(&mut buf).unwrap(), None);
    decoder.finish().unwrap();
}

#[test]
fn headers_are_validated_when_read() {
    let mut bytes = file(2, 2, 2, &[2]);
    bytes[16..24].fill(0);
    assert_eq!(refusal(decode(&bytes)), "minimum transaction id required");
    bytes[0] = b'X';
    assert_eq!(refusal(decode(&bytes)), "unmarshal header: invalid LTX file");
    assert_eq!(refusal(decode(&bytes[..99])), "read header: unexpected end of file");
    assert_eq!(refusal(decode(&[])), "read header: unexpected end of file");
}

#[test]
fn tracked_files_roundtrip_and_a_wrong_post_apply_fails() {
    let tracked = Header { flags: 0, ..header(2, 1, 1) };
    let content = pages([1, 2], 512);
    let mut sum = RollingChecksum::EMPTY;
    content.iter().for_each(|(n, data)| sum.toggle(page_checksum(*n, data)));
    let write = |post: u64| {
        let mut encoder = Encoder::new(Vec::new(), tracked, PageForm::Block).unwrap();
        content.iter().for_each(|(n, data)| encoder.encode_page(*n, data).unwrap());
        encoder.set_post_apply_checksum(post);
        encoder.finish().map(|(file, _)| file)
    };
    assert_eq!(decode(&write(sum.value()).unwrap()).unwrap().2.post_apply_checksum, sum.value());
    let text = refusal(decode(&write(sum.value() ^ 1).unwrap()));
    assert!(text.contains("does not match calculated checksum"), "{text}");
    assert_eq!(write(0).unwrap_err().to_string(), "post-apply checksum required");
    assert_eq!(write(1).unwrap_err().to_string(), "invalid post-apply checksum format");
    let empty = Header { flags: 0, pre_apply_checksum: CHECKSUM_FLAG | 1, ..header(0, 2, 2) };
    let mut encoder = Encoder::new(Vec::new(), empty, PageForm::Block).unwrap();
    encoder.set_post_apply_checksum(CHECKSUM_FLAG);
    assert_eq!(encoder.finish().unwrap().0.len(), 131);
}

#[test]
fn the_index_must_name_the_pages() {
    let good = file(3, 2, 2, &[2, 3]);
    let content = decode(&good).unwrap().1;
    let hashed = |file: &[u8]| {
        let mut out = file[..100].to_vec();
        let mut at = 100;
        for (_, data) in &content {
            let n = u32::from_be_bytes(file[at + 6..at + 10].try_into().unwrap()) as usize;
            out.extend(&file[at..at + 10]);
            out.extend(data);
            at += 10 + n;
        }
        out.extend(&file[at..file.len() - 8]);
        out
    };
    let same = reseal(good.clone(), &hashed(&good));
    assert_eq!(same, good);
    let mut bad = good.clone();
    let pgno = bad.len() - 24 - 1 - 5;
    bad[pgno] ^= 1;
    let bad = reseal(bad.clone(), &hashed(&bad));
    assert_eq!(refusal(decode(&bad)), "page index does not match the pages");
}

#[test]
fn merging_one_file_clears_its_wal_fields() {
    let from_wal =
        Header { wal_offset: 32, wal_size: 536, wal_salt1: 1, wal_salt2: 2, ..header(2, 2, 9) };
    let content = pages([1, 2], 512);
    let (out, same, _) = merged(&[encode(from_wal, &content, PageForm::Block)]).unwrap();
    assert_eq!(out, header(2, 2, 9));
    assert_eq!(same, content);
}

#[test]
fn merges_that_do_not_fit_are_refused() {
    let none: Vec<&[u8]> = Vec::new();
    let e = merge(none, Vec::new(), PageForm::Block).unwrap_err();
    assert_eq!(e.to_string(), "at least one input reader required");
    let gap = refusal(merged(&[file(1, 10, 10, &[1]), file(1, 12, 12, &[1])]));
    assert_eq!(
        gap,
        "non-contiguous transaction ids in input files: \
         (000000000000000a,000000000000000a) -> (000000000000000c,000000000000000c)"
    );
    let other = Header::new(1024, 1, Txid(11), Txid(11), 0);
    let other = encode(other, &pages([1], 1024), PageForm::Block);
    let sizes = refusal(merged(&[file(1, 10, 10, &[1]), other]));
    assert_eq!(sizes, "input files have mismatched page sizes: 512 != 1024");
    let overlapping = merged(&[file(1, 8, 10, &[1]), file(1, 5, 11, &[1])]).unwrap();
    assert_eq!((overlapping.0.min_txid, overlapping.0.max_txid), (Txid(8), Txid(11)));
    assert_eq!(overlapping.0.timestamp_ms, 1011);
}

#[test]
fn damage_in_any_input_fails_the_merge() {
    let chain = [file(2, 1, 1, &[1, 2]), file(2, 2, 2, &[2]), file(2, 3, 3, &[1])];
    merged(&chain).unwrap();
    for i in 0..chain.len() {
        let mut bad = chain.clone();
        let last = bad[i].len() - 1;
        bad[i][last] ^= 1;
        let text = refusal(merged(&bad));
        assert_eq!(text, format!("close reader {i}: file checksum mismatch"));
    }
}

#[test]
fn errors_of_the_sink_keep_their_kind() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut encoder = Encoder::new(Full, header(1, 2, 2), PageForm::Block).unwrap();
    encoder.encode_page(1, &page(1, 512)).unwrap();
    assert_eq!(encoder.finish().map(|_| ()).unwrap_err().kind(), ErrorKind::Full);
    let chain = [file(1, 1, 1, &[1])];
    let result = merge(vec![&chain[0][..]], Full, PageForm::Block);
    assert_eq!(result.map(|_| ()).unwrap_err().kind(), ErrorKind::Full);
}
