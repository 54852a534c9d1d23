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

/// The newest version of each page; immutable once it is part of a view.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    commit: Pgno,
    chunks: Vec<Arc<[Place; CHUNK]>>,
    /// Slots without a file are free, and listed in `free`.
    files: Vec<Option<Slot>>,
    free: Vec<u32>,
}

impl Index {
    /// Lays the pages of `file` over the present ones and gives the database
    /// the size `commit` in pages.
    ///
    /// Pages beyond the size are dropped. Of several files it is enough to give
    /// the last one's size: a page that a shrink cut off and a growth brought back
    /// without writing it is free, and nobody reads it.
    pub(crate) fn apply(&mut self, file: &Arc<RemoteFile>, commit: Pgno) {
        self.resize(commit);
        let slot = self.free.pop().map_or(self.files.len(), |free| free as usize);
        if slot == self.files.len() {
            self.files.push(None);
        }
        let mut taken = 0;
        for (position, pgno) in file.index.iter().map(|entry| entry.pgno).enumerate() {
            if pgno == 0 || pgno > commit {
                continue;
            }
            let place = Place { slot: slot as u32, position: position as u32 };
            let (chunk, at) = split(pgno);
            let old = std::mem::replace(&mut Arc::make_mut(&mut self.chunks[chunk])[at], place);
            self.release(old);
            taken += 1;
        }
        if taken > 0 {
            self.files[slot] = Some(Slot { file: Arc::clone(file), pages: taken });
        } else {
            self.free.push(slot as u32);
        }
    }

    /// The file that holds page `pgno`, and its position there.
    pub(crate) fn get(&self, pgno: Pgno) -> Option<(&Arc<RemoteFile>, usize)> {
        if pgno == 0 || pgno > self.commit {
            return None;
        }
        let (chunk, at) = split(pgno);
        let place = self.chunks[chunk][at];
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

    /// The first page that no file holds, other than `except`.
    pub(crate) fn first_missing(&self, except: Pgno) -> Option<Pgno> {
        let places = self.chunks.iter().flat_map(|chunk| chunk.iter());
        let missing = (1..=self.commit)
            .zip(places)
            .find(|(pgno, place)| place.slot == NOWHERE && *pgno != except);
        missing.map(|(pgno, _)| pgno)
    }

    /// Bytes of memory that it takes, with its files' indexes.
    pub(crate) fn memory(&self) -> usize {
        let files: usize = self.files().map(|file| file.index.memory()).sum();
        self.chunks.len() * size_of::<[Place; CHUNK]>()
            + self.files.len() * size_of::<Option<Slot>>()
            + files
    }

    fn resize(&mut self, commit: Pgno) {
        let chunks = (commit as usize).div_ceil(CHUNK);
        if commit < self.commit {
            for pgno in commit + 1..=self.commit {
                let (chunk, at) = split(pgno);
                let old = self.chunks[chunk][at];
                if old.slot == NOWHERE {
                    continue;
                }
                self.release(old);
                // Chunks behind the new end go as a whole.
                if chunk < chunks {
                    Arc::make_mut(&mut self.chunks[chunk])[at] = EMPTY;
                }
            }
        }
        self.chunks.resize_with(chunks, || Arc::new([EMPTY; CHUNK]));
        self.commit = commit;
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
