//! Round trips and damage: whatever the bytes, an error and never a panic.

mod ltx_support;

use litestream::compactor::merge;
use litestream::ltx::{Header, PageForm, PageIndex, Pgno, Suffix, Txid, decode_page, verify};
use ltx_support::{Pages, decode, encode, raw_file};
use proptest::prelude::*;

/// A page: noise, text, or one byte over and over.
fn content(page_size: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), page_size),
        "[a-e ]{16,64}".prop_map(move |s| s.bytes().cycle().take(page_size).collect()),
        any::<u8>().prop_map(move |b| vec![b; page_size]),
    ]
}

fn form() -> impl Strategy<Value = PageForm> {
    prop_oneof![Just(PageForm::Block), Just(PageForm::Frame)]
}

/// A valid file: (header, pages).
fn file() -> impl Strategy<Value = (Header, Pages)> {
    (512_usize..=1024)
        .prop_map(|n| if n < 768 { 512 } else { 1024 })
        .prop_flat_map(|size| {
            let numbers = proptest::collection::btree_map(1..200_u32, content(size), 0..12);
            (Just(size), numbers, any::<bool>(), any::<i64>())
        })
        .prop_map(|(size, pages, snapshot, time)| {
            let min = if snapshot && !pages.is_empty() { 1 } else { 2 };
            let pages: Pages = match min {
                1 => pages.into_values().enumerate().map(|(i, p)| (i as Pgno + 1, p)).collect(),
                _ => pages.into_iter().collect(),
            };
            let commit = pages.last().map_or(1, |p| p.0);
            (Header::new(size as u32, commit, Txid(min), Txid(7), time), pages)
        })
}

/// The kinds of bytes in a block-form file; everything but `Payload` is
/// protected byte by byte.
fn payload_ranges(file: &[u8]) -> Vec<std::ops::Range<usize>> {
    let Ok(Suffix::Index(index)) = PageIndex::from_suffix(file, file.len() as u64) else {
        panic!("index expected")
    };
    index.iter().map(|e| e.offset as usize + 10..(e.offset + u64::from(e.size)) as usize).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn files_roundtrip((header, pages) in file(), form in form()) {
        let bytes = encode(header, &pages, form);
        let (h, p, trailer) = decode(&bytes).unwrap();
        prop_assert_eq!(&(h, p), &(header, pages.clone()));
        prop_assert_eq!(trailer.file_checksum >> 63, 1);
        let other = raw_file(header.encode(), &pages, form, 0);
        prop_assert_eq!(decode(&other).unwrap().1, pages.clone());
        let Suffix::Index(index) = PageIndex::from_suffix(&bytes, bytes.len() as u64).unwrap() else {
            panic!("the whole file has the index")
        };
        let mut out = vec![0; header.page_size as usize];
        for (pgno, page) in &pages {
            let e = index.get(*pgno).unwrap();
            let frame = &bytes[e.offset as usize..][..e.size as usize];
            prop_assert_eq!(decode_page(frame, header.page_size, &mut out).unwrap(), *pgno);
            prop_assert_eq!(&out, page);
        }
    }

    /// A changed byte is noticed, or changed nothing that is read.
    #[test]
    fn damage_is_detected((header, pages) in file(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let mut bytes = encode(header, &pages, PageForm::Block);
        let at = at.index(bytes.len());
        let in_payload = payload_ranges(&bytes).iter().any(|r| r.contains(&at));
        bytes[at] ^= flip;
        match decode(&bytes) {
            Err(e) => prop_assert_eq!(e.kind(), litestream::ErrorKind::Corrupt),
            Ok(read) => {
                prop_assert!(in_payload, "byte {} is not protected", at);
                prop_assert_eq!((read.0, read.1), (header, pages));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), size in any::<u64>()) {
        let mut file = Header::new(512, 9, Txid(2), Txid(2), 0).encode().to_vec();
        file.extend(&bytes);
        prop_assert!(verify(&bytes[..]).is_err());
        prop_assert!(verify(&file[..]).is_err());
        let _ = merge(vec![&file[..]], Vec::new(), PageForm::Block).map(|_| ());
        let mut out = [0; 512];
        let _ = decode_page(&bytes, 512, &mut out);
        for flags in [0, 1] {
            let _ = decode_page(&[&[0, 0, 0, 1, 0, flags], &bytes[..]].concat(), 512, &mut out);
        }
        let lz4 = [0, 0, 0, 1, 0, 0, 0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7];
        let _ = decode_page(&[&lz4, &bytes[..]].concat(), 512, &mut out);
        let _ = PageIndex::from_suffix(&bytes, size);
        let _ = PageIndex::from_suffix(&bytes, bytes.len() as u64);
    }

    /// Merging step by step or at once is the same, and both are what applying
    /// the files in order gives.
    #[test]
    fn merges_are_applied_in_order(sizes in proptest::collection::vec((1..12_u32, any::<u16>()), 1..6)) {
        let (mut files, mut want, mut last) = (Vec::new(), Pages::new(), 0);
        for (i, (commit, mask)) in sizes.iter().enumerate() {
            let tx = i as u64 + 1;
            let written = (1..=*commit).filter(|n| *n > last || mask >> n & 1 == 1);
            let pages: Pages =
                written.map(|n| (n, ltx_support::page(n + 100 * tx as u32, 512))).collect();
            want.retain(|p| p.0 <= *commit && pages.iter().all(|new| new.0 != p.0));
            want.extend(pages.iter().cloned());
            last = *commit;
            let header = Header::new(512, *commit, Txid(tx), Txid(tx), tx as i64);
            files.push(encode(header, &pages, PageForm::Block));
        }
        want.sort();
        let all = |parts: &[&[u8]]| merge(parts.to_vec(), Vec::new(), PageForm::Frame).unwrap().0;
        let refs: Vec<&[u8]> = files.iter().map(|f| &f[..]).collect();
        let whole = all(&refs);
        let stepwise =
            refs[1..].iter().fold(all(&refs[..1]), |base, next| all(&[&base[..], next][..]));
        prop_assert_eq!(&whole, &stepwise);
        prop_assert_eq!(decode(&whole).unwrap().1, want);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_truncation_is_refused((header, pages) in file(), form in form()) {
        let bytes = encode(header, &pages, form);
        for n in 0..bytes.len() {
            prop_assert!(verify(&bytes[..n]).is_err(), "{} of {}", n, bytes.len());
            let _ = PageIndex::from_suffix(&bytes[..n], n as u64);
            let _ = PageIndex::from_suffix(&bytes[n..], bytes.len() as u64);
        }
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(verify(&longer[..]).is_err());
    }
}
