//! Page frames: a 6-byte header and one compressed page.
//!
//! | flags | what follows the header |
//! |---|---|
//! | 1 | u32 BE length, then one raw LZ4 block of that length |
//! | 0 | one LZ4 frame (magic to content checksum), no length |

use lz4_flex::block::{self, CompressTable};
use twox_hash::XxHash32;

use super::source::{SliceSource, Source};
use super::{Pgno, is_valid_page_size};
use crate::{Error, ErrorKind, Result};

/// Length of a frame's header: page number (u32 BE) and flags (u16 BE).
pub const PAGE_HEADER_SIZE: usize = 6;

/// Page-header flag: a u32 size and a raw LZ4 block follow.
const FLAG_SIZE: u16 = 1;

const SIZE_FIELD: usize = 4;

/// Magic, version 01 with independent blocks and content checksum, 64 KiB
/// blocks, header checksum: what Litestream 0.5.0 to 0.5.15 write.
const LZ4_FRAME_HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7];

/// Bit 31 of an LZ4 frame's block length: the block is stored as it is.
const LZ4_STORED: u32 = 1 << 31;

/// End mark (u32 0) and content checksum (xxHash32, seed 0, LE).
const LZ4_FRAME_TAIL: usize = 8;

/// How pages are stored in a file. Readers of today accept both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PageForm {
    /// A raw LZ4 block with its length: Litestream 0.5.16 and later.
    #[default]
    Block,
    /// An LZ4 frame: the only form that Litestream 0.5.0 to 0.5.15 reads.
    Frame,
}

/// The number and flags in front of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub(super) pgno: Pgno,
    pub(super) flags: u16,
}

impl PageHeader {
    pub(super) fn encode(self) -> [u8; PAGE_HEADER_SIZE] {
        let p = self.pgno.to_be_bytes();
        let f = self.flags.to_be_bytes();
        [p[0], p[1], p[2], p[3], f[0], f[1]]
    }

    pub(super) fn decode(b: [u8; PAGE_HEADER_SIZE]) -> PageHeader {
        PageHeader {
            pgno: u32::from_be_bytes([b[0], b[1], b[2], b[3]]),
            flags: u16::from_be_bytes([b[4], b[5]]),
        }
    }

    /// The six zero bytes behind the last page.
    pub(super) fn is_end(self) -> bool {
        self.pgno == 0 && self.flags == 0
    }

    pub(super) fn validate(self) -> Result<()> {
        if self.flags & !FLAG_SIZE != 0 {
            return Err(corrupt(format!("invalid page header flags: 0x{:04x}", self.flags)));
        }
        if self.pgno == 0 {
            return Err(corrupt("page number required".to_owned()));
        }
        Ok(())
    }
}

/// What a decoded frame body was made of.
pub(super) struct Body {
    /// The size field, which the file checksum covers.
    pub(super) size_field: Option<[u8; SIZE_FIELD]>,
    /// Encoded length behind the page header, in bytes.
    pub(super) len: usize,
}

/// Decodes what follows a valid page header into `out`, one whole page.
pub(super) fn decode_body(src: &mut impl Source, flags: u16, out: &mut [u8]) -> Result<Body> {
    if flags & FLAG_SIZE != 0 { decode_block(src, out) } else { decode_lz4_frame(src, out) }
}

fn decode_block(src: &mut impl Source, out: &mut [u8]) -> Result<Body> {
    let mut size_field = [0; SIZE_FIELD];
    size_field.copy_from_slice(src.take(SIZE_FIELD, "data size")?);
    let len = u32::from_be_bytes(size_field) as usize;
    if len > max_payload(out.len()) {
        return Err(corrupt(format!("data size {len} exceeds any page of {} bytes", out.len())));
    }
    let n = decompress(src.take(len, "compressed data")?, out)?;
    if n != out.len() {
        return Err(short_page(n, out.len()));
    }
    Ok(Body { size_field: Some(size_field), len: SIZE_FIELD + len })
}

/// Reads exactly the bytes of one LZ4 frame: the next one belongs to the next
/// page header.
fn decode_lz4_frame(src: &mut impl Source, out: &mut [u8]) -> Result<Body> {
    check_lz4_header(src.take(LZ4_FRAME_HEADER.len(), "lz4 frame header")?)?;
    let mut len = LZ4_FRAME_HEADER.len() + LZ4_FRAME_TAIL;
    let mut filled = 0;
    while filled < out.len() {
        let (got, used) = decode_lz4_block(src, &mut out[filled..])?;
        filled += got;
        len += used;
    }
    let tail = src.take(LZ4_FRAME_TAIL, "lz4 trailer")?;
    if tail[..4] != [0; 4] {
        return Err(corrupt("read lz4 trailer: expected lz4 end frame".to_owned()));
    }
    if tail[4..] != XxHash32::oneshot(0, out).to_le_bytes() {
        return Err(corrupt("lz4 content checksum mismatch".to_owned()));
    }
    Ok(Body { size_field: None, len })
}

/// One block into the front of `out`: (bytes decoded, bytes read).
fn decode_lz4_block(src: &mut impl Source, out: &mut [u8]) -> Result<(usize, usize)> {
    let mut word = [0; SIZE_FIELD];
    word.copy_from_slice(src.take(SIZE_FIELD, "lz4 block size")?);
    let word = u32::from_le_bytes(word);
    let len = (word & !LZ4_STORED) as usize;
    if len == 0 || len > max_payload(out.len()) {
        return Err(corrupt(format!("invalid lz4 block size: {len}")));
    }
    let data = src.take(len, "lz4 block")?;
    let got = if word & LZ4_STORED == 0 {
        decompress(data, out)?
    } else {
        let room = out.get_mut(..len).ok_or_else(|| corrupt("lz4 block too long".to_owned()))?;
        room.copy_from_slice(data);
        len
    };
    if got == 0 {
        return Err(corrupt("empty lz4 block".to_owned()));
    }
    Ok((got, SIZE_FIELD + len))
}

/// Accepts any block-size class; everything else is fixed by the format.
fn check_lz4_header(b: &[u8]) -> Result<()> {
    if b[..4] != LZ4_FRAME_HEADER[..4] {
        return Err(corrupt("invalid lz4 frame magic".to_owned()));
    }
    let (flg, bd, hc) = (b[4], b[5], b[6]);
    if flg != LZ4_FRAME_HEADER[4] || !matches!(bd, 0x40 | 0x50 | 0x60 | 0x70) {
        return Err(corrupt(format!("unsupported lz4 frame descriptor: {flg:02x} {bd:02x}")));
    }
    if hc != (XxHash32::oneshot(0, &[flg, bd]) >> 8) as u8 {
        return Err(corrupt("lz4 frame header checksum mismatch".to_owned()));
    }
    Ok(())
}

fn decompress(data: &[u8], out: &mut [u8]) -> Result<usize> {
    block::decompress_into(data, out).map_err(|e| corrupt("decompress block".into()).with_source(e))
}

/// The largest compressed length accepted for `page_size` bytes; above LZ4's
/// own bound (n + n/255 + 16), so any writer's output fits.
fn max_payload(page_size: usize) -> usize {
    block::get_maximum_output_size(page_size)
}

/// Room that encoding one page needs, in bytes.
pub(super) fn max_frame_len(page_size: usize) -> usize {
    PAGE_HEADER_SIZE + LZ4_FRAME_HEADER.len() + SIZE_FIELD + max_payload(page_size) + LZ4_FRAME_TAIL
}

/// Decodes one frame, as fetched by its index entry, into `out`.
///
/// Returns its page number.
///
/// # Errors
///
/// `InvalidInput` when `page_size` is invalid or not the length of `out`,
/// `Corrupt` when `frame` is not exactly one valid frame.
pub fn decode_page(frame: &[u8], page_size: u32, out: &mut [u8]) -> Result<Pgno> {
    if !is_valid_page_size(page_size) || out.len() != page_size as usize {
        let message = format!("invalid page buffer size: {}, expecting {page_size}", out.len());
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    let mut src = SliceSource(frame);
    let mut header = [0; PAGE_HEADER_SIZE];
    header.copy_from_slice(src.take(PAGE_HEADER_SIZE, "page header")?);
    let header = PageHeader::decode(header);
    header.validate()?;
    decode_body(&mut src, header.flags, out)?;
    if !src.0.is_empty() {
        return Err(corrupt(format!("{} bytes behind page {}", src.0.len(), header.pgno)));
    }
    Ok(header.pgno)
}

/// Encodes pages in one form, with a match table that is kept between pages.
pub(super) struct PageEncoder {
    form: PageForm,
    table: CompressTable,
}

/// A frame as it lies at the front of the output buffer.
pub(super) struct EncodedFrame {
    /// Whole length in bytes.
    pub(super) len: usize,
    /// Leading bytes that the file checksum covers.
    pub(super) hashed: usize,
}

impl PageEncoder {
    pub(super) fn new(form: PageForm) -> PageEncoder {
        PageEncoder { form, table: CompressTable::small() }
    }

    /// Encodes `page` into the front of `out`, which has [`max_frame_len`] bytes.
    pub(super) fn encode(
        &mut self,
        pgno: Pgno,
        page: &[u8],
        out: &mut [u8],
    ) -> Result<EncodedFrame> {
        match self.form {
            PageForm::Block => self.encode_block(pgno, page, out),
            PageForm::Frame => self.encode_lz4_frame(pgno, page, out),
        }
    }

    fn encode_block(&mut self, pgno: Pgno, page: &[u8], out: &mut [u8]) -> Result<EncodedFrame> {
        const HASHED: usize = PAGE_HEADER_SIZE + SIZE_FIELD;
        let n = self.compress(page, &mut out[HASHED..])?;
        out[..PAGE_HEADER_SIZE].copy_from_slice(&PageHeader { pgno, flags: FLAG_SIZE }.encode());
        out[PAGE_HEADER_SIZE..HASHED].copy_from_slice(&(n as u32).to_be_bytes());
        Ok(EncodedFrame { len: HASHED + n, hashed: HASHED })
    }

    fn encode_lz4_frame(
        &mut self,
        pgno: Pgno,
        page: &[u8],
        out: &mut [u8],
    ) -> Result<EncodedFrame> {
        const WORD: usize = PAGE_HEADER_SIZE + LZ4_FRAME_HEADER.len();
        const DATA: usize = WORD + SIZE_FIELD;
        let mut n = self.compress(page, &mut out[DATA..])?;
        let mut word = n as u32;
        if n >= page.len() {
            n = page.len();
            word = n as u32 | LZ4_STORED;
            out[DATA..DATA + n].copy_from_slice(page);
        }
        out[..PAGE_HEADER_SIZE].copy_from_slice(&PageHeader { pgno, flags: 0 }.encode());
        out[PAGE_HEADER_SIZE..WORD].copy_from_slice(&LZ4_FRAME_HEADER);
        out[WORD..DATA].copy_from_slice(&word.to_le_bytes());
        let tail = &mut out[DATA + n..DATA + n + LZ4_FRAME_TAIL];
        tail[..4].fill(0);
        tail[4..].copy_from_slice(&XxHash32::oneshot(0, page).to_le_bytes());
        Ok(EncodedFrame { len: DATA + n + LZ4_FRAME_TAIL, hashed: PAGE_HEADER_SIZE })
    }

    fn compress(&mut self, page: &[u8], out: &mut [u8]) -> Result<usize> {
        match block::compress_into_with_table(page, out, &mut self.table) {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(Error::new(ErrorKind::Internal, "lz4 block compression failed")),
        }
    }
}

fn short_page(got: usize, want: usize) -> Error {
    corrupt(format!("decompressed page has {got} bytes, expecting {want}"))
}

fn corrupt(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(form: PageForm, pgno: Pgno, page: &[u8]) -> Vec<u8> {
        let mut out = vec![0xee; max_frame_len(page.len())];
        let frame = PageEncoder::new(form).encode(pgno, page, &mut out).unwrap();
        out.truncate(frame.len);
        out
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn both_forms_roundtrip_at_every_page_size() {
        for shift in 9..=16 {
            let size = 1_usize << shift;
            for page in [vec![0; size], noise(size), b"text ".repeat(size)[..size].to_vec()] {
                for form in [PageForm::Block, PageForm::Frame] {
                    let frame = encode(form, 3, &page);
                    let mut out = vec![1; size];
                    assert_eq!(decode_page(&frame, size as u32, &mut out).unwrap(), 3);
                    assert!(out == page);
                }
            }
        }
    }

    #[test]
    fn incompressible_pages_grow_in_block_form_and_are_stored_in_frame_form() {
        let page = noise(4096);
        assert!(encode(PageForm::Block, 1, &page).len() > 4096 + 10);
        assert_eq!(encode(PageForm::Frame, 1, &page).len(), 6 + 7 + 4 + 4096 + 8);
    }

    #[test]
    fn frame_form_layout() {
        let page = [0; 512];
        let frame = encode(PageForm::Frame, 9, &page);
        assert_eq!(frame[..6], [0, 0, 0, 9, 0, 0]);
        assert_eq!(frame[6..13], LZ4_FRAME_HEADER);
        let n = u32::from_le_bytes([frame[13], frame[14], frame[15], frame[16]]) as usize;
        assert_eq!(frame.len(), 25 + n);
        assert_eq!(frame[17 + n..21 + n], [0; 4]);
        assert_eq!(frame[21 + n..], XxHash32::oneshot(0, &page).to_le_bytes());
    }

    #[test]
    fn refusals() {
        let mut out = [0; 512];
        let frame = encode(PageForm::Block, 1, &[5; 512]);
        let refused = |bytes: &[u8], out: &mut [u8]| {
            let e = decode_page(bytes, 512, out).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Corrupt);
            e.to_string()
        };
        for n in 0..frame.len() {
            refused(&frame[..n], &mut out);
        }
        let mut longer = frame.clone();
        longer.push(0);
        assert!(refused(&longer, &mut out).contains("behind page"));
        let mut bad = frame.clone();
        bad[4] = 0x80;
        assert_eq!(refused(&bad, &mut out), "invalid page header flags: 0x8001");
        bad[4] = 0;
        bad[3] = 0;
        assert_eq!(refused(&bad, &mut out), "page number required");
        let mut huge = frame.clone();
        huge[6] = 0xff;
        assert!(refused(&huge, &mut out).contains("data size"));
        let small = encode(PageForm::Block, 1, &[5; 256]);
        assert!(refused(&small, &mut out).contains("decompressed page has 256 bytes"));
        assert!(decode_page(&frame, 1024, &mut out).is_err());
    }
}
