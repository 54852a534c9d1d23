//! A view: one state of a replicated database.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::file::RemoteFile;
use super::index::Index;
use crate::ltx::{Header, Pgno, Txid, lock_pgno};

/// Where one page of a view is stored.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    /// The file that holds it.
    pub file: Arc<RemoteFile>,
    /// Its position in the file's index.
    pub position: usize,
    /// Offset of its frame in bytes.
    pub offset: u64,
    /// Length of its frame in bytes.
    pub size: u32,
}

/// One state of a replicated database: the newest version of each page after
/// one transaction. Never changes.
pub struct View {
    newest: Arc<RemoteFile>,
    header: Header,
    sequence: u32,
    index: Index,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("txid", &self.txid())
            .field("commit", &self.commit())
            .field("page_size", &self.page_size())
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl View {
    /// The state `index` after the last transaction of `newest`, a file with this
    /// header.
    pub(crate) fn new(newest: Arc<RemoteFile>, header: Header, index: Index) -> View {
        View { newest, header, sequence: next_sequence(), index }
    }

    /// The state of `earlier`, which `self` shows too, with the pages at `index`.
    pub(crate) fn in_place_of(self, earlier: &View, index: Index) -> View {
        View { sequence: earlier.sequence, index, ..self }
    }

    /// The last file of the chain that made the state.
    pub(crate) fn newest(&self) -> &Arc<RemoteFile> {
        &self.newest
    }

    /// Its header.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// The last transaction of the state.
    pub fn txid(&self) -> Txid {
        self.newest.id.max
    }

    /// Size of the database in pages.
    pub fn commit(&self) -> Pgno {
        self.index.commit()
    }

    /// Bytes per page.
    pub fn page_size(&self) -> u32 {
        self.header.page_size
    }

    /// Size of the database in bytes.
    pub fn size(&self) -> u64 {
        u64::from(self.commit()) * u64::from(self.page_size())
    }

    /// When its last transaction was made, in milliseconds since the Unix epoch.
    pub fn time_ms(&self) -> i64 {
        self.header.timestamp_ms
    }

    /// A number that views of one process share only when they show the same
    /// state.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// The page that holds SQLite's lock bytes, which is never stored.
    pub fn lock_pgno(&self) -> Pgno {
        lock_pgno(self.page_size())
    }

    /// Where page `pgno` is; none beyond the end, and for the lock page.
    pub(crate) fn locate(&self, pgno: Pgno) -> Option<Location> {
        let (file, position) = self.index.get(pgno)?;
        let entry = file.index.get(position)?;
        Some(Location { file: Arc::clone(file), position, offset: entry.offset, size: entry.size })
    }

    /// Whether page `pgno` is the one in `file` and not another version.
    pub(crate) fn holds(&self, file: &RemoteFile, pgno: Pgno) -> bool {
        self.index.get(pgno).is_some_and(|(found, _)| found.uid == file.uid)
    }

    /// Which file holds which page.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }
}

fn next_sequence() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
