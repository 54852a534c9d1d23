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

/// Page number to the offset of its newest copy.
#[derive(Debug, Default, Clone)]
pub struct PageMap(PgnoMap<u64>);

impl PageMap {
    /// Records the newest copy of `pgno`.
    pub fn insert(&mut self, pgno: Pgno, at: u64) {
        self.0.insert(pgno, at);
    }

    /// Forgets every page after `commit`.
    pub fn retain_up_to(&mut self, commit: Pgno) {
        self.0.retain(|&p, _| p <= commit);
    }

    /// Whether `pgno` is known.
    pub fn contains(&self, pgno: Pgno) -> bool {
        self.0.contains_key(&pgno)
    }

    /// Where `pgno` is.
    pub fn get(&self, pgno: Pgno) -> Option<u64> {
        self.0.get(&pgno).copied()
    }

    /// Number of pages.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All pages in ascending order.
    pub fn sorted(&self) -> Vec<(Pgno, u64)> {
        let mut all: Vec<_> = self.0.iter().map(|(&p, &at)| (p, at)).collect();
        all.sort_unstable();
        all
    }
}
