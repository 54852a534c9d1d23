//! The first page of the wal-index (the `-shm` file), read and written word by
//! word with atomics, since other threads and processes change it meanwhile.
//!
//! Layout of region 0 in native byte order: two copies of a 48-byte header at 0
//! and 48, then the checkpoint information, with five read marks at 100. Header: version 0, change counter 8, initialised flag 12
//! (1 byte), byte order of checksums 13 (1 byte), page size 14 (2 bytes, 1 means
//! 65536), mxFrame 16, database size 20, checksum of the last frame 24 and 28,
//! salts 32 and 36 (bytes as in the WAL), checksum of the header 40 and 44.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use litestream::host::{Salts, WalIndexHeader};

/// Bytes of one region of the wal-index.
pub(crate) const REGION_BYTES: i32 = 32768;
/// Number of read marks.
pub(crate) const READ_MARKS: usize = 5;
/// Locks of `xShmLock`: writer, checkpointer, and the first read mark.
pub(crate) const WRITE_LOCK: i32 = 0;
pub(crate) const CKPT_LOCK: i32 = 1;
pub(crate) const READ_LOCK_0: i32 = 3;

const HEADER_WORDS: usize = 12;
const MARK_WORD_0: usize = 25;
/// The only format version that SQLite has ever written.
const VERSION: u32 = 3_007_000;

/// One copy of the header, as words.
pub(crate) type RawHeader = [u32; HEADER_WORDS];

/// Region 0 of a wal-index that a file handle has mapped.
///
/// The value is only created by [`WalIndex::new`], whose caller keeps the map
/// alive for as long as the value is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalIndex {
    words: NonNull<u32>,
}

impl WalIndex {
    /// A view of mapped memory; `None` for a null pointer.
    ///
    /// # Safety
    /// `region` is null or what `xShmMap` returned for region 0, mapped with at
    /// least [`REGION_BYTES`]; the caller drops every copy of the value before
    /// the handle's `xShmUnmap` or `xClose`.
    pub(super) unsafe fn new(region: *mut std::ffi::c_void) -> Option<WalIndex> {
        NonNull::new(region.cast::<u32>()).map(|words| WalIndex { words })
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        debug_assert!(index < REGION_BYTES as usize / 4);
        // SAFETY: the region is mapped (kept so by the caller of `new`), page
        // aligned, and `index` is a constant below 136 / 4 everywhere in this
        // file. Whoever else touches the memory in this process is SQLite's C
        // code, which uses plain or atomic accesses of whole words.
        unsafe { AtomicU32::from_ptr(self.words.as_ptr().add(index)) }
    }

    fn copy(&self, first: usize) -> RawHeader {
        std::array::from_fn(|i| self.word(first + i).load(Ordering::Relaxed))
    }

    /// The header as published: `None` while it is being written, or when it
    /// has not been built yet. `barrier` is the host's `xShmBarrier`.
    pub(crate) fn raw_header(&self, barrier: impl FnOnce()) -> Option<RawHeader> {
        // A writer stores the second copy, a barrier, then the first: a reader
        // goes the other way round, as walIndexTryHdr() does.
        let first = self.copy(0);
        barrier();
        let second = self.copy(HEADER_WORDS);
        (first == second && is_initialised(&first)).then_some(first)
    }

    /// The header for the holder of the write lock, for whom it cannot change.
    #[inline]
    pub(crate) fn header(&self) -> Option<WalIndexHeader> {
        // Only the words that `decode` looks at: every commit comes here.
        let mut raw = [0; HEADER_WORDS];
        for at in [0, 3, 4, 5, 8, 9] {
            raw[at] = self.word(at).load(Ordering::Relaxed);
        }
        is_initialised(&raw).then(|| decode(&raw))
    }

    /// The salts of the first copy, for those who compare.
    pub(crate) fn salts(&self) -> Salts {
        [8, 9].map(|at| self.word(at).load(Ordering::Relaxed))
    }

    /// Whether the first copy still equals `raw`.
    pub(crate) fn is_still(&self, raw: &RawHeader) -> bool {
        self.copy(0) == *raw
    }

    /// Read mark `slot` (below [`READ_MARKS`]).
    pub(crate) fn read_mark(&self, slot: usize) -> u32 {
        self.word(MARK_WORD_0 + slot).load(Ordering::Relaxed)
    }

    /// Sets read mark `slot`; the caller holds that slot's lock exclusively.
    pub(crate) fn set_read_mark(&self, slot: usize, frame: u32) {
        self.word(MARK_WORD_0 + slot).store(frame, Ordering::Relaxed);
    }
}

#[inline]
fn is_initialised(raw: &RawHeader) -> bool {
    raw[0] == VERSION && raw[3].to_ne_bytes()[0] != 0
}

/// The header's own checksum: the WAL's algorithm in native byte order over
/// the first ten words.
pub(crate) fn checksum_holds(raw: &RawHeader) -> bool {
    let (mut s1, mut s2) = (0_u32, 0_u32);
    for pair in raw[..10].chunks_exact(2) {
        s1 = s1.wrapping_add(pair[0]).wrapping_add(s2);
        s2 = s2.wrapping_add(pair[1]).wrapping_add(s1);
    }
    [s1, s2] == raw[10..12]
}

/// The parts of the header that replication needs.
#[inline]
pub(crate) fn decode(raw: &RawHeader) -> WalIndexHeader {
    let bytes = raw[3].to_ne_bytes();
    let size = u32::from(u16::from_ne_bytes([bytes[2], bytes[3]]));
    WalIndexHeader {
        mx_frame: raw[4],
        n_page: raw[5],
        page_size: (size & 0xfe00) + ((size & 1) << 16),
        salts: [u32::from_be_bytes(raw[8].to_ne_bytes()), u32::from_be_bytes(raw[9].to_ne_bytes())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(mx_frame: u32) -> RawHeader {
        let mut raw = [0; HEADER_WORDS];
        raw[0] = VERSION;
        let size = 4096_u16.to_ne_bytes();
        raw[3] = u32::from_ne_bytes([1, 0, size[0], size[1]]);
        raw[4] = mx_frame;
        raw[5] = 9;
        raw[8] = u32::from_ne_bytes(0x0102_0304_u32.to_be_bytes());
        let (mut s1, mut s2) = (0_u32, 0_u32);
        for pair in raw[..10].chunks_exact(2) {
            s1 = s1.wrapping_add(pair[0]).wrapping_add(s2);
            s2 = s2.wrapping_add(pair[1]).wrapping_add(s1);
        }
        raw[10] = s1;
        raw[11] = s2;
        raw
    }

    #[test]
    fn reads_only_two_equal_copies() {
        let mut page = vec![0_u32; 8192];
        // SAFETY: the vector outlives the view and is large enough.
        let index = unsafe { WalIndex::new(page.as_mut_ptr().cast()) }.unwrap();
        assert!(index.raw_header(|| ()).is_none());
        for (i, word) in header(7).iter().enumerate() {
            index.word(i).store(*word, Ordering::Relaxed);
        }
        assert!(index.raw_header(|| ()).is_none());
        for (i, word) in header(7).iter().enumerate() {
            index.word(HEADER_WORDS + i).store(*word, Ordering::Relaxed);
        }
        let raw = index.raw_header(|| ()).unwrap();
        assert!(checksum_holds(&raw));
        let expected =
            WalIndexHeader { mx_frame: 7, n_page: 9, page_size: 4096, salts: [0x0102_0304, 0] };
        assert_eq!(decode(&raw), expected);
        assert_eq!(index.header(), Some(expected));
        assert_eq!(index.salts(), [raw[8], raw[9]]);
        index.set_read_mark(2, 5);
        assert_eq!((index.read_mark(2), index.read_mark(1)), (5, 0));
    }

    #[test]
    fn a_changed_word_breaks_the_checksum() {
        let mut raw = header(7);
        raw[4] = 8;
        assert!(!checksum_holds(&raw));
    }
}
