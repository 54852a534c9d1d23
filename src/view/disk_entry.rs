//! One line of a segment's index: where a payload is, and what it is.
//!
//! | bytes | content, little-endian |
//! |---|---|
//! | 0..4 | magic, which is also the version |
//! | 4..8 | part |
//! | 8..24 | key |
//! | 24..32 | offset in the payload file |
//! | 32..36 | length in bytes |
//! | 36..40 | 0 |
//! | 40..48 | time, milliseconds since the Unix epoch |
//! | 48..56 | CRC-64 of the payload |
//! | 56..64 | CRC-64 of bytes 0..56 |

use super::disk_cache::DiskKey;
use crate::ltx::crc64;

/// Bytes of an entry.
pub(super) const ENTRY_SIZE: usize = 64;

const MAGIC: [u8; 4] = *b"LSC1";

/// One payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: DiskKey,
    pub(super) part: u32,
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) time_ms: i64,
    pub(super) checksum: u64,
}

impl Entry {
    pub(super) fn encode(&self) -> [u8; ENTRY_SIZE] {
        let mut out = [0; ENTRY_SIZE];
        out[..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&self.part.to_le_bytes());
        out[8..24].copy_from_slice(&self.key.0);
        out[24..32].copy_from_slice(&self.offset.to_le_bytes());
        out[32..36].copy_from_slice(&self.len.to_le_bytes());
        out[40..48].copy_from_slice(&self.time_ms.to_le_bytes());
        out[48..56].copy_from_slice(&self.checksum.to_le_bytes());
        let own = crc64(&out[..56]);
        out[56..].copy_from_slice(&own.to_le_bytes());
        out
    }

    /// The entry that `bytes` are; none when they are torn, damaged or of another version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Entry> {
        let bytes: &[u8; ENTRY_SIZE] = bytes.try_into().ok()?;
        if bytes[..4] != MAGIC || crc64(&bytes[..56]).to_le_bytes() != bytes[56..] {
            return None;
        }
        let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| bytes[at + n]));
        let u64_at =
            |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|n| bytes[at + n]));
        let mut key = [0; 16];
        key.copy_from_slice(&bytes[8..24]);
        Some(Entry {
            key: DiskKey(key),
            part: u32_at(4),
            offset: u64_at(24),
            len: u32_at(32),
            time_ms: u64_at(40) as i64,
            checksum: u64_at(48),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_back_and_every_damage_is_seen() {
        let entry = Entry {
            key: DiskKey([7; 16]),
            part: 9,
            offset: 1 << 40,
            len: 12_345,
            time_ms: -5,
            checksum: u64::MAX - 1,
        };
        let bytes = entry.encode();
        assert_eq!(Entry::decode(&bytes), Some(entry));
        for n in 0..ENTRY_SIZE {
            let mut damaged = bytes;
            damaged[n] ^= 1;
            assert_eq!(Entry::decode(&damaged), None, "byte {n}");
        }
        assert_eq!(Entry::decode(&[0; ENTRY_SIZE]), None);
        assert_eq!(Entry::decode(&bytes[..63]), None);
    }
}
