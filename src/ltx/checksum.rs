//! CRC-64/GO-ISO and what LTX builds from it.

use crc_fast::{CrcAlgorithm, Digest};

use super::Pgno;

/// Bit 63, set in every checksum that exists; 0 means "no checksum".
pub const CHECKSUM_FLAG: u64 = 1 << 63;

/// CRC-64/GO-ISO of `data` (check value `b90956c775a41001`).
pub fn crc64(data: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64GoIso, data)
}

/// An incremental CRC-64/GO-ISO.
pub(crate) struct Crc(Digest);

impl Crc {
    pub(crate) fn new() -> Crc {
        Crc(Digest::new(CrcAlgorithm::Crc64GoIso))
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.finalize()
    }

    /// The value as a file checksum.
    pub(crate) fn flagged(&self) -> u64 {
        CHECKSUM_FLAG | self.value()
    }
}

/// Checksum of one database page: the page number (u32 BE) and its bytes.
pub fn page_checksum(pgno: Pgno, page: &[u8]) -> u64 {
    let mut crc = Crc::new();
    crc.update(&pgno.to_be_bytes());
    crc.update(page);
    crc.flagged()
}

/// The checksum of a whole database, kept up to date page by page.
///
/// The exclusive or of its pages' checksums; the lock page has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RollingChecksum(u64);

impl RollingChecksum {
    /// The checksum of an empty database.
    pub const EMPTY: RollingChecksum = RollingChecksum(CHECKSUM_FLAG);

    /// Goes on from a known value.
    pub fn from_value(value: u64) -> RollingChecksum {
        RollingChecksum(value | CHECKSUM_FLAG)
    }

    /// Adds a page that was absent, or removes one that was present: both are
    /// the same operation on its [`page_checksum`].
    pub fn toggle(&mut self, page_checksum: u64) {
        self.0 = CHECKSUM_FLAG | (self.0 ^ page_checksum);
    }

    /// The present value, bit 63 set.
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value() {
        assert_eq!(crc64(b"123456789"), 0xb909_56c7_75a4_1001);
        let mut crc = Crc::new();
        crc.update(b"1234");
        crc.update(b"");
        crc.update(b"56789");
        assert_eq!(crc.value(), 0xb909_56c7_75a4_1001);
    }

    #[test]
    fn rolling_is_an_involution() {
        let mut sum = RollingChecksum::EMPTY;
        let page = page_checksum(1, &[7; 512]);
        assert_ne!(page & CHECKSUM_FLAG, 0);
        sum.toggle(page);
        assert_ne!(sum, RollingChecksum::EMPTY);
        sum.toggle(page);
        assert_eq!(sum.value(), CHECKSUM_FLAG);
    }
}
