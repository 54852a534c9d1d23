//! The requests of one source: how many at once, how much ahead of the readers,
//! and when a slow one is sent a second time.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use tokio::sync::Semaphore;

use super::file::RemoteFile;
use super::page_cache::PageCache;
use super::ranges::{Purpose, Range, Ranges};
use crate::error::{Error, ErrorKind, Result};
use crate::replica_client::ReplicaClient;
use crate::tasks::{self, AtomicU64, Handle, Mutex, Ordering};

/// Requests under way at once.
const REQUESTS_MAX: usize = 16;
/// Of them, those that nobody may be waiting for.
const AHEAD_REQUESTS_MAX: usize = 12;
/// Bytes under way at once beyond which nothing is fetched ahead.
const UNDER_WAY_MAX: usize = 16 << 20;
/// Bytes fetched ahead, under way or here, that nobody has used yet.
const UNREAD_MAX: usize = 12 << 20;

/// Answers whose duration is remembered.
const SAMPLES: usize = 32;
/// Answers that are enough to tell what is slow.
const SAMPLES_MIN: usize = 8;
/// A request is slow when it takes so many times the median,
const SLOW_FACTOR: u32 = 4;
/// but not before this,
const SLOW_MIN: Duration = Duration::from_millis(100);
/// and this while the median is not known.
const SLOW_UNKNOWN: Duration = Duration::from_secs(2);
/// Bytes of a request that is compared with the others.
const SAMPLE_BYTES_MAX: u64 = 256 << 10;
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
    ) -> Downloads {
        Downloads {
            client,
            runtime,
            cache,
            ranges: Ranges::default(),
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
        let (range, mine) = self.ranges.claim(file, wanted, chunks, purpose)?;
        if mine {
            self.start(&range);
        }
        Some((range, mine))
    }

    fn start(self: &Arc<Self>, range: &Arc<Range>) {
        if range.purpose == Purpose::Ahead {
            self.ahead.fetch_add(1, Ordering::Relaxed);
        }
        let mut job = Job { downloads: Arc::clone(self), range: Arc::clone(range), result: None };
        drop(self.runtime.spawn(async move {
            let result = job.downloads.download(&job.range).await;
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
        if wanted <= SAMPLE_BYTES_MAX {
            tasks::lock(&self.pace).add(start.elapsed());
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
        let patience = tasks::lock(&self.pace).patience();
        let patience = patience.mul_f64(1.0 + range.len as f64 / SAMPLE_BYTES_MAX as f64);
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

/// How long answers took lately.
#[derive(Debug, Default)]
struct Pace {
    samples: Vec<Duration>,
    next: usize,
}

impl Pace {
    fn add(&mut self, took: Duration) {
        if self.samples.len() < SAMPLES {
            self.samples.push(took);
        } else {
            self.samples[self.next] = took;
        }
        self.next = (self.next + 1) % SAMPLES;
    }

    /// How long an answer may take before it is slow.
    fn patience(&self) -> Duration {
        if self.samples.len() < SAMPLES_MIN {
            return SLOW_UNKNOWN;
        }
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        (sorted[sorted.len() / 2] * SLOW_FACTOR).max(SLOW_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_the_median() {
        let mut pace = Pace::default();
        assert_eq!(pace.patience(), SLOW_UNKNOWN);
        for n in 0..SAMPLES_MIN as u64 {
            pace.add(Duration::from_millis(40 + n));
        }
        assert_eq!(pace.patience(), Duration::from_millis(44) * SLOW_FACTOR);
        for _ in 0..SAMPLES {
            pace.add(Duration::from_millis(1));
        }
        assert_eq!(pace.patience(), SLOW_MIN);
    }
}
