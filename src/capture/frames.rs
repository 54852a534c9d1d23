//! Reading the WAL back, trusting the wal-index about where commits end and
//! nothing else.

use crate::capture::page_map::PgnoMap;
use crate::capture::position::WalPosition;
use crate::error::Result;
use crate::host::Salts;
use crate::ltx::{Pgno, is_valid_page_size};
use crate::os::disk::File;

/// Bytes of a WAL header.
pub const WAL_HEADER_SIZE: usize = 32;
/// Bytes of a frame header.
pub const FRAME_HEADER_SIZE: usize = 24;
/// Bytes of the WAL that are read at once.
pub const CHUNK_BYTES: u64 = 4 << 20;

/// The parts of a WAL header that capture needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Page size in bytes.
    pub page_size: u32,
    /// Salts of the generation.
    pub salts: Salts,
    /// Checksum of the header, the seed of the frames' chain.
    pub checksum: [u32; 2],
    /// Checksums are computed over big-endian words.
    pub big_endian: bool,
}

/// The parts of a frame header that capture needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Page number.
    pub pgno: Pgno,
    /// Database size in pages when this is a commit frame, else 0.
    pub commit: Pgno,
    /// Salts.
    pub salts: Salts,
    /// Cumulative checksum up to and including this frame.
    pub checksum: [u32; 2],
}

impl FrameHeader {
    /// Whether a frame that the wal-index has published is one of the generation `salts`.
    ///
    /// SQLite (3.40.1 does, 3.53.2 does not) can commit frames whose salts and checksum it
    /// zeroed when they were spilled: a transaction that spills, rewrites a spilled page and
    /// then rolls back to a savepoint forgets to fill them in. Its readers never look at
    /// them, so they are the committed state; a recovery would end before them.
    pub fn belongs_to(&self, salts: Salts) -> bool {
        self.pgno != 0 && (self.salts == salts || self.is_unfilled())
    }

    /// Whether SQLite left its salts and checksum out.
    fn is_unfilled(&self) -> bool {
        self.pgno != 0 && self.salts == [0, 0] && self.checksum == [0, 0]
    }
}

fn be(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(b[at..at + 4].try_into().unwrap_or_default())
}

/// Parses the 32 bytes of a WAL header; `None` when they are none.
pub fn parse_header(b: &[u8; WAL_HEADER_SIZE]) -> Option<Header> {
    let known = be(b, 0) & !1 == 0x377f_0682 && be(b, 4) == 3_007_000;
    if !known || !is_valid_page_size(be(b, 8)) {
        return None;
    }
    Some(Header {
        page_size: be(b, 8),
        salts: [be(b, 16), be(b, 20)],
        checksum: [be(b, 24), be(b, 28)],
        big_endian: b[3] & 1 == 1,
    })
}

/// Cumulative checksum of the WAL: pairs of 32-bit words in the file's byte order.
fn add_checksum(sum: [u32; 2], data: &[u8], big_endian: bool) -> [u32; 2] {
    let word = |b: &[u8]| {
        let b: [u8; 4] = b.try_into().unwrap_or_default();
        if big_endian { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) }
    };
    let [mut s0, mut s1] = sum;
    for pair in data.chunks_exact(8) {
        s0 = s0.wrapping_add(word(&pair[..4])).wrapping_add(s1);
        s1 = s1.wrapping_add(word(&pair[4..])).wrapping_add(s0);
    }
    [s0, s1]
}

/// Where a checksum chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainEnd {
    /// The last commit frame that it reaches.
    pub frame: u32,
    /// A frame that SQLite left unfilled broke it: whether the commits go on there
    /// cannot be told from the WAL.
    pub unfilled: bool,
}

/// The last commit frame that the checksum chain reaches from `from`.
///
/// # Errors
/// A read failed.
pub fn find_end(wal: &File, header: &Header, from: WalPosition) -> Result<u32> {
    find_chain_end(wal, header, from).map(|end| end.frame)
}

/// The end of the checksum chain from `from`, and what ended it.
///
/// # Errors
/// A read failed.
pub fn find_chain_end(wal: &File, header: &Header, from: WalPosition) -> Result<ChainEnd> {
    let frame_len = FRAME_HEADER_SIZE + header.page_size as usize;
    let mut frame = vec![0u8; frame_len];
    let (mut sum, mut at, mut end) = (from.checksum, from.frame, from.frame);
    // An unfilled frame says nothing about the next one.
    let blind = from.frame > 0 && from.checksum == [0, 0];
    loop {
        let offset = WAL_HEADER_SIZE as u64 + u64::from(at) * frame_len as u64;
        if wal.read_at(&mut frame, offset)? < frame_len {
            return Ok(ChainEnd { frame: end, unfilled: false });
        }
        let h = parse_frame_header(&frame);
        sum = add_checksum(sum, &frame[..8], header.big_endian);
        sum = add_checksum(sum, &frame[FRAME_HEADER_SIZE..], header.big_endian);
        if h.salts != header.salts || h.checksum != sum || h.pgno == 0 {
            let unfilled = h.is_unfilled() || (blind && h.belongs_to(header.salts));
            return Ok(ChainEnd { frame: end, unfilled });
        }
        at += 1;
        if h.commit != 0 {
            end = at;
        }
    }
}

fn parse_frame_header(b: &[u8]) -> FrameHeader {
    FrameHeader {
        pgno: be(b, 0),
        commit: be(b, 4),
        salts: [be(b, 8), be(b, 12)],
        checksum: [be(b, 16), be(b, 20)],
    }
}

/// The header of an open WAL; `None` when the file is shorter.
///
/// # Errors
/// The read failed.
pub fn read_header(wal: &File) -> Result<Option<Header>> {
    let mut b = [0u8; WAL_HEADER_SIZE];
    let got = wal.read_at(&mut b, 0)?;
    Ok(if got == b.len() { parse_header(&b) } else { None })
}

/// The header of frame `frame` (counted from 1); `None` when the file is shorter.
///
/// # Errors
/// The read failed.
pub fn read_frame_header(wal: &File, page_size: u32, frame: u32) -> Result<Option<FrameHeader>> {
    let mut b = [0u8; FRAME_HEADER_SIZE];
    let frame_len = FRAME_HEADER_SIZE as u64 + u64::from(page_size);
    let at = WAL_HEADER_SIZE as u64 + u64::from(frame.saturating_sub(1)) * frame_len;
    let got = wal.read_at(&mut b, at)?;
    Ok((got == b.len()).then(|| parse_frame_header(&b)))
}

/// What a run of frames amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Newest version of each page that still exists: number, byte offset of
    /// its content in the buffer; in ascending order of page number.
    pub pages: Vec<(Pgno, usize)>,
    /// Database size after the last commit frame.
    pub commit: Pgno,
    /// Smallest database size at any commit frame, and before the run.
    pub min_commit: Pgno,
    /// Some commit made the database smaller.
    pub shrank: bool,
    /// The last frame is a commit frame.
    pub ends_with_commit: bool,
    /// Cumulative checksum of the last frame.
    pub checksum: [u32; 2],
}

/// Folds whole published frames of one generation; `commit` is the database size
/// before them. `None` when a frame is of another generation or has no page number.
pub fn scan(buf: &[u8], page_size: u32, salts: Salts, commit: Pgno) -> Option<Chunk> {
    let frame_len = FRAME_HEADER_SIZE + page_size as usize;
    let mut newest: PgnoMap<usize> = PgnoMap::default();
    newest.reserve(256);
    let mut chunk = Chunk {
        pages: Vec::new(),
        commit,
        min_commit: commit,
        shrank: false,
        ends_with_commit: false,
        checksum: [0, 0],
    };
    for (i, frame) in buf.chunks_exact(frame_len).enumerate() {
        let h = parse_frame_header(frame);
        if !h.belongs_to(salts) {
            return None;
        }
        newest.insert(h.pgno, i * frame_len + FRAME_HEADER_SIZE);
        chunk.ends_with_commit = h.commit != 0;
        if h.commit != 0 {
            if h.commit < chunk.commit {
                chunk.shrank = true;
                newest.retain(|&p, _| p <= h.commit);
            }
            chunk.commit = h.commit;
            chunk.min_commit = chunk.min_commit.min(h.commit);
        }
        chunk.checksum = h.checksum;
    }
    // A transaction can write pages beyond its own final size.
    if chunk.ends_with_commit {
        newest.retain(|&p, _| p <= chunk.commit);
    }
    chunk.pages = newest.into_iter().collect();
    chunk.pages.sort_unstable();
    Some(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(pgno: u32, commit: u32, fill: u8) -> Vec<u8> {
        let mut f = Vec::new();
        for v in [pgno, commit, 7, 8, u32::from(fill), 1] {
            f.extend_from_slice(&v.to_be_bytes());
        }
        f.extend(std::iter::repeat_n(fill, 512));
        f
    }

    fn run(frames: &[(u32, u32, u8)], commit: u32) -> Option<(Chunk, Vec<(u32, u8)>)> {
        let buf: Vec<u8> = frames.iter().flat_map(|&(p, c, f)| frame(p, c, f)).collect();
        let chunk = scan(&buf, 512, [7, 8], commit)?;
        let pages = chunk.pages.iter().map(|&(p, at)| (p, buf[at])).collect();
        Some((chunk, pages))
    }

    #[test]
    fn newest_version_of_each_page() {
        let (c, pages) = run(&[(1, 0, 1), (2, 2, 2), (1, 2, 3)], 2).unwrap();
        assert_eq!(pages, [(1, 3), (2, 2)]);
        assert!(c.ends_with_commit && !c.shrank);
    }

    /// Pages beyond the new size were once kept after VACUUM.
    #[test]
    fn r_09_pages_beyond_a_shrink_are_dropped() {
        let (c, pages) = run(&[(9, 9, 1), (1, 4, 2), (5, 5, 3)], 8).unwrap();
        assert_eq!(pages, [(1, 2), (5, 3)]);
        assert_eq!((c.commit, c.min_commit, c.shrank), (5, 4, true));
    }

    #[test]
    fn frames_that_sqlite_left_unfilled_are_pages_like_others() {
        let mut unfilled = frame(3, 3, 9);
        unfilled[8..24].fill(0);
        let chunk = scan(&unfilled, 512, [7, 8], 1).unwrap();
        assert_eq!((chunk.pages.len(), chunk.commit, chunk.checksum), (1, 3, [0, 0]));
        unfilled[20] = 1;
        assert!(scan(&unfilled, 512, [7, 8], 1).is_none());
    }

    #[test]
    fn foreign_salts_and_page_zero_are_refused() {
        let mut bad = frame(1, 1, 1);
        bad[11] = 9;
        assert!(scan(&bad, 512, [7, 8], 1).is_none());
        assert!(scan(&frame(0, 1, 1), 512, [7, 8], 1).is_none());
    }
}
