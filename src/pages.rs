//! Reading a whole database state, page by page, in order: the database file
//! with the WAL's frames laid over it.

use std::sync::Arc;

use crate::capture::frames;
use crate::capture::frames::{FRAME_HEADER_SIZE, WAL_HEADER_SIZE};
use crate::capture::page_map::PageMap;
use crate::capture::position::CleanMark;
use crate::db::Db;
use crate::error::{Error, ErrorKind, Result};
use crate::host::{DatabaseFile, WalIndexHeader};
use crate::ltx::{Pgno, is_valid_page_size, lock_pgno};
use crate::os::disk::{self, File, FileStat};

/// Bytes of the database that are read at once.
const READ_BYTES: usize = 1 << 20;

/// Where the pages come from, and what keeps them still.
pub(crate) enum Source {
    /// A read transaction of ours.
    Pinned { ticket: u64, wal: Option<File>, overlay: PageMap },
    /// No connection writes the database and there is no WAL; its state on disk
    /// must be the same at the end.
    Closed { file: Box<dyn DatabaseFile>, before: FileStat },
}

/// How a state was found.
pub(crate) enum Origin {
    /// In use.
    Pinned,
    /// At rest, with this mark.
    Closed(CleanMark),
}

/// A database state that can be read.
pub(crate) struct Pages {
    db: Arc<Db>,
    source: Source,
    /// What the state is, with page count and page size filled in.
    pub header: WalIndexHeader,
}

/// The page size in a database header, if it is one.
pub(crate) fn page_size_of(header: &[u8]) -> Option<u32> {
    let raw = u16::from_be_bytes(header.get(16..18)?.try_into().ok()?);
    let size = if raw == 1 { 65536 } else { u32::from(raw) };
    (header.starts_with(b"SQLite format 3\0") && is_valid_page_size(size)).then_some(size)
}

/// Completes what the wal-index does not say while the WAL is empty. An
/// encrypted database has no readable page 1: there the page size is what the
/// wal-index still knows, or `seen` where its connections read and wrote.
pub(crate) fn complete(
    header: &mut WalIndexHeader,
    mut read_at: impl FnMut(&mut [u8], u64) -> Result<usize>,
    size: u64,
    seen: u32,
) -> Result<()> {
    if header.mx_frame > 0 && is_valid_page_size(header.page_size) {
        return Ok(());
    }
    let mut head = [0u8; 100];
    let got = read_at(&mut head, 0)?;
    let page_size = page_size_of(&head[..got])
        .or(is_valid_page_size(header.page_size).then_some(header.page_size))
        .or(is_valid_page_size(seen).then_some(seen))
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Transient,
                "the database's header cannot be read (encrypted?): its page size shows with the \
                 next page that the application reads or commits",
            )
        })?;
    header.page_size = page_size;
    header.n_page = u32::try_from(size / u64::from(page_size)).unwrap_or(u32::MAX);
    Ok(())
}

impl Pages {
    /// Starts a read transaction of ours.
    pub(crate) fn pin(db: &Arc<Db>) -> Result<Pages> {
        let mut reader = db.host.pin()?;
        let mut header = reader.header();
        let size = reader.size()?;
        complete(&mut header, |buf, at| reader.read_at(buf, at), size, db.page_size_seen())?;
        let (ticket, _) = db.pin.set(reader);
        // The frames are read with the first page: until then the caller may hold
        // what commits wait for, and the read mark keeps them in the WAL.
        let source = Source::Pinned { ticket, wal: None, overlay: PageMap::default() };
        Ok(Pages { db: Arc::clone(db), source, header })
    }

    /// Reads a database that nobody writes.
    pub(crate) fn closed(db: &Arc<Db>) -> Result<Pages> {
        let before = Self::at_rest(db)?.ok_or_else(moved)?;
        let mut file = db.host.open_unlocked()?;
        // A transaction with its journal in memory, or without one, may have written
        // half of its pages. Asked after `before`: what it writes later is seen there.
        if file.is_reserved()? {
            return Err(Error::new(ErrorKind::Transient, "another process writes the database"));
        }
        let size = file.size()?;
        let mut header = WalIndexHeader::default();
        complete(&mut header, |buf, at| file.read_at(buf, at), size, db.page_size_seen())?;
        Ok(Pages { db: Arc::clone(db), source: Source::Closed { file, before }, header })
    }

    /// The state of the database file when no journal says that it is in use.
    pub(crate) fn at_rest(db: &Db) -> Result<Option<FileStat>> {
        if disk::stat(&db.wal_path)?.is_some_and(|s| s.size > 0) || db.journal_is_hot() {
            return Ok(None);
        }
        disk::stat(&db.path)
    }

    /// How the state was found.
    pub(crate) fn origin(&self) -> Origin {
        match &self.source {
            Source::Pinned { .. } => Origin::Pinned,
            Source::Closed { before, .. } => Origin::Closed(CleanMark {
                size: before.size,
                mtime_ns: before.mtime_ns,
                ctime_ns: before.ctime_ns,
            }),
        }
    }

    /// Finds the newest frame of each page, once.
    fn lay_over(&mut self) -> Result<()> {
        let Source::Pinned { wal, overlay, .. } = &mut self.source else { return Ok(()) };
        if self.header.mx_frame == 0 || wal.is_some() {
            return Ok(());
        }
        let file = File::open(&self.db.wal_path)?;
        let frame_len = FRAME_HEADER_SIZE as u64 + u64::from(self.header.page_size);
        let per_chunk = (frames::CHUNK_BYTES / frame_len).max(1) as u32;
        let (mut done, mut commit) = (0, u32::MAX);
        let mut buf = Vec::new();
        while done < self.header.mx_frame {
            let count = per_chunk.min(self.header.mx_frame - done);
            buf.resize((u64::from(count) * frame_len) as usize, 0);
            let from = WAL_HEADER_SIZE as u64 + u64::from(done) * frame_len;
            file.read_exact_at(&mut buf, from)?;
            let chunk = frames::scan(&buf, self.header.page_size, self.header.salts, commit)
                .ok_or_else(|| {
                    Error::new(ErrorKind::Transient, "the WAL changed while it was read")
                })?;
            commit = chunk.commit;
            for (pgno, at) in chunk.pages {
                overlay.insert(pgno, from + at as u64);
            }
            done += count;
        }
        *wal = Some(file);
        Ok(())
    }

    /// Calls `visit` with every page in ascending order, the lock page left
    /// out, and ends the read transaction.
    pub(crate) fn for_each(mut self, visit: impl FnMut(Pgno, &[u8]) -> Result<()>) -> Result<()> {
        self.walk(visit, true)
    }

    /// As [`Pages::for_each`], but the read transaction goes on.
    pub(crate) fn scan(&mut self, visit: impl FnMut(Pgno, &[u8]) -> Result<()>) -> Result<()> {
        self.walk(visit, false)
    }

    /// One page.
    pub(crate) fn page(&mut self, pgno: Pgno, buf: &mut Vec<u8>) -> Result<()> {
        buf.resize(self.header.page_size as usize, 0);
        self.read(buf, pgno)
    }

    /// Ends the read transaction: everything that was read is one state.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.release()
    }

    fn walk(&mut self, mut visit: impl FnMut(Pgno, &[u8]) -> Result<()>, ends: bool) -> Result<()> {
        let page_len = self.header.page_size as usize;
        let lock_page = lock_pgno(self.header.page_size);
        let per_read = (READ_BYTES / page_len).max(1) as u32;
        let mut buf = vec![0u8; per_read as usize * page_len];
        let mut first = 1u32;
        while first <= self.header.n_page {
            let count = per_read.min(self.header.n_page - first + 1);
            let chunk = &mut buf[..count as usize * page_len];
            self.read(chunk, first)?;
            if ends && first + (count - 1) == self.header.n_page {
                self.release()?;
            }
            for (i, page) in chunk.chunks_exact(page_len).enumerate() {
                let pgno = first + i as u32;
                if pgno != lock_page {
                    visit(pgno, page)?;
                }
            }
            let Some(next) = first.checked_add(count) else { break };
            first = next;
        }
        Ok(())
    }

    /// Fills `buf` with pages from `first`. What the file does not have is
    /// zeros, as SQLite reads it.
    fn read(&mut self, buf: &mut [u8], first: Pgno) -> Result<()> {
        self.lay_over().map_err(|e| if self.is_pinned() { e } else { moved() })?;
        let page_len = self.header.page_size as usize;
        let at = u64::from(first - 1) * page_len as u64;
        match &mut self.source {
            Source::Closed { file, .. } => {
                let got = file.read_at(buf, at)?;
                buf[got..].fill(0);
            }
            Source::Pinned { ticket, wal, overlay } => {
                let got = self.db.pin.read_at(*ticket, buf, at)?;
                buf[got..].fill(0);
                let Some(wal) = wal else { return Ok(()) };
                for (i, page) in buf.chunks_exact_mut(page_len).enumerate() {
                    if let Some(frame_at) = overlay.get(first + i as u32) {
                        wal.read_exact_at(page, frame_at)?;
                    }
                }
                if !self.db.pin.holds(*ticket) {
                    return Err(moved());
                }
            }
        }
        Ok(())
    }

    /// Whether nobody has ended the read transaction, if there is one.
    fn is_pinned(&self) -> bool {
        match &self.source {
            Source::Pinned { ticket, .. } => self.db.pin.holds(*ticket),
            Source::Closed { .. } => true,
        }
    }

    /// Everything was read: the state must have been still all the time.
    fn release(&mut self) -> Result<()> {
        match &self.source {
            Source::Pinned { ticket, .. } => {
                let held = self.db.pin.holds(*ticket);
                self.db.pin.release(*ticket);
                if held { Ok(()) } else { Err(moved()) }
            }
            Source::Closed { before, .. } => {
                if Self::at_rest(&self.db)? == Some(*before) {
                    Ok(())
                } else {
                    Err(moved())
                }
            }
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Source::Pinned { ticket, .. } = &self.source {
            self.db.pin.release(*ticket);
        }
    }
}

fn moved() -> Error {
    Error::new(ErrorKind::Transient, "the database was in use while it was read; trying again")
}
