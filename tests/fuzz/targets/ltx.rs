//! LTX files and page indexes.

use litestream::Result;
use litestream::compactor::merge;
use litestream::ltx::{
    CHECKSUM_FLAG, Checks, Decoder, Encoder, HEADER_NO_CHECKSUM, Header, PageForm, PageIndex, Pgno,
    RollingChecksum, Suffix, Trailer, Txid, decode_page, lock_pgno, page_checksum, page_index,
    verify,
};

use super::Input;

/// Pages of a file, in order.
type Pages = Vec<(Pgno, Vec<u8>)>;

fn read(bytes: &[u8], checks: Checks) -> Result<(Header, Pages, Trailer)> {
    let mut decoder = Decoder::with_checks(bytes, checks)?;
    let header = *decoder.header();
    let mut page = vec![0; header.page_size as usize];
    let mut pages = Pages::new();
    while let Some(pgno) = decoder.next_page(&mut page)? {
        pages.push((pgno, page.clone()));
    }
    let trailer = decoder.finish()?;
    Ok((header, pages, trailer))
}

/// Any bytes as a file.
pub fn files(bytes: &[u8]) {
    let loose = read(bytes, Checks::AsLitestream);
    let merged = merge(vec![bytes], Vec::new(), PageForm::Block);
    let _ = PageIndex::from_suffix(bytes, bytes.len() as u64);
    let strict = read(bytes, Checks::Strict);
    assert_eq!(verify(bytes).is_ok(), strict.is_ok());
    assert_eq!(merged.is_ok(), strict.is_ok());
    let Ok((header, pages, trailer)) = strict else { return };
    assert_eq!(loose.unwrap(), (header, pages.clone(), trailer));
    accepted(bytes, &header, &pages, &trailer);
    let merged = merged.unwrap().0;
    assert_eq!(read(&merged, Checks::Strict).unwrap().1, pages);
}

/// What holds of a file that strict reading accepts.
fn accepted(bytes: &[u8], header: &Header, pages: &Pages, trailer: &Trailer) {
    header.validate().unwrap();
    trailer.validate(header).unwrap();
    // The 20 bytes behind the fields are reserved.
    let mut fields = bytes[..100].to_vec();
    fields[80..].fill(0);
    assert_eq!(header.encode()[..], fields);
    assert!(pages.windows(2).all(|w| w[0].0 < w[1].0));
    let Suffix::Index(index) = PageIndex::from_suffix(bytes, bytes.len() as u64).unwrap() else {
        panic!("the whole file holds the whole index")
    };
    assert_eq!(index.len(), pages.len());
    for (entry, (pgno, page)) in index.iter().zip(pages) {
        assert_eq!(entry.pgno, *pgno);
        let frame = &bytes[entry.offset as usize..][..entry.size as usize];
        let mut out = vec![0; header.page_size as usize];
        assert_eq!(decode_page(frame, header.page_size, &mut out).unwrap(), *pgno);
        assert_eq!(out, *page);
    }
}

/// A file made of the input's numbers, then changed in one place.
pub fn made(bytes: &[u8]) {
    let mut input = Input(bytes);
    let form = if input.byte() & 1 == 0 { PageForm::Block } else { PageForm::Frame };
    let (header, pages) = plan(&mut input);
    if header.validate().is_err() {
        assert!(Encoder::new(Vec::new(), header, form).is_err());
        return;
    }
    let Ok(file) = write(&header, &pages, form) else { return };
    let (got, read_pages, trailer) = read(&file, Checks::Strict).unwrap();
    assert_eq!((got, &read_pages), (header, &pages));
    accepted(&file, &header, &pages, &trailer);
    assert_eq!(write(&header, &pages, form).unwrap(), file);

    let mut changed = file.clone();
    let at = input.number() as usize % changed.len();
    changed[at] ^= input.byte().max(1);
    // LZ4 says the same in several ways; whatever else changed is refused.
    if let Ok((header_2, pages_2, _)) = read(&changed, Checks::Strict) {
        assert_eq!((header_2, pages_2), (header, pages));
    }
    let cut = input.number() as usize % file.len();
    assert!(read(&file[..cut], Checks::Strict).is_err());
}

fn plan(input: &mut Input<'_>) -> (Header, Pages) {
    let page_size = 512 << (input.byte() % 3);
    let snapshot = input.byte() & 1 == 0;
    let checksums = input.byte() & 1 == 0;
    let commit = u32::from(input.byte()) % 12;
    let min_txid = Txid(if snapshot { 1 } else { input.long() });
    let header = Header {
        flags: if checksums { 0 } else { HEADER_NO_CHECKSUM },
        page_size,
        commit,
        min_txid,
        max_txid: Txid(min_txid.0.saturating_add(u64::from(input.byte()))),
        timestamp_ms: input.long().cast_signed(),
        pre_apply_checksum: match (snapshot, checksums) {
            (false, true) => input.long() | CHECKSUM_FLAG,
            _ => 0,
        },
        wal_offset: i64::from(input.number()),
        wal_size: i64::from(input.number()),
        wal_salt1: input.number(),
        wal_salt2: input.number(),
        node_id: input.long(),
    };
    let lock = lock_pgno(page_size);
    let all = (1..=commit).filter(|p| *p != lock && (snapshot || input.byte() & 1 == 0));
    let chosen: Vec<Pgno> = all.collect();
    let pages = chosen.into_iter().map(|p| (p, input.page(page_size as usize))).collect();
    (header, pages)
}

fn write(header: &Header, pages: &Pages, form: PageForm) -> Result<Vec<u8>> {
    let mut encoder = Encoder::new(Vec::new(), *header, form)?;
    let mut sum = RollingChecksum::EMPTY;
    for (pgno, page) in pages {
        encoder.encode_page(*pgno, page)?;
        sum.toggle(page_checksum(*pgno, page));
    }
    if header.flags & HEADER_NO_CHECKSUM == 0 {
        encoder.set_post_apply_checksum(sum.value());
    }
    Ok(encoder.finish()?.0)
}

/// Any bytes as a page index, a frame, a file's end.
pub fn indexes(bytes: &[u8]) {
    let _ = PageIndex::from_suffix(bytes, u64::MAX);
    let _ = PageIndex::from_suffix(bytes, bytes.len() as u64);
    for size in [512, 4096] {
        let mut page = vec![0; size as usize];
        let _ = decode_page(bytes, size, &mut page);
    }
    // The index of the example, and whatever end would make these bytes one.
    let mut ends = vec![464];
    let open = page_index::decode(bytes, u64::MAX).unwrap_err().to_string();
    ends.extend(open.split(' ').filter_map(|w| w.trim_end_matches(',').parse::<u64>().ok()));
    for end in ends {
        let Ok(index) = page_index::decode(bytes, end) else { continue };
        // A longer spelling of a number is not the encoder's.
        let again = page_index::encode(&index);
        assert!(again.len() <= bytes.len());
        assert_eq!(page_index::decode(&again, end).unwrap(), index);
    }
}
