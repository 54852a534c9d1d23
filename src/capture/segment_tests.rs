//! Segments: what is appended is what is read, and nothing else is.

use super::*;

fn pages(list: &[(Pgno, u8)]) -> Vec<(Pgno, Vec<u8>)> {
    list.iter().map(|&(p, fill)| (p, vec![fill; 512])).collect()
}

fn append(s: &mut Segment, list: &[(Pgno, u8)]) {
    let list = pages(list);
    s.append(list.iter().map(|(p, d)| (*p, d.as_slice()))).unwrap();
}

fn content(s: &Segment) -> Vec<(Pgno, u8)> {
    let mut out = Vec::new();
    s.for_each_page(|p, d| {
        out.push((p, d[511]));
        Ok(())
    })
    .unwrap();
    out
}

#[test]
fn newest_copy_wins_and_survives_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Segment::create(dir.path(), Txid(7), 0, 512, None).unwrap();
    append(&mut s, &[(3, 1), (1, 1)]);
    append(&mut s, &[(3, 2), (9, 2)]);
    s.shrink(8).unwrap();
    let seal = Seal { commit: 8, timestamp_ms: 5, wal_offset: 32, wal_size: 0, wal_salts: [1, 2] };
    s.seal(seal).unwrap();
    let len = s.len();
    assert_eq!(content(&s), [(1, 1), (3, 2)]);
    drop(s);
    let s = Segment::open(dir.path(), Txid(7), 0, Some(len), None).unwrap();
    assert_eq!(content(&s), [(1, 1), (3, 2)]);
    assert_eq!(s.sealed(), Some(seal));
}

#[test]
fn a_torn_or_altered_batch_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Segment::create(dir.path(), Txid(7), 0, 512, None).unwrap();
    append(&mut s, &[(3, 1)]);
    let len = s.len();
    let path = s.path().to_owned();
    drop(s);
    assert!(Segment::open(dir.path(), Txid(7), 0, Some(len - 1), None).is_err());
    assert!(Segment::open(dir.path(), Txid(7), 0, Some(len + 1), None).is_err());
    let f = File::open_private(&path, None).unwrap();
    f.write_all_at(&[9], len - 1).unwrap();
    let e = Segment::open(dir.path(), Txid(7), 0, Some(len), None).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
    assert!(e.to_string().contains("segment"), "{e}");
}

/// A batch that a crash cut short was longer than what replaced it.
#[test]
fn a_sealed_segment_ends_with_its_seal() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Segment::create(dir.path(), Txid(7), 0, 512, None).unwrap();
    append(&mut s, &[(3, 1)]);
    s.seal(Seal { commit: 3, timestamp_ms: 5, wal_offset: 32, wal_size: 0, wal_salts: [1, 2] })
        .unwrap();
    let file = File::open_private(s.path(), None).unwrap();
    file.write_all_at(&[7; 700], s.len()).unwrap();
    drop(s);
    let s = Segment::open(dir.path(), Txid(7), 0, None, None).unwrap();
    assert_eq!((content(&s), s.sealed().is_some()), (vec![(3, 1)], true));
}

#[test]
fn an_unknown_batch_of_endless_length_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let s = Segment::create(dir.path(), Txid(7), 0, 512, None).unwrap();
    let mut h = [0u8; BATCH_HEADER_LEN];
    h[0] = 9;
    h[8..16].fill(0xff);
    let crc = crc64(&h[..24]);
    h[24..].copy_from_slice(&crc.to_le_bytes());
    let file = File::open_private(s.path(), None).unwrap();
    file.write_all_at(&h, HEADER_LEN).unwrap();
    drop(s);
    let e = Segment::open(dir.path(), Txid(7), 0, None, None).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
}

fn whole(s: &Segment) -> Vec<(Pgno, Vec<u8>)> {
    let mut out = Vec::new();
    s.for_each_page(|p, d| {
        out.push((p, d.to_vec()));
        Ok(())
    })
    .unwrap();
    out
}

fn change(s: &mut Segment, pages: &[(Pgno, Vec<u8>)]) {
    s.append_changes(pages.iter().map(|(p, d)| (*p, d.as_slice()))).unwrap();
}

/// Pages as a model keeps them, against the segment and what is read of its file:
/// small and large changes, whole copies between, shrinks, and another process.
#[test]
fn parts_of_pages_make_the_pages() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Segment::create(dir.path(), Txid(7), 0, 512, None).unwrap();
    let mut model = std::collections::BTreeMap::<Pgno, Vec<u8>>::new();
    let mut x = 88_172_645_463_325_252_u64;
    let mut random = |n: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x % n
    };
    let mut runs = 0;
    for round in 0..3000 {
        let mut pages = std::collections::BTreeMap::new();
        for _ in 0..=random(4) {
            let pgno = 1 + random(12) as Pgno;
            let mut page = model.get(&pgno).cloned().unwrap_or_else(|| vec![0; 512]);
            for _ in 0..random(if round % 7 == 0 { 400 } else { 4 }) {
                page[random(512) as usize] = random(256) as u8;
            }
            pages.insert(pgno, page);
        }
        let list: Vec<_> = pages.clone().into_iter().collect();
        let before = s.len();
        if random(9) == 0 {
            s.append(list.iter().map(|(p, d)| (*p, d.as_slice()))).unwrap();
        } else {
            change(&mut s, &list);
            runs += u64::from(s.len() - before < 512);
        }
        model.extend(pages);
        match random(40) {
            0 => {
                let commit = 1 + random(12) as Pgno;
                s.shrink(commit).unwrap();
                model.retain(|&p, _| p <= commit);
            }
            1 => {
                let path = s.rewrite(dir.path()).unwrap();
                os::remove_file(&path).unwrap();
            }
            // Another process appends, and this one goes on after it.
            2 => {
                let len = Some(s.len());
                let mut other =
                    Segment::attach(dir.path(), Txid(7), s.generation(), len, None).unwrap();
                let page = vec![round as u8; 512];
                change(&mut other, &[(3, page.clone())]);
                model.insert(3, page);
                s.extend_to(other.len());
                if random(2) == 0 {
                    s.load().unwrap();
                }
            }
            _ => {}
        }
        if random(50) == 0 {
            let expected: Vec<_> = model.clone().into_iter().collect();
            let opened = Segment::open(dir.path(), Txid(7), s.generation(), Some(s.len()), None);
            assert_eq!(whole(&opened.unwrap()), expected, "round {round}");
            s.load().unwrap();
            assert_eq!(whole(&s), expected, "round {round}");
        }
    }
    assert!(runs > 500, "{runs}");
}

#[test]
fn runs_that_no_page_has_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (pgno, at, len, more) in
        [(2, 0, 64, 0), (1, 512, 64, 0), (1, u32::MAX, 64, 0), (1, 0, 64, 1), (1, 0, 65, 0)]
    {
        let mut s = Segment::create(dir.path(), Txid(7), 0, 512, None).unwrap();
        append(&mut s, &[(1, 1)]);
        let mut batch = vec![0u8; BATCH_HEADER_LEN];
        for word in [pgno, at, len] {
            batch.extend_from_slice(&u32::to_le_bytes(word));
        }
        batch.extend_from_slice(&[0; 64]);
        batch.extend_from_slice(&vec![0; more]);
        s.write_batch(KIND_RUNS, 1, &mut batch).unwrap();
        let e = Segment::open(dir.path(), Txid(7), 0, Some(s.len()), None).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{pgno} {at} {len} {more}");
    }
}

#[test]
fn a_segment_of_version_1_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Segment::create(dir.path(), Txid(7), 0, 512, None).unwrap();
    append(&mut s, &[(3, 1)]);
    let file = File::open_private(s.path(), None).unwrap();
    file.write_all_at(&1u32.to_le_bytes(), 8).unwrap();
    let open = |len| Segment::open(dir.path(), Txid(7), 0, Some(len), None);
    assert_eq!(content(&open(s.len()).unwrap()), [(3, 1)]);
    file.write_all_at(&3u32.to_le_bytes(), 8).unwrap();
    assert!(open(s.len()).is_err());
}

#[test]
fn a_rewrite_drops_garbage() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Segment::create(dir.path(), Txid(7), 0, 512, None).unwrap();
    for round in 0..50 {
        append(&mut s, &[(1, round), (2, round)]);
    }
    let before = s.len();
    let old = s.rewrite(dir.path()).unwrap();
    assert_eq!(parse_file_name(old.file_name().unwrap().to_str().unwrap()), Some((Txid(7), 0)));
    assert_eq!(content(&s), [(1, 49), (2, 49)]);
    assert!(s.len() < before / 10);
    assert_eq!(s.generation(), 1);
}
