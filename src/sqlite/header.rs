//! The first 100 bytes of a database file.
//!
//! | offset | size | field (big-endian) |
//! |---:|---:|---|
//! | 0 | 16 | `SQLite format 3` and a zero byte |
//! | 16 | 2 | page size, 1 = 65536 |
//! | 18, 19 | 1 | write and read version: 1 = rollback journal, 2 = WAL |
//! | 20 | 1 | reserved bytes at the end of each page |
//! | 24 | 4 | change counter |
//! | 28 | 4 | page count, valid if the change counter equals offset 92 |
//! | 92 | 4 | change counter at which the page count was written |

use super::be32;
use crate::{Error, ErrorKind, Result};

/// Length of the database header in bytes.
pub const HEADER_SIZE: usize = 100;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// How the header says the database is journaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalMode {
    /// A rollback journal of any kind.
    Rollback,
    /// Write-ahead log.
    Wal,
}

/// What page 1 says of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseHeader {
    /// Page size in bytes, 512 to 65536.
    pub page_size: u32,
    /// Version byte for writers (offset 18).
    pub write_version: u8,
    /// Version byte for readers (offset 19).
    pub read_version: u8,
    /// Bytes at the end of every page that SQLite leaves to extensions.
    pub reserved: u8,
    /// Counts transactions in rollback mode; in WAL mode it moves rarely.
    pub change_counter: u32,
    /// Page count as stored; see [`DatabaseHeader::valid_page_count`].
    pub page_count: u32,
    /// Change counter for which the page count is valid.
    pub version_valid_for: u32,
}

impl DatabaseHeader {
    /// Reads the first 100 bytes of page 1.
    ///
    /// # Errors
    ///
    /// `Corrupt` when they are not a plain SQLite database's.
    pub fn decode(bytes: &[u8]) -> Result<DatabaseHeader> {
        let Some(b) = bytes.first_chunk::<HEADER_SIZE>() else {
            let message = format!("database header has {} of {HEADER_SIZE} bytes", bytes.len());
            return Err(Error::new(ErrorKind::Corrupt, message));
        };
        if b[..16] != *MAGIC {
            return Err(Error::new(ErrorKind::Corrupt, "file is not a database"));
        }
        let stored = u16::from_be_bytes([b[16], b[17]]);
        let page_size = match stored {
            1 => 65536,
            n if n >= 512 && n.is_power_of_two() => u32::from(n),
            n => {
                let message = format!("invalid page size {n} in the database header");
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        };
        Ok(DatabaseHeader {
            page_size,
            write_version: b[18],
            read_version: b[19],
            reserved: b[20],
            change_counter: be32(b, 24),
            page_count: be32(b, 28),
            version_valid_for: be32(b, 92),
        })
    }

    /// How the database is journaled.
    pub fn journal_mode(&self) -> JournalMode {
        if self.write_version == 2 { JournalMode::Wal } else { JournalMode::Rollback }
    }

    /// The page count, unless a writer that does not keep it changed the file
    /// since: then the file's length decides.
    pub fn valid_page_count(&self) -> Option<u32> {
        (self.page_count > 0 && self.change_counter == self.version_valid_for)
            .then_some(self.page_count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> [u8; HEADER_SIZE] {
        let mut b = [0; HEADER_SIZE];
        b[..16].copy_from_slice(MAGIC);
        b[16..20].copy_from_slice(&[0x10, 0, 2, 2]);
        b[24..32].copy_from_slice(&[0, 0, 0, 7, 0, 0, 1, 2]);
        b[92..96].copy_from_slice(&[0, 0, 0, 7]);
        b
    }

    #[test]
    fn fields() {
        let header = DatabaseHeader::decode(&sample()).unwrap();
        assert_eq!(header.page_size, 4096);
        assert_eq!(header.journal_mode(), JournalMode::Wal);
        assert_eq!(header.valid_page_count(), Some(258));
        let mut b = sample();
        b[16..20].copy_from_slice(&[0, 1, 1, 1]);
        b[95] = 6;
        let header = DatabaseHeader::decode(&b).unwrap();
        assert_eq!(header.page_size, 65536);
        assert_eq!(header.journal_mode(), JournalMode::Rollback);
        assert_eq!(header.valid_page_count(), None);
    }

    #[test]
    fn refusals() {
        let b = sample();
        for n in 0..HEADER_SIZE {
            assert!(DatabaseHeader::decode(&b[..n]).is_err());
        }
        for bad in [[0, 0], [1, 0], [0x10, 1], [0, 2]] {
            let mut b = sample();
            b[16..18].copy_from_slice(&bad);
            assert!(DatabaseHeader::decode(&b).is_err(), "{bad:?}");
        }
        let mut b = sample();
        b[0] = b's';
        assert!(DatabaseHeader::decode(&b).is_err());
    }
}
