//! The write-ahead log: header, frame headers, checksums.
//!
//! | header offset | field (u32 BE) |
//! |---:|---|
//! | 0 | magic 377f0682; its last bit says checksums read big-endian words |
//! | 4 | version 3007000 |
//! | 8 | page size |
//! | 12 | checkpoint sequence number |
//! | 16, 20 | salts |
//! | 24, 28 | checksum of the first 24 bytes |
//!
//! | frame offset | field (u32 BE) |
//! |---:|---|
//! | 0 | page number |
//! | 4 | database size in pages after a commit, 0 in other frames |
//! | 8, 12 | salts |
//! | 16, 20 | checksum, chained from the frame before |
//!
//! The page follows the 24 bytes of its frame header.

use super::be32;
use crate::{Error, ErrorKind, Result};

/// Length of the WAL header in bytes: the offset of the first frame.
pub const WAL_HEADER_SIZE: usize = 32;

/// Length of a frame header in bytes.
pub const FRAME_HEADER_SIZE: usize = 24;

/// The only version of WAL and wal-index.
pub const WAL_VERSION: u32 = 3_007_000;

const MAGIC: u32 = 0x377f_0682;

/// A pair of running sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checksum(pub u32, pub u32);

impl Checksum {
    /// Continues with `data`, whose length is a multiple of 8: pairs of words
    /// in the byte order given. A rest of fewer than 8 bytes is ignored.
    #[must_use]
    pub fn update(self, big_endian: bool, data: &[u8]) -> Checksum {
        if big_endian {
            self.add(data, u32::from_be_bytes)
        } else {
            self.add(data, u32::from_le_bytes)
        }
    }

    #[inline(always)]
    fn add(self, data: &[u8], word: fn([u8; 4]) -> u32) -> Checksum {
        let Checksum(mut a, mut b) = self;
        let (pairs, _) = data.as_chunks::<8>();
        for p in pairs {
            a = a.wrapping_add(word([p[0], p[1], p[2], p[3]])).wrapping_add(b);
            b = b.wrapping_add(word([p[4], p[5], p[6], p[7]])).wrapping_add(a);
        }
        Checksum(a, b)
    }
}

/// The numbers that tell one generation of a WAL file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Salts {
    /// Bytes 16 to 19 of the WAL header; one more after every restart.
    pub salt1: u32,
    /// Bytes 20 to 23; random after every restart.
    pub salt2: u32,
}

/// The header of a WAL file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalHeader {
    /// Byte order of the words that checksums add up.
    pub big_endian_checksum: bool,
    /// Page size in bytes.
    pub page_size: u32,
    /// Counts restarts of the WAL.
    pub checkpoint_seq: u32,
    /// This generation's salts.
    pub salts: Salts,
    /// Seed of the first frame's checksum.
    pub checksum: Checksum,
}

impl WalHeader {
    /// Reads and verifies the first 32 bytes of a WAL file.
    ///
    /// # Errors
    ///
    /// `Corrupt` with what is wrong. SQLite takes such a WAL for empty.
    pub fn decode(bytes: &[u8]) -> Result<WalHeader> {
        let Some(b) = bytes.first_chunk::<WAL_HEADER_SIZE>() else {
            return Err(corrupt(format!("WAL header has {} of 32 bytes", bytes.len())));
        };
        let magic = be32(b, 0);
        if magic & !1 != MAGIC {
            return Err(corrupt(format!("invalid WAL magic {magic:08x}")));
        }
        let (version, page_size) = (be32(b, 4), be32(b, 8));
        if version != WAL_VERSION {
            return Err(corrupt(format!("unknown WAL version {version}")));
        }
        if !(512..=65536).contains(&page_size) || !page_size.is_power_of_two() {
            return Err(corrupt(format!("invalid page size {page_size} in the WAL header")));
        }
        let big_endian_checksum = magic & 1 != 0;
        let checksum = Checksum(be32(b, 24), be32(b, 28));
        if Checksum::default().update(big_endian_checksum, &b[..24]) != checksum {
            return Err(corrupt("WAL header checksum mismatch".to_owned()));
        }
        Ok(WalHeader {
            big_endian_checksum,
            page_size,
            checkpoint_seq: be32(b, 12),
            salts: Salts { salt1: be32(b, 16), salt2: be32(b, 20) },
            checksum,
        })
    }
}

/// The header of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The page in this frame; 0 in no valid frame.
    pub pgno: u32,
    /// Database size in pages if this frame ends a transaction, else 0.
    pub commit: u32,
    /// The generation's salts.
    pub salts: Salts,
    /// Checksum of everything up to and including this frame.
    pub checksum: Checksum,
}

impl FrameHeader {
    /// Reads 24 bytes, unverified.
    pub fn decode(b: &[u8; FRAME_HEADER_SIZE]) -> FrameHeader {
        FrameHeader {
            pgno: be32(b, 0),
            commit: be32(b, 4),
            salts: Salts { salt1: be32(b, 8), salt2: be32(b, 12) },
            checksum: Checksum(be32(b, 16), be32(b, 20)),
        }
    }
}

/// Length of a frame in bytes, header included.
pub fn frame_size(page_size: u32) -> u64 {
    FRAME_HEADER_SIZE as u64 + u64::from(page_size)
}

/// File offset of frame `frame`, counted from 1, in bytes. For 0 and 1 it is
/// the first frame's.
pub fn frame_offset(frame: u32, page_size: u32) -> u64 {
    WAL_HEADER_SIZE as u64 + u64::from(frame.saturating_sub(1)) * frame_size(page_size)
}

fn corrupt(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header bytes as SQLite would write them.
    fn header(big_endian: bool, page_size: u32) -> [u8; 32] {
        let words = [MAGIC | u32::from(big_endian), WAL_VERSION, page_size, 3, 0x11, 0x22];
        let mut b = [0; 32];
        for (i, w) in words.iter().enumerate() {
            b[i * 4..i * 4 + 4].copy_from_slice(&w.to_be_bytes());
        }
        let sum = Checksum::default().update(big_endian, &b[..24]);
        b[24..28].copy_from_slice(&sum.0.to_be_bytes());
        b[28..].copy_from_slice(&sum.1.to_be_bytes());
        b
    }

    #[test]
    fn both_byte_orders() {
        for big in [false, true] {
            for size in [512, 4096, 65536] {
                let h = WalHeader::decode(&header(big, size)).unwrap();
                assert_eq!((h.big_endian_checksum, h.page_size, h.checkpoint_seq), (big, size, 3));
                assert_eq!(h.salts, Salts { salt1: 0x11, salt2: 0x22 });
            }
        }
        let words = [1_u32, 2, 3, 4];
        let be: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
        let le: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let want = Checksum(1 + 3 + 3, 3 + 4 + 7);
        assert_eq!(Checksum::default().update(true, &be), want);
        assert_eq!(Checksum::default().update(false, &le), want);
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let good = header(false, 4096);
        for i in 0..32 {
            let mut b = good;
            b[i] ^= 0x40;
            assert!(WalHeader::decode(&b).is_err(), "{i}");
            assert!(WalHeader::decode(&good[..i]).is_err());
        }
        assert!(WalHeader::decode(&header(true, 300)).is_err());
    }

    #[test]
    fn places() {
        assert_eq!(frame_offset(1, 4096), 32);
        assert_eq!(frame_offset(3, 512), 32 + 2 * 536);
    }
}
