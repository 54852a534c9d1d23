//! Writing objects: one PUT for what fits into a part, else a multipart upload.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, MultipartId, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
    PutPayload,
};

use super::{S3Client, TIMESTAMP_KEY};
use crate::error::{Error, ErrorKind, Result};
use crate::replica_client::{Body, ByteStream, FileId, FileInfo, ReplicaClient, WriteMode, holds};

/// S3's limit for parts of one upload.
const MAX_PARTS: usize = 10_000;

impl S3Client {
    /// One PUT, tried once.
    pub(super) async fn put(
        &self,
        id: &FileId,
        created_at_ms: i64,
        data: Bytes,
        mode: WriteMode,
    ) -> Result<FileInfo> {
        let (store, key, size) = (self.store()?, self.key(id), data.len() as u64);
        let options = PutOptions {
            mode: match mode {
                WriteMode::Create => PutMode::Create,
                WriteMode::Overwrite => PutMode::Overwrite,
            },
            attributes: self.attributes(created_at_ms)?,
            ..PutOptions::default()
        };
        let request = store.put_opts(&key, PutPayload::from_bytes(data), options);
        self.bounded("write", &key, size, request).await?;
        Ok(FileInfo { id: *id, size, created_at_ms })
    }

    /// Writes a stream of unknown length.
    ///
    /// What ends within one part is one PUT, repeated if need be. Longer streams
    /// are multipart uploads; those are created if absent only by a look before
    /// the upload and another before its completion.
    pub(super) async fn put_stream(
        &self,
        id: &FileId,
        created_at_ms: i64,
        stream: ByteStream,
        mode: WriteMode,
    ) -> Result<FileInfo> {
        let mut parts = Parts::new(stream, self.config.part_size);
        let first = parts.next().await?.unwrap_or_default();
        let second = parts.next().await?;
        let Some(second) = second else {
            return self.put_repeated(id, created_at_ms, concat(first), mode).await;
        };
        if mode == WriteMode::Create {
            self.refuse_existing(id).await?;
        }
        let (store, key) = (self.store()?, self.key(id));
        let upload = self.begin(&store, &key, created_at_ms).await?;
        let sent = self.send_parts(&upload, [first, second], parts).await;
        let done = match sent {
            Ok((ids, size)) => self.complete(id, &upload, ids, size, mode).await.map(|()| size),
            Err(e) => Err(e),
        };
        match done {
            Ok(size) => Ok(FileInfo { id: *id, size, created_at_ms }),
            Err(e) => {
                // The first error tells more than a failure to clean up after it.
                let abort = store.abort_multipart(&key, &upload.id);
                let _ = self.bounded("abort upload of", &key, 0, abort).await;
                Err(e)
            }
        }
    }

    async fn put_repeated(
        &self,
        id: &FileId,
        created_at_ms: i64,
        data: Bytes,
        mode: WriteMode,
    ) -> Result<FileInfo> {
        let stored = FileInfo { id: *id, size: data.len() as u64, created_at_ms };
        self.retrier
            .repeat_write(
                stored,
                || self.write(id, created_at_ms, Body::Bytes(data.clone()), mode),
                || holds(self, id, &data),
            )
            .await
    }

    fn attributes(&self, created_at_ms: i64) -> Result<Attributes> {
        let timestamp = jiff::Timestamp::from_millisecond(created_at_ms).map_err(|e| {
            Error::new(ErrorKind::InvalidInput, format!("timestamp {created_at_ms} ms: {e}"))
        })?;
        let mut attributes = Attributes::new();
        let key = Attribute::Metadata(TIMESTAMP_KEY.into());
        attributes.insert(key, timestamp.to_string().into());
        if let Some(class) = &self.config.storage_class {
            attributes.insert(Attribute::StorageClass, class.clone().into());
        }
        Ok(attributes)
    }

    async fn refuse_existing(&self, id: &FileId) -> Result<()> {
        match self.retrier.repeat(|| self.head(id)).await {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(_) => {
                let (bucket, key) = (&self.config.bucket, self.key(id));
                let text = format!("s3://{bucket}/{key} exists already and was not replaced");
                Err(Error::new(ErrorKind::AlreadyExists, text))
            }
        }
    }

    async fn begin(&self, store: &Arc<AmazonS3>, key: &Path, created_at_ms: i64) -> Result<Upload> {
        let attributes = self.attributes(created_at_ms)?;
        let start = || {
            let options =
                PutMultipartOptions { attributes: attributes.clone(), ..Default::default() };
            let request = store.create_multipart_opts(key, options);
            self.bounded("start upload of", key, 0, request)
        };
        let id = self.retrier.repeat(start).await?;
        Ok(Upload { store: store.clone(), key: key.clone(), id })
    }

    /// Sends all parts, a bounded number at once; returns their ids in order
    /// and the sum of their sizes.
    async fn send_parts(
        &self,
        upload: &Upload,
        head: [Vec<Bytes>; 2],
        mut rest: Parts,
    ) -> Result<(Vec<PartId>, u64)> {
        let mut under_way = FuturesUnordered::new();
        let mut ids = Vec::new();
        let (mut count, mut size) = (0, 0);
        let mut head = head.into_iter();
        loop {
            let part = match head.next() {
                Some(part) => Some(part),
                None => rest.next().await?,
            };
            let Some(part) = part else { break };
            if count == MAX_PARTS {
                return Err(self.too_many_parts(upload));
            }
            if under_way.len() >= self.config.concurrency {
                ids.extend(under_way.try_next().await?);
            }
            size += part.iter().map(|b| b.len() as u64).sum::<u64>();
            under_way.push(self.send_part(upload, count, part));
            count += 1;
        }
        while let Some(sent) = under_way.try_next().await? {
            ids.push(sent);
        }
        ids.sort_unstable_by_key(|(index, _)| *index);
        Ok((ids.into_iter().map(|(_, id)| id).collect(), size))
    }

    fn too_many_parts(&self, upload: &Upload) -> Error {
        let text = format!(
            "cannot write s3://{}/{}: more than {MAX_PARTS} parts of {} bytes; set a larger partSize",
            self.config.bucket, upload.key, self.config.part_size
        );
        Error::new(ErrorKind::InvalidInput, text)
    }

    async fn send_part(
        &self,
        upload: &Upload,
        index: usize,
        part: Vec<Bytes>,
    ) -> Result<(usize, PartId)> {
        let payload = PutPayload::from_iter(part);
        let size = payload.content_length() as u64;
        let attempt = || {
            let request = upload.store.put_part(&upload.key, &upload.id, index, payload.clone());
            self.bounded("write part of", &upload.key, size, request)
        };
        Ok((index, self.retrier.repeat(attempt).await?))
    }

    async fn complete(
        &self,
        id: &FileId,
        upload: &Upload,
        parts: Vec<PartId>,
        size: u64,
        mode: WriteMode,
    ) -> Result<()> {
        if mode == WriteMode::Create {
            self.refuse_existing(id).await?;
        }
        let attempt = || {
            let request = upload.store.complete_multipart(&upload.key, &upload.id, parts.clone());
            self.bounded("complete upload of", &upload.key, 0, request)
        };
        let Err(error) = self.retrier.repeat(attempt).await else { return Ok(()) };
        // A completion whose answer was lost leaves the object and no upload.
        if error.kind() != ErrorKind::NotFound {
            return Err(error);
        }
        match self.head(id).await {
            Ok(head) if head.meta.size == size => Ok(()),
            _ => Err(error),
        }
    }
}

/// A multipart upload under way.
struct Upload {
    store: Arc<AmazonS3>,
    key: Path,
    id: MultipartId,
}

/// Cuts a stream into parts of exactly one size, the last one excepted.
struct Parts {
    stream: ByteStream,
    size: usize,
    /// What came beyond the last part.
    left: Bytes,
}

impl Parts {
    fn new(stream: ByteStream, size: usize) -> Self {
        // Asked again after its end, when the first part was short.
        Parts { stream: stream.fuse().boxed(), size, left: Bytes::new() }
    }

    /// The next part in pieces as they came; none at the end.
    async fn next(&mut self) -> Result<Option<Vec<Bytes>>> {
        let mut part = Vec::new();
        let mut missing = self.size;
        while missing > 0 {
            if self.left.is_empty() {
                match self.stream.next().await {
                    Some(piece) => self.left = piece?,
                    None => break,
                }
            }
            let piece = self.left.split_to(missing.min(self.left.len()));
            missing -= piece.len();
            if !piece.is_empty() {
                part.push(piece);
            }
        }
        Ok((!part.is_empty()).then_some(part))
    }
}

fn concat(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    pieces.concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    #[tokio::test]
    async fn parts_have_one_size_but_the_last() {
        let pieces = [7usize, 1, 0, 20, 2].map(|n| Ok(Bytes::from(vec![b'x'; n])));
        let mut parts = Parts::new(stream::iter(pieces).boxed(), 8);
        let mut sizes = Vec::new();
        while let Some(part) = parts.next().await.unwrap() {
            sizes.push(part.iter().map(Bytes::len).sum::<usize>());
        }
        assert_eq!(sizes, [8, 8, 8, 6]);
    }
}
