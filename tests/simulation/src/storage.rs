//! Object storage with faults, and the chain in it held against the oracle
//! whenever a file arrives.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use litestream::ltx::{Decoder, Header, Txid, crc64};
use litestream::replica_client::{
    Body, ByteStream, FileId, FileInfo, Listed, Piece, ReplicaClient, Span, Tag, WriteMode,
};
use litestream::tasks::simulated::World as _;
use litestream::{Error, ErrorKind, Result};

use crate::image::{Digest, Image, hash};
use crate::oracle;
use crate::rng::Rng;
use crate::run::DATABASE;
use crate::world::{OBSERVER, World, current, locked};

/// What goes wrong, each in so many of a thousand requests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Refused before anything was done.
    pub refused: u64,
    /// Done, and an error returned.
    pub ambiguous: u64,
    /// Done long after an error was returned.
    pub late: u64,
    /// Done twice, the second time long after.
    pub duplicated: u64,
    /// No answer for half a minute; done or not.
    pub lost: u64,
    /// A read ends early.
    pub truncated: u64,
    /// A listing is an earlier one.
    pub stale: u64,
}

/// An object.
#[derive(Debug, Clone)]
pub struct Object {
    /// Content.
    pub data: Bytes,
    created_ms: i64,
}

type Key = (u8, u64, u64);

/// A file of the chain and what it makes of the database.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Its TXID.
    pub txid: u64,
    /// The state.
    pub digest: Digest,
    /// Its place among the commits.
    pub place: usize,
}

/// The storage.
pub struct Storage {
    objects: BTreeMap<Key, Object>,
    listed: BTreeMap<u8, Vec<FileInfo>>,
    rng: Rng,
    /// What goes wrong.
    pub faults: Faults,
    /// Every request is refused.
    pub outage: bool,
    /// Longest time of a request, microseconds.
    pub latency_us_max: u64,
    image: Image,
    links: Vec<Link>,
    /// The newest file of those that vanished, until the chain goes on.
    gone: Option<Link>,
    /// Faults that happened, by name.
    pub hit: BTreeMap<&'static str, u64>,
    /// Requests.
    pub requests: u64,
}

impl Storage {
    /// An empty one.
    pub fn new(seed: u64, latency_us_max: u64) -> Storage {
        Storage {
            objects: BTreeMap::new(),
            listed: BTreeMap::new(),
            rng: Rng::new(seed),
            faults: Faults::default(),
            outage: false,
            latency_us_max,
            image: Image::default(),
            links: Vec::new(),
            gone: None,
            hit: BTreeMap::new(),
            requests: 0,
        }
    }

    /// The chain so far.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The newest file of the chain.
    pub fn newest(&self) -> Option<Link> {
        self.links.last().copied()
    }

    /// The newest file that was acknowledged, even if it vanished since.
    pub fn acknowledged(&self) -> Option<Link> {
        self.gone.or(self.newest())
    }

    /// Everything that is stored.
    pub fn objects(&self) -> Vec<(FileInfo, Bytes)> {
        self.objects.iter().map(|(key, object)| (info(key, object), object.data.clone())).collect()
    }

    /// Removes the newest `n` files; returns the newest TXID that is left.
    pub fn vanish(&mut self, n: u64) -> Option<u64> {
        let kept = self.links.len().saturating_sub(n as usize);
        self.gone = self.newest();
        for link in self.links.split_off(kept) {
            self.objects.remove(&(0, link.txid, link.txid));
        }
        self.listed.clear();
        self.image = Image::default();
        for link in &self.links {
            if let Some(object) = self.objects.get(&(0, link.txid, link.txid)) {
                // It could be laid over when it came.
                let _ = lay_over(&mut self.image, &object.data);
            }
        }
        self.links.last().map(|link| link.txid)
    }

    fn count(&mut self, what: &'static str) {
        *self.hit.entry(what).or_default() += 1;
    }

    fn draw(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.rng.chance(per_mille, 1000)
    }

    fn list(&mut self, level: u8) -> Vec<FileInfo> {
        let stale = self.draw(self.faults.stale);
        if stale && let Some(listed) = self.listed.get(&level).cloned() {
            self.count("stale listing");
            return listed;
        }
        let range = (level, 0, 0)..=(level, u64::MAX, u64::MAX);
        let found: Vec<FileInfo> = self.objects.range(range).map(|(k, o)| info(k, o)).collect();
        self.listed.insert(level, found.clone());
        found
    }
}

fn info(key: &Key, object: &Object) -> FileInfo {
    FileInfo {
        id: FileId { level: key.0, min: Txid(key.1), max: Txid(key.2) },
        size: object.data.len() as u64,
        created_at_ms: object.created_ms,
    }
}

/// Stores an object and holds the chain against what was committed.
fn put(world: &Arc<World>, id: &FileId, data: &Bytes, mode: WriteMode) -> Result<FileInfo> {
    // A commit that a reader sees already may be here before its writer gives
    // his lock back: while he commits to an attached database, say.
    oracle::observe(world, DATABASE, false);
    let key = (id.level, id.min.0, id.max.0);
    let created_ms = world.wall_ms();
    let mut storage = locked(&world.storage);
    if mode == WriteMode::Create && storage.objects.contains_key(&key) {
        return Err(Error::new(ErrorKind::AlreadyExists, format!("{id} exists")));
    }
    let object = Object { data: data.clone(), created_ms };
    let stored = info(&key, &object);
    storage.objects.insert(key, object);
    if id.level == 0 {
        let checked = extend(&mut storage, world, id, data);
        drop(storage);
        match checked {
            Ok(link) => world.tell(&format!("stored {} = commit {}", link.txid, link.place + 1)),
            Err(why) => world.fail(&format!("{id}: {why}")),
        }
    }
    Ok(stored)
}

fn extend(
    storage: &mut Storage,
    world: &Arc<World>,
    id: &FileId,
    data: &[u8],
) -> std::result::Result<Link, String> {
    let before = storage.links.last().copied();
    let expected = before.map_or(1, |link| link.txid + 1);
    if (id.min.0, id.max.0) != (expected, expected) {
        return Err(format!("TXID {expected} should follow"));
    }
    lay_over(&mut storage.image, data)?;
    let digest = storage.image.digest();
    let from = before.map_or(0, |link| link.place);
    let oracle = locked(&world.oracle);
    match oracle.place(&digest, from) {
        Some(place) => {
            let link = Link { txid: expected, digest, place };
            storage.links.push(link);
            storage.gone = None;
            Ok(link)
        }
        None => Err(format!(
            "the state ({} pages) was not committed at or after commit {}, it differs from the \
             newest one in pages (from 0) {:?}{}",
            digest.pages,
            from + 1,
            oracle.differences(&storage.image),
            match oracle.place(&digest, 0) {
                Some(place) => format!(", it is commit {}", place + 1),
                None => String::new(),
            }
        )),
    }
}

/// Lays an LTX file over a state.
fn lay_over(image: &mut Image, data: &[u8]) -> std::result::Result<Header, String> {
    let text = |e: Error| e.to_string();
    let mut decoder = Decoder::new(data).map_err(text)?;
    let header = *decoder.header();
    if image.page_size != header.page_size {
        *image = Image::of(&[], header.page_size);
    }
    image.resize(header.commit as usize);
    let mut page = vec![0u8; header.page_size as usize];
    while let Some(pgno) = decoder.next_page(&mut page).map_err(text)? {
        image.set(pgno as usize - 1, hash(&page));
    }
    decoder.finish().map_err(text)?;
    Ok(header)
}

/// Completes after a time of the world.
struct Delay(Arc<World>, u64);

impl Future for Delay {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.now_ns() >= self.1 {
            return Poll::Ready(());
        }
        let left = Duration::from_nanos(self.1 - self.0.now_ns());
        let at = self.0.now() + left;
        self.0.wake_at(at, cx.waker().clone());
        Poll::Pending
    }
}

/// The way of one process to the storage.
#[derive(Debug)]
pub struct StorageClient {
    url: String,
}

fn transient(what: &str) -> Error {
    Error::new(ErrorKind::Transient, format!("simulated storage: {what}"))
}

impl StorageClient {
    /// Storage at `url`.
    pub fn new(url: &str) -> StorageClient {
        StorageClient { url: url.split('?').next().unwrap_or_default().to_owned() }
    }

    async fn travel(world: &Arc<World>) {
        let us = {
            let mut storage = locked(&world.storage);
            let most = storage.latency_us_max;
            storage.rng.range(most / 20, most.max(2) / 2 + 1)
        };
        Delay(Arc::clone(world), world.now_ns() + us * 1000).await;
    }

    /// The way there; refused and lost requests end here.
    async fn enter(&self) -> Result<Arc<World>> {
        let world = current().ok_or_else(|| transient("no world"))?;
        Self::travel(&world).await;
        let (refused, outage) = {
            let mut storage = locked(&world.storage);
            storage.requests += 1;
            let faults = storage.faults;
            (storage.draw(faults.refused), storage.outage)
        };
        if outage || refused {
            locked(&world.storage).count(if outage { "outage" } else { "refused" });
            return Err(transient(if outage { "outage" } else { "refused" }));
        }
        Ok(world)
    }
}

/// The part `span` of an object with the content `data`.
pub fn piece_of(data: &Bytes, span: Span) -> Piece {
    let len = data.len();
    let (offset, wanted) = span.within(len as u64);
    let from = (offset as usize).min(len);
    let bytes = data.slice(from..from.saturating_add(wanted as usize).min(len));
    Piece { bytes, size: len as u64, tag: Tag::new(format!("{:x}-{len}", crc64(data))) }
}

/// Stores an object again, or for the first time, long after it was sent.
fn store_later(world: &Arc<World>, id: FileId, data: Bytes, mode: WriteMode) {
    let ms = world.draw(|rng| rng.range(1, 20_000));
    let for_thread = Arc::clone(world);
    world.start(OBSERVER, "network", move || {
        for_thread.sleep(Duration::from_millis(ms));
        let outcome = put(&for_thread, &id, &data, mode).map(drop).map_err(|e| e.kind());
        for_thread.tell(&format!("late or second arrival of {id}: {outcome:?}"));
    });
}

#[async_trait]
impl ReplicaClient for StorageClient {
    fn kind(&self) -> &'static str {
        "sim"
    }

    fn url(&self) -> &str {
        &self.url
    }

    async fn list(&self, level: u8, seek: Txid, _: bool) -> Result<Vec<FileInfo>> {
        let world = self.enter().await?;
        let found = locked(&world.storage).list(level);
        Self::travel(&world).await;
        Ok(found.into_iter().filter(|f| f.id.min >= seek).collect())
    }

    async fn list_tagged(&self, level: u8, seek: Txid) -> Result<Vec<Listed>> {
        let files = self.list(level, seek, false).await?;
        Ok(files.into_iter().map(|info| Listed { info, tag: None }).collect())
    }

    async fn read(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<Bytes> {
        let world = self.enter().await?;
        let (found, cut) = {
            let mut storage = locked(&world.storage);
            let faults = storage.faults;
            let cut = storage.draw(faults.truncated);
            if cut {
                storage.count("truncated read");
            }
            (storage.objects.get(&(id.level, id.min.0, id.max.0)).cloned(), cut)
        };
        Self::travel(&world).await;
        let Some(object) = found else {
            return Err(Error::new(ErrorKind::NotFound, format!("{id} does not exist")));
        };
        if cut {
            return Err(transient("the answer was cut"));
        }
        let from = (offset as usize).min(object.data.len());
        let rest = object.data.len() - from;
        let n = len.map_or(rest, |l| rest.min(l as usize));
        Ok(object.data.slice(from..from + n))
    }

    async fn read_piece(&self, id: &FileId, span: Span, tag: Option<&Tag>) -> Result<Piece> {
        piece_of(&self.read(id, 0, None).await?, span).checked(id, &self.url, span, tag)
    }

    async fn read_stream(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        let data = self.read(id, offset, len).await?;
        let cut = match current() {
            Some(world) => {
                let mut storage = locked(&world.storage);
                let faults = storage.faults;
                storage.draw(faults.truncated).then(|| {
                    storage.count("truncated stream");
                    storage.rng.range(0, data.len() as u64 + 1) as usize
                })
            }
            None => None,
        };
        Ok(match cut {
            None => stream::iter([Ok(data)]).boxed(),
            Some(at) => {
                stream::iter([Ok(data.slice(..at)), Err(transient("the answer was cut"))]).boxed()
            }
        })
    }

    async fn write(&self, id: &FileId, _: i64, body: Body, mode: WriteMode) -> Result<FileInfo> {
        let world = self.enter().await?;
        let data = match body {
            Body::Bytes(data) => data,
            Body::Stream(mut pieces) => {
                let mut all = BytesMut::new();
                while let Some(piece) = pieces.next().await {
                    all.extend_from_slice(&piece?);
                    Self::travel(&world).await;
                }
                all.freeze()
            }
        };
        let fate = {
            let mut storage = locked(&world.storage);
            let f = storage.faults;
            let kinds = [
                (f.ambiguous, "ambiguous"),
                (f.late, "late"),
                (f.duplicated, "duplicated"),
                (f.lost, "lost"),
            ];
            let fate = kinds.into_iter().find(|(p, _)| storage.draw(*p)).map_or("", |(_, k)| k);
            if !fate.is_empty() {
                storage.count(fate);
            }
            fate
        };
        if !fate.is_empty() {
            world.tell(&format!("storage fault: {fate} write of {id}"));
        }
        let result = match fate {
            "late" => {
                store_later(&world, *id, data, mode);
                Err(transient("no answer"))
            }
            "lost" => {
                if world.draw(|rng| rng.chance(1, 2)) {
                    let _ = put(&world, id, &data, mode);
                }
                Delay(Arc::clone(&world), world.now_ns() + 30_000_000_000).await;
                Err(transient("no answer"))
            }
            "ambiguous" => put(&world, id, &data, mode).and(Err(transient("the answer was lost"))),
            "duplicated" => {
                store_later(&world, *id, data.clone(), mode);
                put(&world, id, &data, mode)
            }
            _ => put(&world, id, &data, mode),
        };
        Self::travel(&world).await;
        result
    }

    async fn delete(&self, ids: &[FileId]) -> Result<()> {
        let world = self.enter().await?;
        world.fail(&format!("{} files were deleted", ids.len()));
        Ok(())
    }

    async fn delete_all(&self) -> Result<()> {
        let world = self.enter().await?;
        world.fail("everything was deleted");
        Ok(())
    }

    fn release_idle(&self) {}
}
