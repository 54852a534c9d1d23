//! Writing a file.

use std::io::Write;
use std::path::Path;

use super::checksum::{CHECKSUM_FLAG, Crc};
use super::header::Header;
use super::index_hash::encode_entry;
use super::order::PageOrder;
use super::page::{PAGE_HEADER_SIZE, PageEncoder, PageForm, max_frame_len};
use super::trailer::Trailer;
use super::{Pgno, TRAILER_SIZE};
use crate::{Error, ErrorKind, Result};

/// Bytes collected before the sink sees them; sinks need no buffer of their own.
const WRITE_SIZE: usize = 64 * 1024;

/// Writes one file to a sink, page by page.
///
/// Memory: a fixed buffer and the encoded index, about 9 bytes per page. After
/// an error the output is incomplete and every further call fails.
pub struct Encoder<W> {
    out: W,
    header: Header,
    order: PageOrder,
    pages: PageEncoder,
    hash: Crc,
    index: Vec<u8>,
    /// `buf[..used]` waits to be written; behind it there is always room for a
    /// frame.
    buf: Vec<u8>,
    used: usize,
    flushed: u64,
    post_apply_checksum: u64,
    failed: bool,
}

impl<W: Write> Encoder<W> {
    /// Starts a file with `header`; pages are stored in `form`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when the header breaks a rule.
    pub fn new(out: W, header: Header, form: PageForm) -> Result<Encoder<W>> {
        header.validate()?;
        let bytes = header.encode();
        let mut hash = Crc::new();
        hash.update(&bytes);
        let mut buf = vec![0; WRITE_SIZE + max_frame_len(header.page_size as usize)];
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(Encoder {
            out,
            header,
            order: PageOrder::new(&header),
            pages: PageEncoder::new(form),
            hash,
            index: Vec::new(),
            buf,
            used: bytes.len(),
            flushed: 0,
            post_apply_checksum: 0,
            failed: false,
        })
    }

    /// The header the file was started with.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Length of the file so far in bytes, whether or not the sink has them.
    pub fn bytes_written(&self) -> u64 {
        self.flushed + self.used as u64
    }

    /// The database checksum after applying the file: only for headers without
    /// the flag `HEADER_NO_CHECKSUM`, which Litestream does not restore.
    pub fn set_post_apply_checksum(&mut self, checksum: u64) {
        self.post_apply_checksum = checksum;
    }

    /// Appends page `pgno`: ascending; in a snapshot every page from 1 on but
    /// the lock page.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when the page may not come here; the sink's errors.
    pub fn encode_page(&mut self, pgno: Pgno, page: &[u8]) -> Result<()> {
        self.check_usable()?;
        let result = self.append(pgno, page);
        self.failed = result.is_err();
        result
    }

    /// Writes index and trailer and returns the sink.
    ///
    /// The sink got every byte but is not flushed.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when a snapshot lacks pages or the checksums do not fit
    /// the header; the sink's errors.
    pub fn finish(mut self) -> Result<(W, Trailer)> {
        self.check_usable()?;
        self.order.end().map_err(invalid)?;
        self.check_zero_length()?;
        self.flush()?;
        self.index.push(0);
        let index_len = (self.index.len() as u64).to_be_bytes();
        self.hash.update(&[0; PAGE_HEADER_SIZE]);
        self.hash.update(&self.index);
        self.hash.update(&index_len);
        self.hash.update(&self.post_apply_checksum.to_be_bytes());
        let trailer = Trailer {
            post_apply_checksum: self.post_apply_checksum,
            file_checksum: self.hash.flagged(),
        };
        trailer.validate(&self.header)?;
        let mut end = [0; 8 + TRAILER_SIZE];
        end[..8].copy_from_slice(&index_len);
        end[8..].copy_from_slice(&trailer.encode());
        for part in [&[0; PAGE_HEADER_SIZE][..], &self.index, &end] {
            self.out.write_all(part).map_err(write_error)?;
        }
        Ok((self.out, trailer))
    }

    fn append(&mut self, pgno: Pgno, page: &[u8]) -> Result<()> {
        if pgno == 0 {
            return Err(invalid("page number required".to_owned()));
        }
        let want = self.header.page_size as usize;
        if page.len() != want {
            let message = format!("invalid page buffer size: {}, expecting {want}", page.len());
            return Err(invalid(message));
        }
        self.order.next(pgno).map_err(invalid)?;
        let frame = self.pages.encode(pgno, page, &mut self.buf[self.used..])?;
        self.hash.update(&self.buf[self.used..self.used + frame.hashed]);
        self.hash.update(page);
        let (entry, n) = encode_entry(pgno, self.bytes_written(), frame.len as u32);
        self.index.extend_from_slice(&entry[..n]);
        self.used += frame.len;
        if self.used >= WRITE_SIZE {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.out.write_all(&self.buf[..self.used]).map_err(write_error)?;
        self.flushed += self.used as u64;
        self.used = 0;
        Ok(())
    }

    fn check_zero_length(&self) -> Result<()> {
        if self.header.commit == 0 && self.post_apply_checksum != CHECKSUM_FLAG {
            let text = "post-apply checksum must be empty for zero-length database";
            return Err(invalid(text.to_owned()));
        }
        Ok(())
    }

    fn check_usable(&self) -> Result<()> {
        if self.failed {
            return Err(invalid("ltx encoder failed before: start the file again".to_owned()));
        }
        Ok(())
    }
}

fn write_error(e: std::io::Error) -> Error {
    Error::io("write", Path::new("LTX stream"), e)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}
