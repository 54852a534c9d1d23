//! A map from page numbers to file offsets with a cheap hash: page numbers
//! come from the host's database, not from an adversary who could gain from
//! collisions beyond slowing down his own process.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::ltx::Pgno;

/// Multiplicative hash of one `u32`.
#[derive(Debug, Default, Clone, Copy)]
pub struct PgnoHasher(u64);

impl Hasher for PgnoHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u32(u32::from(b));
        }
    }

    fn write_u32(&mut self, n: u32) {
        let mixed = (self.0 ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// Page number to a value, hashed cheaply.
pub type PgnoMap<V> = HashMap<Pgno, V, BuildHasherDefault<PgnoHasher>>;

/// A part of a page that changed since its newest whole copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    /// Offset in the file in bytes.
    pub from: u64,
    /// Offset in the page in bytes.
    pub at: u32,
    /// Length in bytes.
    pub len: u32,
}

/// Page number to the offset of its newest whole copy, and what changed since.
#[derive(Debug, Default, Clone)]
pub struct PageMap {
    pages: PgnoMap<u64>,
    /// Of pages in `pages` only, in the order in which they apply.
    patches: PgnoMap<Vec<Patch>>,
}

impl PageMap {
    /// Records the newest whole copy of `pgno`.
    pub fn insert(&mut self, pgno: Pgno, at: u64) {
        self.pages.insert(pgno, at);
        if !self.patches.is_empty() {
            self.patches.remove(&pgno);
        }
    }

    /// Records that a part of `pgno` changed; false when there is no copy of it.
    pub fn patch(&mut self, pgno: Pgno, patch: Patch) -> bool {
        let known = self.pages.contains_key(&pgno);
        if known {
            self.patches.entry(pgno).or_default().push(patch);
        }
        known
    }

    /// What changed since the newest whole copy of `pgno`, oldest first.
    pub fn patches(&self, pgno: Pgno) -> &[Patch] {
        self.patches.get(&pgno).map_or(&[], Vec::as_slice)
    }

    /// Forgets every page after `commit`.
    pub fn retain_up_to(&mut self, commit: Pgno) {
        self.pages.retain(|&p, _| p <= commit);
        self.patches.retain(|&p, _| p <= commit);
    }

    /// Whether `pgno` is known.
    pub fn contains(&self, pgno: Pgno) -> bool {
        self.pages.contains_key(&pgno)
    }

    /// Where `pgno` is.
    pub fn get(&self, pgno: Pgno) -> Option<u64> {
        self.pages.get(&pgno).copied()
    }

    /// Number of pages.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// All pages in ascending order.
    pub fn sorted(&self) -> Vec<(Pgno, u64)> {
        let mut all: Vec<_> = self.pages.iter().map(|(&p, &at)| (p, at)).collect();
        all.sort_unstable();
        all
    }
}
