//! Index entries as bytes, and a running hash of the index a file must have.

use super::Pgno;
use super::checksum::Crc;

/// Longest encoding of one entry: u32, u64 and u32 as uvarints.
pub(super) const MAX_ENTRY_LEN: usize = 5 + 10 + 5;

/// Appends `value` in groups of 7 bits, least significant first; returns the
/// position behind it.
fn put_uvarint(out: &mut [u8; MAX_ENTRY_LEN], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        out[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = value as u8;
    at + 1
}

/// One entry: (bytes, length used).
pub(super) fn encode_entry(pgno: Pgno, offset: u64, size: u32) -> ([u8; MAX_ENTRY_LEN], usize) {
    let mut out = [0; MAX_ENTRY_LEN];
    let at = put_uvarint(&mut out, 0, u64::from(pgno));
    let at = put_uvarint(&mut out, at, offset);
    let at = put_uvarint(&mut out, at, u64::from(size));
    (out, at)
}

/// The index of the pages seen so far, as a hash and a length: comparing it
/// with the stored index needs no memory per page.
pub(super) struct IndexHash {
    crc: Crc,
    len: u64,
    pending: [u8; 512],
    used: usize,
}

impl IndexHash {
    pub(super) fn new() -> IndexHash {
        IndexHash { crc: Crc::new(), len: 0, pending: [0; 512], used: 0 }
    }

    pub(super) fn push(&mut self, pgno: Pgno, offset: u64, size: u32) {
        let (bytes, n) = encode_entry(pgno, offset, size);
        if self.used + n > self.pending.len() {
            self.crc.update(&self.pending[..self.used]);
            self.used = 0;
        }
        self.pending[self.used..self.used + n].copy_from_slice(&bytes[..n]);
        self.used += n;
        self.len += n as u64;
    }

    /// Ends the index: (length with terminator, CRC).
    pub(super) fn finish(mut self) -> (u64, u64) {
        self.crc.update(&self.pending[..self.used]);
        self.crc.update(&[0]);
        (self.len + 1, self.crc.value())
    }
}
