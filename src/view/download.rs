//! The requests of one source: how many at once, how much ahead of the readers,
//! and when a slow one is sent a second time.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize};

use bytes::Bytes;
use futures_util::future::{Either, select};
use tokio::sync::Semaphore;

use super::disk_cache::{DiskCache, DiskKey};
use super::file::RemoteFile;
use super::pace::Pace;
use super::page_cache::PageCache;
use super::ranges::{ChunkKey, Purpose, Range, Ranges, chunk_span, whole_chunks};
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::decode_page;
use crate::replica_client::ReplicaClient;
use crate::tasks::{self, AtomicU64, Handle, Mutex, Ordering};

/// Requests under way at once.
const REQUESTS_MAX: usize = 16;
/// Of them, those that nobody may be waiting for.
const AHEAD_REQUESTS_MAX: usize = 12;
/// Bytes under way at once beyond which nothing is fetched ahead.
const UNDER_WAY_MAX: usize = 12 << 20;
/// Bytes fetched ahead, under way or here, that nobody has used yet.
const UNREAD_MAX: usize = 10 << 20;

/// Bytes that may wait to be written to the disk; more are not kept there.
const TO_DISK_MAX: usize = 8 << 20;

/// Requests that allow one second request,
const REQUESTS_PER_HEDGE: u32 = 16;
/// and how many of these may be saved up.
const HEDGES_MAX: u32 = 4;

/// Sends requests for ranges and puts the answers where their readers wait.
#[derive(Debug)]
pub(super) struct Downloads {
    client: Arc<dyn ReplicaClient>,
    runtime: Handle,
    cache: Arc<PageCache>,
    pub(super) ranges: Ranges,
    disk: Option<Arc<DiskCache>>,
    /// Bytes on their way to the disk.
    saving: AtomicUsize,
    saves: Mutex<Saves>,
    gate: Semaphore,
    ahead: AtomicUsize,
    pace: Mutex<Pace>,
    /// Second requests that may be sent, times [`REQUESTS_PER_HEDGE`].
    credit: AtomicU32,
    requests: AtomicU64,
    hedges: AtomicU64,
}

impl Downloads {
    pub(super) fn new(
        client: Arc<dyn ReplicaClient>,
        runtime: Handle,
        cache: Arc<PageCache>,
        disk: Option<Arc<DiskCache>>,
    ) -> Downloads {
        Downloads {
            client,
            runtime,
            cache,
            ranges: Ranges::default(),
            disk,
            saving: AtomicUsize::new(0),
            saves: Mutex::default(),
            gate: Semaphore::new(REQUESTS_MAX),
            ahead: AtomicUsize::new(0),
            pace: Mutex::default(),
            credit: AtomicU32::new(REQUESTS_PER_HEDGE),
            requests: AtomicU64::new(0),
            hedges: AtomicU64::new(0),
        }
    }

    pub(super) fn url(&self) -> &str {
        self.client.url()
    }

    /// Requests sent, and second ones among them.
    pub(super) fn requests(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.hedges.load(Ordering::Relaxed))
    }

    /// How many bytes a fault may bring without being slower for it.
    pub(super) fn reach(&self) -> u64 {
        tasks::lock(&self.pace).reach()
    }

    /// Bytes that may be kept compressed because the page cache has room.
    pub(super) fn room(&self) -> usize {
        self.cache.capacity().saturating_sub(self.cache.used())
    }

    /// Whether a request for `bytes` that nobody waits for yet may be sent.
    pub(super) fn may_fetch_ahead(&self, bytes: u64) -> bool {
        let (under_way, unread) = self.ranges.load();
        self.ahead.load(Ordering::Relaxed) < AHEAD_REQUESTS_MAX
            && under_way + bytes as usize <= UNDER_WAY_MAX
            && unread + bytes as usize <= UNREAD_MAX
    }

    /// The range with the chunk `wanted`; asked for with the missing ones around
    /// it in `chunks` when it is neither here nor under way.
    pub(super) fn range(
        self: &Arc<Self>,
        file: &Arc<RemoteFile>,
        wanted: u32,
        chunks: (u32, u32),
        purpose: Purpose,
    ) -> Option<(Arc<Range>, bool)> {
        let on_disk = self.is_on_disk(file, wanted);
        let chunks = if on_disk { (wanted, wanted) } else { chunks };
        let (range, mine) = self.ranges.claim(file, wanted, chunks, purpose)?;
        if mine {
            match self.read_kept(&range).filter(|_| on_disk) {
                Some(bytes) => self.ranges.finish(&range, Ok(bytes), self.room()),
                None => self.start(&range),
            }
        }
        Some((range, mine))
    }

    /// The range with a chunk that takes no request.
    pub(super) fn near(self: &Arc<Self>, file: &Arc<RemoteFile>, chunk: u32) -> Option<Arc<Range>> {
        if !self.is_near(file, chunk) {
            return None;
        }
        self.range(file, chunk, (chunk, chunk), Purpose::Fault).map(|(range, _)| range)
    }

    /// Whether a chunk takes no request.
    pub(super) fn is_near(&self, file: &RemoteFile, chunk: u32) -> bool {
        self.ranges.contains(ChunkKey { file: file.uid, chunk }) || self.is_on_disk(file, chunk)
    }

    fn is_on_disk(&self, file: &RemoteFile, chunk: u32) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.contains(self.disk_key(file), chunk))
    }

    fn disk_key(&self, file: &RemoteFile) -> DiskKey {
        *file.disk_key.get_or_init(|| file_key(self.url(), file))
    }

    /// The one chunk that `range` is.
    fn read_kept(&self, range: &Range) -> Option<Bytes> {
        let disk = self.disk.as_ref().filter(|_| range.chunks.0 == range.chunks.1)?;
        let bytes = disk.get(self.disk_key(&range.file), range.chunks.0)?;
        (bytes.len() as u64 == range.len).then(|| Bytes::from(bytes))
    }

    /// A chunk has a damaged frame: the next one who wants it asks storage.
    pub(super) fn distrust(&self, range: &Arc<Range>, chunk: u32) {
        self.ranges.discard(range);
        if let Some(disk) = &self.disk {
            disk.distrust(self.disk_key(&range.file), chunk);
        }
    }

    /// Keeps the whole chunks in `bytes`, which are of `file` from `offset` on,
    /// on the disk, if that keeps up.
    pub(super) fn save(self: &Arc<Self>, file: &Arc<RemoteFile>, offset: u64, bytes: Bytes) {
        if self.disk.is_none() {
            return;
        }
        let len = bytes.len();
        if self.saving.fetch_add(len, Ordering::Relaxed) > TO_DISK_MAX {
            self.saving.fetch_sub(len, Ordering::Relaxed);
            return;
        }
        let mut saves = tasks::lock(&self.saves);
        saves.waiting.push_back(Save { file: Arc::clone(file), offset, bytes });
        if !std::mem::replace(&mut saves.running, true) {
            let downloads = Arc::clone(self);
            drop(self.runtime.spawn_blocking(move || downloads.save_all()));
        }
    }

    /// Writes what waits, until nothing does.
    fn save_all(&self) {
        let next = || tasks::lock(&self.saves).next();
        while let Some(save) = next() {
            self.write(&save);
            self.saving.fetch_sub(save.bytes.len(), Ordering::Relaxed);
        }
    }

    fn write(&self, save: &Save) {
        let Some(disk) = &self.disk else { return };
        let key = self.disk_key(&save.file);
        let new = |chunk| !disk.contains(key, chunk);
        let chunks = sound_chunks(&save.file, save.offset, &save.bytes, new);
        if !chunks.is_empty() {
            disk.put(key, &chunks, tasks::clock().now_ms());
        }
    }

    /// Whether something is on its way to the disk.
    #[cfg(test)]
    pub(super) fn is_saving(&self) -> bool {
        self.saving.load(Ordering::Relaxed) > 0
    }

    fn start(self: &Arc<Self>, range: &Arc<Range>) {
        if range.purpose == Purpose::Ahead {
            self.ahead.fetch_add(1, Ordering::Relaxed);
        }
        let mut job = Job { downloads: Arc::clone(self), range: Arc::clone(range), result: None };
        drop(self.runtime.spawn(async move {
            let (downloads, range) = (Arc::clone(&job.downloads), Arc::clone(&job.range));
            let result = downloads.download(&range).await;
            if let Ok(bytes) = &result {
                downloads.save(&range.file, range.offset, bytes.clone());
            }
            job.end(result);
        }));
    }

    async fn download(&self, range: &Range) -> Result<Bytes> {
        let gate = self.gate.acquire().await;
        let _permit = gate.map_err(|_| cut_off(range, self.client.url()))?;
        let start = tasks::now();
        let bytes = self.first_answer(range).await?;
        let (got, wanted) = (bytes.len() as u64, range.len);
        if got != wanted {
            let (id, url) = (range.file.id, self.client.url());
            let text =
                format!("the answer for {id} at {url} was cut short: {got} of {wanted} bytes");
            return Err(Error::new(ErrorKind::Transient, text));
        }
        let earned = |n: u32| Some((n + 1).min(HEDGES_MAX * REQUESTS_PER_HEDGE));
        let _ = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earned);
        if range.purpose == Purpose::Fault {
            tasks::lock(&self.pace).add(wanted, start.elapsed());
        }
        Ok(bytes)
    }

    async fn read(&self, range: &Range) -> Result<Bytes> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let file = &range.file;
        self.client.read_tagged(&file.id, range.offset, range.len, &file.tag).await
    }

    /// The answer to a request, or to a second one when the first is slow and
    /// somebody waits for it.
    async fn first_answer(&self, range: &Range) -> Result<Bytes> {
        let patience = tasks::lock(&self.pace).patience(range.len);
        let mut first = pin!(self.read(range));
        loop {
            match select(first.as_mut(), pin!(tasks::sleep(patience))).await {
                Either::Left((answer, _)) => return answer,
                Either::Right(_) if range.is_awaited() && self.spend() => break,
                Either::Right(_) => {}
            }
        }
        self.hedges.fetch_add(1, Ordering::Relaxed);
        let second = pin!(self.read(range));
        match select(first, second).await {
            Either::Left((Err(_), other)) => other.await,
            Either::Right((Err(_), other)) => other.await,
            Either::Left((answer, _)) | Either::Right((answer, _)) => answer,
        }
    }

    fn spend(&self) -> bool {
        let spent = |n: u32| n.checked_sub(REQUESTS_PER_HEDGE);
        self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).is_ok()
    }
}

/// The name of `file` of the replica at `url` on the disk.
pub(super) fn file_key(url: &str, file: &RemoteFile) -> DiskKey {
    let size = format!("{:x} {:x}", file.size, file.checksum);
    DiskKey::of(&["pages", url, &file.id.to_string(), &size, file.tag.as_str()])
}

/// Bytes for the disk: one thread at a time writes them, in this order.
#[derive(Debug, Default)]
struct Saves {
    waiting: VecDeque<Save>,
    running: bool,
}

impl Saves {
    /// The next to be written; without one the thread that writes ends.
    fn next(&mut self) -> Option<Save> {
        let save = self.waiting.pop_front();
        self.running = save.is_some();
        save
    }
}

/// Bytes of a file from an offset on.
#[derive(Debug)]
struct Save {
    file: Arc<RemoteFile>,
    offset: u64,
    bytes: Bytes,
}

/// The whole chunks in `bytes`, of `file` from `offset` on, that `wanted` names and
/// of which every page can be decoded.
fn sound_chunks<'a>(
    file: &RemoteFile,
    offset: u64,
    bytes: &'a [u8],
    wanted: impl Fn(u32) -> bool,
) -> Vec<(u32, &'a [u8])> {
    let Some((first, last)) = whole_chunks(file, offset, bytes.len() as u64) else {
        return Vec::new();
    };
    let mut page = vec![0; file.page_size as usize];
    let mut sound = |chunk: u32| {
        let (positions, from, len) = chunk_span(file, chunk, chunk)?;
        let part = bytes.get((from - offset) as usize..)?.get(..len as usize)?;
        for position in positions {
            let frame = file.index.get(position)?;
            let at = (frame.offset - from) as usize;
            let found = decode_page(&part[at..at + frame.size as usize], file.page_size, &mut page);
            if found.ok()? != frame.pgno {
                return None;
            }
        }
        Some((chunk, part))
    };
    (first..=last).filter(|chunk| wanted(*chunk)).filter_map(&mut sound).collect()
}

/// A request under way. Dropped without a result it was cut off, with the
/// threads that carry it; its readers hear that.
struct Job {
    downloads: Arc<Downloads>,
    range: Arc<Range>,
    result: Option<Result<Bytes>>,
}

impl Job {
    fn end(&mut self, result: Result<Bytes>) {
        self.result = Some(result);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let downloads = &self.downloads;
        if self.range.purpose == Purpose::Ahead {
            downloads.ahead.fetch_sub(1, Ordering::Relaxed);
        }
        let result = self.result.take();
        let result = result.unwrap_or_else(|| Err(cut_off(&self.range, downloads.client.url())));
        downloads.ranges.finish(&self.range, result, downloads.room());
    }
}

fn cut_off(range: &Range, url: &str) -> Error {
    let text = format!("the replica {url} was closed while {} was read", range.file.id);
    Error::new(ErrorKind::Transient, text)
}
