//! Files in memory behind a client that counts, waits and fails as told.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::file::{FileIndex, RemoteFile, next_uid};
use super::index::Index;
use super::state::View;
use crate::clock::{Random, SeededRandom};
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::{Encoder, Header, PageForm, PageIndex, Pgno, Suffix, Txid};
use crate::replica_client::{
    Body, ByteStream, FileId, FileInfo, Listed, Piece, ReplicaClient, Span, Tag, WriteMode,
};
use crate::tasks::{self, Mutex};

/// Bytes that pages are made of.
const NOISE_LEN: usize = 1 << 20;

/// What happens to one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It fails with this kind.
    Fails(ErrorKind),
    /// Every byte is another one.
    Garbled,
    /// It is answered after so long.
    Late(Duration),
}

/// One read: file, offset, length.
pub(super) type Read = (FileId, u64, u64);

#[derive(Debug, Default)]
pub(super) struct Storage {
    files: Mutex<HashMap<FileId, (Bytes, Tag)>>,
    pub(super) reads: Mutex<Vec<Read>>,
    pub(super) faults: Mutex<VecDeque<Fault>>,
    latency_us: AtomicU64,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Storage {
    pub(super) fn set_latency(&self, latency: Duration) {
        self.latency_us.store(latency.as_micros() as u64, Ordering::Relaxed);
    }

    pub(super) fn requests(&self) -> usize {
        tasks::lock(&self.reads).len()
    }

    pub(super) fn bytes(&self) -> u64 {
        tasks::lock(&self.reads).iter().map(|read| read.2).sum()
    }

    /// The most reads at once so far.
    pub(super) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    pub(super) fn remove(&self, id: &FileId) {
        tasks::lock(&self.files).remove(id);
    }

    pub(super) fn put_back(&self, file: &RemoteFile, bytes: Bytes) {
        tasks::lock(&self.files).insert(file.id, (bytes, file.tag.clone()));
    }

    /// Stores a file with `pages` and reads its index.
    pub(super) fn add(&self, txid: u64, pages: &BTreeMap<Pgno, Vec<u8>>) -> Arc<RemoteFile> {
        let page_size = pages.values().next().map_or(512, Vec::len) as u32;
        let commit = pages.keys().next_back().copied().unwrap_or(1);
        let header = Header::new(page_size, commit, Txid(txid), Txid(txid), 1_000);
        let mut encoder = Encoder::new(Vec::new(), header, PageForm::Block).unwrap();
        for (pgno, page) in pages {
            encoder.encode_page(*pgno, page).unwrap();
        }
        let (bytes, trailer) = encoder.finish().unwrap();
        let size = bytes.len() as u64;
        let Suffix::Index(index) = PageIndex::from_suffix(&bytes, size).unwrap() else { panic!() };
        let id = FileId::new(0, Txid(txid), Txid(txid));
        let tag = Tag::new(format!("v{txid}"));
        tasks::lock(&self.files).insert(id, (Bytes::from(bytes), tag.clone()));
        Arc::new(RemoteFile {
            uid: next_uid().unwrap(),
            id,
            size,
            tag,
            page_size,
            created_at_ms: 1_000,
            index: FileIndex::new(&index),
            checksum: trailer.file_checksum,
            disk_key: Default::default(),
        })
    }

    pub(super) fn content(&self, file: &RemoteFile) -> Bytes {
        tasks::lock(&self.files)[&file.id].0.clone()
    }

    fn answer(&self, id: &FileId, span: Span, tag: Option<&Tag>) -> Result<Piece> {
        let files = tasks::lock(&self.files);
        let Some((bytes, version)) = files.get(id) else {
            return Err(Error::new(ErrorKind::NotFound, format!("{id} is gone")));
        };
        let size = bytes.len() as u64;
        let (offset, len) = span.within(size);
        let end = (offset + len).min(size) as usize;
        let bytes = bytes.slice(offset as usize..end);
        Piece { bytes, size, tag: version.clone() }.checked(id, self.url(), span, tag)
    }
}

#[async_trait]
impl ReplicaClient for Storage {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn url(&self) -> &str {
        "memory://storage"
    }

    async fn list(&self, _: u8, _: Txid, _: bool) -> Result<Vec<FileInfo>> {
        Err(unsupported())
    }

    async fn list_tagged(&self, _: u8, _: Txid) -> Result<Vec<Listed>> {
        Err(unsupported())
    }

    async fn read(&self, _: &FileId, _: u64, _: Option<u64>) -> Result<Bytes> {
        Err(unsupported())
    }

    async fn read_stream(&self, _: &FileId, _: u64, _: Option<u64>) -> Result<ByteStream> {
        Err(unsupported())
    }

    async fn read_piece(&self, id: &FileId, span: Span, tag: Option<&Tag>) -> Result<Piece> {
        let (offset, len) = span.within(u64::MAX / 2);
        tasks::lock(&self.reads).push((*id, offset, len));
        let fault = tasks::lock(&self.faults).pop_front();
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        let wait = match fault {
            Some(Fault::Late(wait)) => wait,
            _ => Duration::from_micros(self.latency_us.load(Ordering::Relaxed)),
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        self.now.fetch_sub(1, Ordering::Relaxed);
        let mut piece = self.answer(id, span, tag)?;
        match fault {
            Some(Fault::Fails(kind)) => return Err(Error::new(kind, "told to fail")),
            Some(Fault::Garbled) => {
                piece.bytes = piece.bytes.iter().map(|b| !b).collect::<Vec<u8>>().into();
            }
            _ => {}
        }
        Ok(piece)
    }

    async fn write(&self, _: &FileId, _: i64, _: Body, _: WriteMode) -> Result<FileInfo> {
        Err(unsupported())
    }

    async fn delete(&self, _: &[FileId]) -> Result<()> {
        Err(unsupported())
    }

    async fn delete_all(&self) -> Result<()> {
        Err(unsupported())
    }

    fn release_idle(&self) {}
}

fn unsupported() -> Error {
    Error::new(ErrorKind::Unsupported, "this storage is only read")
}

/// Page `pgno` in version `version`: noise, which does not compress, and a leaf.
pub(super) fn leaf(pgno: Pgno, version: u64, len: usize) -> Vec<u8> {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    let noise = NOISE.get_or_init(|| {
        let random = SeededRandom::new(1);
        (0..NOISE_LEN / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect()
    });
    let from = (pgno as usize * 61 + version as usize * 7) % (NOISE_LEN - len);
    let mut page = noise[from..from + len].to_vec();
    page[0] = 13;
    page[8..12].copy_from_slice(&pgno.to_le_bytes());
    page[12..20].copy_from_slice(&version.to_le_bytes());
    page
}

/// The pages 1 to `commit` in version 1, all leaves.
pub(super) fn leaves(commit: Pgno, len: usize) -> BTreeMap<Pgno, Vec<u8>> {
    (1..=commit).map(|pgno| (pgno, leaf(pgno, 1, len))).collect()
}

/// The state after `files`, oldest first, each with its size of the database.
pub(super) fn view_of(files: &[(Arc<RemoteFile>, Pgno)]) -> View {
    let mut index = Index::default();
    for (file, commit) in files {
        index.apply(file, *commit);
    }
    let (newest, commit) = &files[files.len() - 1];
    let (min, max) = (newest.id.min, newest.id.max);
    let header = Header::new(newest.page_size, *commit, min, max, newest.created_at_ms);
    View::new(Arc::clone(newest), header, index)
}
