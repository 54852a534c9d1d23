//! Files as views need them: their page index, fetched with one request each
//! and remembered while somebody uses it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join};
use futures_util::{FutureExt, StreamExt, TryFutureExt, TryStreamExt, stream};

use super::disk_cache::DiskCache;
use super::file::{FileIndex, RemoteFile, next_uid};
use super::kept::{Kept, KeptIndex};
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::{self, HEADER_SIZE, Header, PageIndex, Suffix, TRAILER_SIZE, Trailer};
use crate::replica_client::piece::replaced;
use crate::replica_client::retry::Retrier;
use crate::replica_client::{FileId, FileInfo, Listed, Piece, ReplicaClient, Tag};
use crate::tasks::{self, AtomicU64, Mutex, Ordering};

/// Requests under way at once while a view is built.
const LOADS_MAX: usize = 32;
/// Bounds of the part of a file that is fetched for its index.
pub(crate) const SUFFIX_MIN: u64 = 32 << 10;
const SUFFIX_MAX: u64 = 4 << 20;
/// One byte of index for so many bytes of a file is more than most have.
const INDEX_SHARE: u64 = 64;
/// Front of the newest file: its header, and page 1 of a snapshot.
const FRONT_BYTES: u64 = 64 << 10;
/// What is kept of the fronts of small files until their view is there.
const FRONTS_BYTES_MAX: u64 = 4 << 20;
/// The longest index that is read.
const INDEX_BYTES_MAX: u64 = 1 << 30;

/// The files of one replica.
pub(crate) struct Files {
    client: Arc<dyn ReplicaClient>,
    retrier: Retrier,
    kept: Option<Arc<Kept>>,
    known: Mutex<HashMap<FileId, Known>>,
}

struct Known {
    file: Weak<RemoteFile>,
    header: Option<Header>,
}

/// A file with what came with its index.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) file: Arc<RemoteFile>,
    /// Always there for the last file of several.
    pub(crate) header: Option<Header>,
    /// Bytes from its start that were fetched with it, perhaps all.
    pub(crate) front: Option<Bytes>,
}

/// A file as it was fetched, or found.
enum Fetched {
    Known(Arc<RemoteFile>, Option<Header>),
    New(Tail),
}

/// What the end of a file says, and its front where that came along.
struct Tail {
    id: FileId,
    size: u64,
    tag: Tag,
    listed_ms: i64,
    index: PageIndex,
    checksum: u64,
    header: Option<Header>,
    front: Option<Bytes>,
}

/// What a suffix gave: the index and the file checksum, or where the index begins.
enum End {
    Index(PageIndex, u64),
    From(u64),
}

impl Fetched {
    /// Without its front, when with it more than enough is `kept` of several files.
    fn keep_within(mut self, kept: &AtomicU64) -> Fetched {
        if let Fetched::New(Tail { front: Some(front), .. }) = &self {
            let before = kept.fetch_add(front.len() as u64, Ordering::Relaxed);
            if before > FRONTS_BYTES_MAX
                && let Fetched::New(tail) = &mut self
            {
                tail.front = None;
            }
        }
        self
    }

    fn header(&self) -> Option<Header> {
        match self {
            Fetched::Known(_, header) => *header,
            Fetched::New(tail) => tail.header,
        }
    }
}

impl Tail {
    fn new(id: &FileId, piece: &Piece, index: PageIndex, checksum: u64) -> Tail {
        Tail {
            id: *id,
            size: piece.size,
            tag: piece.tag.clone(),
            listed_ms: 0,
            index,
            checksum,
            header: None,
            front: None,
        }
    }
}

impl Files {
    /// The files that `client` has; requests are repeated by `retrier`, and indexes
    /// kept in `disk`.
    pub(crate) fn new(
        client: Arc<dyn ReplicaClient>,
        retrier: Retrier,
        disk: Option<Arc<DiskCache>>,
    ) -> Files {
        let kept = disk.map(|disk| Arc::new(Kept::new(disk, client.url())));
        Files { client, retrier, kept, known: Mutex::default() }
    }

    /// Storage.
    pub(crate) fn client(&self) -> &Arc<dyn ReplicaClient> {
        &self.client
    }

    /// How requests are repeated.
    pub(crate) fn retrier(&self) -> &Retrier {
        &self.retrier
    }

    /// Waits before the `n`th new plan, from 1, because files are gone.
    pub(crate) async fn pause(&self, n: u32) {
        let Retrier { policy, clock, random } = &self.retrier;
        clock.sleep(policy.delay(n - 1, &**random)).await;
    }

    /// All of `files`, of which the last one has its header. Those of at most
    /// `whole_max` bytes are read whole and verified.
    ///
    /// # Errors
    /// `NotFound` when one is gone or was replaced since it was listed.
    pub(crate) async fn load(&self, files: &[Listed], whole_max: u64) -> Result<Vec<Loaded>> {
        let last = files.len().saturating_sub(1);
        let kept = AtomicU64::new(0);
        let fetch = |(n, file)| {
            let fetch = self.fetch(file, n == last, whole_max);
            fetch.map_ok(|fetched| fetched.keep_within(&kept)).boxed()
        };
        let fetches: Vec<BoxFuture<'_, Result<Fetched>>> =
            files.iter().enumerate().map(fetch).collect();
        let fetched: Vec<Fetched> = stream::iter(fetches).buffered(LOADS_MAX).try_collect().await?;
        self.check_moment(&fetched).await?;
        let page_size = fetched.last().and_then(Fetched::header).map_or(0, |h| h.page_size);
        fetched.into_iter().map(|fetched| self.remember(fetched, page_size)).collect()
    }

    /// Files that were just read existed together when the last listing came; one
    /// that was read before has to be seen once more.
    async fn check_moment(&self, fetched: &[Fetched]) -> Result<()> {
        let is_new = |f: &Fetched| matches!(f, Fetched::New(_));
        let known = fetched.iter().rev().find_map(|f| match f {
            Fetched::Known(file, _) => Some(file),
            Fetched::New(_) => None,
        });
        let Some(known) = known.filter(|_| fetched.iter().any(is_new)) else { return Ok(()) };
        let read = || self.client.read_tagged(&known.id, 0, 1, &known.tag);
        self.retrier.repeat(read).await.map(drop)
    }

    async fn fetch(&self, listed: &Listed, with_header: bool, whole_max: u64) -> Result<Fetched> {
        if let Some((file, header)) = self.find(listed).filter(|f| !with_header || f.1.is_some()) {
            return Ok(Fetched::Known(file, header));
        }
        if let Some(tail) = self.kept_tail(listed).filter(|t| !with_header || t.header.is_some()) {
            return Ok(Fetched::New(tail));
        }
        let (id, size) = (&listed.info.id, listed.info.size);
        let mut tail = if size <= whole_max {
            self.all(id).await?
        } else if with_header && size > FRONT_BYTES {
            let read = || self.client.read_prefix(id, Some(FRONT_BYTES));
            let (mut tail, front) =
                try_join(self.tail(id, size), self.retrier.repeat(read)).await?;
            if tail.tag != front.tag {
                return Err(replaced(id, self.client.url()));
            }
            tail.header = Some(self.header(id, &front.bytes)?);
            tail.front = Some(front.bytes);
            tail
        } else if with_header {
            self.all(id).await?
        } else {
            self.tail(id, size).await?
        };
        if listed.tag.as_ref().is_some_and(|tag| *tag != tail.tag) {
            return Err(replaced(id, self.client.url()));
        }
        tail.listed_ms = listed.info.created_at_ms;
        self.keep(&tail);
        Ok(Fetched::New(tail))
    }

    /// What the cache directory has of a listed file.
    fn kept_tail(&self, listed: &Listed) -> Option<Tail> {
        let KeptIndex { index, header, checksum } = self.kept.as_ref()?.index(listed)?;
        let (info, tag) = (&listed.info, listed.tag.clone()?);
        Some(Tail {
            id: info.id,
            size: info.size,
            tag,
            listed_ms: info.created_at_ms,
            index,
            checksum,
            header,
            front: None,
        })
    }

    /// Keeps the index of a file in the cache directory, off the async threads.
    fn keep(&self, tail: &Tail) {
        let Some(kept) = self.kept.clone() else { return };
        let (id, size, tag) = (tail.id, tail.size, tail.tag.clone());
        let (index, header, checksum) = (tail.index.clone(), tail.header, tail.checksum);
        drop(tasks::spawn_blocking(move || {
            kept.keep_index(&id, size, &tag, &KeptIndex { index, header, checksum });
        }));
    }

    /// The chain of a view, for a time without storage; see [`Kept::keep_chain`].
    pub(crate) fn keep_chain(&self, loaded: &[Loaded], anew: bool) {
        let Some(kept) = self.kept.clone() else { return };
        let files: Vec<Arc<RemoteFile>> = loaded.iter().map(|l| Arc::clone(&l.file)).collect();
        drop(tasks::spawn_blocking(move || kept.keep_chain(files.iter(), anew)));
    }

    /// The chain that was kept last.
    pub(crate) fn kept_chain(&self) -> Vec<Listed> {
        self.kept.as_ref().map(|kept| kept.chain()).unwrap_or_default()
    }

    /// A file that was fetched whole, checked in every part.
    ///
    /// # Errors
    /// `Corrupt` when it is not the valid file `id`.
    pub(crate) fn of_whole(&self, id: &FileId, piece: Piece) -> Result<Loaded> {
        let tail = self.whole(id, piece)?;
        self.keep(&tail);
        let page_size = tail.header.map_or(0, |header| header.page_size);
        self.remember(Fetched::New(tail), page_size)
    }

    /// The file that was listed, if it is known.
    fn find(&self, listed: &Listed) -> Option<(Arc<RemoteFile>, Option<Header>)> {
        let known = tasks::lock(&self.known);
        let found = known.get(&listed.info.id)?;
        let file = found.file.upgrade()?;
        let same = match &listed.tag {
            Some(tag) => file.tag == *tag,
            None => file.created_at_ms == listed.info.created_at_ms,
        };
        (same && file.size == listed.info.size).then_some((file, found.header))
    }

    /// Number of pages in a file, if that is known.
    pub(crate) fn pages(&self, info: &FileInfo) -> Option<u32> {
        let file = tasks::lock(&self.known).get(&info.id)?.file.upgrade()?;
        (file.size == info.size).then(|| file.index.len() as u32)
    }

    /// Forgets a file that is gone from storage, so that no plan uses it again.
    pub(crate) fn forget(&self, file: &RemoteFile) {
        let mut known = tasks::lock(&self.known);
        let same = |known: &Known| known.file.upgrade().is_some_and(|f| f.uid == file.uid);
        if known.get(&file.id).is_some_and(same) {
            known.remove(&file.id);
        }
    }

    /// The index of file `id`, listed with `size` bytes.
    async fn tail(&self, id: &FileId, size: u64) -> Result<Tail> {
        let guess = (size / INDEX_SHARE).clamp(SUFFIX_MIN, SUFFIX_MAX);
        let piece = self.retrier.repeat(|| self.client.read_suffix(id, guess)).await?;
        if piece.bytes.len() as u64 == piece.size {
            // It is smaller than it was listed.
            return self.whole(id, piece);
        }
        let (index, checksum) = match self.parse(id, &piece.bytes, piece.size)? {
            End::Index(index, checksum) => (index, checksum),
            End::From(offset) => self.long_index(id, offset, &piece).await?,
        };
        Ok(Tail::new(id, &piece, index, checksum))
    }

    /// All of a file.
    async fn all(&self, id: &FileId) -> Result<Tail> {
        let piece = self.retrier.repeat(|| self.client.read_prefix(id, None)).await?;
        self.whole(id, piece)
    }

    /// An index that begins at `offset`, before what was read.
    async fn long_index(
        &self,
        id: &FileId,
        offset: u64,
        piece: &Piece,
    ) -> Result<(PageIndex, u64)> {
        let len = piece.size - offset;
        if len > INDEX_BYTES_MAX {
            let text = format!("its page index has {len} bytes, more than this library reads");
            return Err(self.corrupt(id, text));
        }
        let read = || self.client.read_tagged(id, offset, len, &piece.tag);
        let bytes = self.retrier.repeat(read).await?;
        match self.parse(id, &bytes, piece.size)? {
            End::Index(index, checksum) => Ok((index, checksum)),
            End::From(_) => Err(self.corrupt(id, "its page index moved".to_owned())),
        }
    }

    /// A file that is here as a whole, verified.
    fn whole(&self, id: &FileId, piece: Piece) -> Result<Tail> {
        ltx::verify(&piece.bytes[..]).map_err(|e| self.within(id, e))?;
        match self.parse(id, &piece.bytes, piece.size)? {
            End::Index(index, checksum) => Ok(Tail {
                header: Some(self.header(id, &piece.bytes)?),
                front: Some(piece.bytes.clone()),
                ..Tail::new(id, &piece, index, checksum)
            }),
            End::From(_) => Err(self.corrupt(id, "its page index".to_owned())),
        }
    }

    /// Index and file checksum out of the end of a file.
    fn parse(&self, id: &FileId, suffix: &[u8], size: u64) -> Result<End> {
        match PageIndex::from_suffix(suffix, size).map_err(|e| self.within(id, e))? {
            Suffix::ReadFrom(offset) => Ok(End::From(offset)),
            Suffix::Index(index) => {
                let trailer = Trailer::decode(&suffix[suffix.len() - TRAILER_SIZE..])?;
                Ok(End::Index(index, trailer.file_checksum))
            }
        }
    }

    fn remember(&self, fetched: Fetched, page_size: u32) -> Result<Loaded> {
        let tail = match fetched {
            Fetched::Known(file, _) if file.page_size != page_size => {
                return Err(self.other_page_size(&file.id, file.page_size, page_size));
            }
            Fetched::Known(file, header) => return Ok(Loaded { file, header, front: None }),
            Fetched::New(tail) => tail,
        };
        if let Some(header) = tail.header.filter(|header| header.page_size != page_size) {
            return Err(self.other_page_size(&tail.id, header.page_size, page_size));
        }
        let mut known = tasks::lock(&self.known);
        let earlier = known.get(&tail.id).and_then(|known| known.file.upgrade());
        let file = match earlier.filter(|f| f.size == tail.size && f.tag == tail.tag) {
            Some(file) => file,
            None => Arc::new(RemoteFile {
                uid: next_uid()?,
                id: tail.id,
                size: tail.size,
                tag: tail.tag,
                page_size,
                created_at_ms: tail.header.map_or(tail.listed_ms, |header| header.timestamp_ms),
                index: FileIndex::new(&tail.index),
                checksum: tail.checksum,
                disk_key: Default::default(),
            }),
        };
        if known.len() == known.capacity() {
            known.retain(|_, known| known.file.strong_count() > 0);
        }
        known.insert(tail.id, Known { file: Arc::downgrade(&file), header: tail.header });
        Ok(Loaded { file, header: tail.header, front: tail.front })
    }

    fn other_page_size(&self, id: &FileId, mine: u32, newer: u32) -> Error {
        self.corrupt(id, format!("its pages have {mine} bytes, newer ones {newer}"))
    }

    fn header(&self, id: &FileId, front: &[u8]) -> Result<Header> {
        let header = Header::decode(&front[..HEADER_SIZE.min(front.len())])
            .and_then(|header| header.validate().map(|()| header))
            .map_err(|e| self.within(id, e.with_kind(ErrorKind::Corrupt)))?;
        if (header.min_txid, header.max_txid) != (id.min, id.max) {
            let text = format!("it holds {} to {}", header.min_txid, header.max_txid);
            return Err(self.corrupt(id, text));
        }
        Ok(header)
    }

    fn within(&self, id: &FileId, e: Error) -> Error {
        e.context(format!("{id} at {} is damaged", self.client.url()))
    }

    fn corrupt(&self, id: &FileId, what: String) -> Error {
        self.within(id, Error::new(ErrorKind::Corrupt, what))
    }
}
