//! One stored file of one version, and where its pages lie.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::disk_cache::DiskKey;
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::{HEADER_SIZE, IndexEntry, PageIndex, Pgno};
use crate::replica_client::{FileId, Tag};

/// An offset is kept for every so many entries; between them sizes are added up.
const STRIDE: usize = 16;

/// A file that never changes: a name, a size and a tag are the same bytes.
#[derive(Debug)]
pub(crate) struct RemoteFile {
    /// Its number in this process, which no other bytes ever have.
    pub uid: u32,
    /// Its name.
    pub id: FileId,
    /// Size in bytes.
    pub size: u64,
    /// Its version.
    pub tag: Tag,
    /// Bytes per page of its pages.
    pub page_size: u32,
    /// Milliseconds since the Unix epoch; the header's where that was read.
    pub created_at_ms: i64,
    /// Where its pages lie.
    pub index: FileIndex,
    /// File checksum of its trailer.
    pub checksum: u64,
    /// The name of its pages in a cache directory, once somebody asked for it; the
    /// file belongs to one replica.
    pub disk_key: OnceLock<DiskKey>,
}

/// A number for a file that has none yet.
///
/// # Errors
/// `Internal` when a process has seen 2^32 files.
pub(crate) fn next_uid() -> Result<u32> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let next = |n: u32| n.checked_add(1);
    NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).map_err(|_| {
        Error::new(ErrorKind::Internal, "this process has read too many replica files: restart it")
    })
}

/// The frames of one file in file order, which is page order, 8 bytes each or
/// less: they follow one another without a gap.
#[derive(Debug, Default)]
pub(crate) struct FileIndex {
    pages: Pages,
    sizes: Vec<u32>,
    /// Offset of every [`STRIDE`]th frame.
    offsets: Vec<u64>,
}

/// Page numbers, ascending.
#[derive(Debug)]
enum Pages {
    /// Runs of consecutive pages: first page, its position.
    Runs(Vec<(Pgno, u32)>),
    List(Vec<Pgno>),
}

impl Default for Pages {
    fn default() -> Self {
        Pages::List(Vec::new())
    }
}

impl FileIndex {
    /// The frames of `index`, which [`PageIndex`] has checked.
    pub(crate) fn new(index: &PageIndex) -> FileIndex {
        let mut runs: Vec<(Pgno, u32)> = Vec::new();
        let (mut sizes, mut offsets) = (Vec::with_capacity(index.len()), Vec::new());
        let mut expected = 0;
        for (at, entry) in index.iter().enumerate() {
            if entry.pgno != expected {
                runs.push((entry.pgno, at as u32));
            }
            expected = entry.pgno.wrapping_add(1);
            if at.is_multiple_of(STRIDE) {
                offsets.push(entry.offset);
            }
            sizes.push(entry.size);
        }
        let pages = if runs.len() * 2 <= index.len() {
            runs.shrink_to_fit();
            Pages::Runs(runs)
        } else {
            Pages::List(index.iter().map(|entry| entry.pgno).collect())
        };
        offsets.shrink_to_fit();
        FileIndex { pages, sizes, offsets }
    }

    /// Number of pages in the file.
    pub(crate) fn len(&self) -> usize {
        self.sizes.len()
    }

    /// The frame at `position`, counted from 0, in file order.
    pub(crate) fn get(&self, position: usize) -> Option<IndexEntry> {
        let size = *self.sizes.get(position)?;
        let base = position / STRIDE;
        let before = self.sizes[base * STRIDE..position].iter();
        let offset = self.offsets[base] + before.map(|n| u64::from(*n)).sum::<u64>();
        Some(IndexEntry { pgno: self.pgno(position), offset, size })
    }

    /// The position of the first frame that begins at `offset` or behind it.
    pub(crate) fn position_from(&self, offset: u64) -> usize {
        let Some(base) = self.offsets.partition_point(|at| *at <= offset).checked_sub(1) else {
            return 0;
        };
        let (mut position, mut at) = (base * STRIDE, self.offsets[base]);
        while at < offset && position < self.len() {
            at += u64::from(self.sizes[position]);
            position += 1;
        }
        position
    }

    /// The position of page `pgno`.
    pub(crate) fn find(&self, pgno: Pgno) -> Option<usize> {
        match &self.pages {
            Pages::List(list) => list.binary_search(&pgno).ok(),
            Pages::Runs(runs) => {
                let run = runs.partition_point(|run| run.0 <= pgno).checked_sub(1)?;
                let (first, at) = runs[run];
                let end = runs.get(run + 1).map_or(self.len(), |next| next.1 as usize);
                let position = at as usize + (pgno - first) as usize;
                (position < end).then_some(position)
            }
        }
    }

    /// All frames in file order.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = IndexEntry> + '_ {
        let mut offset = HEADER_SIZE as u64;
        self.sizes.iter().enumerate().map(move |(position, &size)| {
            let entry = IndexEntry { pgno: self.pgno(position), offset, size };
            offset += u64::from(size);
            entry
        })
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory(&self) -> usize {
        let pages = match &self.pages {
            Pages::Runs(runs) => runs.len() * size_of::<(Pgno, u32)>(),
            Pages::List(list) => list.len() * size_of::<Pgno>(),
        };
        pages + self.sizes.len() * size_of::<u32>() + self.offsets.len() * size_of::<u64>()
    }

    /// The page at `position`, which exists.
    fn pgno(&self, position: usize) -> Pgno {
        match &self.pages {
            Pages::List(list) => list[position],
            Pages::Runs(runs) => {
                let run = runs.partition_point(|run| run.1 as usize <= position) - 1;
                let (first, at) = runs[run];
                first + (position - at as usize) as u32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_index(pages: impl IntoIterator<Item = Pgno>) -> PageIndex {
        let mut index = PageIndex::default();
        let mut offset = HEADER_SIZE as u64;
        for pgno in pages {
            let size = 20 + pgno % 7;
            index.push(IndexEntry { pgno, offset, size }).unwrap();
            offset += u64::from(size);
        }
        index
    }

    fn check(pages: &[Pgno]) -> FileIndex {
        let source = page_index(pages.iter().copied());
        let index = FileIndex::new(&source);
        assert_eq!(index.len(), pages.len());
        assert!(index.iter().eq(source.iter()));
        for (position, entry) in source.iter().enumerate() {
            assert_eq!(index.get(position), Some(entry));
            assert_eq!(index.find(entry.pgno), Some(position));
            assert_eq!(index.position_from(entry.offset), position);
            assert_eq!(index.position_from(entry.offset + 1), position + 1);
        }
        assert_eq!(index.position_from(0), 0);
        assert_eq!(index.get(pages.len()), None);
        for pgno in 0..pages.last().copied().unwrap_or(0) + 3 {
            assert_eq!(index.find(pgno).is_some(), pages.contains(&pgno), "{pgno}");
        }
        index
    }

    #[test]
    fn frames_are_found_by_page_and_position() {
        check(&[]);
        check(&[7]);
        check(&[1, 2, 3, 4, 6, 7, 8, 9, 10, 20]);
        let list: Vec<Pgno> = (1..200).step_by(3).collect();
        check(&list);
        let holes: Vec<Pgno> = (1..200).filter(|p| p % 50 != 0).collect();
        check(&holes);
    }

    #[test]
    fn a_snapshot_takes_less_than_five_bytes_a_page() {
        let pages: Vec<Pgno> = (1..=5_000).filter(|p| *p != 1_025).collect();
        let index = check(&pages);
        assert!(index.memory() < 5 * pages.len(), "{}", index.memory());
    }

    #[test]
    fn numbers_are_given_once() {
        let (a, b) = (next_uid().unwrap(), next_uid().unwrap());
        assert_ne!(a, b);
    }
}
