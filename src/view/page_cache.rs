//! Decoded pages, shared by all connections of the process and bounded by bytes.
//!
//! A page is named by the file that holds it and by its number; neither the
//! file nor the page ever changes, so no entry can be stale.
//!
//! Three queues per shard keep one scan from emptying the cache:
//!
//! | queue | what enters | what leaves |
//! |---|---|---|
//! | recent | pages read for the first time | first; what was read again moves to main |
//! | main | pages read again, also when they had just left | those that were not read since they came by |
//! | inner | interior pages of b-trees | as main, when they exceed their share |

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::AtomicUsize;

use crate::ltx::Pgno;
use crate::tasks::{self, Mutex, Ordering};

/// Shards of a large cache; each has a lock of its own.
const SHARDS_MAX: usize = 16;
/// The least that a shard holds, in bytes, where there is more than one.
const SHARD_BYTES_MIN: usize = 1 << 20;
/// What an entry costs beside its page, in bytes: slot, map, queues, heap.
const ENTRY_OVERHEAD: usize = 96;
/// Part of a shard (one in ..) that pages read once may take from the others.
const RECENT_SHARE: usize = 10;
/// Part of a shard (one in ..) that interior pages may take from the others.
const INNER_SHARE: usize = 4;
/// How often a page is passed over when it was read that often.
const USES_MAX: u8 = 3;

/// A page of a file: the file's number in this process, and the page's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PageKey {
    /// [`RemoteFile::uid`](super::file::RemoteFile::uid).
    pub(crate) file: u32,
    /// Number of the page.
    pub(crate) pgno: Pgno,
}

impl PageKey {
    fn bits(self) -> u64 {
        u64::from(self.file) << 32 | u64::from(self.pgno)
    }
}

/// What a page is to the reader, which decides how long it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageKind {
    /// An interior page of a b-tree: every descent passes it.
    Interior,
    /// Any other page.
    Other,
}

/// What a cache holds and did, for status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CacheTotals {
    /// Pages held.
    pub(crate) pages: u64,
    /// Bytes held, with what their bookkeeping costs.
    pub(crate) bytes: u64,
    /// Reads that found their page.
    pub(crate) hits: u64,
    /// Reads that did not.
    pub(crate) misses: u64,
}

/// The pages, in shards.
#[derive(Debug)]
pub(crate) struct PageCache {
    shards: Box<[Mutex<Shard>]>,
    capacity: usize,
    used: AtomicUsize,
}

impl PageCache {
    /// An empty cache for at most `capacity` bytes. Memory is taken as pages come.
    pub(crate) fn new(capacity: usize) -> PageCache {
        let shards = (capacity / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX);
        // A power of two, so that bits of the hash choose.
        let shards = 1 << shards.ilog2();
        let shard = || Mutex::new(Shard::new(capacity / shards));
        PageCache {
            shards: (0..shards).map(|_| shard()).collect(),
            capacity,
            used: AtomicUsize::new(0),
        }
    }

    /// The most bytes it holds.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn shard(&self, key: PageKey) -> &Mutex<Shard> {
        // The map takes the lowest and the highest bits.
        let n = (mix(key.bits()) >> 32) as usize & (self.shards.len() - 1);
        &self.shards[n]
    }

    /// Copies a page into `out`, which is as long as the page; false when it is
    /// not here.
    pub(crate) fn read(&self, key: PageKey, out: &mut [u8]) -> bool {
        tasks::lock(self.shard(key)).read(key.bits(), out)
    }

    /// Whether a page is here; does not count as a use.
    pub(crate) fn contains(&self, key: PageKey) -> bool {
        tasks::lock(self.shard(key)).map.contains_key(&key.bits())
    }

    /// Adds a page that was just read. One that is larger than a shard is not kept.
    pub(crate) fn insert(&self, key: PageKey, page: &[u8], kind: PageKind) {
        let mut shard = tasks::lock(self.shard(key));
        let before = shard.used;
        shard.insert(key.bits(), page, kind);
        let after = shard.used;
        // Under the lock, so that no sum goes below zero.
        if after >= before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// What it holds and did.
    pub(crate) fn totals(&self) -> CacheTotals {
        let mut totals = CacheTotals::default();
        for shard in &self.shards {
            let shard = tasks::lock(shard);
            totals.pages += shard.map.len() as u64;
            totals.bytes += shard.used as u64;
            totals.hits += shard.hits;
            totals.misses += shard.misses;
        }
        totals
    }
}

/// Spreads neighbouring pages over all bits.
fn mix(bits: u64) -> u64 {
    let z = (bits ^ (bits >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z ^ (z >> 29)
}

/// Hashes the one integer that a key is.
#[derive(Debug, Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = mix(self.0 << 8 ^ u64::from(b));
        }
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = mix(self.0 << 32 ^ u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = mix(self.0 ^ n);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The hasher of maps whose keys are page or chunk numbers: no stranger chooses
/// them, and a miss is measured against a read of a local file.
pub(super) type KeyHash = BuildHasherDefault<KeyHasher>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    Recent,
    Main,
    Inner,
}

#[derive(Debug)]
struct Slot {
    key: u64,
    page: Box<[u8]>,
    uses: u8,
}

/// Slot numbers in the order they entered, and what they cost.
#[derive(Debug, Default)]
struct Line {
    slots: VecDeque<u32>,
    bytes: usize,
}

#[derive(Debug)]
struct Shard {
    map: HashMap<u64, u32, KeyHash>,
    slots: Vec<Slot>,
    lines: [Line; 3],
    /// Pages that left `recent` unread: as many as there are pages.
    ghosts: VecDeque<u64>,
    ghost_set: HashSet<u64, KeyHash>,
    limit: usize,
    used: usize,
    hits: u64,
    misses: u64,
}

impl Shard {
    fn new(limit: usize) -> Shard {
        Shard {
            map: HashMap::default(),
            slots: Vec::new(),
            lines: Default::default(),
            ghosts: VecDeque::new(),
            ghost_set: HashSet::default(),
            limit,
            used: 0,
            hits: 0,
            misses: 0,
        }
    }

    fn read(&mut self, key: u64, out: &mut [u8]) -> bool {
        if let Some(&n) = self.map.get(&key) {
            let slot = &mut self.slots[n as usize];
            if slot.page.len() == out.len() {
                out.copy_from_slice(&slot.page);
                slot.uses = (slot.uses + 1).min(USES_MAX);
                self.hits += 1;
                return true;
            }
        }
        self.misses += 1;
        false
    }

    fn insert(&mut self, key: u64, page: &[u8], kind: PageKind) {
        let cost = page.len() + ENTRY_OVERHEAD;
        if cost > self.limit || self.map.contains_key(&key) {
            return;
        }
        let mut free = None;
        while self.used + cost > self.limit {
            let Some(n) = self.evict() else { return };
            // Slots are dense: one that is not used again is given to the last one.
            if let Some(other) = free.replace(n) {
                free = Some(self.remove_slot(other, n));
            }
        }
        let queue = match kind {
            PageKind::Interior => Queue::Inner,
            PageKind::Other if self.ghost_set.remove(&key) => Queue::Main,
            PageKind::Other => Queue::Recent,
        };
        let n = self.fill(free, key, page);
        self.map.insert(key, n);
        self.used += cost;
        self.enter(queue, n, cost);
        self.forget_ghosts();
    }

    /// Puts a page into the slot `free` or a new one; the buffer of an evicted
    /// page of the same size is used again.
    fn fill(&mut self, free: Option<u32>, key: u64, page: &[u8]) -> u32 {
        let Some(n) = free else {
            self.slots.push(Slot { key, page: page.into(), uses: 0 });
            return (self.slots.len() - 1) as u32;
        };
        let slot = &mut self.slots[n as usize];
        if slot.page.len() == page.len() {
            slot.page.copy_from_slice(page);
        } else {
            slot.page = page.into();
        }
        (slot.key, slot.uses) = (key, 0);
        n
    }

    /// Takes the unused slot `unused` out; returns where the unused slot `other`
    /// is afterwards.
    fn remove_slot(&mut self, unused: u32, other: u32) -> u32 {
        let last = (self.slots.len() - 1) as u32;
        self.slots.swap_remove(unused as usize);
        if unused == last {
            return other;
        }
        if other == last {
            return unused;
        }
        // The last page moved: its names follow.
        let key = self.slots[unused as usize].key;
        self.map.insert(key, unused);
        for line in &mut self.lines {
            if let Some(n) = line.slots.iter_mut().find(|n| **n == last) {
                *n = unused;
                break;
            }
        }
        other
    }

    fn enter(&mut self, queue: Queue, n: u32, cost: usize) {
        let line = &mut self.lines[queue as usize];
        line.slots.push_back(n);
        line.bytes += cost;
    }

    /// Drops one page; its slot, which nothing names any more.
    fn evict(&mut self) -> Option<u32> {
        loop {
            let queue = self.fullest()?;
            let line = &mut self.lines[queue as usize];
            let n = line.slots.pop_front()?;
            let slot = &mut self.slots[n as usize];
            let cost = slot.page.len() + ENTRY_OVERHEAD;
            line.bytes -= cost;
            if slot.uses == 0 {
                let key = slot.key;
                self.map.remove(&key);
                self.used -= cost;
                if queue == Queue::Recent {
                    self.remember(key);
                }
                return Some(n);
            }
            if queue == Queue::Recent {
                slot.uses = 0;
                self.enter(Queue::Main, n, cost);
            } else {
                slot.uses -= 1;
                self.enter(queue, n, cost);
            }
        }
    }

    /// The queue that has to give.
    fn fullest(&self) -> Option<Queue> {
        let [recent, main, inner] = &self.lines;
        if inner.bytes > self.limit / INNER_SHARE {
            Some(Queue::Inner)
        } else if recent.bytes > self.limit / RECENT_SHARE {
            Some(Queue::Recent)
        } else if main.bytes > 0 {
            Some(Queue::Main)
        } else if recent.bytes > 0 {
            Some(Queue::Recent)
        } else if inner.bytes > 0 {
            Some(Queue::Inner)
        } else {
            None
        }
    }

    fn remember(&mut self, key: u64) {
        if self.ghost_set.insert(key) {
            self.ghosts.push_back(key);
        }
    }

    fn forget_ghosts(&mut self) {
        while self.ghosts.len() > self.slots.len() {
            if let Some(old) = self.ghosts.pop_front() {
                self.ghost_set.remove(&old);
            }
        }
    }
}

#[cfg(test)]
#[path = "page_cache_tests.rs"]
mod tests;
