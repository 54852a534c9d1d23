//! Which file holds the newest version of each page.
//!
//! A database has every page from 1 to its size, so the index is an array by
//! page number: 8 bytes a page here, at most 8.5 more in the file that holds it.
//! The array is cut into chunks that views share: applying a file copies
//! the chunks of its pages, not the database's.

use std::sync::Arc;

use super::file::RemoteFile;
use crate::ltx::Pgno;

/// Pages of one chunk.
const CHUNK: usize = 512;
/// The slot of a page that no file holds.
const NOWHERE: u32 = u32::MAX;

/// Where one page is: a slot of [`Index::files`], a position in that file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    slot: u32,
    position: u32,
}

const EMPTY: Place = Place { slot: NOWHERE, position: 0 };

/// A file in use, and how many pages it is the newest version of.
#[derive(Debug, Clone)]
struct Slot {
    file: Arc<RemoteFile>,
    pages: u32,
}

type Chunk = [Place; CHUNK];

/// The newest version of each page; immutable once it is part of a view.
///
/// Pages beyond the end are kept: a database that shrinks and grows again has
/// what a restore of the same files gives it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    commit: Pgno,
    /// Chunks without a page are not there.
    chunks: Vec<Option<Arc<Chunk>>>,
    /// Slots without a file are free, and listed in `free`.
    files: Vec<Option<Slot>>,
    free: Vec<u32>,
}

impl Index {
    /// Lays the pages of `file` over the present ones and gives the database
    /// the size `commit` in pages. Of several files the last one's size counts.
    pub(crate) fn apply(&mut self, file: &Arc<RemoteFile>, commit: Pgno) {
        self.commit = commit;
        let slot = self.add_file(file);
        for (position, pgno) in file.index.iter().map(|entry| entry.pgno).enumerate() {
            self.place(pgno, Place { slot, position: position as u32 });
        }
        self.drop_unused(slot);
    }

    /// The same state with each page where it is if its file is `stored`, and
    /// where `other`, which shows the same state, has it otherwise.
    pub(crate) fn with_moved(&self, other: &Index, stored: impl Fn(&RemoteFile) -> bool) -> Index {
        let mut index = self.clone();
        let gone: Vec<bool> = self
            .files
            .iter()
            .map(|slot| slot.as_ref().is_none_or(|slot| !stored(&slot.file)))
            .collect();
        let mut slots: Vec<Option<u32>> = vec![None; other.files.len()];
        for pgno in 1..=self.commit {
            let place = self.place_of(pgno);
            let stays = gone.get(place.slot as usize) == Some(&false);
            let found = other.place_of(pgno);
            let Some(Some(slot)) = other.files.get(found.slot as usize) else { continue };
            if stays {
                continue;
            }
            let known = &mut slots[found.slot as usize];
            let slot = *known.get_or_insert_with(|| index.add_file(&slot.file));
            index.place(pgno, Place { slot, ..found });
        }
        slots.into_iter().flatten().for_each(|slot| index.drop_unused(slot));
        index
    }

    /// The file that holds page `pgno`, and its position there.
    pub(crate) fn get(&self, pgno: Pgno) -> Option<(&Arc<RemoteFile>, usize)> {
        if pgno == 0 || pgno > self.commit {
            return None;
        }
        let place = self.place_of(pgno);
        let slot = self.files.get(place.slot as usize)?.as_ref()?;
        Some((&slot.file, place.position as usize))
    }

    /// Size of the database in pages.
    pub(crate) fn commit(&self) -> Pgno {
        self.commit
    }

    /// The files that hold a page, in no order.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Arc<RemoteFile>> {
        self.files.iter().flatten().map(|slot| &slot.file)
    }

    /// Bytes of memory that it takes, with its files' indexes.
    pub(crate) fn memory(&self) -> usize {
        let files: usize = self.files().map(|file| file.index.memory()).sum();
        self.chunks.iter().flatten().count() * size_of::<Chunk>()
            + self.chunks.len() * size_of::<Option<Arc<Chunk>>>()
            + self.files.len() * size_of::<Option<Slot>>()
            + files
    }

    fn place_of(&self, pgno: Pgno) -> Place {
        let (chunk, at) = split(pgno);
        self.chunks.get(chunk).and_then(Option::as_ref).map_or(EMPTY, |chunk| chunk[at])
    }

    /// A slot for `file`, without a page yet.
    fn add_file(&mut self, file: &Arc<RemoteFile>) -> u32 {
        let slot = Some(Slot { file: Arc::clone(file), pages: 0 });
        match self.free.pop() {
            Some(free) => {
                self.files[free as usize] = slot;
                free
            }
            None => {
                self.files.push(slot);
                self.files.len() as u32 - 1
            }
        }
    }

    /// Frees a slot that was added and got no page.
    fn drop_unused(&mut self, slot: u32) {
        let entry = &mut self.files[slot as usize];
        if entry.as_ref().is_some_and(|entry| entry.pages == 0) {
            *entry = None;
            self.free.push(slot);
        }
    }

    /// Page `pgno` is at `place` now.
    fn place(&mut self, pgno: Pgno, place: Place) {
        let (chunk, at) = split(pgno);
        if self.chunks.len() <= chunk {
            self.chunks.resize(chunk + 1, None);
        }
        let chunk = self.chunks[chunk].get_or_insert_with(|| Arc::new([EMPTY; CHUNK]));
        let old = std::mem::replace(&mut Arc::make_mut(chunk)[at], place);
        if let Some(slot) = &mut self.files[place.slot as usize] {
            slot.pages += 1;
        }
        self.release(old);
    }

    /// `place` is no longer the newest version of its page.
    fn release(&mut self, place: Place) {
        let Some(entry) = self.files.get_mut(place.slot as usize) else { return };
        if let Some(slot) = entry {
            slot.pages -= 1;
            if slot.pages == 0 {
                *entry = None;
                self.free.push(place.slot);
            }
        }
    }
}

/// The chunk of page `pgno`, from 1, and its place there.
fn split(pgno: Pgno) -> (usize, usize) {
    let n = pgno as usize - 1;
    (n / CHUNK, n % CHUNK)
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
