//! WAL frames to committed transactions.
//!
//! A reader starts at a [`WalPosition`], a place behind a committed frame, and
//! yields whole transactions. Two modes:
//!
//! - *verified*: salts and the chain of checksums decide where the log ends.
//!   A torn or uncommitted tail is not an error, it is the end.
//! - *trusted*: the wal-index is the witness up to its last committed frame;
//!   only frame headers are read, and they must carry the salts.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::ltx::{Pgno, lock_pgno};
use crate::sqlite::wal::{FRAME_HEADER_SIZE, WAL_HEADER_SIZE, frame_offset, frame_size};
use crate::sqlite::{Checksum, FrameHeader, Salts, WalHeader, WalIndexHeader};
use crate::{Error, ErrorKind, Result};

/// Bytes read at once in verified mode.
const READ_SIZE: u64 = 256 * 1024;

/// A WAL file as bytes at offsets.
pub trait WalSource {
    /// Fills `buf` from `offset`; a short count means the file ends there.
    ///
    /// # Errors
    ///
    /// The source's own.
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize>;
}

impl<F: FnMut(&mut [u8], u64) -> Result<usize>> WalSource for F {
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self(buf, offset)
    }
}

/// Any seekable reader as a [`WalSource`].
#[derive(Debug)]
pub struct SeekSource<R>(pub R);

impl<R: Read + Seek> WalSource for SeekSource<R> {
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let failed = |e| Error::io("read", Path::new("WAL"), e);
        self.0.seek(SeekFrom::Start(offset)).map_err(failed)?;
        let mut filled = 0;
        while filled < buf.len() {
            match self.0.read(&mut buf[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(filled)
    }
}

/// A place in one generation of a WAL, behind a committed frame or, with
/// frame 0, behind the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalPosition {
    /// The generation.
    pub salts: Salts,
    /// Byte order of checksum words.
    pub big_endian_checksum: bool,
    /// Page size in bytes.
    pub page_size: u32,
    /// Frames in front of this place.
    pub frame: u32,
    /// Checksum of the last of them, or of the header.
    pub checksum: Checksum,
}

impl WalPosition {
    /// The place behind the header, where the first frame begins.
    pub fn start(header: &WalHeader) -> WalPosition {
        WalPosition {
            salts: header.salts,
            big_endian_checksum: header.big_endian_checksum,
            page_size: header.page_size,
            frame: 0,
            checksum: header.checksum,
        }
    }

    /// The place that the wal-index calls committed.
    pub fn end_of(index: &WalIndexHeader) -> WalPosition {
        WalPosition {
            salts: index.salts,
            big_endian_checksum: index.big_endian_checksum,
            page_size: index.page_size,
            frame: index.max_frame,
            checksum: index.frame_checksum,
        }
    }

    /// File offset of this place in bytes, at least 32.
    pub fn offset(&self) -> u64 {
        WAL_HEADER_SIZE as u64 + u64::from(self.frame) * frame_size(self.page_size)
    }

    /// Whether the WAL behind `source` still holds the frames in front of this
    /// place: the header has the salts, and the last frame has the checksum.
    ///
    /// # Errors
    ///
    /// The source's.
    pub fn is_in(&self, source: &mut impl WalSource) -> Result<bool> {
        let mut bytes = [0; WAL_HEADER_SIZE];
        if source.read_at(&mut bytes, 0)? < bytes.len() {
            return Ok(false);
        }
        let Ok(header) = WalHeader::decode(&bytes) else { return Ok(false) };
        let start = WalPosition::start(&header);
        if (start.salts, start.page_size) != (self.salts, self.page_size) {
            return Ok(false);
        }
        if self.frame == 0 {
            return Ok(start == *self);
        }
        let frame = read_header(source, self.frame, self.page_size)?;
        Ok(frame
            .is_some_and(|f| f.commit != 0 && f.salts == self.salts && f.checksum == self.checksum))
    }
}

/// One committed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Database size in pages after it.
    pub commit: Pgno,
    /// Pages and the frames (counted from 1) that hold them, in log order; a
    /// page may come more than once, the last one counts.
    pub frames: Vec<(Pgno, u32)>,
    /// The place behind it.
    pub end: WalPosition,
}

enum Mode {
    Verified(Window),
    Trusted { max_frame: u32 },
}

/// Yields committed transactions in order.
pub struct WalReader<S> {
    source: S,
    at: WalPosition,
    mode: Mode,
}

impl<S: WalSource> WalReader<S> {
    /// Reads from `at` to the end of what salts and checksums prove.
    pub fn verified(source: S, at: WalPosition) -> WalReader<S> {
        WalReader { source, at, mode: Mode::Verified(Window::new(at.page_size)) }
    }

    /// Reads from `at` up to `max_frame`, which the wal-index of the same
    /// generation calls committed.
    pub fn trusted(source: S, at: WalPosition, max_frame: u32) -> WalReader<S> {
        WalReader { source, at, mode: Mode::Trusted { max_frame } }
    }

    /// The place behind the last transaction yielded.
    pub fn position(&self) -> &WalPosition {
        &self.at
    }

    /// Gives the source back.
    pub fn into_source(self) -> S {
        self.source
    }

    /// The next transaction; `None` at the end of the committed log. A verified
    /// reader may be asked again when the log has grown.
    ///
    /// # Errors
    ///
    /// The source's; `Corrupt` when frames that the wal-index calls committed
    /// are missing, have other salts or end inside a transaction.
    pub fn next_transaction(&mut self) -> Result<Option<Transaction>> {
        let mut frames = Vec::new();
        let mut at = self.at;
        loop {
            let header = match &mut self.mode {
                Mode::Verified(window) => window.next_frame(&mut self.source, &at)?,
                Mode::Trusted { max_frame } if at.frame >= *max_frame => None,
                Mode::Trusted { .. } => Some(trusted_frame(&mut self.source, &at)?),
            };
            let Some(header) = header else { break };
            at.frame += 1;
            at.checksum = header.checksum;
            frames.push((header.pgno, at.frame));
            if header.commit != 0 {
                self.at = at;
                return Ok(Some(Transaction { commit: header.commit, frames, end: at }));
            }
        }
        match &mut self.mode {
            Mode::Verified(window) => window.forget(),
            Mode::Trusted { .. } if !frames.is_empty() => {
                return Err(corrupt(format!("WAL frame {} is not the end of a commit", at.frame)));
            }
            Mode::Trusted { .. } => {}
        }
        Ok(None)
    }
}

fn trusted_frame(source: &mut impl WalSource, at: &WalPosition) -> Result<FrameHeader> {
    let number = at.frame.saturating_add(1);
    let header = read_header(source, number, at.page_size)?
        .ok_or_else(|| corrupt(format!("WAL ends before committed frame {number}")))?;
    if header.salts != at.salts || header.pgno == 0 {
        return Err(corrupt(format!("WAL frame {number} is of another generation")));
    }
    Ok(header)
}

fn read_header(
    source: &mut impl WalSource,
    frame: u32,
    page_size: u32,
) -> Result<Option<FrameHeader>> {
    let mut bytes = [0; FRAME_HEADER_SIZE];
    let n = source.read_at(&mut bytes, frame_offset(frame, page_size))?;
    Ok((n >= bytes.len()).then(|| FrameHeader::decode(&bytes)))
}

/// Whole frames, read ahead.
struct Window {
    buf: Vec<u8>,
    frame_size: usize,
    /// The first frame in `buf`, and how many are valid.
    first: u32,
    count: u32,
}

impl Window {
    fn new(page_size: u32) -> Window {
        let frame_size = frame_size(page_size);
        let frames = (READ_SIZE / frame_size).max(1);
        let buf = vec![0; (frames * frame_size) as usize];
        Window { buf, frame_size: frame_size as usize, first: 0, count: 0 }
    }

    fn forget(&mut self) {
        self.count = 0;
    }

    /// The frame behind `at` if it continues the log.
    fn next_frame(
        &mut self,
        source: &mut impl WalSource,
        at: &WalPosition,
    ) -> Result<Option<FrameHeader>> {
        let Some(number) = at.frame.checked_add(1) else { return Ok(None) };
        if self.count == 0 || number < self.first || number - self.first >= self.count {
            let n = source.read_at(&mut self.buf, frame_offset(number, at.page_size))?;
            self.first = number;
            self.count = (n.min(self.buf.len()) / self.frame_size) as u32;
            if self.count == 0 {
                return Ok(None);
            }
        }
        let start = (number - self.first) as usize * self.frame_size;
        let frame = &self.buf[start..start + self.frame_size];
        let Some((head, page)) = frame.split_first_chunk() else { return Ok(None) };
        let header = FrameHeader::decode(head);
        if header.salts != at.salts || header.pgno == 0 {
            return Ok(None);
        }
        let big = at.big_endian_checksum;
        let sum = at.checksum.update(big, &head[..8]).update(big, page);
        Ok((sum == header.checksum).then_some(header))
    }
}

/// Transactions folded into one: the newest frame of every page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewestPages {
    /// Database size in pages after the last transaction.
    pub commit: Pgno,
    /// Page to frame (counted from 1); no page above `commit`, no lock page.
    pub pages: BTreeMap<Pgno, u32>,
    /// The place behind the last transaction.
    pub end: WalPosition,
    /// How many transactions were folded.
    pub transactions: u64,
    /// The smallest size the database had after any of them.
    min_commit: Pgno,
}

impl NewestPages {
    /// Starts with one transaction.
    pub fn new(first: &Transaction) -> NewestPages {
        let mut this = NewestPages {
            commit: first.commit,
            pages: BTreeMap::new(),
            end: first.end,
            transactions: 0,
            min_commit: first.commit,
        };
        this.fold(first);
        this
    }

    /// Adds the transaction that follows. What it cut off the database is
    /// dropped, even if a later one grows it again: that one brings the pages.
    pub fn fold(&mut self, tx: &Transaction) {
        let lock = lock_pgno(tx.end.page_size);
        if tx.commit < self.commit {
            self.pages.split_off(&(tx.commit + 1));
        }
        let kept = tx.frames.iter().filter(|(pgno, _)| *pgno <= tx.commit && *pgno != lock);
        self.pages.extend(kept.copied());
        self.commit = tx.commit;
        self.min_commit = self.min_commit.min(tx.commit);
        self.end = tx.end;
        self.transactions += 1;
    }

    /// The first page that a database of `previous_commit` pages would lack
    /// after this, although it grew beyond it; `None` if nothing is lost.
    ///
    /// SQLite writes every new page of a growth to the WAL. A missing one
    /// means that frames were missed: such a set must not be published.
    pub fn missing_growth(&self, previous_commit: Pgno) -> Option<Pgno> {
        let low = previous_commit.min(self.min_commit);
        let lock = lock_pgno(self.end.page_size);
        let mut expected = low.saturating_add(1);
        for (&pgno, _) in self.pages.range(expected..) {
            expected += u32::from(expected == lock);
            if pgno != expected {
                return Some(expected);
            }
            expected = expected.saturating_add(1);
        }
        expected += u32::from(expected == lock);
        (expected <= self.commit).then_some(expected)
    }
}

/// Folds everything `reader` still has; `None` when there is no transaction.
///
/// # Errors
///
/// The reader's.
pub fn newest_pages<S: WalSource>(reader: &mut WalReader<S>) -> Result<Option<NewestPages>> {
    let Some(first) = reader.next_transaction()? else { return Ok(None) };
    let mut newest = NewestPages::new(&first);
    while let Some(tx) = reader.next_transaction()? {
        newest.fold(&tx);
    }
    Ok(Some(newest))
}

fn corrupt(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}
