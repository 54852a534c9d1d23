//! A WAL for tests, as SQLite writes it.

use std::path::Path;

use crate::host::Salts;

/// Bytes of its pages.
pub(crate) const PAGE: usize = 512;

fn sum(mut s: [u32; 2], data: &[u8]) -> [u32; 2] {
    for pair in data.chunks_exact(8) {
        let word = |at: usize| u32::from_le_bytes(pair[at..at + 4].try_into().unwrap());
        s[0] = s[0].wrapping_add(word(0)).wrapping_add(s[1]);
        s[1] = s[1].wrapping_add(word(4)).wrapping_add(s[0]);
    }
    s
}

/// A WAL as SQLite writes it: each frame is the commit of one page.
pub(crate) struct Wal {
    pub(crate) bytes: Vec<u8>,
    salts: Salts,
    sum: [u32; 2],
}

impl Wal {
    pub(crate) fn new(salts: Salts) -> Wal {
        let mut bytes = Vec::new();
        for v in [0x377f_0682, 3_007_000, PAGE as u32, 0, salts[0], salts[1]] {
            bytes.extend_from_slice(&v.to_be_bytes());
        }
        let s = sum([0, 0], &bytes);
        bytes.extend(s.iter().flat_map(|v| v.to_be_bytes()));
        Wal { bytes, salts, sum: s }
    }

    pub(crate) fn commit(&mut self, pgno: u32, fill: u8) -> &mut Wal {
        let mut head: Vec<u8> = [pgno, 3u32].iter().flat_map(|v| v.to_be_bytes()).collect();
        self.sum = sum(sum(self.sum, &head), &[fill; PAGE]);
        head.extend(self.salts.iter().chain(&self.sum).flat_map(|v| v.to_be_bytes()));
        self.bytes.extend(head);
        self.bytes.extend([fill; PAGE]);
        self
    }

    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, &self.bytes).unwrap();
    }
}
