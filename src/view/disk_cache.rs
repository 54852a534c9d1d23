//! What was fetched, kept in a directory for later processes and other ones.
//!
//! The directory holds segments, each a pair of files that one process appends to:
//!
//! | file | content |
//! |---|---|
//! | `TIME-PID-N.pages` | payloads, one behind the other |
//! | `TIME-PID-N.index` | one [`Entry`] of 64 bytes per payload |
//!
//! Nothing is synced and nothing locked. An entry and its payload have checksums of
//! their own: what a crash left torn, or anybody damaged, is a miss, and so is whatever
//! cannot be read. The oldest segments are removed when all of them exceed the bound.

use std::collections::HashMap;
use std::collections::hash_map;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};

use super::disk_entry::{ENTRY_SIZE, Entry};
use crate::error::Result;
use crate::log::{Level, Log};
use crate::ltx::crc64;
use crate::os::append::AppendFile;
use crate::os::{self, DirEntry};
use crate::tasks::{self, AtomicBool, Mutex, Ordering};

const PAGES: &str = ".pages";
const INDEX: &str = ".index";
/// Segments that the bound is cut into.
const SEGMENTS: u64 = 32;
/// Bounds of one segment in bytes.
const SEGMENT_MIN: u64 = 1 << 20;
const SEGMENT_MAX: u64 = 64 << 20;
/// How often the directory is looked at for what others wrote.
const REFRESH: Duration = Duration::from_secs(1);
/// Nothing is written for so long after a failure.
const PAUSE: Duration = Duration::from_secs(60);

/// The name of something kept: 128 bits of a hash of what tells it from all else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct DiskKey(pub(super) [u8; 16]);

impl DiskKey {
    /// The key of what `parts` name together.
    pub(crate) fn of(parts: &[&str]) -> DiskKey {
        let mut hash = Md5::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        DiskKey(hash.finalize().into())
    }
}

/// A directory of what was fetched.
pub(crate) struct DiskCache {
    dir: PathBuf,
    limit: u64,
    log: Arc<dyn Log>,
    warned: AtomicBool,
    /// Held while files are written, and never waited for with `state` held: a lookup
    /// does not wait for a write.
    own: Mutex<Option<Own>>,
    state: Mutex<State>,
}

impl std::fmt::Debug for DiskCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DiskCache({})", self.dir.display())
    }
}

#[derive(Default)]
struct State {
    found: HashMap<(DiskKey, u32), Place>,
    /// By name without suffix.
    segments: HashMap<Arc<str>, Segment>,
    refreshed: Option<Instant>,
    failed: Option<Instant>,
}

/// Where a payload is.
#[derive(Clone)]
struct Place {
    segment: Arc<str>,
    offset: u64,
    len: u32,
    checksum: u64,
    time_ms: i64,
}

#[derive(Default)]
struct Segment {
    /// Bytes of its index that were read.
    read: u64,
    pages: Option<Arc<File>>,
}

/// The segment that this process appends to.
struct Own {
    name: Arc<str>,
    pages: AppendFile,
    index: AppendFile,
    /// Bytes of each.
    len: u64,
    index_len: u64,
}

impl DiskCache {
    /// The cache in `dir`, which is made when it is missing, for at most about
    /// `limit` bytes. Never fails: without a usable directory nothing is kept.
    pub(crate) fn open(dir: &Path, limit: u64, log: Arc<dyn Log>) -> DiskCache {
        let cache = DiskCache {
            dir: dir.to_owned(),
            limit,
            log,
            warned: AtomicBool::new(false),
            own: Mutex::default(),
            state: Mutex::default(),
        };
        if let Err(e) = os::create_private_dir(dir) {
            cache.fail(&mut tasks::lock(&cache.state), "make", &e);
        }
        cache
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether something is kept under `key` and `part`, as far as is known.
    pub(crate) fn contains(&self, key: DiskKey, part: u32) -> bool {
        let mut state = tasks::lock(&self.state);
        if state.refreshed.is_none() {
            self.refresh(&mut state);
        }
        state.found.contains_key(&(key, part))
    }

    /// What was last kept under `key` and `part`.
    pub(crate) fn get(&self, key: DiskKey, part: u32) -> Option<Vec<u8>> {
        let (place, file) = self.locate(key, part)?;
        let mut payload = vec![0; place.len as usize];
        let read = os::read_at(&file, &mut payload, place.offset);
        if matches!(read, Ok(n) if n == payload.len()) && crc64(&payload) == place.checksum {
            return Some(payload);
        }
        let mut state = tasks::lock(&self.state);
        self.warn(&format!("part of {} is damaged and not used", place.segment));
        if let hash_map::Entry::Occupied(found) = state.found.entry((key, part))
            && found.get().segment == place.segment
        {
            found.remove();
        }
        None
    }

    /// Does not find what is kept under `key` and `part` any more: it was of no use.
    pub(crate) fn distrust(&self, key: DiskKey, part: u32) {
        tasks::lock(&self.state).found.remove(&(key, part));
    }

    fn locate(&self, key: DiskKey, part: u32) -> Option<(Place, Arc<File>)> {
        let mut state = tasks::lock(&self.state);
        if !state.found.contains_key(&(key, part)) {
            let due = |at: Instant| tasks::now().saturating_duration_since(at) >= REFRESH;
            if state.refreshed.is_none_or(due) {
                self.refresh(&mut state);
            }
        }
        let place = state.found.get(&(key, part))?.clone();
        let segment = state.segments.get_mut(&place.segment)?;
        if segment.pages.is_none() {
            match os::open_read(&self.path(&place.segment, PAGES)) {
                Ok(file) => segment.pages = Some(Arc::new(file)),
                // Removed for its age, by whoever found the bound exceeded.
                Err(_) => {
                    state.forget(&place.segment);
                    return None;
                }
            }
        }
        let file = segment.pages.clone()?;
        Some((place, file))
    }

    /// Keeps `payloads`, each under `key` and its part; `time_ms` decides which one
    /// of several is the last.
    pub(crate) fn put(&self, key: DiskKey, payloads: &[(u32, &[u8])], time_ms: i64) {
        let bytes: usize = payloads.iter().map(|(_, payload)| payload.len()).sum();
        if bytes as u64 > self.segment_bytes() {
            return;
        }
        let mut own = tasks::lock(&self.own);
        let paused = |at: Instant| tasks::now().saturating_duration_since(at) < PAUSE;
        if tasks::lock(&self.state).failed.is_some_and(paused) {
            return;
        }
        if let Err(e) = self.append(&mut own, key, payloads, time_ms) {
            *own = None;
            self.fail(&mut tasks::lock(&self.state), "write to", &e);
        }
    }

    fn append(
        &self,
        own: &mut Option<Own>,
        key: DiskKey,
        payloads: &[(u32, &[u8])],
        time_ms: i64,
    ) -> Result<()> {
        let bytes: usize = payloads.iter().map(|(_, payload)| payload.len()).sum();
        let ended = |own: &Own| {
            own.len + bytes as u64 > self.segment_bytes()
                // Removed by another process: begin anew.
                || !tasks::lock(&self.state).segments.contains_key(&own.name)
        };
        if own.as_ref().is_none_or(ended) {
            *own = None;
            self.trim()?;
            *own = Some(self.new_segment(time_ms)?);
        }
        let Some(own) = own else { return Ok(()) };
        let mut joined = Vec::with_capacity(bytes);
        let mut entries = Vec::with_capacity(payloads.len() * ENTRY_SIZE);
        let mut places = Vec::with_capacity(payloads.len());
        for (part, payload) in payloads {
            let entry = Entry {
                key,
                part: *part,
                offset: own.len + joined.len() as u64,
                len: payload.len() as u32,
                time_ms,
                checksum: crc64(payload),
            };
            entries.extend_from_slice(&entry.encode());
            joined.extend_from_slice(payload);
            places.push(((key, *part), Place::of(&entry, Arc::clone(&own.name))));
        }
        own.pages.append(&joined)?;
        own.len += joined.len() as u64;
        own.index.append(&entries)?;
        own.index_len += entries.len() as u64;
        let mut state = tasks::lock(&self.state);
        if let Some(segment) = state.segments.get_mut(&own.name) {
            // A refresh may have read them meanwhile.
            segment.read = segment.read.max(own.index_len);
            state.found.extend(places);
        }
        Ok(())
    }

    fn segment_bytes(&self) -> u64 {
        (self.limit / SEGMENTS).clamp(SEGMENT_MIN, SEGMENT_MAX)
    }

    fn new_segment(&self, time_ms: i64) -> Result<Own> {
        let number = tasks::lock(&self.state).segments.len();
        let name = format!("{time_ms:016x}-{}-{number}", tasks::process_id());
        let name: Arc<str> = name.into();
        let pages = AppendFile::open(&self.path(&name, PAGES))?;
        let index = AppendFile::open(&self.path(&name, INDEX))?;
        let size = |suffix| {
            os::open_read(&self.path(&name, suffix))
                .map(|file| file.metadata().map_or(0, |meta| meta.len()))
        };
        let (len, index_len) = (size(PAGES)?, size(INDEX)?);
        // Its files are there: a refresh does not take it for a removed one.
        tasks::lock(&self.state).segments.entry(Arc::clone(&name)).or_default();
        Ok(Own { name, pages, index, len, index_len })
    }

    /// Removes the oldest segments until a new one fits.
    fn trim(&self) -> Result<()> {
        let mut segments: HashMap<String, u64> = HashMap::new();
        for file in self.list()? {
            if let Some((name, _)) = segment_of(&file.name) {
                *segments.entry(name.to_owned()).or_default() += file.size;
            }
        }
        let mut total: u64 = segments.values().sum();
        let mut names: Vec<(String, u64)> = segments.into_iter().collect();
        names.sort_unstable();
        for (name, bytes) in names {
            if total + self.segment_bytes() <= self.limit {
                break;
            }
            os::remove_if_exists(&self.path(&name, INDEX))?;
            os::remove_if_exists(&self.path(&name, PAGES))?;
            tasks::lock(&self.state).forget(&name);
            total -= bytes;
        }
        Ok(())
    }

    /// Reads what was added to the indexes since the last time.
    fn refresh(&self, state: &mut State) {
        state.refreshed = Some(tasks::now());
        let files = match self.list() {
            Ok(files) => files,
            Err(e) => return self.fail(state, "list", &e),
        };
        let mut there = Vec::new();
        for file in &files {
            let Some((name, INDEX)) = segment_of(&file.name) else { continue };
            there.push(name);
            let read = state.segments.get(name).map_or(0, |segment| segment.read);
            if file.size >= read + ENTRY_SIZE as u64 {
                self.read_index(state, name, read, file.size);
            }
        }
        let gone: Vec<Arc<str>> =
            state.segments.keys().filter(|name| !there.contains(&&***name)).cloned().collect();
        for name in gone {
            state.forget(&name);
        }
    }

    fn read_index(&self, state: &mut State, name: &str, from: u64, size: u64) {
        let Ok(file) = os::open_read(&self.path(name, INDEX)) else { return };
        let whole = (size - from) as usize / ENTRY_SIZE * ENTRY_SIZE;
        let mut bytes = vec![0; whole];
        let Ok(n) = os::read_at(&file, &mut bytes, from) else { return };
        let name: Arc<str> = name.into();
        for entry in bytes[..n].chunks_exact(ENTRY_SIZE).filter_map(Entry::decode) {
            let place = Place::of(&entry, Arc::clone(&name));
            match state.found.entry((entry.key, entry.part)) {
                hash_map::Entry::Occupied(mut found) => {
                    if found.get().time_ms <= place.time_ms {
                        found.insert(place);
                    }
                }
                hash_map::Entry::Vacant(free) => drop(free.insert(place)),
            }
        }
        let read = from + (n / ENTRY_SIZE * ENTRY_SIZE) as u64;
        state.segments.entry(name).or_default().read = read;
    }

    fn list(&self) -> Result<Vec<DirEntry>> {
        let mut files = os::list_dir(&self.dir)?;
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    fn path(&self, name: &str, suffix: &str) -> PathBuf {
        self.dir.join(format!("{name}{suffix}"))
    }

    fn fail(&self, state: &mut State, action: &str, error: &crate::Error) {
        state.failed = Some(tasks::now());
        self.warn(&format!("cannot {action} it: {error}"));
    }

    /// Told once: a cache that does not work is no reason to stop or to fill a log.
    fn warn(&self, text: &str) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let dir = self.dir.display();
            self.log.log(Level::Warn, &format!("cache directory {dir}: {text}; going on without"));
        }
    }
}

impl State {
    fn forget(&mut self, segment: &str) {
        self.segments.remove(segment);
        self.found.retain(|_, place| &*place.segment != segment);
    }
}

impl Place {
    fn of(entry: &Entry, segment: Arc<str>) -> Place {
        let Entry { offset, len, checksum, time_ms, .. } = *entry;
        Place { segment, offset, len, checksum, time_ms }
    }
}

/// The segment that a file belongs to, and which of its files it is.
fn segment_of(name: &str) -> Option<(&str, &'static str)> {
    let (stem, suffix) = match (name.strip_suffix(PAGES), name.strip_suffix(INDEX)) {
        (Some(stem), _) => (stem, PAGES),
        (_, Some(stem)) => (stem, INDEX),
        _ => return None,
    };
    let time = stem.split('-').next()?;
    let ours = time.len() == 16 && time.bytes().all(|b| b.is_ascii_hexdigit());
    ours.then_some((stem, suffix))
}

#[cfg(test)]
#[path = "disk_cache_tests.rs"]
mod tests;
