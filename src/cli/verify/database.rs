//! The pages of a database that others may be writing, without a lock: what
//! verifies must hold nobody up.
//!
//! A page is its newest frame up to the published end of the WAL, else what the
//! database file has. Neither a checkpoint nor a restart of the WAL changes that
//! for a page that nobody writes: a frame is gone only after the file has it.
//! Pages that are written meanwhile may come out torn; they are looked at again.

use std::path::{Path, PathBuf};

use crate::capture::Published;
use crate::capture::frames::{self, CHUNK_BYTES, FRAME_HEADER_SIZE, WAL_HEADER_SIZE};
use crate::capture::page_map::PageMap;
use crate::capture::position::WalPosition;
use crate::error::{Error, ErrorKind, Result};
use crate::host::Salts;
use crate::ltx::Pgno;
use crate::os::disk::{self, File, FileStat};
use crate::os::replace::with_suffix;
use crate::sqlite::wal_index::{WAL_INDEX_HEADER_SIZE, WalIndexHeader};

/// A WAL that is restarted while its frames are listed is read anew this often.
const ATTEMPTS: u32 = 100;

/// An open database.
pub(super) struct Database {
    file: File,
    page_size: u32,
    wal: Option<Wal>,
    /// The file when it was opened.
    stat: FileStat,
}

struct Wal {
    file: File,
    salts: Salts,
    mx_frame: u32,
    commit: Pgno,
    overlay: PageMap,
}

impl Database {
    /// Opens the database at `path`.
    ///
    /// # Errors
    /// `NotFound` without one; `Transient` when its WAL changes too fast.
    pub(super) fn open(path: &Path, page_size: u32) -> Result<Database> {
        let stat = disk::stat(path)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{} does not exist", path.display()))
        })?;
        let wal = Wal::open(path, page_size)?;
        Ok(Database { file: File::open(path)?, page_size, wal, stat })
    }

    /// Size in pages.
    pub(super) fn commit(&self) -> Result<Pgno> {
        match &self.wal {
            Some(wal) => Ok(wal.commit),
            None => {
                let pages = self.file.len()? / u64::from(self.page_size);
                Ok(Pgno::try_from(pages).unwrap_or(Pgno::MAX))
            }
        }
    }

    /// The end of the WAL; none without committed frames.
    pub(super) fn published(&self) -> Option<Published> {
        self.wal.as_ref().map(|w| Published { salt1: w.salts[0], mx_frame: w.mx_frame })
    }

    /// Whether nothing was committed between the two opens.
    pub(super) fn is_same_state(&self, other: &Database) -> bool {
        self.published() == other.published() && (self.wal.is_some() || self.stat == other.stat)
    }

    /// Reads a page; zeros where the file has nothing.
    pub(super) fn page(&self, pgno: Pgno, buf: &mut Vec<u8>) -> Result<()> {
        buf.resize(self.page_size as usize, 0);
        if let Some(wal) = &self.wal
            && wal.page(pgno, self.page_size, buf)?
        {
            return Ok(());
        }
        let at = u64::from(pgno.saturating_sub(1)) * u64::from(self.page_size);
        let got = self.file.read_at(buf, at)?;
        buf[got..].fill(0);
        Ok(())
    }
}

impl Wal {
    fn open(path: &Path, page_size: u32) -> Result<Option<Wal>> {
        for _ in 0..ATTEMPTS {
            if let Attempt::Done(wal) = Self::try_open(path, page_size)? {
                return Ok(wal);
            }
        }
        Err(Error::new(
            ErrorKind::Transient,
            format!("the WAL of {} is restarted faster than it can be read", path.display()),
        ))
    }

    fn try_open(path: &Path, page_size: u32) -> Result<Attempt> {
        let file = match File::open(&beside(path, "-wal")) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Attempt::Done(None)),
            Err(e) => return Err(e),
        };
        let Some(header) = frames::read_header(&file)? else { return Ok(Attempt::Done(None)) };
        if header.page_size != page_size {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "{} has pages of {} bytes, the replica has pages of {page_size}",
                    path.display(),
                    header.page_size
                ),
            ));
        }
        let mx_frame = match wal_index(path)?.filter(|i| i.salts() == header.salts) {
            Some(index) => index.0.max_frame,
            // Nobody has it open, or a restart was not published yet.
            None => {
                let start =
                    WalPosition { salts: header.salts, frame: 0, checksum: header.checksum };
                frames::find_end(&file, &header, start)?
            }
        };
        if mx_frame == 0 {
            return Ok(Attempt::Done(None));
        }
        let salts = header.salts;
        let mut wal = Wal { file, salts, mx_frame, commit: 0, overlay: PageMap::default() };
        if !wal.list_frames(page_size)? {
            return Ok(Attempt::Again);
        }
        Ok(Attempt::Done(Some(wal)))
    }

    /// Notes the newest frame of each page. False: the WAL was restarted.
    fn list_frames(&mut self, page_size: u32) -> Result<bool> {
        let frame_len = FRAME_HEADER_SIZE as u64 + u64::from(page_size);
        let per_chunk = (CHUNK_BYTES / frame_len).max(1) as u32;
        let (mut done, mut commit) = (0, Pgno::MAX);
        let mut buf = Vec::new();
        while done < self.mx_frame {
            let count = per_chunk.min(self.mx_frame - done);
            buf.resize((u64::from(count) * frame_len) as usize, 0);
            let from = WAL_HEADER_SIZE as u64 + u64::from(done) * frame_len;
            if self.file.read_at(&mut buf, from)? < buf.len() {
                return Ok(false);
            }
            let Some(chunk) = frames::scan(&buf, page_size, self.salts, commit) else {
                return Ok(false);
            };
            commit = chunk.commit;
            for (pgno, at) in chunk.pages {
                self.overlay.insert(pgno, from + at as u64);
            }
            done += count;
        }
        self.commit = commit;
        Ok(commit != Pgno::MAX)
    }

    /// The page's newest frame. False: it has none, or it is gone by now.
    fn page(&self, pgno: Pgno, page_size: u32, buf: &mut [u8]) -> Result<bool> {
        let Some(at) = self.overlay.get(pgno) else { return Ok(false) };
        let frame_len = FRAME_HEADER_SIZE as u64 + u64::from(page_size);
        let frame = (at - WAL_HEADER_SIZE as u64) / frame_len + 1;
        if self.file.read_at(buf, at)? < buf.len() {
            return Ok(false);
        }
        // After the page: a restart writes the header of a frame with its page.
        let still = frames::read_frame_header(&self.file, page_size, frame as u32)?;
        let header = frames::read_header(&self.file)?;
        Ok(header.is_some_and(|h| h.salts == self.salts)
            && still.is_some_and(|f| f.pgno == pgno && f.belongs_to(self.salts)))
    }
}

enum Attempt {
    Done(Option<Wal>),
    Again,
}

/// What the wal-index says is committed.
struct Index(WalIndexHeader);

impl Index {
    fn salts(&self) -> Salts {
        [self.0.salts.salt1, self.0.salts.salt2]
    }
}

fn wal_index(path: &Path) -> Result<Option<Index>> {
    let file = match File::open(&beside(path, "-shm")) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = [0u8; WAL_INDEX_HEADER_SIZE];
    for _ in 0..ATTEMPTS {
        let got = file.read_at(&mut bytes, 0)?;
        if let Some(header) = WalIndexHeader::decode(&bytes[..got]) {
            return Ok(Some(Index(header)));
        }
    }
    Ok(None)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    with_suffix(path, suffix)
}
