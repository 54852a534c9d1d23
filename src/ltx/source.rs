//! Where encoded bytes come from: a stream behind a fixed buffer, or a slice.

use std::io::{self, Read};
use std::path::Path;

use crate::{Error, ErrorKind, Result};

/// A supply of consecutive bytes.
pub(super) trait Source {
    /// The next `n` bytes; `what` names them in the error when they are missing.
    /// Callers bound `n`: it may size a buffer.
    fn take(&mut self, n: usize, what: &str) -> Result<&[u8]>;
}

/// A slice that is consumed from its front.
pub(super) struct SliceSource<'a>(pub(super) &'a [u8]);

impl Source for SliceSource<'_> {
    fn take(&mut self, n: usize, what: &str) -> Result<&[u8]> {
        let (head, rest) = self.0.split_at_checked(n).ok_or_else(|| truncated(what))?;
        self.0 = rest;
        Ok(head)
    }
}

/// A reader behind a buffer that never grows past the largest single request.
pub(super) struct StreamSource<R> {
    inner: R,
    buf: Vec<u8>,
    /// `buf[start..end]` is read and not yet consumed.
    start: usize,
    end: usize,
}

impl<R: Read> StreamSource<R> {
    pub(super) fn new(inner: R, capacity: usize) -> Self {
        StreamSource { inner, buf: vec![0; capacity], start: 0, end: 0 }
    }

    /// Makes single requests of up to `capacity` bytes cheap.
    pub(super) fn reserve(&mut self, capacity: usize) {
        if self.buf.len() < capacity {
            self.buf.resize(capacity, 0);
        }
    }

    /// Reads to the end of the stream, hands everything but the last `N` bytes
    /// to `each` and returns these.
    pub(super) fn drain<const N: usize>(
        &mut self,
        what: &str,
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<[u8; N]> {
        loop {
            let excess = (self.end - self.start).saturating_sub(N);
            if excess > 0 {
                each(&self.buf[self.start..self.start + excess])?;
                self.start += excess;
            }
            self.compact(N + 1);
            if self.fill_some()? == 0 {
                let tail = self.buf[self.start..self.end].first_chunk::<N>();
                return tail.copied().ok_or_else(|| truncated(what));
            }
        }
    }

    fn refill(&mut self, n: usize, what: &str) -> Result<()> {
        self.compact(n);
        while self.end - self.start < n {
            if self.fill_some()? == 0 {
                return Err(truncated(what));
            }
        }
        Ok(())
    }

    /// Moves what is left to the front, with room for `n` bytes in all.
    fn compact(&mut self, n: usize) {
        self.buf.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        self.reserve(n);
    }

    fn fill_some(&mut self) -> Result<usize> {
        loop {
            match self.inner.read(&mut self.buf[self.end..]) {
                Ok(n) => {
                    let n = n.min(self.buf.len() - self.end);
                    self.end += n;
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", Path::new("LTX stream"), e)),
            }
        }
    }
}

impl<R: Read> Source for StreamSource<R> {
    #[inline]
    fn take(&mut self, n: usize, what: &str) -> Result<&[u8]> {
        if self.end - self.start < n {
            self.refill(n, what)?;
        }
        let at = self.start;
        self.start += n;
        Ok(&self.buf[at..at + n])
    }
}

fn truncated(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("read {what}: unexpected end of file"))
}
