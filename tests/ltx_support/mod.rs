//! A second, independent writer of the file format, and shared samples.
#![allow(dead_code)]

use litestream::ltx::{Decoder, Encoder, Header, PageForm, Pgno, Trailer};

pub type Pages = Vec<(Pgno, Vec<u8>)>;

/// Pages that are half text and half noise, different for every number.
pub fn page(pgno: Pgno, page_size: usize) -> Vec<u8> {
    let mut out = format!("page {pgno} has some text in it; ").repeat(page_size / 20).into_bytes();
    out.truncate(page_size / 2);
    let mut x = u64::from(pgno).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while out.len() < page_size {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.push(x as u8);
    }
    out
}

pub fn pages(numbers: impl IntoIterator<Item = Pgno>, page_size: usize) -> Pages {
    numbers.into_iter().map(|n| (n, page(n, page_size))).collect()
}

pub fn encode(header: Header, pages: &Pages, form: PageForm) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), header, form).unwrap();
    for (pgno, data) in pages {
        encoder.encode_page(*pgno, data).unwrap();
    }
    encoder.finish().unwrap().0
}

pub fn decode(file: &[u8]) -> litestream::Result<(Header, Pages, Trailer)> {
    let mut decoder = Decoder::new(file)?;
    let header = *decoder.header();
    let mut buf = vec![0; header.page_size as usize];
    let mut pages = Pages::new();
    while let Some(pgno) = decoder.next_page(&mut buf)? {
        pages.push((pgno, buf.clone()));
    }
    Ok((header, pages, decoder.finish()?))
}

fn crc(parts: &[u8]) -> u64 {
    1 << 63 | crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64GoIso, parts)
}

fn uvarint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Writes whatever it is told to, rules or not.
pub fn raw_file(header: [u8; 100], pages: &Pages, form: PageForm, post_apply: u64) -> Vec<u8> {
    let (mut file, mut hashed, mut index) = (header.to_vec(), header.to_vec(), Vec::new());
    for (pgno, data) in pages {
        let at = file.len() as u64;
        let block = lz4_flex::block::compress(data);
        file.extend(pgno.to_be_bytes());
        hashed.extend(pgno.to_be_bytes());
        match form {
            PageForm::Block => {
                let rest = [&[0, 1][..], &(block.len() as u32).to_be_bytes()].concat();
                file.extend(&rest);
                hashed.extend(&rest);
                file.extend(&block);
            }
            PageForm::Frame => {
                file.extend([0, 0]);
                hashed.extend([0, 0]);
                file.extend([0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7]);
                file.extend((block.len() as u32).to_le_bytes());
                file.extend(&block);
                file.extend([0; 4]);
                file.extend(twox_hash::XxHash32::oneshot(0, data).to_le_bytes());
            }
        }
        hashed.extend(data);
        uvarint(&mut index, u64::from(*pgno));
        uvarint(&mut index, at);
        uvarint(&mut index, file.len() as u64 - at);
    }
    index.push(0);
    let len = (index.len() as u64).to_be_bytes();
    let tail = [&[0; 6][..], &index, &len, &post_apply.to_be_bytes()].concat();
    file.extend(&tail);
    hashed.extend(&tail);
    file.extend(crc(&hashed).to_be_bytes());
    file
}

/// Rewrites the file checksum after a change to the bytes in front of it.
pub fn reseal(mut file: Vec<u8>, hashed: &[u8]) -> Vec<u8> {
    let at = file.len() - 8;
    file[at..].copy_from_slice(&crc(hashed).to_be_bytes());
    file
}
