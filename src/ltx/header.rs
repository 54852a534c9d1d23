//! The 100-byte file header.

use super::checksum::CHECKSUM_FLAG;
use super::{Pgno, Txid, is_valid_page_size};
use crate::{Error, ErrorKind, Result};

/// Length of the header in bytes.
pub const HEADER_SIZE: usize = 100;

/// The only legal flag: the file carries no database checksums.
pub const HEADER_NO_CHECKSUM: u32 = 0x2;

const MAGIC: [u8; 4] = *b"LTX1";

/// What a file says of itself before its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// [`HEADER_NO_CHECKSUM`] or 0.
    pub flags: u32,
    /// Page size of the database in bytes, 512 to 65536.
    pub page_size: u32,
    /// Length of the database in pages after applying the file.
    pub commit: Pgno,
    /// First transaction in the file, at least 1.
    pub min_txid: Txid,
    /// Last transaction in the file.
    pub max_txid: Txid,
    /// Time of the last transaction, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Database checksum before applying, or 0.
    pub pre_apply_checksum: u64,
    /// Byte offset in the WAL where the captured range begins, or 0.
    pub wal_offset: i64,
    /// Length of that range in bytes, or 0.
    pub wal_size: i64,
    /// First salt of that WAL's header.
    pub wal_salt1: u32,
    /// Second salt of that WAL's header.
    pub wal_salt2: u32,
    /// 0 in every file Litestream writes.
    pub node_id: u64,
}

impl Header {
    /// A header without checksums and without a WAL range: what Litestream
    /// reads. It refuses files that carry database checksums.
    pub fn new(page_size: u32, commit: Pgno, min: Txid, max: Txid, timestamp_ms: i64) -> Header {
        Header {
            flags: HEADER_NO_CHECKSUM,
            page_size,
            commit,
            min_txid: min,
            max_txid: max,
            timestamp_ms,
            pre_apply_checksum: 0,
            wal_offset: 0,
            wal_size: 0,
            wal_salt1: 0,
            wal_salt2: 0,
            node_id: 0,
        }
    }

    /// Whether the file holds a complete database: its first transaction is 1.
    pub fn is_snapshot(&self) -> bool {
        self.min_txid == Txid(1)
    }

    /// Whether the file carries no database checksums.
    pub fn no_checksum(&self) -> bool {
        self.flags & HEADER_NO_CHECKSUM != 0
    }

    /// The bytes on disk; reserved bytes are zero.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut out = [0; HEADER_SIZE];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&self.flags.to_be_bytes());
        out[8..12].copy_from_slice(&self.page_size.to_be_bytes());
        out[12..16].copy_from_slice(&self.commit.to_be_bytes());
        out[16..24].copy_from_slice(&self.min_txid.0.to_be_bytes());
        out[24..32].copy_from_slice(&self.max_txid.0.to_be_bytes());
        out[32..40].copy_from_slice(&self.timestamp_ms.to_be_bytes());
        out[40..48].copy_from_slice(&self.pre_apply_checksum.to_be_bytes());
        out[48..56].copy_from_slice(&self.wal_offset.to_be_bytes());
        out[56..64].copy_from_slice(&self.wal_size.to_be_bytes());
        out[64..68].copy_from_slice(&self.wal_salt1.to_be_bytes());
        out[68..72].copy_from_slice(&self.wal_salt2.to_be_bytes());
        out[72..80].copy_from_slice(&self.node_id.to_be_bytes());
        out
    }

    /// Reads the first 100 bytes of `bytes`; only length and magic are checked.
    ///
    /// # Errors
    ///
    /// `Corrupt` when bytes are missing or the magic differs.
    pub fn decode(bytes: &[u8]) -> Result<Header> {
        let Some(b) = bytes.first_chunk::<HEADER_SIZE>() else {
            return Err(Error::new(ErrorKind::Corrupt, "unexpected end of file"));
        };
        if b[..4] != MAGIC {
            return Err(Error::new(ErrorKind::Corrupt, "invalid LTX file"));
        }
        Ok(Header {
            flags: u32_at(b, 4),
            page_size: u32_at(b, 8),
            commit: u32_at(b, 12),
            min_txid: Txid(u64_at(b, 16)),
            max_txid: Txid(u64_at(b, 24)),
            timestamp_ms: u64_at(b, 32) as i64,
            pre_apply_checksum: u64_at(b, 40),
            wal_offset: u64_at(b, 48) as i64,
            wal_size: u64_at(b, 56) as i64,
            wal_salt1: u32_at(b, 64),
            wal_salt2: u32_at(b, 68),
            node_id: u64_at(b, 72),
        })
    }

    /// Checks every rule a file's header must hold.
    ///
    /// # Errors
    ///
    /// `InvalidInput` with the first rule broken.
    pub fn validate(&self) -> Result<()> {
        self.validate_identity().and_then(|()| self.validate_wal()).and_then(|()| {
            match self.pre_apply_fault() {
                None => Ok(()),
                Some(text) => Err(invalid(text.to_owned())),
            }
        })
    }

    fn validate_identity(&self) -> Result<()> {
        let (min, max) = (self.min_txid.0, self.max_txid.0);
        if self.flags & !HEADER_NO_CHECKSUM != 0 {
            return Err(invalid(format!("invalid flags: 0x{:08x}", self.flags)));
        }
        if !is_valid_page_size(self.page_size) {
            return Err(invalid(format!("invalid page size: {}", self.page_size)));
        }
        if min == 0 {
            return Err(invalid("minimum transaction id required".to_owned()));
        }
        if max == 0 {
            return Err(invalid("maximum transaction id required".to_owned()));
        }
        if min > max {
            return Err(invalid(format!("transaction ids out of order: ({min},{max})")));
        }
        Ok(())
    }

    fn validate_wal(&self) -> Result<()> {
        let text = if self.wal_offset < 0 {
            format!("wal offset cannot be negative: {}", self.wal_offset)
        } else if self.wal_size < 0 {
            format!("wal size cannot be negative: {}", self.wal_size)
        } else if self.wal_offset == 0 && (self.wal_salt1 != 0 || self.wal_salt2 != 0) {
            "wal offset required if salt exists".to_owned()
        } else if self.wal_offset == 0 && self.wal_size != 0 {
            "wal offset required if wal size exists".to_owned()
        } else {
            return Ok(());
        };
        Err(invalid(text))
    }

    fn pre_apply_fault(&self) -> Option<&'static str> {
        let pre = self.pre_apply_checksum;
        match (self.is_snapshot(), self.no_checksum()) {
            (true, _) if pre != 0 => Some("pre-apply checksum must be zero on snapshots"),
            (true, _) => None,
            (false, true) if pre != 0 => Some("pre-apply checksum not allowed"),
            (false, true) => None,
            (false, false) if pre == 0 => Some("pre-apply checksum required on non-snapshot files"),
            (false, false) if pre & CHECKSUM_FLAG == 0 => Some("invalid pre-apply checksum format"),
            (false, false) => None,
        }
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

fn u32_at(b: &[u8; HEADER_SIZE], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8; HEADER_SIZE], at: usize) -> u64 {
    u64::from(u32_at(b, at)) << 32 | u64::from(u32_at(b, at + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roundtrip() {
        let header = Header {
            flags: 2,
            page_size: 65536,
            commit: 0x0102_0304,
            min_txid: Txid(5),
            max_txid: Txid(u64::MAX - 1),
            timestamp_ms: -7,
            pre_apply_checksum: 0,
            wal_offset: 32,
            wal_size: i64::MAX,
            wal_salt1: 0xdead_beef,
            wal_salt2: 0x1234_5678,
            node_id: u64::MAX - 9,
        };
        header.validate().unwrap();
        assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        assert!(Header::decode(&header.encode()[..99]).is_err());
    }

    #[test]
    fn rules_in_order() {
        let ok = Header::new(4096, 1, Txid(2), Txid(3), 0);
        let tracked = Header { flags: 0, ..ok };
        let table: Vec<(Header, &str)> = vec![
            (Header { flags: 3, page_size: 1, ..ok }, "invalid flags: 0x00000003"),
            (Header { page_size: 100, min_txid: Txid(0), ..ok }, "invalid page size: 100"),
            (
                Header { min_txid: Txid(0), max_txid: Txid(0), ..ok },
                "minimum transaction id required",
            ),
            (Header { max_txid: Txid(0), ..ok }, "maximum transaction id required"),
            (Header { min_txid: Txid(9), ..ok }, "transaction ids out of order: (9,3)"),
            (Header { wal_offset: -1, ..ok }, "wal offset cannot be negative: -1"),
            (Header { wal_size: -2, ..ok }, "wal size cannot be negative: -2"),
            (Header { wal_salt2: 1, wal_size: 5, ..ok }, "wal offset required if salt exists"),
            (Header { wal_size: 5, ..ok }, "wal offset required if wal size exists"),
            (
                Header { min_txid: Txid(1), pre_apply_checksum: 1, ..ok },
                "pre-apply checksum must be zero on snapshots",
            ),
            (Header { pre_apply_checksum: 1, ..ok }, "pre-apply checksum not allowed"),
            (tracked, "pre-apply checksum required on non-snapshot files"),
            (Header { pre_apply_checksum: 1, ..tracked }, "invalid pre-apply checksum format"),
        ];
        for (header, text) in table {
            let e = header.validate().unwrap_err();
            assert_eq!(e.to_string(), text);
            assert_eq!(e.kind(), ErrorKind::InvalidInput);
        }
        Header { wal_offset: 32, ..ok }.validate().unwrap();
        Header { pre_apply_checksum: CHECKSUM_FLAG, ..tracked }.validate().unwrap();
    }
}
