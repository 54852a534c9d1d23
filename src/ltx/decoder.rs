//! Reading a file.

use std::io::Read;

use super::Pgno;
use super::checksum::{Crc, RollingChecksum, page_checksum};
use super::header::{HEADER_SIZE, Header};
use super::index_hash::IndexHash;
use super::order::PageOrder;
use super::page::{PAGE_HEADER_SIZE, PageHeader, decode_body, max_frame_len};
use super::source::{Source, StreamSource};
use super::trailer::{TRAILER_SIZE, Trailer};
use crate::{Error, ErrorKind, Result};

/// Bytes asked of the reader at once; readers need no buffer of their own.
const READ_SIZE: usize = 64 * 1024;

/// How much a [`Decoder`] demands beyond the file checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checks {
    /// Pages ascend, stay within the commit size, leave out the lock page and
    /// are complete in a snapshot; the index names exactly the pages seen.
    #[default]
    Strict,
    /// Only what Litestream checks, to read files that were written wrongly.
    AsLitestream,
}

#[derive(PartialEq, Eq)]
enum State {
    Pages,
    Ended,
    Failed,
}

/// Reads one file from a stream, page by page, in constant memory.
///
/// Pages are not to be trusted before [`Decoder::finish`] returned: only then
/// the file checksum is verified.
pub struct Decoder<R> {
    src: StreamSource<R>,
    header: Header,
    checks: Checks,
    state: State,
    hash: Crc,
    index: IndexHash,
    order: PageOrder,
    offset: u64,
    /// The database's checksum, for snapshots that carry one.
    rolling: Option<RollingChecksum>,
}

impl<R: Read> Decoder<R> {
    /// Reads and validates the header.
    ///
    /// # Errors
    ///
    /// `Corrupt` when it is not a valid one; the reader's errors.
    pub fn new(reader: R) -> Result<Decoder<R>> {
        Decoder::with_checks(reader, Checks::Strict)
    }

    /// As [`Decoder::new`], with fewer demands on the pages if wanted.
    ///
    /// # Errors
    ///
    /// As [`Decoder::new`].
    pub fn with_checks(reader: R, checks: Checks) -> Result<Decoder<R>> {
        Decoder::with_buffer(reader, checks, READ_SIZE)
    }

    /// As [`Decoder::with_checks`], asking the reader for about `read_size`
    /// bytes at once: for callers that keep many decoders.
    pub(crate) fn with_buffer(reader: R, checks: Checks, read_size: usize) -> Result<Decoder<R>> {
        let mut src = StreamSource::new(reader, read_size);
        let bytes = src.take(HEADER_SIZE, "header")?;
        let header = Header::decode(bytes).map_err(|e| e.context("unmarshal header"))?;
        header.validate().map_err(|e| e.with_kind(ErrorKind::Corrupt))?;
        let mut hash = Crc::new();
        hash.update(bytes);
        src.reserve(max_frame_len(header.page_size as usize));
        let tracked = header.is_snapshot() && !header.no_checksum();
        Ok(Decoder {
            src,
            header,
            checks,
            state: State::Pages,
            hash,
            index: IndexHash::new(),
            order: PageOrder::new(&header),
            offset: HEADER_SIZE as u64,
            rolling: tracked.then_some(RollingChecksum::EMPTY),
        })
    }

    /// The file's header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// File offset of the next page header, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Decodes the next page into `buf`, exactly one page long, and returns its
    /// number; `None` behind the last page.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when `buf` has another length; `Corrupt`; the reader's
    /// errors. After an error of the file every further call fails.
    pub fn next_page(&mut self, buf: &mut [u8]) -> Result<Option<Pgno>> {
        match self.state {
            State::Pages => {}
            State::Ended => return Ok(None),
            State::Failed => return Err(failed_before()),
        }
        let want = self.header.page_size as usize;
        if buf.len() != want {
            let message = format!("invalid page buffer size: {}, expecting {want}", buf.len());
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let result = self.read_page(buf);
        match result {
            Ok(Some(_)) => {}
            Ok(None) => self.state = State::Ended,
            Err(_) => self.state = State::Failed,
        }
        result
    }

    /// Reads index and trailer, verifies the file checksum and, with strict
    /// checks, that the index names exactly the pages seen.
    ///
    /// # Errors
    ///
    /// `InvalidInput` before `next_page` returned `None`; `Corrupt`; the
    /// reader's errors.
    pub fn finish(mut self) -> Result<Trailer> {
        match self.state {
            State::Ended => {}
            State::Failed => return Err(failed_before()),
            State::Pages => {
                let message = "cannot close, expected end of pages";
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
        }
        let (want_len, want_crc) = self.index.finish();
        let (mut len, mut crc) = (0, Crc::new());
        let (hash, strict) = (&mut self.hash, self.checks == Checks::Strict);
        let tail: [u8; 8 + TRAILER_SIZE] = self.src.drain("page index", |bytes| {
            len += bytes.len() as u64;
            if strict && len > want_len {
                return Err(corrupt("page index is longer than the pages need".to_owned()));
            }
            crc.update(bytes);
            hash.update(bytes);
            Ok(())
        })?;
        hash.update(&tail[..16]);
        let trailer = Trailer::decode(&tail[8..])?;
        if trailer.file_checksum != hash.flagged() {
            return Err(corrupt("file checksum mismatch".to_owned()));
        }
        let same = len == want_len && crc.value() == want_crc && tail[..8] == len.to_be_bytes();
        if strict && !same {
            return Err(corrupt("page index does not match the pages".to_owned()));
        }
        check_post_apply(self.rolling, &trailer)?;
        Ok(trailer)
    }

    fn read_page(&mut self, buf: &mut [u8]) -> Result<Option<Pgno>> {
        const MAX_HASHED: usize = PAGE_HEADER_SIZE + 4;
        let mut head = [0; MAX_HASHED];
        let mut hashed = PAGE_HEADER_SIZE;
        head[..hashed].copy_from_slice(self.src.take(PAGE_HEADER_SIZE, "page header")?);
        let header = PageHeader::decode([head[0], head[1], head[2], head[3], head[4], head[5]]);
        if header.is_end() {
            self.hash.update(&head[..hashed]);
            if self.checks == Checks::Strict {
                self.order.end().map_err(corrupt)?;
            }
            return Ok(None);
        }
        header.validate()?;
        if self.checks == Checks::Strict {
            self.order.next(header.pgno).map_err(corrupt)?;
        }
        let body = decode_body(&mut self.src, header.flags, buf)
            .map_err(|e| e.context(format_args!("page {}", header.pgno)))?;
        if let Some(size) = body.size_field {
            head[PAGE_HEADER_SIZE..].copy_from_slice(&size);
            hashed = MAX_HASHED;
        }
        self.hash.update(&head[..hashed]);
        self.hash.update(buf);
        let len = PAGE_HEADER_SIZE + body.len;
        self.index.push(header.pgno, self.offset, len as u32);
        self.offset += len as u64;
        if let Some(rolling) = &mut self.rolling {
            rolling.toggle(page_checksum(header.pgno, buf));
        }
        Ok(Some(header.pgno))
    }
}

fn check_post_apply(rolling: Option<RollingChecksum>, trailer: &Trailer) -> Result<()> {
    let Some(sum) = rolling.map(RollingChecksum::value) else { return Ok(()) };
    if sum != trailer.post_apply_checksum {
        return Err(corrupt(format!(
            "post-apply checksum in trailer ({:016x}) does not match calculated checksum ({sum:016x})",
            trailer.post_apply_checksum
        )));
    }
    Ok(())
}

/// Reads a whole file and verifies everything there is to verify.
///
/// # Errors
///
/// `Corrupt`, with the place in front of the reason; the reader's errors.
pub fn verify<R: Read>(reader: R) -> Result<(Header, Trailer)> {
    let mut decoder = Decoder::new(reader).map_err(|e| e.context("decode header"))?;
    let header = *decoder.header();
    let mut page = vec![0; header.page_size as usize];
    let mut ordinal = 0_u64;
    while decoder
        .next_page(&mut page)
        .map_err(|e| e.context(format_args!("decode page {ordinal}")))?
        .is_some()
    {
        ordinal += 1;
    }
    let trailer = decoder.finish().map_err(|e| e.context("close reader"))?;
    Ok((header, trailer))
}

fn failed_before() -> Error {
    corrupt("ltx decoder failed before".to_owned())
}

fn corrupt(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}
