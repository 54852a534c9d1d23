//! A wrapper that counts operations and bytes by kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;

use super::{
    Body, ByteStream, FileId, FileInfo, Listed, Piece, ReplicaClient, Span, Tag, WriteMode,
};
use crate::error::Result;
use crate::ltx::Txid;

/// Operations by kind since the start; shared between clients and readers.
///
/// These are operations of [`ReplicaClient`]: a listing of several pages counts
/// once, retries inside a client not at all.
#[derive(Debug, Default)]
pub struct RequestCounts {
    list: AtomicU64,
    get: AtomicU64,
    put: AtomicU64,
    head: AtomicU64,
    delete: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

/// The values of [`RequestCounts`] at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RequestTotals {
    /// Listings of one level.
    pub list: u64,
    /// Reads, whole or ranged.
    pub get: u64,
    /// Writes.
    pub put: u64,
    /// Metadata of single files, asked for by listings.
    pub head: u64,
    /// Deletions of one batch.
    pub delete: u64,
    /// Bytes of file content sent.
    pub bytes_up: u64,
    /// Bytes of file content received.
    pub bytes_down: u64,
}

impl RequestCounts {
    /// The values now.
    pub fn snapshot(&self) -> RequestTotals {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        RequestTotals {
            list: get(&self.list),
            get: get(&self.get),
            put: get(&self.put),
            head: get(&self.head),
            delete: get(&self.delete),
            bytes_up: get(&self.bytes_up),
            bytes_down: get(&self.bytes_down),
        }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Counts what passes to the client inside.
#[derive(Debug)]
pub struct CountingClient<C> {
    inner: C,
    counts: Arc<RequestCounts>,
}

impl<C: ReplicaClient> CountingClient<C> {
    /// Counts the operations on `inner` in `counts`.
    pub fn new(inner: C, counts: Arc<RequestCounts>) -> Self {
        CountingClient { inner, counts }
    }

    /// The counters.
    pub fn counts(&self) -> &Arc<RequestCounts> {
        &self.counts
    }
}

#[async_trait]
impl<C: ReplicaClient> ReplicaClient for CountingClient<C> {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn list(&self, level: u8, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        add(&self.counts.list, 1);
        let files = self.inner.list(level, seek, metadata).await?;
        if metadata && self.kind() == "s3" {
            add(&self.counts.head, files.len() as u64);
        }
        Ok(files)
    }

    async fn list_tagged(&self, level: u8, seek: Txid) -> Result<Vec<Listed>> {
        add(&self.counts.list, 1);
        self.inner.list_tagged(level, seek).await
    }

    async fn read(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<Bytes> {
        add(&self.counts.get, 1);
        let data = self.inner.read(id, offset, len).await?;
        add(&self.counts.bytes_down, data.len() as u64);
        Ok(data)
    }

    async fn read_piece(&self, id: &FileId, span: Span, tag: Option<&Tag>) -> Result<Piece> {
        add(&self.counts.get, 1);
        let piece = self.inner.read_piece(id, span, tag).await?;
        add(&self.counts.bytes_down, piece.bytes.len() as u64);
        Ok(piece)
    }

    async fn read_stream(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        add(&self.counts.get, 1);
        let counts = self.counts.clone();
        let stream = self.inner.read_stream(id, offset, len).await?;
        let counted = stream.inspect(move |piece| {
            if let Ok(piece) = piece {
                add(&counts.bytes_down, piece.len() as u64);
            }
        });
        Ok(counted.boxed())
    }

    async fn write(
        &self,
        id: &FileId,
        created_at_ms: i64,
        body: Body,
        mode: WriteMode,
    ) -> Result<FileInfo> {
        add(&self.counts.put, 1);
        let info = self.inner.write(id, created_at_ms, body, mode).await?;
        add(&self.counts.bytes_up, info.size);
        Ok(info)
    }

    async fn delete(&self, ids: &[FileId]) -> Result<()> {
        add(&self.counts.delete, u64::from(!ids.is_empty()));
        self.inner.delete(ids).await
    }

    async fn delete_all(&self) -> Result<()> {
        add(&self.counts.delete, 1);
        self.inner.delete_all().await
    }

    fn release_idle(&self) {
        self.inner.release_idle();
    }
}
