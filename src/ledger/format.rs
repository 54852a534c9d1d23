//! The ledger's bytes. Little-endian:
//!
//! ```text
//!   0  8  magic "LSVFSLDG"             56  8  guard, see below
//!   8  4  format version               64  8  CRC-64 of the LTX header that made this state
//!  12  4  flags: 1 synced              72  8  hash of the replica's URL
//!  16  4  page size                    80 16  boot id of the last writer
//!  20  4  database size in pages       96  8  TXID whose pages are being written, or 0
//!  24  8  TXID of this state          104 16  reserved
//!  32  8  database checksum           120  8  CRC-64 of bytes 0..120
//!  40 16  reserved
//! 4096 + 8 * (pgno - 1)  the page's LTX checksum (CRC-64 of number and content, bit 63 set);
//!                        0: not known, as of the lock page
//! ```
//!
//! The database checksum is the exclusive or of all entries, Litestream's
//! post-apply checksum of the TXID. It does not see entries that change places,
//! nor the loss of a pair; the guard, a sum over each entry mixed with its page
//! number, does.

use crate::error::{Error, ErrorKind, Result};
use crate::ltx::{Pgno, RollingChecksum, Txid, crc64, is_valid_page_size};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 128;
/// Where the entries begin, in bytes.
pub const ENTRIES_AT: u64 = 4096;
/// Bytes of an entry.
pub const ENTRY_LEN: u64 = 8;
const MAGIC: &[u8; 8] = b"LSVFSLDG";
/// Version of the format; a newer one is refused.
const VERSION: u32 = 1;
const SYNCED: u32 = 1;
const CRC_AT: usize = 120;

/// What all entries together amount to, kept up to date entry by entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Litestream's checksum of the database.
    pub checksum: RollingChecksum,
    /// Tells places apart.
    pub guard: u64,
}

impl Default for Totals {
    fn default() -> Self {
        Totals { checksum: RollingChecksum::EMPTY, guard: 0 }
    }
}

impl Totals {
    /// Adds the entry of a page; 0 adds nothing.
    pub fn add(&mut self, pgno: Pgno, entry: u64) {
        if entry != 0 {
            self.checksum.toggle(entry);
            self.guard = self.guard.wrapping_add(mix(pgno, entry));
        }
    }

    /// Takes an entry out that was added.
    pub fn remove(&mut self, pgno: Pgno, entry: u64) {
        if entry != 0 {
            self.checksum.toggle(entry);
            self.guard = self.guard.wrapping_sub(mix(pgno, entry));
        }
    }
}

fn mix(pgno: Pgno, entry: u64) -> u64 {
    let x = (entry ^ u64::from(pgno).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x ^ (x >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Page size in bytes.
    pub page_size: u32,
    /// Database size in pages.
    pub commit: Pgno,
    /// The newest transaction in the entries.
    pub txid: Txid,
    /// What the entries amount to.
    pub totals: Totals,
    /// CRC-64 of the header of the LTX file that ends with `txid`: whose chain it is.
    pub file: u64,
    /// Hash of the replica's URL.
    pub replica: u64,
    /// Boot of the machine in which the entries were last written.
    pub boot: [u8; 16],
    /// Everything was fsynced after the last write.
    pub synced: bool,
    /// The transaction whose pages were being written; none: all of `txid` is
    /// there and nothing else.
    pub applying: Txid,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut b = [0u8; HEADER_LEN];
        b[..8].copy_from_slice(MAGIC);
        let flags = if self.synced { SYNCED } else { 0 };
        for (at, v) in [(8, VERSION), (12, flags), (16, self.page_size), (20, self.commit)] {
            b[at..at + 4].copy_from_slice(&v.to_le_bytes());
        }
        for (at, v) in [
            (24, self.txid.0),
            (32, self.totals.checksum.value()),
            (56, self.totals.guard),
            (64, self.file),
            (72, self.replica),
            (96, self.applying.0),
        ] {
            b[at..at + 8].copy_from_slice(&v.to_le_bytes());
        }
        b[80..96].copy_from_slice(&self.boot);
        let crc = crc64(&b[..CRC_AT]);
        b[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads a header.
    ///
    /// # Errors
    /// `Corrupt` when it is torn or none, `Unsupported` when a newer version of
    /// this library wrote it.
    pub fn decode(b: &[u8]) -> Result<Header> {
        let corrupt = |why: &str| Error::new(ErrorKind::Corrupt, format!("page ledger: {why}"));
        if b.len() < HEADER_LEN || &b[..8] != MAGIC {
            return Err(corrupt("not a page ledger"));
        }
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap_or_default());
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap_or_default());
        let version = u32_at(8);
        if version > VERSION {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "page ledger of format {version}, but this library knows formats up to \
                     {VERSION}: use the newer library for this database"
                ),
            ));
        }
        if crc64(&b[..CRC_AT]) != u64_at(CRC_AT) {
            return Err(corrupt("checksum mismatch"));
        }
        let page_size = u32_at(16);
        if version == 0 || !is_valid_page_size(page_size) {
            return Err(corrupt("impossible version or page size"));
        }
        let mut boot = [0; 16];
        boot.copy_from_slice(&b[80..96]);
        Ok(Header {
            page_size,
            commit: u32_at(20),
            txid: Txid(u64_at(24)),
            totals: Totals { checksum: RollingChecksum::from_value(u64_at(32)), guard: u64_at(56) },
            file: u64_at(64),
            replica: u64_at(72),
            boot,
            synced: u32_at(12) & SYNCED != 0,
            applying: Txid(u64_at(96)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        let mut totals = Totals::default();
        totals.add(1, 1 << 63 | 77);
        Header {
            page_size: 65536,
            commit: 7,
            txid: Txid(9),
            totals,
            file: 10,
            replica: 11,
            boot: *b"0123456789abcdef",
            synced: true,
            applying: Txid(12),
        }
    }

    #[test]
    fn round_trip() {
        for synced in [false, true] {
            let h = Header { synced, ..sample() };
            assert_eq!(Header::decode(&h.encode()).unwrap(), h);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_short_read_is_noticed() {
        let good = sample().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Header::decode(&good[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_not_misread() {
        let mut b = sample().encode();
        b[8] = 2;
        assert_eq!(Header::decode(&b).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn totals_know_places_and_undo() {
        let (a, b) = (1 << 63 | 5, 1 << 63 | 6);
        let (mut right, mut swapped) = (Totals::default(), Totals::default());
        right.add(1, a);
        right.add(2, b);
        swapped.add(1, b);
        swapped.add(2, a);
        assert_eq!(right.checksum, swapped.checksum);
        assert_ne!(right.guard, swapped.guard);
        right.remove(1, a);
        right.remove(2, b);
        right.remove(3, 0);
        assert_eq!(right, Totals::default());
    }
}
