//! A wrapper that repeats what failed for a moment.
//!
//! Only what may be repeated is: reads, listings, deletions, and writes whose
//! body is in memory. A repeated create that finds its name taken compares the
//! stored bytes with its own: the first attempt may have won unheard.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{
    Body, ByteStream, FileId, FileInfo, Listed, Piece, ReplicaClient, Span, Tag, WriteMode, holds,
};
use crate::clock::{Clock, Random};
use crate::error::{ErrorKind, Result};
use crate::ltx::Txid;

/// How often and how fast to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, at least 1; when they are used up the last error stands.
    pub attempts: u32,
    /// Delay before the first repetition; doubles with each.
    pub base: Duration,
    /// Upper bound of one delay.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy { attempts: 4, base: Duration::from_millis(250), cap: Duration::from_secs(5) }
    }
}

impl RetryPolicy {
    /// The delay after failure `n` (from 0): half of it fixed, half random.
    pub fn delay(&self, n: u32, random: &dyn Random) -> Duration {
        let full = self.base.saturating_mul(1u32.checked_shl(n).unwrap_or(u32::MAX)).min(self.cap);
        full.mul_f64(0.5 + 0.5 * random.unit())
    }
}

/// A policy with the clock and the randomness it runs on.
#[derive(Debug, Clone)]
pub struct Retrier {
    /// How often and how fast.
    pub policy: RetryPolicy,
    /// Where delays pass.
    pub clock: Arc<dyn Clock>,
    /// Where jitter comes from.
    pub random: Arc<dyn Random>,
}

impl Retrier {
    /// Sleeps after failure `n` (from 0) and says whether another attempt is due.
    async fn again(&self, n: u32, kind: ErrorKind) -> bool {
        if kind != ErrorKind::Transient || n + 1 >= self.policy.attempts {
            return false;
        }
        self.clock.sleep(self.policy.delay(n, &*self.random)).await;
        true
    }

    /// Repeats `attempt` while it fails transiently.
    pub async fn repeat<T, F: Future<Output = Result<T>> + Send>(
        &self,
        mut attempt: impl FnMut() -> F + Send,
    ) -> Result<T> {
        let mut n = 0;
        loop {
            match attempt().await {
                Err(e) if self.again(n, e.kind()).await => n += 1,
                result => return result,
            }
        }
    }

    /// Repeats a write. When a repetition finds the name taken, `ours` says
    /// whether the stored file is what was sent; then `stored` is the result.
    pub async fn repeat_write<F, G>(
        &self,
        stored: FileInfo,
        mut attempt: impl FnMut() -> F + Send,
        ours: impl FnMut() -> G + Send,
    ) -> Result<FileInfo>
    where
        F: Future<Output = Result<FileInfo>> + Send,
        G: Future<Output = Result<bool>> + Send,
    {
        let mut n = 0;
        loop {
            match attempt().await {
                Err(e) if n > 0 && e.kind() == ErrorKind::AlreadyExists => {
                    return if self.repeat(ours).await? { Ok(stored) } else { Err(e) };
                }
                Err(e) if self.again(n, e.kind()).await => n += 1,
                result => return result,
            }
        }
    }
}

/// Repeats transient failures of the client inside.
#[derive(Debug, Clone)]
pub struct RetryClient<C> {
    inner: C,
    retrier: Retrier,
}

impl<C: ReplicaClient> RetryClient<C> {
    /// Repeats by `policy`, sleeping on `clock` with jitter from `random`.
    pub fn new(
        inner: C,
        policy: RetryPolicy,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        RetryClient { inner, retrier: Retrier { policy, clock, random } }
    }
}

/// A stream that goes on where it broke.
struct Resume<C> {
    client: RetryClient<C>,
    id: FileId,
    offset: u64,
    left: Option<u64>,
    stream: Option<ByteStream>,
    failures: u32,
}

impl<C: ReplicaClient + Clone + 'static> Resume<C> {
    async fn next(&mut self) -> Option<Result<Bytes>> {
        loop {
            let step = match &mut self.stream {
                Some(stream) => stream.next().await,
                None => match self.client.inner.read_stream(&self.id, self.offset, self.left).await
                {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(e) => Some(Err(e)),
                },
            };
            match step {
                Some(Ok(piece)) => {
                    self.offset += piece.len() as u64;
                    self.left = self.left.map(|n| n.saturating_sub(piece.len() as u64));
                    return Some(Ok(piece));
                }
                Some(Err(e)) if self.client.retrier.again(self.failures, e.kind()).await => {
                    self.failures += 1;
                    self.stream = None;
                }
                end => return end,
            }
        }
    }
}

#[async_trait]
impl<C: ReplicaClient + Clone + 'static> ReplicaClient for RetryClient<C> {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn list(&self, level: u8, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        self.retrier.repeat(|| self.inner.list(level, seek, metadata)).await
    }

    async fn list_tagged(&self, level: u8, seek: Txid) -> Result<Vec<Listed>> {
        self.retrier.repeat(|| self.inner.list_tagged(level, seek)).await
    }

    async fn read(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<Bytes> {
        self.retrier.repeat(|| self.inner.read(id, offset, len)).await
    }

    async fn read_piece(&self, id: &FileId, span: Span, tag: Option<&Tag>) -> Result<Piece> {
        self.retrier.repeat(|| self.inner.read_piece(id, span, tag)).await
    }

    async fn read_stream(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        let first = self.retrier.repeat(|| self.inner.read_stream(id, offset, len)).await?;
        let resume = Resume {
            client: self.clone(),
            id: *id,
            offset,
            left: len,
            stream: Some(first),
            failures: 0,
        };
        let pieces = stream::unfold(Some(resume), |state| async move {
            let mut resume = state?;
            let item = resume.next().await?;
            let state = item.is_ok().then_some(resume);
            Some((item, state))
        });
        Ok(pieces.boxed())
    }

    async fn write(
        &self,
        id: &FileId,
        created_at_ms: i64,
        body: Body,
        mode: WriteMode,
    ) -> Result<FileInfo> {
        match body {
            Body::Bytes(data) => {
                let info = FileInfo { id: *id, size: data.len() as u64, created_at_ms };
                let body = || Body::Bytes(data.clone());
                self.retrier
                    .repeat_write(
                        info,
                        || self.inner.write(id, created_at_ms, body(), mode),
                        || holds(&self.inner, id, &data),
                    )
                    .await
            }
            // Read once: it cannot be sent again.
            body @ Body::Stream(_) => self.inner.write(id, created_at_ms, body, mode).await,
        }
    }

    async fn delete(&self, ids: &[FileId]) -> Result<()> {
        self.retrier.repeat(|| self.inner.delete(ids)).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.retrier.repeat(|| self.inner.delete_all()).await
    }

    fn release_idle(&self) {
        self.inner.release_idle();
    }
}
