//! Clients that misbehave in ways of their own.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;
use litestream::ltx::Txid;
use litestream::replica_client::{
    Body, ByteStream, FileId, FileInfo, Listed, Piece, ReplicaClient, ReplicaOptions, Span, Tag,
    WriteMode, open,
};
use litestream::{Error, ErrorKind, Result};

pub fn open_url(url: &str) -> Arc<dyn ReplicaClient> {
    open(url, &ReplicaOptions::default()).unwrap()
}

/// What a [`Scripted`] client does before a read.
pub type Script = Box<dyn Fn(&FileId, usize) -> Option<ErrorKind> + Send + Sync>;

/// Lets a script refuse reads, counts them and sees how many run at once.
pub struct Scripted {
    pub inner: Arc<dyn ReplicaClient>,
    pub script: Mutex<Script>,
    pub reads: AtomicUsize,
    pub lists: AtomicUsize,
    pub delay: Duration,
    running: AtomicI64,
    pub running_max: AtomicI64,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl Scripted {
    /// `script` gets the file and the number of the read, from 0.
    pub fn new(
        url: &str,
        script: impl Fn(&FileId, usize) -> Option<ErrorKind> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::slow(url, Duration::ZERO, script)
    }

    /// The same with a delay before each read.
    pub fn slow(
        url: &str,
        delay: Duration,
        script: impl Fn(&FileId, usize) -> Option<ErrorKind> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Scripted {
            inner: open_url(url),
            script: Mutex::new(Box::new(script)),
            reads: AtomicUsize::new(0),
            lists: AtomicUsize::new(0),
            delay,
            running: AtomicI64::new(0),
            running_max: AtomicI64::new(0),
        })
    }

    async fn scripted<T>(&self, id: &FileId, read: impl Future<Output = Result<T>>) -> Result<T> {
        let n = self.reads.fetch_add(1, Ordering::SeqCst);
        let refused = (self.script.lock().unwrap())(id, n);
        if let Some(kind) = refused {
            return Err(Error::new(kind, format!("scripted failure of {id}")));
        }
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.running_max.fetch_max(running, Ordering::SeqCst);
        tokio::time::sleep(self.delay).await;
        let result = read.await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        result
    }
}

#[async_trait]
impl ReplicaClient for Scripted {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn list(&self, level: u8, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        self.inner.list(level, seek, metadata).await
    }

    async fn list_tagged(&self, level: u8, seek: Txid) -> Result<Vec<Listed>> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        self.inner.list_tagged(level, seek).await
    }

    async fn read(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<Bytes> {
        let pieces: Vec<Bytes> = self.read_stream(id, offset, len).await?.try_collect().await?;
        Ok(pieces.concat().into())
    }

    async fn read_stream(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        self.scripted(id, self.inner.read_stream(id, offset, len)).await
    }

    async fn read_piece(&self, id: &FileId, span: Span, tag: Option<&Tag>) -> Result<Piece> {
        self.scripted(id, self.inner.read_piece(id, span, tag)).await
    }

    async fn write(
        &self,
        id: &FileId,
        created_at_ms: i64,
        body: Body,
        mode: WriteMode,
    ) -> Result<FileInfo> {
        self.inner.write(id, created_at_ms, body, mode).await
    }

    async fn delete(&self, ids: &[FileId]) -> Result<()> {
        self.inner.delete(ids).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.inner.delete_all().await
    }

    fn release_idle(&self) {
        self.inner.release_idle();
    }
}
