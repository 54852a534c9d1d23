//! Parallel ranged downloads, delivered in order.
//!
//! Every file is cut into chunks; the chunks of all files form one queue, so
//! the download of the next file begins long before the present one is
//! decoded. At most `parallelism` requests are under way and at most
//! [`window`] chunks are held, finished or not.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::{Semaphore, mpsc};

use super::{Progress, ReplayOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::replica_client::retry::Retrier;
use crate::replica_client::{FileId, FileInfo, ReplicaClient};
use crate::tasks::{self, Guard, Spawn, Task};

/// Bytes of a chunk while few requests run; files up to this size are fetched
/// whole.
const CHUNK_BYTES_MAX: u64 = 2 << 20;
const CHUNK_BYTES_MIN: u64 = 128 << 10;
/// Bytes of all chunks that may be held at once.
const WINDOW_BYTES_MAX: u64 = 20 << 20;
/// The most downloads under way at once.
pub const PARALLELISM_MAX: usize = 64;

/// Chunks held at once: more than requests, so that a slow request at the head
/// of the queue does not stop the others.
fn window(parallelism: usize) -> usize {
    parallelism + parallelism.div_ceil(2)
}

fn chunk_bytes(parallelism: usize) -> u64 {
    (WINDOW_BYTES_MAX / window(parallelism) as u64).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX)
}

struct Job {
    id: FileId,
    offset: u64,
    len: u64,
}

/// The jobs of `files`, made as they are needed.
fn jobs(files: Vec<FileInfo>, chunk: u64) -> impl Iterator<Item = Job> {
    files.into_iter().flat_map(move |file| {
        let (id, size) = (file.id, file.size);
        (0..size.div_ceil(chunk)).map(move |n| {
            let offset = n * chunk;
            Job { id, offset, len: chunk.min(size - offset) }
        })
    })
}

/// A task that ends with its owner.
struct Owned<T>(Task<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The bytes of a list of files, one after the other.
pub(super) struct Fetcher {
    chunks: mpsc::Receiver<Result<Chunk>>,
    _task: Guard,
    progress: Arc<dyn Progress>,
    files: VecDeque<u64>,
    failure: Option<Error>,
}

impl Fetcher {
    /// Starts downloading `files` in the order given.
    pub(super) fn start(
        client: Arc<dyn ReplicaClient>,
        rt: &impl Spawn,
        files: Vec<FileInfo>,
        options: &ReplayOptions,
    ) -> Self {
        let parallelism = options.parallelism.clamp(1, PARALLELISM_MAX);
        let sizes = files.iter().map(|f| f.size).collect();
        let (sender, chunks) = mpsc::channel(1);
        let chunk_bytes = chunk_bytes(parallelism);
        let jobs = jobs(files, chunk_bytes);
        let pool = Arc::new(Pool { capacity: chunk_bytes as usize, free: Mutex::default() });
        let storage = Storage { client, retrier: options.retrier.clone(), pool };
        let task =
            rt.spawn_guarded(Box::pin(download(Arc::new(storage), jobs, parallelism, sender)));
        let progress = options.progress.clone();
        Fetcher { chunks, _task: task, progress, files: sizes, failure: None }
    }

    /// A reader of the next file; the one before must have been read to its end.
    pub(super) fn next_file(&mut self) -> FileReader<'_> {
        let remaining = self.files.pop_front().unwrap_or(0);
        FileReader { fetcher: self, chunk: None, remaining }
    }

    /// The download error behind a reader's I/O error, if there was one.
    pub(super) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }
}

/// Buffers that are used again: fresh ones for each chunk would leave the heap
/// in pieces and the process larger than what it holds.
struct Pool {
    capacity: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunk(self: &Arc<Self>) -> Chunk {
        let used = self.free().pop();
        let data = used.unwrap_or_else(|| Vec::with_capacity(self.capacity));
        Chunk { data, read: 0, pool: self.clone() }
    }
}

/// Part of a file; `data[read..]` is still to be delivered.
struct Chunk {
    data: Vec<u8>,
    read: usize,
    pool: Arc<Pool>,
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mut data = std::mem::take(&mut self.data);
        data.clear();
        self.pool.free().push(data);
    }
}

/// A client, how its failures are repeated, and where its bytes go.
struct Storage {
    client: Arc<dyn ReplicaClient>,
    retrier: Retrier,
    pool: Arc<Pool>,
}

async fn download(
    storage: Arc<Storage>,
    jobs: impl Iterator<Item = Job> + Send,
    parallelism: usize,
    sender: mpsc::Sender<Result<Chunk>>,
) {
    let gate = Arc::new(Semaphore::new(parallelism));
    let tasks = jobs.map(|job| {
        let (storage, gate) = (storage.clone(), gate.clone());
        let mut task = Owned(tasks::spawn(async move {
            let _permit = gate.acquire_owned().await;
            storage.fetch(&job).await
        }));
        async move {
            (&mut task.0).await.unwrap_or_else(|e| {
                Err(Error::new(ErrorKind::Internal, "a download task failed").with_source(e))
            })
        }
    });
    let mut chunks = futures_util::stream::iter(tasks).buffered(window(parallelism));
    while let Some(chunk) = chunks.next().await {
        let failed = chunk.is_err();
        if sender.send(chunk).await.is_err() || failed {
            return;
        }
    }
}

impl Storage {
    /// Downloads one chunk; after a failure it goes on where it was.
    async fn fetch(&self, job: &Job) -> Result<Chunk> {
        let chunk = tokio::sync::Mutex::new(self.pool.chunk());
        self.retrier.repeat(|| self.fill(&chunk, job)).await?;
        let chunk = chunk.into_inner();
        if chunk.data.len() as u64 == job.len {
            return Ok(chunk);
        }
        let end = job.offset + chunk.data.len() as u64;
        let text = format!("{} ends after {end} bytes, shorter than listed", job.id);
        Err(Error::new(ErrorKind::Corrupt, text))
    }

    async fn fill(&self, chunk: &tokio::sync::Mutex<Chunk>, job: &Job) -> Result<()> {
        let data = &mut chunk.lock().await.data;
        let have = data.len() as u64;
        let rest = Some(job.len - have);
        let mut pieces = self.client.read_stream(&job.id, job.offset + have, rest).await?;
        while let Some(piece) = pieces.try_next().await? {
            if data.len() as u64 + piece.len() as u64 > job.len {
                let text = format!("{} brought more bytes than asked for", job.id);
                return Err(Error::new(ErrorKind::Corrupt, text));
            }
            data.extend_from_slice(&piece);
        }
        Ok(())
    }
}

/// One file of a [`Fetcher`], up to its listed size.
pub(super) struct FileReader<'a> {
    fetcher: &'a mut Fetcher,
    chunk: Option<Chunk>,
    remaining: u64,
}

impl FileReader<'_> {
    /// Whether every byte of the file was read.
    pub(super) fn is_at_end(&self) -> bool {
        self.remaining == 0
    }

    fn next_chunk(&mut self) -> io::Result<&mut Chunk> {
        // Back to the pool before the next one is waited for.
        self.chunk = None;
        match tasks::receive(&mut self.fetcher.chunks) {
            Some(Ok(chunk)) => {
                self.fetcher.progress.advance(chunk.data.len() as u64);
                Ok(self.chunk.insert(chunk))
            }
            Some(Err(e)) => {
                let text = e.to_string();
                self.fetcher.failure = Some(e);
                Err(io::Error::other(text))
            }
            None => Err(io::Error::other("the download ended early")),
        }
    }
}

impl io::Read for FileReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.remaining == 0 || buf.is_empty() {
            return Ok(0);
        }
        let chunk = match &mut self.chunk {
            Some(chunk) if chunk.read < chunk.data.len() => chunk,
            _ => self.next_chunk()?,
        };
        let n = buf.len().min(chunk.data.len() - chunk.read);
        buf[..n].copy_from_slice(&chunk.data[chunk.read..chunk.read + n]);
        chunk.read += n;
        self.remaining -= n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::Txid;

    fn info(size: u64) -> FileInfo {
        FileInfo { id: FileId { level: 0, min: Txid(1), max: Txid(1) }, size, created_at_ms: 0 }
    }

    #[test]
    fn jobs_cover_each_file_exactly() {
        let cut: Vec<(u64, u64)> =
            jobs(vec![info(250), info(100), info(40)], 100).map(|j| (j.offset, j.len)).collect();
        assert_eq!(cut, [(0, 100), (100, 100), (200, 50), (0, 100), (0, 40)]);
    }

    #[test]
    fn the_window_is_bounded_at_every_parallelism() {
        for parallelism in 1..=PARALLELISM_MAX {
            let held = chunk_bytes(parallelism) * window(parallelism) as u64;
            assert!(held <= WINDOW_BYTES_MAX, "{parallelism}: {held}");
        }
    }
}
