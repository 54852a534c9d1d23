//! Where LTX files live: one trait, one implementation per kind of storage, and
//! wrappers that add retries, counters and faults.
//!
//! A file is named by its level and its range of TXIDs and never changes once
//! written. [`open`] turns a replica URL into a client.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::error::{ErrorKind, Result};
use crate::ltx::{self, Txid};

pub mod count;
pub mod fault;
pub mod file;
pub mod options;
mod params;
pub mod piece;
pub mod retry;
mod s3;
pub mod url;

pub use count::{CountingClient, RequestCounts, RequestTotals};
pub use fault::{FaultClient, FaultPlan};
pub use file::FileClient;
pub use options::{AccessKeys, Env, FixedEnv, ProcessEnv, ReplicaOptions};
pub use piece::{Piece, Span, Tag};
pub use retry::{Retrier, RetryClient, RetryPolicy};
pub use url::open;

/// The level of full snapshots.
pub const SNAPSHOT_LEVEL: u8 = 9;

/// The name of one LTX file: its level and the TXIDs that it spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// 0 to [`SNAPSHOT_LEVEL`].
    pub level: u8,
    /// First transaction.
    pub min: Txid,
    /// Last transaction.
    pub max: Txid,
}

impl FileId {
    /// The file of `level` with the transactions `min` to `max`.
    pub fn new(level: u8, min: Txid, max: Txid) -> Self {
        FileId { level, min, max }
    }

    /// The name within the level's directory.
    pub fn file_name(&self) -> String {
        ltx::file_name(self.min, self.max)
    }

    /// The file that `name` in the directory of `level` is; none for other names.
    pub fn parse(level: u8, name: &str) -> Option<Self> {
        ltx::parse_file_name(name).map(|(min, max)| FileId { level, min, max })
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {} {}", self.level, self.file_name())
    }
}

/// One file as storage lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileInfo {
    /// Its name.
    pub id: FileId,
    /// Size in bytes.
    pub size: u64,
    /// Unix milliseconds: the timestamp of the LTX header where storage keeps
    /// it, else the time that storage wrote the file.
    pub created_at_ms: i64,
}

/// One file as storage lists it, with its version where listings tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The file; its time is the listing's.
    pub info: FileInfo,
    /// Its version.
    pub tag: Option<Tag>,
}

/// What [`ReplicaClient::write`] does when the name exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// Fail with `AlreadyExists`.
    Create,
    /// Replace it.
    Overwrite,
}

/// Bytes that arrive piece by piece.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// The content of a new file.
pub enum Body {
    /// All of it in memory.
    Bytes(Bytes),
    /// Piece by piece, of unknown length; read once.
    Stream(ByteStream),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Bytes(b) => write!(f, "Bytes({})", b.len()),
            Body::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// One replica's storage.
///
/// Errors name the file and the URL, never a credential. Calls need a tokio
/// runtime with timers and, for network storage, I/O.
#[async_trait]
pub trait ReplicaClient: Send + Sync + fmt::Debug {
    /// The kind of storage: `file`, `s3`, ...
    fn kind(&self) -> &'static str;

    /// The replica's URL for people, without credentials.
    fn url(&self) -> &str;

    /// The files of `level` with `min >= seek`, ascending by `min`, then `max`.
    ///
    /// A missing directory or prefix is empty. With `metadata` the creation
    /// times are the LTX headers' on every storage that keeps them, at the
    /// price of one request per file on some.
    async fn list(&self, level: u8, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>>;

    /// [`ReplicaClient::list`] without metadata, with the files' versions.
    async fn list_tagged(&self, level: u8, seek: Txid) -> Result<Vec<Listed>>;

    /// The bytes from `offset`, at most `len`; short only where the file ends.
    ///
    /// Beyond the end: empty. `NotFound` when there is no such file.
    async fn read(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<Bytes>;

    /// [`ReplicaClient::read`] piece by piece.
    async fn read_stream(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<ByteStream>;

    /// The bytes `span` of a file, of the version `tag` if one is given.
    ///
    /// All of them or an error: `NotFound` when there is no such file, or
    /// another version of it (the text says which); `Transient` when the answer
    /// was cut short.
    async fn read_piece(&self, id: &FileId, span: Span, tag: Option<&Tag>) -> Result<Piece>;

    /// The last `len` bytes, all of a shorter file; errors as
    /// [`ReplicaClient::read_piece`].
    async fn read_suffix(&self, id: &FileId, len: u64) -> Result<Piece> {
        self.read_piece(id, Span::Suffix(len), None).await
    }

    /// The first `len` bytes, or all without `len`; errors as
    /// [`ReplicaClient::read_piece`].
    async fn read_prefix(&self, id: &FileId, len: Option<u64>) -> Result<Piece> {
        self.read_piece(id, len.map_or(Span::Whole, Span::Prefix), None).await
    }

    /// `len` bytes (at least 1) from `offset` of exactly the version `tag`;
    /// errors as [`ReplicaClient::read_piece`].
    async fn read_tagged(&self, id: &FileId, offset: u64, len: u64, tag: &Tag) -> Result<Bytes> {
        Ok(self.read_piece(id, Span::Range { offset, len }, Some(tag)).await?.bytes)
    }

    /// Stores a file whole or not at all; `created_at_ms` is kept beside it.
    ///
    /// With [`WriteMode::Create`] an existing name is `AlreadyExists`, and one of
    /// several racers wins. An error of kind `Transient` leaves open whether the
    /// file was stored.
    async fn write(
        &self,
        id: &FileId,
        created_at_ms: i64,
        body: Body,
        mode: WriteMode,
    ) -> Result<FileInfo>;

    /// Deletes files; missing ones are no error.
    async fn delete(&self, ids: &[FileId]) -> Result<()>;

    /// Deletes every LTX file of this replica.
    async fn delete_all(&self) -> Result<()>;

    /// Drops pooled connections and every timer; the next call reconnects by
    /// itself, calls under way keep what they use.
    fn release_idle(&self);
}

#[async_trait]
impl<C: ReplicaClient + ?Sized> ReplicaClient for Arc<C> {
    fn kind(&self) -> &'static str {
        (**self).kind()
    }

    fn url(&self) -> &str {
        (**self).url()
    }

    async fn list(&self, level: u8, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        (**self).list(level, seek, metadata).await
    }

    async fn list_tagged(&self, level: u8, seek: Txid) -> Result<Vec<Listed>> {
        (**self).list_tagged(level, seek).await
    }

    async fn read(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<Bytes> {
        (**self).read(id, offset, len).await
    }

    async fn read_stream(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        (**self).read_stream(id, offset, len).await
    }

    async fn read_piece(&self, id: &FileId, span: Span, tag: Option<&Tag>) -> Result<Piece> {
        (**self).read_piece(id, span, tag).await
    }

    async fn write(
        &self,
        id: &FileId,
        created_at_ms: i64,
        body: Body,
        mode: WriteMode,
    ) -> Result<FileInfo> {
        (**self).write(id, created_at_ms, body, mode).await
    }

    async fn delete(&self, ids: &[FileId]) -> Result<()> {
        (**self).delete(ids).await
    }

    async fn delete_all(&self) -> Result<()> {
        (**self).delete_all().await
    }

    fn release_idle(&self) {
        (**self).release_idle();
    }
}

/// Whether the stored file `id` has exactly the bytes `data`.
///
/// Decides who won a create that failed: after a `Transient` failure a later
/// `AlreadyExists` can be one's own file.
pub async fn holds<C: ReplicaClient + ?Sized>(
    client: &C,
    id: &FileId,
    data: &Bytes,
) -> Result<bool> {
    // One byte more than ours tells a longer file.
    match client.read(id, 0, Some(data.len() as u64 + 1)).await {
        Ok(stored) => Ok(stored == *data),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
