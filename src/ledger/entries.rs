//! Checksums of pages in a file, read and written by blocks.

use std::ops::Range;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::ledger::format::{ENTRIES_AT, ENTRY_LEN, Totals};
use crate::ltx::Pgno;
use crate::os::disk::{self, File, Owner};

/// Entries of the block in memory: one page of the page cache.
const BLOCK_ENTRIES: u64 = 512;
/// Entries that a scan reads at once.
const SCAN_ENTRIES: u64 = 8192;

/// The checksums of pages, 0 where none is known.
#[derive(Debug)]
pub struct Sums {
    file: File,
    /// Entries `first..first + BLOCK_ENTRIES`, counted from 0.
    block: Vec<u8>,
    first: Option<u64>,
    /// Bytes of the block that the file does not have yet.
    dirty: Range<usize>,
}

impl Sums {
    pub(super) fn new(file: File) -> Sums {
        Sums { file, block: Vec::new(), first: None, dirty: 0..0 }
    }

    /// A list without a name, gone when it is dropped or its process dies;
    /// `path` is used for a moment.
    ///
    /// # Errors
    /// The file could not be made.
    pub fn scratch(path: &Path, owner: Option<Owner>) -> Result<Sums> {
        disk::remove_file(path)?;
        let file = File::open_private(path, owner)?;
        disk::remove_file(path)?;
        Ok(Sums::new(file))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The checksum of page `pgno`.
    ///
    /// # Errors
    /// The file could not be read or written.
    pub fn get(&mut self, pgno: Pgno) -> Result<u64> {
        let at = self.load(pgno)?;
        Ok(u64::from_le_bytes(self.block[at..at + 8].try_into().unwrap_or_default()))
    }

    /// Sets the checksum of page `pgno` and returns what it was.
    ///
    /// # Errors
    /// The file could not be read or written.
    pub fn set(&mut self, pgno: Pgno, sum: u64) -> Result<u64> {
        let before = self.get(pgno)?;
        if before != sum {
            let at = self.load(pgno)?;
            self.block[at..at + 8].copy_from_slice(&sum.to_le_bytes());
            self.dirty = match self.dirty.is_empty() {
                true => at..at + 8,
                false => self.dirty.start.min(at)..self.dirty.end.max(at + 8),
            };
        }
        Ok(before)
    }

    /// Brings the block with the entry of `pgno` to memory; answers where in it.
    fn load(&mut self, pgno: Pgno) -> Result<usize> {
        let Some(index) = u64::from(pgno).checked_sub(1) else {
            return Err(Error::new(ErrorKind::InvalidInput, "pages are counted from 1"));
        };
        let first = index - index % BLOCK_ENTRIES;
        if self.first != Some(first) {
            self.flush()?;
            self.first = None;
            self.block.resize((BLOCK_ENTRIES * ENTRY_LEN) as usize, 0);
            let got = self.file.read_at(&mut self.block, ENTRIES_AT + first * ENTRY_LEN)?;
            self.block[got..].fill(0);
            self.first = Some(first);
        }
        Ok(((index - first) * ENTRY_LEN) as usize)
    }

    /// Hands what was set to the file.
    ///
    /// # Errors
    /// `Full` when the device has no room.
    pub fn flush(&mut self) -> Result<()> {
        if let (Some(first), false) = (self.first, self.dirty.is_empty()) {
            let at = ENTRIES_AT + first * ENTRY_LEN + self.dirty.start as u64;
            self.file.write_all_at(&self.block[self.dirty.clone()], at)?;
            self.dirty = 0..0;
        }
        Ok(())
    }

    /// Cuts the list after page `last`, or lengthens it with unknown pages.
    pub(super) fn cut(&mut self, last: Pgno) -> Result<()> {
        self.flush()?;
        self.first = None;
        self.file.set_len(ENTRIES_AT + u64::from(last) * ENTRY_LEN)
    }

    /// Calls `visit` with the checksum of every known page from `from` to the end of the file.
    pub(super) fn scan(&mut self, from: Pgno, mut visit: impl FnMut(Pgno, u64)) -> Result<()> {
        self.flush()?;
        let mut buf = vec![0u8; (SCAN_ENTRIES * ENTRY_LEN) as usize];
        let mut index = u64::from(from.saturating_sub(1));
        loop {
            let got = self.file.read_at(&mut buf, ENTRIES_AT + index * ENTRY_LEN)?;
            for (i, entry) in buf[..got].chunks_exact(8).enumerate() {
                let sum = u64::from_le_bytes(entry.try_into().unwrap_or_default());
                let Ok(pgno) = Pgno::try_from(index + i as u64 + 1) else { return Ok(()) };
                if sum != 0 {
                    visit(pgno, sum);
                }
            }
            if got < buf.len() {
                return Ok(());
            }
            index += SCAN_ENTRIES;
        }
    }

    /// What all entries of the file amount to.
    pub(super) fn totals(&mut self) -> Result<Totals> {
        let mut totals = Totals::default();
        self.scan(1, |pgno, sum| totals.add(pgno, sum))?;
        Ok(totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums() -> (tempfile::TempDir, Sums) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sums");
        let sums = Sums::scratch(&path, None).unwrap();
        assert!(!path.exists());
        (dir, sums)
    }

    #[test]
    fn entries_are_kept_across_blocks_in_any_order() {
        let (_dir, mut s) = sums();
        let pages = [1u32, 512, 513, 100_000, 2, 70_000, 99_999];
        for (i, &p) in pages.iter().enumerate() {
            assert_eq!(s.set(p, i as u64 + 1).unwrap(), 0);
        }
        for (i, &p) in pages.iter().enumerate() {
            assert_eq!(s.get(p).unwrap(), i as u64 + 1);
        }
        assert_eq!(s.set(513, 50).unwrap(), 3);
        let mut seen = Vec::new();
        s.scan(3, |p, sum| seen.push((p, sum))).unwrap();
        assert_eq!(seen, [(512, 2), (513, 50), (70_000, 6), (99_999, 7), (100_000, 4)]);
        s.cut(512).unwrap();
        assert_eq!((s.get(512).unwrap(), s.get(513).unwrap()), (2, 0));
        assert_eq!(s.set(0, 1).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
