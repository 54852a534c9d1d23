//! The page index: where each page's frame lies in a file.

use super::header::HEADER_SIZE;
use super::index_hash::encode_entry;
use super::page::PAGE_HEADER_SIZE;
use super::{Pgno, TRAILER_SIZE};
use crate::{Error, ErrorKind, Result};

/// How much of a file's end to fetch first, in bytes; most indexes fit.
pub const SUFFIX_LEN: u64 = 32 * 1024;

/// Index length (u64 BE) and trailer: what follows the index.
const AFTER_INDEX: usize = 8 + TRAILER_SIZE;

/// The smallest file: header, end marker, terminator, length, trailer.
const MIN_FILE_LEN: u64 = (HEADER_SIZE + PAGE_HEADER_SIZE + 1 + AFTER_INDEX) as u64;

/// One page's frame in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// The page.
    pub pgno: Pgno,
    /// Offset of the frame's header in the file, in bytes.
    pub offset: u64,
    /// Length of the frame, header included, in bytes.
    pub size: u32,
}

/// The entries of one file, ascending, 16 bytes each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageIndex {
    pgnos: Vec<Pgno>,
    sizes: Vec<u32>,
    offsets: Vec<u64>,
}

/// What the end of a file gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suffix {
    /// The whole index.
    Index(PageIndex),
    /// The index begins before the suffix: read from this offset to the end.
    ReadFrom(u64),
}

impl PageIndex {
    /// Number of pages.
    pub fn len(&self) -> usize {
        self.pgnos.len()
    }

    /// Whether the file holds no page.
    pub fn is_empty(&self) -> bool {
        self.pgnos.is_empty()
    }

    /// The entry of page `pgno`.
    pub fn get(&self, pgno: Pgno) -> Option<IndexEntry> {
        self.pgnos.binary_search(&pgno).ok().map(|i| self.at(i))
    }

    /// All entries, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = IndexEntry> + '_ {
        (0..self.len()).map(|i| self.at(i))
    }

    /// Appends an entry.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when `entry.pgno` is not above the last one.
    pub fn push(&mut self, entry: IndexEntry) -> Result<()> {
        let last = self.pgnos.last().copied().unwrap_or(0);
        if entry.pgno <= last {
            let message = format!("page index out of order: {last},{}", entry.pgno);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        self.pgnos.push(entry.pgno);
        self.sizes.push(entry.size);
        self.offsets.push(entry.offset);
        Ok(())
    }

    /// Reads the index out of the last bytes of a file of `file_size` bytes.
    ///
    /// `suffix` ends where the file ends and has at least
    /// `min(file_size, SUFFIX_LEN)` bytes; a longer one may be given after
    /// [`Suffix::ReadFrom`].
    ///
    /// # Errors
    ///
    /// `Corrupt` when the suffix is too short or the index is not one.
    pub fn from_suffix(suffix: &[u8], file_size: u64) -> Result<Suffix> {
        let have = suffix.len();
        if have < AFTER_INDEX || have as u64 > file_size {
            let message = format!("ltx file too short to contain a page index: {have} bytes");
            return Err(corrupt(message));
        }
        let end = have - AFTER_INDEX;
        let mut len = [0; 8];
        len.copy_from_slice(&suffix[end..end + 8]);
        let len = u64::from_be_bytes(len);
        if len == 0 || file_size < MIN_FILE_LEN || len - 1 > file_size - MIN_FILE_LEN {
            let message = format!("invalid page index length {len} in a file of {file_size} bytes");
            return Err(corrupt(message));
        }
        if len > end as u64 {
            return Ok(Suffix::ReadFrom(file_size - AFTER_INDEX as u64 - len));
        }
        let limit = file_size - AFTER_INDEX as u64 - len - PAGE_HEADER_SIZE as u64;
        decode(&suffix[end - len as usize..end], limit).map(Suffix::Index)
    }

    fn at(&self, i: usize) -> IndexEntry {
        IndexEntry { pgno: self.pgnos[i], offset: self.offsets[i], size: self.sizes[i] }
    }
}

/// Encodes entries and terminator; the length field that follows them in a
/// file is the length of this.
pub fn encode(index: &PageIndex) -> Vec<u8> {
    let mut out = Vec::with_capacity(index.len() * 9 + 1);
    for entry in index.iter() {
        let (bytes, n) = encode_entry(entry.pgno, entry.offset, entry.size);
        out.extend_from_slice(&bytes[..n]);
    }
    out.push(0);
    out
}

/// Decodes entries and terminator, which are exactly `bytes`.
///
/// `pages_end` is the file offset where page frames end (the end marker). The
/// entries have to name the frames between the header and there without a gap,
/// which refuses what merely looks like an index in a truncated file.
///
/// # Errors
///
/// `Corrupt` when bytes are missing or left over, entries are not ascending, or
/// they do not cover the page section.
pub fn decode(bytes: &[u8], pages_end: u64) -> Result<PageIndex> {
    let mut index = PageIndex::default();
    let mut rest = bytes;
    let mut last = 0;
    let mut expected = HEADER_SIZE as u64;
    loop {
        let pgno = uvarint(&mut rest, "pgno")?;
        if pgno == 0 {
            break;
        }
        let offset = uvarint(&mut rest, "offset")?;
        let size = uvarint(&mut rest, "size")?;
        let entry = checked_entry(pgno, offset, size, expected)?;
        expected = expected.saturating_add(size);
        if entry.pgno <= last {
            return Err(corrupt(format!("page index out of order: {last},{pgno}")));
        }
        last = entry.pgno;
        index.push(entry)?;
    }
    if !rest.is_empty() {
        return Err(corrupt(format!("{} bytes behind the page index", rest.len())));
    }
    if expected != pages_end {
        let message = format!("page index ends at offset {expected}, the pages at {pages_end}");
        return Err(corrupt(message));
    }
    Ok(index)
}

fn checked_entry(pgno: u64, offset: u64, size: u64, expected: u64) -> Result<IndexEntry> {
    let fits = offset == expected && size > PAGE_HEADER_SIZE as u64;
    match (Pgno::try_from(pgno), u32::try_from(size)) {
        (Ok(pgno), Ok(size)) if fits => Ok(IndexEntry { pgno, offset, size }),
        _ => Err(corrupt(format!("invalid page index entry: {pgno},{offset},{size}"))),
    }
}

/// Takes one unsigned LEB128 number off the front of `rest`.
fn uvarint(rest: &mut &[u8], what: &str) -> Result<u64> {
    let mut value = 0_u64;
    for (i, &b) in rest.iter().enumerate().take(10) {
        if i == 9 && b > 1 {
            break;
        }
        value |= u64::from(b & 0x7f) << (7 * i);
        if b < 0x80 {
            *rest = &rest[i + 1..];
            return Ok(value);
        }
    }
    let fault = if rest.len() < 10 { "unexpected end of file" } else { "number overflows 64 bits" };
    Err(corrupt(format!("read page index {what}: {fault}")))
}

fn corrupt(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> PageIndex {
        let mut index = PageIndex::default();
        for (pgno, offset, size) in [(1, 100, 237), (2, 337, 43), (300, 380, 42)] {
            index.push(IndexEntry { pgno, offset, size }).unwrap();
        }
        index
    }

    #[test]
    fn roundtrip_and_lookup() {
        let index = sample();
        let bytes = encode(&index);
        assert_eq!(bytes[..4], [1, 0x64, 0xed, 1]);
        let back = decode(&bytes, 422).unwrap();
        assert_eq!(back, index);
        assert_eq!(back.get(300).unwrap().offset, 380);
        assert_eq!(back.get(3), None);
        assert_eq!(back.iter().len(), 3);
        assert!(index.clone().push(IndexEntry { pgno: 300, offset: 1, size: 1 }).is_err());
    }

    #[test]
    fn refusals() {
        let bytes = encode(&sample());
        for n in 0..bytes.len() {
            assert!(decode(&bytes[..n], 422).is_err(), "{n}");
        }
        assert!(decode(&bytes, 421).is_err());
        assert!(decode(&[bytes.clone(), vec![0]].concat(), 422).is_err());
        for bad in [
            &[2, 100, 10, 1, 110, 10, 0][..],
            &[1, 99, 10, 0],
            &[1, 100, 6, 0],
            &[0xff, 0xff, 0xff, 0xff, 0x1f, 100, 10, 0],
            &[0xff; 30],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0],
        ] {
            assert_eq!(decode(bad, 1 << 20).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
