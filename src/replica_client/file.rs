//! A replica in a directory: `P/ltx/<level>/<min>-<max>.ltx`.
//!
//! A file appears complete or not at all: it is written under a temporary name,
//! fsynced, then linked (create) or renamed (overwrite) to its own. Its
//! modification time is the timestamp of the LTX header.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;

use super::{
    Body, ByteStream, FileId, FileInfo, Listed, Piece, ReplicaClient, SNAPSHOT_LEVEL, Span, Tag,
    WriteMode,
};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::Txid;
use crate::os::{self, Access, TmpFile};

/// Bytes per piece of [`ReplicaClient::read_stream`].
const READ_CHUNK: u64 = 256 * 1024;

/// A temporary file that nobody wrote to for this long was left by a crash.
const TMP_ABANDONED_MS: i64 = 60 * 60 * 1_000;

/// A replica in a local directory.
#[derive(Debug)]
pub struct FileClient {
    root: PathBuf,
    url: String,
    access: Access,
    /// One bit per level whose abandoned temporary files were removed.
    swept: AtomicU32,
}

impl FileClient {
    /// The replica in directory `root`, which need not exist yet.
    ///
    /// What the client creates gets the modes and the owner of `access`.
    pub fn new(root: impl Into<PathBuf>, access: Access) -> Self {
        let root = root.into();
        let url = format!("file://{}", root.display());
        FileClient { root, url, access, swept: AtomicU32::new(0) }
    }

    /// The replica's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn level_dir(&self, level: u8) -> PathBuf {
        self.root.join("ltx").join(level.to_string())
    }

    fn path(&self, id: &FileId) -> PathBuf {
        self.level_dir(id.level).join(id.file_name())
    }

    /// Whether this is the first call for `level`.
    fn is_first_write(&self, level: u8) -> bool {
        let bit = 1u32.checked_shl(u32::from(level)).unwrap_or(0);
        self.swept.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    async fn open(&self, id: &FileId) -> Result<Arc<File>> {
        let path = self.path(id);
        blocking(move || os::open_read(&path).map(Arc::new)).await
    }

    fn refuse_existing(path: &Path) -> Result<()> {
        if !path.exists() {
            return Ok(());
        }
        let text = format!("{} exists already and was not replaced", path.display());
        Err(Error::new(ErrorKind::AlreadyExists, text))
    }
}

/// Runs file I/O off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::new(ErrorKind::Internal, "file I/O task failed").with_source(e)),
    }
}

/// Reads at most `len` bytes; fewer only at the end of the file.
fn read_piece(file: &File, path: &Path, offset: u64, len: u64) -> Result<Bytes> {
    let size = file.metadata().map_err(|e| Error::io("stat", path, e))?.len();
    let wanted = size.saturating_sub(offset).min(len);
    let wanted = usize::try_from(wanted)
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "read larger than memory"))?;
    let mut buf = vec![0; wanted];
    let n = os::read_at(file, &mut buf, offset).map_err(|e| Error::io("read", path, e))?;
    buf.truncate(n);
    Ok(Bytes::from(buf))
}

#[async_trait]
impl ReplicaClient for FileClient {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn url(&self) -> &str {
        &self.url
    }

    async fn list(&self, level: u8, seek: Txid, _metadata: bool) -> Result<Vec<FileInfo>> {
        Ok(self.list_tagged(level, seek).await?.into_iter().map(|f| f.info).collect())
    }

    async fn list_tagged(&self, level: u8, seek: Txid) -> Result<Vec<Listed>> {
        let dir = self.level_dir(level);
        let entries = blocking(move || os::list_dir(&dir)).await?;
        let mut files: Vec<Listed> = entries
            .into_iter()
            .filter(|e| !e.is_dir)
            .filter_map(|e| {
                let id = FileId::parse(level, &e.name)?;
                let info = FileInfo { id, size: e.size, created_at_ms: e.modified_ms };
                let tag = (!e.version.is_empty()).then(|| Tag::new(e.version));
                Some(Listed { info, tag })
            })
            .filter(|f| f.info.id.min >= seek)
            .collect();
        files.sort_unstable_by_key(|f| f.info.id);
        Ok(files)
    }

    async fn read(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<Bytes> {
        let path = self.path(id);
        blocking(move || {
            let file = os::open_read(&path)?;
            read_piece(&file, &path, offset, len.unwrap_or(u64::MAX))
        })
        .await
    }

    async fn read_piece(&self, id: &FileId, span: Span, tag: Option<&Tag>) -> Result<Piece> {
        let path = self.path(id);
        let piece = blocking(move || {
            let file = os::open_read(&path)?;
            let (size, version) =
                os::size_and_version(&file).map_err(|e| Error::io("stat", &path, e))?;
            let (offset, len) = span.within(size);
            let bytes = read_piece(&file, &path, offset, len)?;
            Ok(Piece { bytes, size, tag: Tag::new(version) })
        });
        piece.await?.checked(id, &self.url, span, tag)
    }

    async fn read_stream(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        let file = self.open(id).await?;
        let path = self.path(id);
        let state = (offset, len.unwrap_or(u64::MAX));
        let pieces = stream::try_unfold(state, move |(offset, left)| {
            let (file, path) = (file.clone(), path.clone());
            async move {
                let wanted = left.min(READ_CHUNK);
                let piece = blocking(move || read_piece(&file, &path, offset, wanted)).await?;
                let n = piece.len() as u64;
                Ok((n > 0).then_some((piece, (offset + n, left - n))))
            }
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
        let (path, access, dir) = (self.path(id), self.access, self.level_dir(id.level));
        let sweep = self.is_first_write(id.level);
        let mut tmp = blocking(move || {
            os::create_dir_all(&dir, &access)?;
            if sweep {
                os::remove_tmp_before(&dir, SystemClock.now_ms() - TMP_ABANDONED_MS)?;
            }
            if mode == WriteMode::Create {
                Self::refuse_existing(&path)?;
            }
            TmpFile::create(&path, &access)
        })
        .await?;

        let mut pieces = match body {
            Body::Bytes(bytes) => stream::once(async { Ok(bytes) }).boxed(),
            Body::Stream(stream) => stream,
        };
        let mut size = 0;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            size += piece.len() as u64;
            tmp = blocking(move || tmp.write(&piece).map(|()| tmp)).await?;
        }

        blocking(move || {
            tmp.set_times(created_at_ms)?;
            match mode {
                WriteMode::Create => tmp.publish_new(),
                WriteMode::Overwrite => tmp.publish_over(),
            }
        })
        .await?;
        Ok(FileInfo { id: *id, size, created_at_ms })
    }

    async fn delete(&self, ids: &[FileId]) -> Result<()> {
        let paths: Vec<PathBuf> = ids.iter().map(|id| self.path(id)).collect();
        blocking(move || paths.iter().try_for_each(|p| os::remove_if_exists(p))).await
    }

    async fn delete_all(&self) -> Result<()> {
        // Only our own tree: the directory may hold other things.
        let tree = self.root.join("ltx");
        blocking(move || {
            for level in 0..=SNAPSHOT_LEVEL {
                let dir = tree.join(level.to_string());
                for entry in os::list_dir(&dir)? {
                    let ours = FileId::parse(level, &entry.name).is_some()
                        || entry.name.ends_with(os::TMP_SUFFIX);
                    if ours && !entry.is_dir {
                        os::remove_if_exists(&dir.join(&entry.name))?;
                    }
                }
                os::remove_dir_if_empty(&dir)?;
            }
            os::remove_dir_if_empty(&tree)
        })
        .await
    }

    fn release_idle(&self) {}
}
