//! A replica in an S3 bucket: `P/<level, 4 hex>/<min>-<max>.ltx`.
//!
//! The timestamp of the LTX header is kept in the user metadata
//! `litestream-timestamp`, RFC 3339 in UTC without trailing zeros.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{Attribute, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore};

use super::{
    Body, ByteStream, FileId, FileInfo, Listed, Piece, ReplicaClient, SNAPSHOT_LEVEL, Span, Tag,
    WriteMode,
};
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::Txid;
use crate::replica_client::retry::{Retrier, RetryPolicy};

mod config;
mod connect;
mod credentials;
mod errors;
mod location;
mod piece;
mod provider;
mod upload;

pub(crate) use config::{PARAMETERS, S3Config};
use connect::Connection;
use credentials::Credentials;
use errors::Failure;

/// User metadata that holds the LTX header's timestamp.
const TIMESTAMP_KEY: &str = "litestream-timestamp";
/// HEAD requests under way at once.
const HEAD_CONCURRENCY: usize = 50;
/// Keys of one deletion, S3's own limit.
const DELETE_BATCH: usize = 1_000;
/// Time that every request has, and the longest pause within a download.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Slower than this counts as broken, bytes per second.
const MIN_BYTES_PER_SECOND: u64 = 64 * 1024;
/// Buffer that a read reserves before it has seen the bytes.
const MAX_RESERVE: usize = 4 * 1024 * 1024;

/// Short repetitions; who must not give up repeats above this.
pub(crate) const SHORT_RETRIES: RetryPolicy =
    RetryPolicy { attempts: 3, base: Duration::from_millis(100), cap: Duration::from_secs(2) };

/// A replica in an S3 bucket. One attempt per request, except for the parts and
/// the small bodies of streamed writes, which only it can repeat.
pub(crate) struct S3Client {
    config: Box<S3Config>,
    url: String,
    credentials: Arc<Credentials>,
    connection: Connection,
    retrier: Retrier,
}

impl fmt::Debug for S3Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Client({})", self.url)
    }
}

impl S3Client {
    /// A client by `config`; connects at the first request.
    pub(crate) fn new(config: S3Config) -> Self {
        connect::install_tls();
        S3Client {
            url: config.display_url(),
            credentials: Arc::new(Credentials::new(&config.options)),
            connection: Connection::new(),
            retrier: Retrier {
                policy: SHORT_RETRIES,
                clock: config.options.clock.clone(),
                random: config.options.random.clone(),
            },
            config: Box::new(config),
        }
    }

    fn store(&self) -> Result<Arc<AmazonS3>> {
        self.connection.get(&self.config, &self.credentials)
    }

    fn level_path(&self, level: u8) -> Path {
        Path::from_iter(self.config.prefix.parts().chain([format!("{level:04x}").into()]))
    }

    fn key(&self, id: &FileId) -> Path {
        self.level_path(id.level).join(id.file_name())
    }

    /// Our error for `error`, which `action` met at key or prefix `path`.
    fn error(&self, action: &str, path: &Path, error: &object_store::Error) -> Error {
        self.failed(action, path, Failure::of(error))
    }

    fn failed(&self, action: &str, path: &Path, failure: Failure) -> Error {
        if failure.kind() == ErrorKind::Denied {
            self.credentials.forget();
        }
        let object = format!("s3://{}/{path}", self.config.bucket);
        let (bucket, region) = (&self.config.bucket, &self.config.region);
        failure.into_error(action, &object, bucket, region, &self.credentials.secrets())
    }

    fn timed_out(&self, action: &str, path: &Path, limit: Duration) -> Error {
        let text = format!(
            "cannot {action} s3://{}/{path}: no answer within {} s",
            self.config.bucket,
            limit.as_secs()
        );
        Error::new(ErrorKind::Transient, text)
    }

    /// Runs one request with a deadline for `bytes` of payload.
    async fn bounded<T>(
        &self,
        action: &str,
        path: &Path,
        bytes: u64,
        request: impl Future<Output = object_store::Result<T>> + Send,
    ) -> Result<T> {
        let limit = REQUEST_TIMEOUT + Duration::from_secs(bytes / MIN_BYTES_PER_SECOND);
        match tokio::time::timeout(limit, request).await {
            Ok(result) => result.map_err(|e| self.error(action, path, &e)),
            Err(_) => Err(self.timed_out(action, path, limit)),
        }
    }

    async fn list_level(&self, level: u8, seek: Txid) -> Result<Vec<Listed>> {
        let store = self.store()?;
        let prefix = self.level_path(level);
        let mut objects = if seek.0 > 1 {
            // Sorts before every name that begins with this TXID.
            store.list_with_offset(Some(&prefix), &prefix.clone().join(format!("{seek}")))
        } else {
            store.list(Some(&prefix))
        };
        let mut files = Vec::new();
        while let Some(object) = self.next_listed(&prefix, &mut objects).await? {
            files.extend(file_of(level, &prefix, &object).filter(|f| f.info.id.min >= seek));
        }
        files.sort_unstable_by_key(|f| f.info.id);
        Ok(files)
    }

    async fn next_listed(
        &self,
        prefix: &Path,
        objects: &mut BoxStream<'static, object_store::Result<ObjectMeta>>,
    ) -> Result<Option<ObjectMeta>> {
        let Ok(item) = tokio::time::timeout(REQUEST_TIMEOUT, objects.next()).await else {
            return Err(self.timed_out("list", prefix, REQUEST_TIMEOUT));
        };
        item.transpose().map_err(|e| {
            let mut failure = Failure::of(&e);
            // Empty prefixes are found: what is missing is the bucket.
            if failure.status == Some(404) {
                failure.code = "NoSuchBucket".to_owned();
            }
            self.failed("list", prefix, failure)
        })
    }

    /// Replaces the listing's time of `file` by the LTX header's; none when the
    /// object is gone since it was listed.
    async fn with_header_time(&self, mut file: FileInfo) -> Result<Option<FileInfo>> {
        match self.retrier.repeat(|| self.head(&file.id)).await {
            Ok(head) => {
                file.created_at_ms = timestamp_of(&head).unwrap_or(file.created_at_ms);
                Ok(Some(file))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn head(&self, id: &FileId) -> Result<GetResult> {
        let (store, key) = (self.store()?, self.key(id));
        let options = GetOptions { head: true, ..GetOptions::default() };
        self.bounded("read metadata of", &key, 0, store.get_opts(&key, options)).await
    }

    /// Starts a download; none when `offset` is not within the object.
    async fn get(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<Option<GetResult>> {
        let (store, key) = (self.store()?, self.key(id));
        let range = match (offset, len) {
            (_, Some(0)) => {
                self.head(id).await?;
                return Ok(None);
            }
            (0, None) => None,
            (offset, None) => Some(GetRange::Offset(offset)),
            (offset, Some(len)) => Some(GetRange::Bounded(offset..offset.saturating_add(len))),
        };
        let options = GetOptions { range, ..GetOptions::default() };
        let request = tokio::time::timeout(REQUEST_TIMEOUT, store.get_opts(&key, options));
        match request.await {
            Ok(Ok(result)) => Ok(Some(result)),
            Ok(Err(e)) => match Failure::of(&e) {
                failure if failure.status == Some(416) => Ok(None),
                failure => Err(self.failed("read", &key, failure)),
            },
            Err(_) => Err(self.timed_out("read", &key, REQUEST_TIMEOUT)),
        }
    }

    /// The content of a download that has started.
    fn body(&self, id: &FileId, result: GetResult) -> ByteStream {
        let context = (self.config.bucket.clone(), self.credentials.clone());
        let region = self.config.region.clone();
        let key = self.key(id);
        let body = result.into_stream();
        let pieces = stream::try_unfold(body, move |mut body| {
            let ((bucket, credentials), region, key) =
                (context.clone(), region.clone(), key.clone());
            async move {
                let object = format!("s3://{bucket}/{key}");
                match tokio::time::timeout(REQUEST_TIMEOUT, body.try_next()).await {
                    Ok(Ok(piece)) => Ok(piece.map(|piece| (piece, body))),
                    // An answer that breaks off is worth another try, whatever broke it.
                    Ok(Err(e)) => Err(Failure::of(&e)
                        .into_error("read", &object, &bucket, &region, &credentials.secrets())
                        .with_kind(ErrorKind::Transient)),
                    Err(_) => Err(Error::new(
                        ErrorKind::Transient,
                        format!("cannot read {object}: no data within {REQUEST_TIMEOUT:?}"),
                    )),
                }
            }
        });
        pieces.boxed()
    }

    async fn delete_batch(&self, store: &AmazonS3, ids: &[FileId]) -> Result<()> {
        let keys: Vec<Path> = ids.iter().map(|id| self.key(id)).collect();
        let first = keys[0].clone();
        let locations = stream::iter(keys.into_iter().map(Ok)).boxed();
        let answers = async { Ok(store.delete_stream(locations).collect::<Vec<_>>().await) };
        // Keys that go one by one have a second each.
        let single = if self.config.content_md5 { 0 } else { ids.len() as u64 };
        let payload = single * MIN_BYTES_PER_SECOND;
        let answers = self.bounded("delete", &first, payload, answers).await?;
        let mut failures = answers.into_iter().filter_map(|answer| {
            let failure = Failure::of(&answer.err()?);
            (failure.kind() != ErrorKind::NotFound).then_some(failure)
        });
        let Some(failure) = failures.next() else { return Ok(()) };
        let others = failures.count();
        let error = self.failed("delete", &first, failure);
        Err(match others {
            0 => error,
            n => error.context(format!("failed to delete {} files", n + 1)),
        })
    }
}

/// All of `pieces`, `wanted` bytes if that is known, else 0.
async fn gather(mut pieces: ByteStream, wanted: u64) -> Result<Bytes> {
    let Some(first) = pieces.try_next().await? else { return Ok(Bytes::new()) };
    let Some(second) = pieces.try_next().await? else { return Ok(first) };
    let wanted = usize::try_from(wanted).unwrap_or(0).min(MAX_RESERVE);
    let mut data = BytesMut::with_capacity(wanted.max(first.len() + second.len()));
    data.extend_from_slice(&first);
    data.extend_from_slice(&second);
    while let Some(piece) = pieces.try_next().await? {
        data.extend_from_slice(&piece);
    }
    Ok(data.freeze())
}

/// The LTX file that `object` below `prefix` is.
fn file_of(level: u8, prefix: &Path, object: &ObjectMeta) -> Option<Listed> {
    let name = object.location.as_ref().strip_prefix(prefix.as_ref())?.strip_prefix('/')?;
    let info = FileInfo {
        id: FileId::parse(level, name)?,
        size: object.size,
        created_at_ms: object.last_modified.timestamp_millis(),
    };
    Some(Listed { info, tag: object.e_tag.as_deref().map(Tag::new) })
}

fn timestamp_of(head: &GetResult) -> Option<i64> {
    let value = head.attributes.get(&Attribute::Metadata(TIMESTAMP_KEY.into()))?;
    let timestamp: jiff::Timestamp = value.as_ref().parse().ok()?;
    Some(timestamp.as_millisecond())
}

#[async_trait]
impl ReplicaClient for S3Client {
    fn kind(&self) -> &'static str {
        "s3"
    }

    fn url(&self) -> &str {
        &self.url
    }

    async fn list(&self, level: u8, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        let files = self.list_level(level, seek).await?.into_iter().map(|f| f.info);
        let files: Vec<FileInfo> = files.collect();
        if !metadata {
            return Ok(files);
        }
        stream::iter(files)
            .map(|file| self.with_header_time(file))
            .buffered(HEAD_CONCURRENCY)
            .try_filter_map(|file| std::future::ready(Ok(file)))
            .try_collect()
            .await
    }

    async fn list_tagged(&self, level: u8, seek: Txid) -> Result<Vec<Listed>> {
        self.list_level(level, seek).await
    }

    async fn read(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<Bytes> {
        gather(self.read_stream(id, offset, len).await?, len.unwrap_or(0)).await
    }

    async fn read_piece(&self, id: &FileId, span: Span, tag: Option<&Tag>) -> Result<Piece> {
        self.piece(id, span, tag).await
    }

    async fn read_stream(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        let Some(result) = self.get(id, offset, len).await? else {
            return Ok(stream::empty().boxed());
        };
        Ok(self.body(id, result))
    }

    async fn write(
        &self,
        id: &FileId,
        created_at_ms: i64,
        body: Body,
        mode: WriteMode,
    ) -> Result<FileInfo> {
        match body {
            Body::Bytes(data) => self.put(id, created_at_ms, data, mode).await,
            Body::Stream(stream) => self.put_stream(id, created_at_ms, stream, mode).await,
        }
    }

    async fn delete(&self, ids: &[FileId]) -> Result<()> {
        let store = self.store()?;
        for batch in ids.chunks(DELETE_BATCH) {
            self.delete_batch(&store, batch).await?;
        }
        Ok(())
    }

    async fn delete_all(&self) -> Result<()> {
        for level in 0..=SNAPSHOT_LEVEL {
            let files = self.list_level(level, Txid::NONE).await?;
            let ids: Vec<FileId> = files.into_iter().map(|f| f.info.id).collect();
            self.delete(&ids).await?;
        }
        Ok(())
    }

    fn release_idle(&self) {
        self.connection.release();
    }
}
