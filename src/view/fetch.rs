//! A page for a connection: out of the cache, out of a range that came with
//! another page, or from storage.
//!
//! The thread that wants a page decodes it; tasks only carry bytes. Nothing is
//! served that is not one sound frame of the page that was asked for.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::btree;
use super::disk_cache::DiskCache;
use super::download::Downloads;
use super::file::RemoteFile;
use super::page_cache::{KeyHash, PageCache, PageKey, PageKind};
use super::prefetch::{Asked, Outlook, Readahead, WINDOW_MAX};
use super::ranges::{CHUNK_BYTES, Purpose, Range, RangeTotals, chunk_of};
use super::state::View;
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::{self, IndexEntry, Pgno};
use crate::replica_client::ReplicaClient;
use crate::tasks::{self, Handle, Mutex};

/// The most that a fault brings with its page, by the size of the file in bytes:
/// in a small file neighbours are likely to be wanted, in a large one hardly.
const FAULT_BYTES: [(u64, u64); 4] =
    [(160 << 20, 512 << 10), (384 << 20, 256 << 10), (1 << 30, 128 << 10), (u64::MAX, 64 << 10)];
/// Part of it (one in ..) that lies before the page.
const FAULT_BEFORE: u64 = 4;
/// Bytes between two pages that are fetched rather than asked around.
const GAP_CHUNKS: u32 = 2;
/// Largest request ahead of a reader, in chunks.
const AHEAD_CHUNKS_MAX: u32 = (512 << 10) / CHUNK_BYTES as u32;
/// Pages whose parents are known.
const PARENTS_MAX: usize = 1 << 18;
/// Bytes of a whole file that are taken when it comes.
const ABSORB_MAX: usize = 4 << 20;

/// What a source's pages cost, for status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FetchTotals {
    /// Requests sent.
    pub(crate) requests: u64,
    /// Second requests among them, because the first was slow.
    pub(crate) hedged: u64,
    /// What is here, compressed, and what was fetched in vain.
    pub(crate) ranges: RangeTotals,
}

/// The pages of one source.
#[derive(Debug)]
pub(crate) struct Fetcher {
    cache: Arc<PageCache>,
    downloads: Arc<Downloads>,
    /// Parents of pages as interior pages named them; hints.
    parents: Mutex<HashMap<Pgno, Pgno, KeyHash>>,
}

impl Fetcher {
    /// Pages of the files of `client`, whose requests run on `runtime`; kept in
    /// `disk`, too.
    pub(crate) fn new(
        client: Arc<dyn ReplicaClient>,
        runtime: Handle,
        cache: Arc<PageCache>,
        disk: Option<Arc<DiskCache>>,
    ) -> Fetcher {
        let downloads = Downloads::new(client, runtime, Arc::clone(&cache), disk);
        Fetcher { cache, downloads: Arc::new(downloads), parents: Mutex::default() }
    }

    /// Page `pgno` of `view` into `buf`, which is as long as a page. Blocks the
    /// calling thread, and fetches what `reader` is likely to want next.
    ///
    /// # Errors
    /// `NotFound` when its file was removed or replaced in storage; `Corrupt`
    /// when no file holds the page or its frame is damaged, also when fetched a
    /// second time; errors of storage.
    pub(crate) fn page(
        &self,
        view: &View,
        pgno: Pgno,
        reader: &mut Readahead,
        buf: &mut [u8],
    ) -> Result<()> {
        let Some((file, position)) = view.index().get(pgno) else {
            return Err(self.missing(view, pgno));
        };
        if self.cache.read(PageKey { file: file.uid, pgno }, buf) {
            return Ok(());
        }
        let frame = file.index.get(position).ok_or_else(|| self.missing(view, pgno))?;
        let outlook = ViewOutlook { fetcher: self, view };
        reader.missed(pgno, &outlook);
        let waited = self.obtain(file, &frame, reader.goes_up(), buf)?;
        let interior = self.keep(file, pgno, view.commit(), buf);
        if waited {
            reader.waited(&outlook);
        }
        reader.arrived(interior, &outlook);
        Ok(())
    }

    /// Takes bytes of `file` from `offset` on that were read for another reason.
    pub(crate) fn give(&self, file: &Arc<RemoteFile>, offset: u64, bytes: &Bytes) {
        self.downloads.ranges.give(file, offset, bytes, self.downloads.room());
        self.downloads.save(file, offset, bytes.clone());
    }

    /// Takes the bytes of a whole new file if it holds newer versions of pages
    /// that are in the cache, as `previous` has them.
    pub(crate) fn absorb(&self, file: &Arc<RemoteFile>, bytes: &Bytes, previous: &View) {
        let cached = |entry: IndexEntry| {
            let old = previous.index().get(entry.pgno);
            old.is_some_and(|(old, _)| {
                self.cache.contains(PageKey { file: old.uid, pgno: entry.pgno })
            })
        };
        if bytes.len() <= ABSORB_MAX && file.index.iter().any(cached) {
            self.give(file, 0, bytes);
        } else {
            self.downloads.save(file, 0, bytes.clone());
        }
    }

    /// What the pages cost so far.
    pub(crate) fn totals(&self) -> FetchTotals {
        let (requests, hedged) = self.downloads.requests();
        FetchTotals { requests, hedged, ranges: self.downloads.ranges.totals() }
    }

    fn missing(&self, view: &View, pgno: Pgno) -> Error {
        let (txid, url) = (view.txid(), self.downloads.url());
        let text = format!("no file at {url} holds page {pgno} as of transaction {txid}");
        Error::new(ErrorKind::Corrupt, text)
    }

    /// A frame from storage, decoded into `buf`; whether that had to be waited
    /// for. A damaged one is fetched once more, alone.
    fn obtain(
        &self,
        file: &Arc<RemoteFile>,
        frame: &IndexEntry,
        up: bool,
        buf: &mut [u8],
    ) -> Result<bool> {
        let chunk = chunk_of(frame.offset);
        let bytes = self.downloads.reach().min(fault_bytes(file.size));
        match self.take(file, frame, fault_chunks(bytes, chunk, up), buf) {
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                self.take(file, frame, (chunk, chunk), buf).map(|_| true)
            }
            other => other,
        }
    }

    fn take(
        &self,
        file: &Arc<RemoteFile>,
        frame: &IndexEntry,
        chunks: (u32, u32),
        buf: &mut [u8],
    ) -> Result<bool> {
        let wanted = chunk_of(frame.offset);
        let mut waited = false;
        loop {
            let range = self.downloads.range(file, wanted, chunks, Purpose::Fault);
            let Some((range, mine)) = range else {
                let text = format!("no frame of {} begins at {}", file.id, frame.offset);
                return Err(Error::new(ErrorKind::Internal, text));
            };
            waited |= mine || range.bytes().is_none();
            match range.wait() {
                Ok(bytes) => {
                    self.decode(&range, &bytes, frame, buf)?;
                    return Ok(waited);
                }
                // Nobody asked for it then; now somebody does.
                Err(_) if !mine && range.purpose == Purpose::Ahead => {}
                Err(e) => return Err(Error::new(e.kind(), e.to_string())),
            }
        }
    }

    /// The frame out of its range; a range that has it damaged is let go.
    fn decode(
        &self,
        range: &Arc<Range>,
        bytes: &[u8],
        frame: &IndexEntry,
        buf: &mut [u8],
    ) -> Result<()> {
        let file = &range.file;
        let part = range.frame(bytes, frame.offset, frame.size).unwrap_or_default();
        let problem = match ltx::decode_page(part, file.page_size, buf) {
            Ok(found) if found == frame.pgno => {
                self.downloads.ranges.used(range);
                return Ok(());
            }
            Ok(found) => Error::new(ErrorKind::Corrupt, format!("page {found} is in its place")),
            Err(e) => e,
        };
        self.downloads.distrust(range, chunk_of(frame.offset));
        let (pgno, url) = (frame.pgno, self.downloads.url());
        Err(problem.context(format_args!("page {pgno} in {} at {url}", file.id)))
    }

    /// Puts a page into the cache; whether it is an interior one.
    fn keep(&self, file: &RemoteFile, pgno: Pgno, commit: Pgno, page: &[u8]) -> bool {
        let children = btree::children(page, pgno, commit);
        let kind = if children.is_some() { PageKind::Interior } else { PageKind::Other };
        self.cache.insert(PageKey { file: file.uid, pgno }, page, kind);
        let Some(children) = children else { return false };
        let mut parents = tasks::lock(&self.parents);
        if parents.len() + children.len() > PARENTS_MAX {
            parents.clear();
        }
        parents.extend(children.into_iter().map(|child| (child, pgno)));
        true
    }

    /// Page `pgno` if that takes no request.
    fn peek(&self, view: &View, pgno: Pgno, buf: &mut [u8]) -> bool {
        let Some((file, position)) = view.index().get(pgno) else { return false };
        if self.cache.read(PageKey { file: file.uid, pgno }, buf) {
            return true;
        }
        let Some(frame) = file.index.get(position) else { return false };
        let Some(range) = self.downloads.near(file, chunk_of(frame.offset)) else { return false };
        let Some(bytes) = range.bytes() else { return false };
        let sound = self.decode(&range, &bytes, &frame, buf).is_ok();
        if sound {
            self.keep(file, pgno, view.commit(), buf);
        }
        sound
    }

    /// Asks for a run of chunks ahead of a reader, around what is here; false
    /// when the limits forbid it.
    fn ask_ahead(&self, file: &Arc<RemoteFile>, (first, last): (u32, u32)) -> bool {
        let mut chunk = first;
        while chunk <= last {
            let end = last.min(chunk + AHEAD_CHUNKS_MAX - 1);
            if !self.downloads.may_fetch_ahead(u64::from(end - chunk + 1) * CHUNK_BYTES) {
                return false;
            }
            let range = self.downloads.range(file, chunk, (chunk, end), Purpose::Ahead);
            chunk = range.map_or(chunk, |(range, _)| range.chunks.1) + 1;
        }
        true
    }
}

/// The most that a fault in a file of `size` bytes brings.
fn fault_bytes(size: u64) -> u64 {
    let fits = FAULT_BYTES.iter().find(|(limit, _)| size <= *limit);
    fits.map_or(CHUNK_BYTES, |(_, bytes)| *bytes)
}

/// The chunks of about `bytes` that a fault on `chunk` brings.
fn fault_chunks(bytes: u64, chunk: u32, up: bool) -> (u32, u32) {
    let before = if up { 0 } else { (bytes / FAULT_BEFORE / CHUNK_BYTES) as u32 };
    let count = (bytes / CHUNK_BYTES).max(1) as u32;
    let first = chunk.saturating_sub(before);
    (first, first.saturating_add(count - 1).max(chunk))
}

/// A view, to look ahead in.
struct ViewOutlook<'a> {
    fetcher: &'a Fetcher,
    view: &'a View,
}

/// Chunks that were found wanting: the first page that wants each.
struct Need<'a> {
    file: &'a Arc<RemoteFile>,
    chunk: u32,
    page: usize,
}

impl ViewOutlook<'_> {
    /// The chunks of `pages` that are neither here nor under way, until they
    /// come to `bytes`; and how many pages were looked at.
    fn needs(&self, pages: &[Pgno], bytes: u64) -> (Vec<Need<'_>>, usize) {
        let mut needs: Vec<Need> = Vec::new();
        let (fetcher, index) = (self.fetcher, self.view.index());
        for (page, &pgno) in pages.iter().enumerate() {
            let Some((file, position)) = index.get(pgno) else { continue };
            let Some(frame) = file.index.get(position) else { continue };
            let chunk = chunk_of(frame.offset);
            let same = |need: &Need| need.chunk == chunk && need.file.uid == file.uid;
            if needs.last().is_some_and(same)
                || fetcher.cache.contains(PageKey { file: file.uid, pgno })
                || fetcher.downloads.is_near(file, chunk)
            {
                continue;
            }
            if needs.len() as u64 * CHUNK_BYTES >= bytes {
                return (needs, page);
            }
            needs.push(Need { file, chunk, page });
        }
        (needs, pages.len())
    }
}

impl Outlook for ViewOutlook<'_> {
    fn commit(&self) -> Pgno {
        self.view.commit()
    }

    fn parent(&self, pgno: Pgno) -> Option<Pgno> {
        tasks::lock(&self.fetcher.parents).get(&pgno).copied()
    }

    fn children(&self, pgno: Pgno) -> Option<Vec<Pgno>> {
        let mut page = vec![0; self.view.page_size() as usize];
        if !self.fetcher.peek(self.view, pgno, &mut page) {
            return None;
        }
        Some(btree::children(&page, pgno, self.view.commit()).unwrap_or_default())
    }

    fn ask(&self, pages: &[Pgno], bytes: u64) -> Asked {
        let (mut needs, mut looked) = self.needs(pages, bytes);
        needs.sort_by_key(|need| (need.file.uid, need.chunk));
        // Runs of chunks of one file, and the first page that wants one of each.
        let mut runs: Vec<(Need, u32)> = Vec::new();
        for need in needs {
            match runs.last_mut() {
                Some((run, last))
                    if run.file.uid == need.file.uid && need.chunk <= *last + 1 + GAP_CHUNKS =>
                {
                    *last = need.chunk;
                    run.page = run.page.min(need.page);
                }
                _ => {
                    let last = need.chunk;
                    runs.push((need, last));
                }
            }
        }
        runs.sort_by_key(|(run, _)| run.page);
        let mut asked = 0;
        for (run, last) in runs {
            if !self.fetcher.ask_ahead(run.file, (run.chunk, last)) {
                looked = run.page;
                break;
            }
            asked += u64::from(last - run.chunk + 1) * CHUNK_BYTES;
        }
        Asked { pages: looked, bytes: asked }
    }

    fn window_max(&self) -> u64 {
        WINDOW_MAX >> self.fetcher.downloads.ranges.waste()
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
