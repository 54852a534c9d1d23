//! Pages into a database file.

use super::PageSink;
use crate::error::Result;
use crate::ltx::Pgno;
use crate::os::replace::Replacement;

/// Consecutive pages are written together, up to this many bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// Writes pages to a [`Replacement`], neighbours in one call. What is never
/// delivered, such as the lock page, stays zero.
pub(super) struct DatabaseWriter<'a> {
    out: &'a Replacement,
    page_size: u32,
    /// File offset of the buffer's first byte.
    start: u64,
    buf: Vec<u8>,
}

impl<'a> DatabaseWriter<'a> {
    pub(super) fn new(out: &'a Replacement) -> Self {
        DatabaseWriter { out, page_size: 0, start: 0, buf: Vec::with_capacity(BUFFER_BYTES) }
    }

    /// Writes what is buffered and makes the file durable.
    pub(super) fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.out.sync()
    }

    fn flush(&mut self) -> Result<()> {
        if !self.buf.is_empty() {
            self.out.write_at(&self.buf, self.start)?;
            self.buf.clear();
        }
        Ok(())
    }
}

impl PageSink for DatabaseWriter<'_> {
    fn begin(&mut self, page_size: u32, commit: Pgno) -> Result<()> {
        self.page_size = page_size;
        self.out.reset(u64::from(commit) * u64::from(page_size))
    }

    fn page(&mut self, pgno: Pgno, data: &[u8]) -> Result<()> {
        let offset = u64::from(pgno - 1) * u64::from(self.page_size);
        let next = self.start + self.buf.len() as u64;
        if offset != next || self.buf.len() + data.len() > BUFFER_BYTES {
            self.flush()?;
            self.start = offset;
        }
        self.buf.extend_from_slice(data);
        Ok(())
    }
}
