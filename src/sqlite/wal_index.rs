//! The wal-index header: the first 136 bytes of the -shm file.
//!
//! | offset | field (native byte order) |
//! |---:|---|
//! | 0 | first copy of the 48-byte header |
//! | 48 | second copy |
//! | 96 | frames backfilled into the database |
//! | 100 | five read marks |
//! | 120 | eight lock bytes |
//! | 128 | frames a backfill was attempted for |
//!
//! | header offset | field |
//! |---:|---|
//! | 0 | version u32 |
//! | 8 | change counter u32 |
//! | 12, 13 | initialised u8, big-endian checksums u8 |
//! | 14 | page size u16, 1 = 65536 |
//! | 16, 20 | last committed frame, database size in pages u32 |
//! | 24 | checksum of the last frame, 2 u32 |
//! | 32 | salts, bytes as in the WAL header |
//! | 40 | checksum of the 40 bytes before, 2 u32 |

use super::wal::{Checksum, Salts, WAL_VERSION};
use super::{be32, ne32};

/// How many bytes of the wal-index this module reads.
pub const WAL_INDEX_HEADER_SIZE: usize = 136;

const COPY: usize = 48;

/// What the wal-index says is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalIndexHeader {
    /// Changes with every transaction.
    pub change: u32,
    /// Byte order of the WAL's checksum words.
    pub big_endian_checksum: bool,
    /// Page size in bytes.
    pub page_size: u32,
    /// Last committed frame, 0 in an empty WAL.
    pub max_frame: u32,
    /// Database size in pages after that frame.
    pub page_count: u32,
    /// Checksum of that frame.
    pub frame_checksum: Checksum,
    /// The generation's salts.
    pub salts: Salts,
}

impl WalIndexHeader {
    /// Reads a consistent header out of a copy of the wal-index.
    ///
    /// `None` while it is being written (the two copies differ), before it was
    /// initialised, and for anything SQLite would not accept: try again under
    /// a lock or recover from the WAL file.
    pub fn decode(shm: &[u8]) -> Option<WalIndexHeader> {
        let b = shm.get(..COPY)?;
        if b != shm.get(COPY..2 * COPY)? || b[12] == 0 || ne32(b, 0) != WAL_VERSION {
            return None;
        }
        let native_big = cfg!(target_endian = "big");
        let sum = Checksum::default().update(native_big, &b[..40]);
        if sum != Checksum(ne32(b, 40), ne32(b, 44)) {
            return None;
        }
        let stored = u32::from(u16::from_ne_bytes([b[14], b[15]]));
        Some(WalIndexHeader {
            change: ne32(b, 8),
            big_endian_checksum: b[13] != 0,
            page_size: (stored & 0xfe00) | (stored & 1) << 16,
            max_frame: ne32(b, 16),
            page_count: ne32(b, 20),
            frame_checksum: Checksum(ne32(b, 24), ne32(b, 28)),
            salts: Salts { salt1: be32(b, 32), salt2: be32(b, 36) },
        })
    }
}

/// How far checkpoints and readers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// Frames that are in the database file.
    pub backfilled: u32,
    /// Last frame each reader slot may use; `u32::MAX` in an unused slot.
    pub read_marks: [u32; 5],
    /// Frames that are, or are just being, written to the database file.
    pub backfill_attempted: u32,
}

impl CheckpointInfo {
    /// Reads a copy of the wal-index; `None` when it is shorter than 136 bytes.
    /// There is no checksum: the numbers are hints unless a lock protects them.
    pub fn decode(shm: &[u8]) -> Option<CheckpointInfo> {
        let b = shm.get(..WAL_INDEX_HEADER_SIZE)?;
        Some(CheckpointInfo {
            backfilled: ne32(b, 96),
            read_marks: std::array::from_fn(|i| ne32(b, 100 + 4 * i)),
            backfill_attempted: ne32(b, 128),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shm() -> [u8; WAL_INDEX_HEADER_SIZE] {
        let mut b = [0; WAL_INDEX_HEADER_SIZE];
        b[0..4].copy_from_slice(&WAL_VERSION.to_ne_bytes());
        b[8..12].copy_from_slice(&9_u32.to_ne_bytes());
        b[12] = 1;
        b[14..16].copy_from_slice(&1_u16.to_ne_bytes());
        b[16..20].copy_from_slice(&77_u32.to_ne_bytes());
        b[20..24].copy_from_slice(&50_u32.to_ne_bytes());
        b[32..40].copy_from_slice(&[0, 0, 0, 1, 0xff, 0, 0, 2]);
        let sum = Checksum::default().update(cfg!(target_endian = "big"), &b[..40]);
        b[40..44].copy_from_slice(&sum.0.to_ne_bytes());
        b[44..48].copy_from_slice(&sum.1.to_ne_bytes());
        b.copy_within(0..48, 48);
        b[96..100].copy_from_slice(&5_u32.to_ne_bytes());
        b[104..108].copy_from_slice(&6_u32.to_ne_bytes());
        b
    }

    #[test]
    fn fields() {
        let b = shm();
        let h = WalIndexHeader::decode(&b).unwrap();
        assert_eq!((h.change, h.page_size, h.max_frame, h.page_count), (9, 65536, 77, 50));
        assert_eq!(h.salts, Salts { salt1: 1, salt2: 0xff00_0002 });
        let info = CheckpointInfo::decode(&b).unwrap();
        assert_eq!((info.backfilled, info.read_marks), (5, [0, 6, 0, 0, 0]));
    }

    #[test]
    fn torn_short_and_damaged_headers_are_none() {
        let b = shm();
        for n in 0..96 {
            assert_eq!(WalIndexHeader::decode(&b[..n]), None);
            let mut torn = b;
            torn[n] ^= 1;
            assert_eq!(WalIndexHeader::decode(&torn), None, "{n}");
        }
        assert_eq!(WalIndexHeader::decode(&[0; 136]), None);
        assert_eq!(CheckpointInfo::decode(&b[..135]), None);
        let mut both = b;
        both[17] ^= 1;
        both[65] ^= 1;
        assert_eq!(WalIndexHeader::decode(&both), None);
    }
}
