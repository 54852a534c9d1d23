//! Ranges of files as storage gave them, compressed, until their pages are
//! wanted: what a fault brought with its page, and what was fetched ahead.
//!
//! A file is cut into chunks of [`CHUNK_BYTES`]; a frame belongs to the chunk in
//! which it begins. A range is a run of chunks that one request fetches, and a
//! chunk is in one range at most: that is the single flight.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize};

use bytes::Bytes;

use super::file::RemoteFile;
use super::page_cache::KeyHash;
use crate::error::{Error, Result};
use crate::tasks::{self, AtomicBool, Mutex, Ordering, Signal};

/// The unit in which files are fetched, in bytes.
pub(super) const CHUNK_BYTES: u64 = 32 << 10;
/// Bytes that are kept in any case; more while the page cache has room.
const KEPT_BYTES: usize = 12 << 20;
/// Bytes whose fate decides how much is fetched ahead.
const JUDGED_BYTES: u64 = 32 << 20;
/// So many of them tell nothing.
const JUDGED_MIN: u64 = 2 << 20;

/// A chunk of a file: the file's number in this process, and the chunk's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChunkKey {
    pub(super) file: u32,
    pub(super) chunk: u32,
}

impl ChunkKey {
    fn bits(self) -> u64 {
        u64::from(self.file) << 32 | u64::from(self.chunk)
    }
}

/// The chunk in which a frame at `offset` begins.
pub(super) fn chunk_of(offset: u64) -> u32 {
    u32::try_from(offset / CHUNK_BYTES).unwrap_or(u32::MAX)
}

/// Why a range was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Somebody waits for a page of it.
    Fault,
    /// Somebody is expected to.
    Ahead,
}

#[derive(Debug)]
enum Content {
    Awaited,
    Here(Bytes),
    Failed(Arc<Error>),
}

/// A run of chunks of one file, under way or here.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) file: Arc<RemoteFile>,
    /// First and last chunk.
    pub(super) chunks: (u32, u32),
    /// First byte in the file.
    pub(super) offset: u64,
    /// Bytes, whole frames.
    pub(super) len: u64,
    pub(super) purpose: Purpose,
    frames: u32,
    used: AtomicU32,
    /// Fetched ahead, and nothing of it was used yet.
    unread: AtomicBool,
    /// Eviction passed over it once.
    spared: AtomicBool,
    awaited: AtomicBool,
    content: Mutex<Content>,
    arrived: Signal,
}

impl Range {
    /// The run `first` to `last`; none when no frame begins there.
    fn new(
        file: &Arc<RemoteFile>,
        (first, last): (u32, u32),
        purpose: Purpose,
        content: Content,
    ) -> Option<Range> {
        let (positions, offset, len) = chunk_span(file, first, last)?;
        Some(Range {
            file: Arc::clone(file),
            chunks: (first, last),
            offset,
            len,
            purpose,
            frames: positions.len() as u32,
            used: AtomicU32::new(0),
            unread: AtomicBool::new(purpose == Purpose::Ahead),
            spared: AtomicBool::new(false),
            awaited: AtomicBool::new(false),
            content: Mutex::new(content),
            arrived: Signal::default(),
        })
    }

    /// Blocks until it is here; its error when it failed.
    pub(super) fn wait(&self) -> std::result::Result<Bytes, Arc<Error>> {
        let mut content = tasks::lock(&self.content);
        loop {
            match &*content {
                Content::Here(bytes) => return Ok(bytes.clone()),
                Content::Failed(e) => return Err(Arc::clone(e)),
                Content::Awaited => {
                    self.awaited.store(true, Ordering::Relaxed);
                    content = self.arrived.wait(&self.content, content);
                }
            }
        }
    }

    /// Its bytes when they are here.
    pub(super) fn bytes(&self) -> Option<Bytes> {
        match &*tasks::lock(&self.content) {
            Content::Here(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// Whether somebody has waited for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed)
    }

    /// The bytes `offset` to `offset + size` of the file out of `bytes`, which
    /// are the range's.
    pub(super) fn frame<'a>(&self, bytes: &'a [u8], offset: u64, size: u32) -> Option<&'a [u8]> {
        let from = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        bytes.get(from..from.checked_add(size as usize)?)
    }

    fn keys(&self) -> impl Iterator<Item = u64> + use<> {
        let file = self.file.uid;
        (self.chunks.0..=self.chunks.1).map(move |chunk| ChunkKey { file, chunk }.bits())
    }

    fn unused(&self) -> u64 {
        let used = self.used.load(Ordering::Relaxed).min(self.frames);
        self.len * u64::from(self.frames - used) / u64::from(self.frames)
    }
}

/// What ranges cost and were good for, for status and tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RangeTotals {
    /// Bytes kept, compressed.
    pub(crate) kept: u64,
    /// Bytes under way.
    pub(crate) under_way: u64,
    /// Bytes that were fetched ahead and left without having been used.
    pub(crate) wasted: u64,
}

/// The ranges of one source.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    held: Mutex<Held>,
    /// Bytes fetched ahead of which nothing was used yet.
    unread: AtomicUsize,
}

#[derive(Debug, Default)]
struct Held {
    chunks: HashMap<u64, Arc<Range>, KeyHash>,
    /// Ranges in the order they came; those that left it are not in `chunks`.
    order: VecDeque<Arc<Range>>,
    kept: usize,
    under_way: usize,
    judged: u64,
    wasted: u64,
    wasted_total: u64,
}

impl Ranges {
    /// The range with `key`, under way or here.
    pub(super) fn find(&self, key: ChunkKey) -> Option<Arc<Range>> {
        tasks::lock(&self.held).chunks.get(&key.bits()).cloned()
    }

    /// Whether `key` is under way or here.
    pub(super) fn contains(&self, key: ChunkKey) -> bool {
        tasks::lock(&self.held).chunks.contains_key(&key.bits())
    }

    /// The range with the chunk `wanted`, and whether the caller has to fetch
    /// it: then it is the longest run of missing chunks around it in `chunks`.
    pub(super) fn claim(
        &self,
        file: &Arc<RemoteFile>,
        wanted: u32,
        chunks: (u32, u32),
        purpose: Purpose,
    ) -> Option<(Arc<Range>, bool)> {
        let mut held = tasks::lock(&self.held);
        let missing = |held: &Held, chunk| {
            !held.chunks.contains_key(&ChunkKey { file: file.uid, chunk }.bits())
        };
        if let Some(range) = held.chunks.get(&ChunkKey { file: file.uid, chunk: wanted }.bits()) {
            return Some((Arc::clone(range), false));
        }
        let (mut first, mut last) = (wanted, wanted);
        while first > chunks.0 && missing(&held, first - 1) {
            first -= 1;
        }
        while last < chunks.1 && missing(&held, last + 1) {
            last += 1;
        }
        let range = Range::new(file, (first, last), purpose, Content::Awaited)?;
        let range = Arc::new(range);
        held.under_way += range.len as usize;
        if purpose == Purpose::Ahead {
            self.unread.fetch_add(range.len as usize, Ordering::Relaxed);
        }
        held.enter(&range);
        Some((range, true))
    }

    /// Adds bytes of `file` from `offset` on that came some other way: the
    /// chunks of which every frame is in them.
    pub(super) fn give(&self, file: &Arc<RemoteFile>, offset: u64, bytes: &[u8], room: usize) {
        let Some(chunks) = whole_chunks(file, offset, bytes.len() as u64) else { return };
        let mut held = tasks::lock(&self.held);
        let mut next = chunks.0;
        while next <= chunks.1 {
            let first = next;
            let missing =
                |chunk| !held.chunks.contains_key(&ChunkKey { file: file.uid, chunk }.bits());
            let run = (first..=chunks.1).take_while(|chunk| missing(*chunk)).count() as u32;
            next += run.max(1);
            if run == 0 {
                continue;
            }
            let span = (first, first + run - 1);
            let range = Range::new(file, span, Purpose::Fault, Content::Awaited);
            let Some(range) = range else { continue };
            let from = range.offset.checked_sub(offset).map(|n| n as usize);
            let part = from.and_then(|n| bytes.get(n..n + range.len as usize));
            let Some(part) = part else { continue };
            *tasks::lock(&range.content) = Content::Here(Bytes::copy_from_slice(part));
            held.kept += part.len();
            held.enter(&Arc::new(range));
        }
        self.trim(&mut held, room);
    }

    /// `range` came or failed. `room` bytes may be kept beyond the usual.
    pub(super) fn finish(&self, range: &Arc<Range>, result: Result<Bytes>, room: usize) {
        let mut held = tasks::lock(&self.held);
        held.under_way -= range.len as usize;
        let content = match result {
            Ok(bytes) => {
                held.kept += bytes.len();
                Content::Here(bytes)
            }
            // The next one who wants it asks again.
            Err(e) => {
                self.leave(&mut held, range);
                Content::Failed(Arc::new(e))
            }
        };
        *tasks::lock(&range.content) = content;
        self.trim(&mut held, room);
        drop(held);
        range.arrived.notify_all();
    }

    /// One of its pages was taken.
    pub(super) fn used(&self, range: &Arc<Range>) {
        let used = range.used.fetch_add(1, Ordering::Relaxed) + 1;
        self.read(range);
        if used == range.frames {
            self.discard(range);
        }
    }

    /// Lets go of a range that is here.
    pub(super) fn discard(&self, range: &Arc<Range>) {
        let mut held = tasks::lock(&self.held);
        self.remove(&mut held, range);
    }

    /// Bytes under way, and bytes fetched ahead of which nothing was used yet.
    pub(super) fn load(&self) -> (usize, usize) {
        (tasks::lock(&self.held).under_way, self.unread.load(Ordering::Relaxed))
    }

    /// How much of what is fetched ahead is wasted lately: 0 (less than half)
    /// to 3 (nearly all).
    pub(super) fn waste(&self) -> u32 {
        let held = tasks::lock(&self.held);
        match (held.wasted * 8).checked_div(held.judged) {
            Some(eighths) if held.judged >= JUDGED_MIN => match eighths {
                0..4 => 0,
                4..6 => 1,
                6 => 2,
                _ => 3,
            },
            _ => 0,
        }
    }

    /// What is held, and what was in vain.
    pub(super) fn totals(&self) -> RangeTotals {
        let held = tasks::lock(&self.held);
        RangeTotals {
            kept: held.kept as u64,
            under_way: held.under_way as u64,
            wasted: held.wasted_total,
        }
    }

    /// Evicts until the bound holds: first in, first out, but what was fetched
    /// ahead and not read yet gets a second turn.
    fn trim(&self, held: &mut Held, room: usize) {
        let mut turns = held.order.len() * 2;
        while held.kept > KEPT_BYTES + room && turns > 0 {
            turns -= 1;
            let Some(range) = held.order.pop_front() else { return };
            let here = range.bytes().is_some();
            let unread = range.unread.load(Ordering::Relaxed);
            if here && (!unread || range.spared.swap(true, Ordering::Relaxed)) {
                self.remove(held, &range);
            } else {
                held.order.push_back(range);
            }
        }
    }

    fn remove(&self, held: &mut Held, range: &Arc<Range>) {
        if let (Some(bytes), true) = (range.bytes(), self.leave(held, range)) {
            held.kept -= bytes.len();
        }
    }

    /// Takes it out of the map; false when it was gone.
    fn leave(&self, held: &mut Held, range: &Arc<Range>) -> bool {
        held.order.retain(|other| !Arc::ptr_eq(other, range));
        let mut was_here = false;
        for key in range.keys() {
            if held.chunks.get(&key).is_some_and(|found| Arc::ptr_eq(found, range)) {
                held.chunks.remove(&key);
                was_here = true;
            }
        }
        if was_here && range.purpose == Purpose::Ahead {
            held.judge(range.len, range.unused());
            self.read(range);
        }
        was_here
    }

    /// `range` is no longer something that may still be wanted for the first time.
    fn read(&self, range: &Range) {
        if range.unread.swap(false, Ordering::Relaxed) {
            self.unread.fetch_sub(range.len as usize, Ordering::Relaxed);
        }
    }
}

impl Held {
    fn enter(&mut self, range: &Arc<Range>) {
        for key in range.keys() {
            self.chunks.insert(key, Arc::clone(range));
        }
        self.order.push_back(Arc::clone(range));
    }

    fn judge(&mut self, len: u64, unused: u64) {
        self.judged += len;
        self.wasted += unused;
        self.wasted_total += unused;
        if self.judged > JUDGED_BYTES {
            self.judged /= 2;
            self.wasted /= 2;
        }
    }
}

/// The frames of the chunks `first` to `last`: their positions, the offset of the
/// first byte, and the bytes. None when no frame begins there.
pub(super) fn chunk_span(
    file: &RemoteFile,
    first: u32,
    last: u32,
) -> Option<(std::ops::Range<usize>, u64, u64)> {
    let from = file.index.position_from(u64::from(first) * CHUNK_BYTES);
    let to = file.index.position_from((u64::from(last) + 1) * CHUNK_BYTES);
    let (start, end) = (file.index.get(from)?, file.index.get(to.checked_sub(1)?)?);
    let len = (end.offset + u64::from(end.size)).checked_sub(start.offset)?;
    (from < to).then_some((from..to, start.offset, len))
}

/// The chunks of `file` of which every frame lies in the `len` bytes from `offset`.
pub(super) fn whole_chunks(file: &RemoteFile, offset: u64, len: u64) -> Option<(u32, u32)> {
    let index = &file.index;
    let end = offset.checked_add(len)?;
    let mut first = chunk_of(offset);
    while index.get(index.position_from(u64::from(first) * CHUNK_BYTES))?.offset < offset {
        first += 1;
    }
    let mut position = index.position_from(end);
    loop {
        position = position.checked_sub(1)?;
        let frame = index.get(position)?;
        if frame.offset + u64::from(frame.size) <= end {
            break;
        }
    }
    let frame = index.get(position)?;
    let last = chunk_of(frame.offset);
    // The chunk is whole when the next frame begins in another one.
    let whole = index.get(position + 1).is_none_or(|next| chunk_of(next.offset) != last);
    let last = if whole { last } else { last.checked_sub(1)? };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
#[path = "ranges_tests.rs"]
mod tests;
