//! A local copy of the newest state, filled in the background and kept current.
//!
//! The copy is a file with one place per page, and beside it, in memory, the
//! number of the stored file that each page came from. A page is served to
//! whoever sees exactly that version of it, so that every transaction stays
//! with its own view while the copy moves on, and the copy serves before it is
//! complete. Files are streamed in large ranges. A copy that fails disables
//! itself and nothing else.
//!
//! A copy with a name of its own outlives its process: see `hydrate_meta`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Notify;

use super::file::RemoteFile;
use super::hydrate_meta::{self, Saved};
use super::source::Source;
use super::state::View;
use crate::error::{Error, ErrorKind, Result};
use crate::log::Level;
use crate::ltx::{self, IndexEntry, Pgno};
use crate::os::disk;
use crate::replica_client::ReplicaClient;
use crate::replica_client::retry::Retrier;
use crate::tasks;

/// Requests under way at once.
const REQUESTS_MAX: usize = 4;
/// Bytes of one request.
const RANGE_BYTES: u64 = 4 << 20;
/// Bytes between two pages that are read along rather than asked around.
const GAP_BYTES: u64 = 64 << 10;

/// Frames that are planned ahead, for a bound on memory.
const FRAMES_MAX: usize = 1 << 16;

/// While filling fails the pauses between attempts double between these.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Where a replica's local copy is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Hydrate {
    /// There is none.
    #[default]
    Off,
    /// In a file without a name in this directory; gone when the replica is closed.
    Temporary(PathBuf),
    /// In this file, to be continued by the next process.
    At(PathBuf),
}

/// Keeps the copy of `source` current until it is cut off.
pub(crate) async fn run(source: Arc<Source>, copy: Arc<Hydration>) {
    let mut pause = Duration::ZERO;
    let mut done: Option<Arc<View>> = None;
    loop {
        match source.newest() {
            // The same state out of other files is another view here.
            Some(view) if !done.as_ref().is_some_and(|done| Arc::ptr_eq(done, &view)) => {
                let (client, retrier) = (source.files.client(), source.files.retrier());
                match copy.fill(&view, client, retrier).await {
                    Ok(()) => (pause, done) = (Duration::ZERO, Some(view)),
                    Err(e) => {
                        if pause.is_zero() {
                            source.log(Level::Warn, &format!("local copy: {e}"));
                        }
                        copy.failed(&e);
                        pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                        tasks::sleep(pause).await;
                    }
                }
            }
            _ => copy.wake.notified().await,
        }
    }
}

/// What is known of a local copy, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HydrationStatus {
    /// Its file; none when it has no name.
    pub path: Option<PathBuf>,
    /// Pages of the newest state that it has.
    pub pages: u32,
    /// Pages that it is to have.
    pub pages_total: u32,
    /// Why it is not filled, until that goes on.
    pub error: Option<String>,
}

/// Names of copies that are open in this process: file locks do not tell its
/// own users apart.
static OPEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The local copy of one source.
#[derive(Debug)]
pub(crate) struct Hydration {
    file: disk::File,
    /// Its name, if it has one.
    path: Option<PathBuf>,
    url: String,
    pages: RwLock<Pages>,
    /// Of the state that is being filled in.
    total: AtomicU32,
    present: AtomicU32,
    error: Mutex<Option<String>>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Pages {
    /// Numbers of the files that the pages came from; 0: no page.
    origins: Vec<u32>,
    /// 0 before the first view.
    page_size: u32,
    /// What an earlier process left, until the first view tells what it is worth.
    saved: Option<Saved>,
    /// Nothing is written any more.
    closed: bool,
}

/// A run of frames to fetch: where it begins and ends, and the wanted ones.
struct Range {
    offset: u64,
    end: u64,
    frames: Vec<IndexEntry>,
}

impl Hydration {
    /// The copy that `place` asks for, of the replica at `url`.
    ///
    /// # Errors
    /// A file that cannot be made, or is another replica's copy at this time.
    pub(crate) fn open(place: &Hydrate, url: &str) -> Result<Option<Arc<Hydration>>> {
        let (file, path, saved) = match place {
            Hydrate::Off => return Ok(None),
            Hydrate::Temporary(dir) => (temporary(dir)?, None, None),
            Hydrate::At(path) => {
                let (file, saved) = named(path, url)?;
                (file, Some(path.clone()), saved)
            }
        };
        Ok(Some(Arc::new(Hydration {
            file,
            path,
            url: url.to_owned(),
            pages: RwLock::new(Pages { saved, ..Pages::default() }),
            total: AtomicU32::new(0),
            present: AtomicU32::new(0),
            error: Mutex::new(None),
            wake: Notify::new(),
        })))
    }

    /// Page `pgno` as `file` holds it, if that is the version here.
    pub(crate) fn read(&self, file: &RemoteFile, pgno: Pgno, buf: &mut [u8]) -> bool {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        if pages.origin(pgno) != file.uid || pages.page_size as usize != buf.len() {
            return false;
        }
        match self.file.read_exact_at(buf, pages.place(pgno)) {
            Ok(()) => true,
            Err(e) => {
                drop(pages);
                self.failed(&e);
                false
            }
        }
    }

    /// A newer view is there.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Brings every page of `view` here that is not.
    ///
    /// # Errors
    /// `NotFound` when a file is gone; errors of storage and of the disk.
    async fn fill(
        &self,
        view: &View,
        client: &Arc<dyn ReplicaClient>,
        retrier: &Retrier,
    ) -> Result<()> {
        self.begin(view)?;
        let files: Vec<&Arc<RemoteFile>> = view.index().files().collect();
        for file in files {
            let fetch = |range: Range| async move {
                let read = || {
                    client.read_tagged(&file.id, range.offset, range.end - range.offset, &file.tag)
                };
                let bytes = retrier.repeat(read).await?;
                Ok::<_, Error>((range, bytes))
            };
            let mut at = 0;
            while at < file.index.len() {
                let ranges = self.ranges(view, file, &mut at);
                let mut fetched = stream::iter(ranges).map(fetch).buffered(REQUESTS_MAX);
                while let Some((range, bytes)) = fetched.try_next().await? {
                    self.take(file, &range, &bytes).map_err(|e| {
                        let url = client.url();
                        e.context(format_args!("{} at {url}", file.id))
                    })?;
                }
            }
        }
        self.cut(view)?;
        *lock(&self.error) = None;
        Ok(())
    }

    /// Remembers why filling stopped.
    fn failed(&self, error: &Error) {
        *lock(&self.error) = Some(error.to_string());
    }

    /// What is known of it.
    pub(crate) fn status(&self) -> HydrationStatus {
        HydrationStatus {
            path: self.path.clone(),
            pages: self.present.load(Ordering::Relaxed),
            pages_total: self.total.load(Ordering::Relaxed),
            error: lock(&self.error).clone(),
        }
    }

    /// Writes nothing more; a copy with a name is left for the next process, as
    /// far as `view` is in it.
    ///
    /// # Errors
    /// What was to tell the next process could not be written; it begins anew.
    pub(crate) fn close(&self, view: Option<&View>) -> Result<()> {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut pages.closed, true) {
            return Ok(());
        }
        let Some(path) = &self.path else { return Ok(()) };
        // Before the first view, what was found is as good as it was.
        let found = pages.saved.take();
        let made = || view.map(|view| Saved::of(view, &self.url, |pgno| pages.origin(pgno)));
        let Some(saved) = found.or_else(made).filter(Saved::has_pages) else { return Ok(()) };
        self.file.sync()?;
        saved.write(path)
    }

    /// Makes room for `view` and counts what of it is here.
    fn begin(&self, view: &View) -> Result<()> {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        if pages.page_size != view.page_size() {
            pages.page_size = view.page_size();
            pages.origins.clear();
        }
        if let Some(saved) = pages.saved.take() {
            pages.origins = saved.origins(view);
            if pages.origins.iter().all(|origin| *origin == 0) {
                self.file.set_len(0)?;
            }
        }
        let commit = view.commit() as usize;
        if pages.origins.len() < commit {
            pages.origins.resize(commit, 0);
        }
        drop(pages);
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let (mut present, mut total) = (0, 0);
        for pgno in 1..=view.commit() {
            if let Some((file, _)) = view.index().get(pgno) {
                total += 1;
                present += u32::from(pages.origin(pgno) == file.uid);
            }
        }
        self.total.store(total, Ordering::Relaxed);
        self.present.store(present, Ordering::Relaxed);
        Ok(())
    }

    /// The frames of `file` from position `at` on that `view` has and this copy has
    /// not, in runs. `at` becomes the position where it stopped.
    fn ranges(&self, view: &View, file: &RemoteFile, at: &mut usize) -> Vec<Range> {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let (mut ranges, mut frames): (Vec<Range>, usize) = (Vec::new(), 0);
        while frames < FRAMES_MAX
            && let Some(frame) = file.index.get(*at)
        {
            *at += 1;
            if pages.origin(frame.pgno) == file.uid || !view.holds(file, frame.pgno) {
                continue;
            }
            frames += 1;
            let end = frame.offset + u64::from(frame.size);
            match ranges.last_mut() {
                Some(last)
                    if frame.offset <= last.end + GAP_BYTES && end - last.offset <= RANGE_BYTES =>
                {
                    last.end = end;
                    last.frames.push(frame);
                }
                _ => ranges.push(Range { offset: frame.offset, end, frames: vec![frame] }),
            }
        }
        ranges
    }

    /// Writes the pages of a range.
    fn take(&self, file: &RemoteFile, range: &Range, bytes: &Bytes) -> Result<()> {
        let mut page = vec![0; file.page_size as usize];
        for frame in &range.frames {
            let from = (frame.offset - range.offset) as usize;
            let part = bytes.get(from..from + frame.size as usize).unwrap_or_default();
            let pgno = ltx::decode_page(part, file.page_size, &mut page)?;
            if pgno != frame.pgno {
                let text = format!("page {pgno} is in the place of page {}", frame.pgno);
                return Err(Error::new(ErrorKind::Corrupt, text));
            }
            let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
            if pages.closed {
                return Err(Error::new(ErrorKind::Internal, "the local copy was closed"));
            }
            // A write that fails leaves no page.
            pages.set(pgno, 0);
            self.file.write_all_at(&page, pages.place(pgno))?;
            pages.set(pgno, file.uid);
            self.present.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Lets go what lies behind the end of `view`, which is all here.
    fn cut(&self, view: &View) -> Result<()> {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        if pages.closed {
            return Ok(());
        }
        pages.origins.truncate(view.commit() as usize);
        if self.file.len()? != view.size() {
            self.file.set_len(view.size())?;
        }
        Ok(())
    }
}

impl Drop for Hydration {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            lock(&OPEN).retain(|open| open != path);
        }
    }
}

impl Pages {
    fn origin(&self, pgno: Pgno) -> u32 {
        self.origins.get((pgno as usize).wrapping_sub(1)).copied().unwrap_or(0)
    }

    fn set(&mut self, pgno: Pgno, origin: u32) {
        if let Some(slot) = self.origins.get_mut((pgno as usize).wrapping_sub(1)) {
            *slot = origin;
        }
    }

    /// Where page `pgno` begins, in bytes.
    fn place(&self, pgno: Pgno) -> u64 {
        u64::from(pgno - 1) * u64::from(self.page_size)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that nobody else finds, and that the system removes.
fn temporary(dir: &Path) -> Result<disk::File> {
    let name = format!("litestream-{}-{:016x}.db", tasks::process_id(), tasks::random().next_u64());
    let path = dir.join(name);
    let file = disk::File::open_private(&path, None)?;
    disk::remove_file(&path)?;
    Ok(file)
}

/// The file `path` under a lock, and what an earlier process left in it.
fn named(path: &Path, url: &str) -> Result<(disk::File, Option<Saved>)> {
    let busy = || {
        let text = format!(
            "{} is the local copy of a replica that is open already: name another hydration_path",
            path.display()
        );
        Error::new(ErrorKind::Conflict, text)
    };
    {
        let mut open = lock(&OPEN);
        if open.iter().any(|open| open == path) {
            return Err(busy());
        }
        open.push(path.to_owned());
    }
    let opened = (|| {
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            disk::create_private_dir(parent, None)?;
        }
        let file = disk::File::open_private(path, None)?;
        if !file.try_lock()? {
            return Err(busy());
        }
        let saved = hydrate_meta::take(path, url)?;
        if saved.is_none() {
            file.set_len(0)?;
        }
        Ok((file, saved))
    })();
    if opened.is_err() {
        lock(&OPEN).retain(|open| open != path);
    }
    opened
}

#[cfg(test)]
#[path = "hydrate_tests.rs"]
mod tests;
