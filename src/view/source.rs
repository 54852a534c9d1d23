//! One replica as this process reads it: its newest view, what is known of its
//! health, and the states that connections look back to.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::build::{Built, Fault, Listing, build, build_from};
use super::fetch::Fetcher;
use super::file::RemoteFile;
use super::follow::{is_stored, same_state};
use super::hydrate::{Hydration, HydrationStatus};
use super::load::{Files, Loaded};
use super::page_cache::PageCache;
use super::poll::{Command, Outcome, Problem};
use super::state::View;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Level, Log};
use crate::ltx::Txid;
use crate::plan::Target;
use crate::replica_client::{FileInfo, ReplicaClient, RequestCounts, RequestTotals};
use crate::tasks::{self, Guard, Handle, Mutex};

/// A state whose files vanish is looked for this often before its reader hears
/// of it.
const RELOCATIONS_MAX: u32 = 4;
/// States to look back to that are remembered while somebody uses them.
const MOVED_MAX: usize = 16;

/// One replica of this process.
pub(crate) struct Source {
    pub(crate) files: Files,
    pub(crate) fetcher: Fetcher,
    pub(crate) poll_interval: Duration,
    /// May show what is kept when storage does not answer at the beginning.
    pub(crate) offline: bool,
    cache: Arc<PageCache>,
    counts: Arc<RequestCounts>,
    log: Arc<dyn Log>,
    runtime: Handle,
    commands: mpsc::UnboundedSender<Command>,
    /// Cuts the poller off.
    poller: Mutex<Option<Guard>>,
    /// A local copy, and what cuts its filling off.
    copy: Option<Arc<Hydration>>,
    /// Why there is none although it was asked for.
    copy_problem: Option<String>,
    filler: Mutex<Option<Guard>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    newest: Option<Arc<View>>,
    /// States that sessions look back to.
    targets: Vec<(Target, Weak<View>)>,
    /// Views whose files vanished, by sequence, with the same state out of others.
    moved: Vec<(u32, Weak<View>)>,
    health: Health,
}

/// How following goes.
#[derive(Debug, Clone, Default)]
struct Health {
    /// The last time that the newest view was known to be the newest.
    current: Option<Instant>,
    failures: u32,
    error: Option<String>,
    gap: Option<String>,
    restarts: u64,
}

/// What is known of a replica, for people.
#[derive(Debug, Clone, Default)]
pub struct SourceStatus {
    /// Its URL without credentials.
    pub url: String,
    /// The newest view's last transaction; [`Txid::NONE`] before the first.
    pub txid: Txid,
    /// Its size in pages.
    pub commit: u32,
    /// Bytes per page; 0 before the first view.
    pub page_size: u32,
    /// When its last transaction was made, in milliseconds since the Unix epoch.
    pub time_ms: Option<i64>,
    /// Files that the newest view reads.
    pub files: usize,
    /// Bytes of memory that its page index takes.
    pub index_bytes: usize,
    /// Time since it was last known to be the newest; none before that.
    pub lag: Option<Duration>,
    /// Polls in a row that failed.
    pub failures: u32,
    /// Why the last poll failed.
    pub error: Option<String>,
    /// What is stored behind a gap in the chain and cannot be reached.
    pub gap: Option<String>,
    /// How often the chain was begun anew under this process.
    pub restarts: u64,
    /// Requests of this process.
    pub requests: RequestTotals,
    /// Bytes held in the page cache, shared with other replicas.
    pub cache_bytes: u64,
    /// Its local copy, if it is to have one.
    pub hydration: Option<HydrationStatus>,
}

/// A state out of other files.
struct Elsewhere {
    built: Built,
    listing: Listing,
}

impl Elsewhere {
    /// The state of `view`, with every page where it was if that is still stored:
    /// so what is cached stays of use.
    fn in_place_of(self, view: &View, may_stay: impl Fn(&RemoteFile) -> bool) -> View {
        let stored = |file: &RemoteFile| may_stay(file) && self.listing.has(file) == Some(true);
        let index = view.index().with_moved(self.built.view.index(), stored);
        self.built.view.in_place_of(view, index)
    }
}

/// One file of a replica's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryFile {
    /// The file; its time is the header's where storage keeps it.
    pub info: FileInfo,
    /// Number of pages in it, where that is known.
    pub pages: Option<u32>,
}

/// What a source is made of.
pub(crate) struct Parts {
    pub(crate) files: Files,
    pub(crate) fetcher: Fetcher,
    pub(crate) poll_interval: Duration,
    /// May show what is kept when storage does not answer at the beginning.
    pub(crate) offline: bool,
    pub(crate) cache: Arc<PageCache>,
    pub(crate) counts: Arc<RequestCounts>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) runtime: Handle,
    /// Failing to make it disables it and nothing else.
    pub(crate) copy: Result<Option<Arc<Hydration>>>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.url())
    }
}

impl Source {
    /// A source with its poller, which does nothing before it is told to.
    pub(crate) fn start(parts: Parts) -> Arc<Source> {
        let Parts { files, fetcher, poll_interval, offline, cache, counts, log, runtime, copy } =
            parts;
        let (copy, copy_problem) = match copy {
            Ok(copy) => (copy, None),
            Err(e) => (None, Some(e.to_string())),
        };
        let (commands, received) = mpsc::unbounded_channel();
        let source = Arc::new(Source {
            files,
            fetcher,
            poll_interval,
            offline,
            cache,
            counts,
            log,
            runtime: runtime.clone(),
            commands,
            poller: Mutex::new(None),
            copy: copy.clone(),
            copy_problem,
            filler: Mutex::new(None),
            state: Mutex::default(),
        });
        let work = super::poll::run(Arc::clone(&source), received);
        let guard = tasks::Spawn::spawn_guarded(&runtime, Box::pin(work));
        *tasks::lock(&source.poller) = Some(guard);
        if let Some(problem) = &source.copy_problem {
            source.log(Level::Warn, &format!("no local copy: {problem}"));
        }
        if let Some(copy) = copy {
            let work = super::hydrate::run(Arc::clone(&source), copy);
            let guard = tasks::Spawn::spawn_guarded(&runtime, Box::pin(work));
            *tasks::lock(&source.filler) = Some(guard);
        }
        source
    }

    /// Ends the poller; who waits for it hears of it.
    pub(crate) fn stop(&self) {
        drop(tasks::lock(&self.poller).take());
        drop(tasks::lock(&self.filler).take());
        if let Some(copy) = &self.copy
            && let Err(e) = copy.close(self.newest().as_deref())
        {
            self.log(Level::Warn, &format!("the local copy is not kept: {e}"));
        }
    }

    /// The local copy.
    pub(crate) fn copy(&self) -> Option<&Hydration> {
        self.copy.as_deref()
    }

    /// The replica's URL without credentials.
    pub(crate) fn url(&self) -> &str {
        self.files.client().url()
    }

    pub(crate) fn log(&self, level: Level, message: &str) {
        self.log.log(level, &format!("replica {}: {message}", self.url()));
    }

    /// The newest view so far.
    pub(crate) fn newest(&self) -> Option<Arc<View>> {
        tasks::lock(&self.state).newest.clone()
    }

    /// Time since the newest view was known to be the newest.
    pub(crate) fn lag(&self) -> Option<Duration> {
        let current = tasks::lock(&self.state).health.current?;
        Some(tasks::now().saturating_duration_since(current))
    }

    /// Runs a future to its end on the runtime, from a thread of the host.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Polls now: the newest view at some time after the call; none while the
    /// replica is empty.
    ///
    /// # Errors
    /// Why the poll failed.
    pub(crate) fn refresh(&self) -> Result<Option<Arc<View>>> {
        self.ask(Command::Poll, None)
    }

    /// [`Source::refresh`] that gives up after `timeout`; the poll goes on.
    ///
    /// # Errors
    /// `Transient` when the time is up.
    pub(crate) fn refresh_within(&self, timeout: Duration) -> Result<Option<Arc<View>>> {
        self.ask(Command::Poll, Some(timeout))
    }

    /// [`Source::refresh`] with a listing of all levels.
    pub(crate) fn refresh_from_listing(&self) -> Result<Option<Arc<View>>> {
        self.ask(Command::List, None)
    }

    /// A session follows the newest view (`1`), or no longer does (`-1`).
    pub(crate) fn follow(&self, change: i32) {
        // Without a poller there is nobody to tell.
        let _ = self.commands.send(Command::Followers(change));
    }

    fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Outcome>) -> Command,
        timeout: Option<Duration>,
    ) -> Result<Option<Arc<View>>> {
        let (reply, answer) = oneshot::channel();
        let ended = || {
            let text = format!("replica {}: following it has ended", self.url());
            Error::new(ErrorKind::Internal, text)
        };
        self.commands.send(command(reply)).map_err(|_| ended())?;
        let answer = self.block_on(async move {
            match timeout {
                None => Some(answer.await),
                Some(timeout) => tasks::timeout(timeout, answer).await,
            }
        });
        let Some(answer) = answer else {
            let text = format!("replica {}: storage does not answer", self.url());
            return Err(Error::new(ErrorKind::Transient, text));
        };
        answer.map_err(|_| ended())?.map_err(Problem::into_error)
    }

    /// Takes a newer view, or the first one, with bytes that came along.
    pub(crate) fn publish(&self, view: View, loaded: &[Loaded]) -> Arc<View> {
        let view = Arc::new(view);
        let previous = tasks::lock(&self.state).newest.replace(Arc::clone(&view));
        if let Some(copy) = &self.copy {
            copy.wake();
        }
        for Loaded { file, front, .. } in loaded {
            let Some(bytes) = front else { continue };
            match &previous {
                Some(previous) if bytes.len() as u64 == file.size => {
                    self.fetcher.absorb(file, bytes, previous);
                }
                _ => self.fetcher.give(file, 0, bytes),
            }
        }
        view
    }

    /// A poll succeeded; `gap` is what it could not reach.
    pub(crate) fn succeeded(&self, gap: Option<&str>, restarted: Option<&str>) {
        let (failed, new_gap) = {
            let mut state = tasks::lock(&self.state);
            let health = &mut state.health;
            // Behind a gap the view is not the newest state.
            if gap.is_none() || health.current.is_none() {
                health.current = Some(tasks::now());
            }
            health.restarts += u64::from(restarted.is_some());
            health.error = None;
            let new_gap = gap.filter(|gap| health.gap.as_deref() != Some(gap));
            health.gap = gap.map(str::to_owned);
            (std::mem::take(&mut health.failures), new_gap)
        };
        if failed > 0 {
            self.log(Level::Info, &format!("answers again after {failed} failed polls"));
        }
        if let Some(gap) = new_gap {
            self.log(Level::Warn, gap);
        }
        if let Some(text) = restarted {
            self.log(Level::Warn, text);
        }
    }

    /// A poll failed; how many did in a row.
    pub(crate) fn failed(&self, error: &Error) -> u32 {
        let failures = {
            let mut state = tasks::lock(&self.state);
            state.health.failures = state.health.failures.saturating_add(1);
            state.health.error = Some(error.to_string());
            state.health.failures
        };
        // The first, and then ever fewer.
        if failures.is_power_of_two() {
            self.log(Level::Warn, &format!("poll failed ({failures} in a row): {error}"));
        }
        failures
    }

    /// The state of `target`, which is not [`Target::Latest`].
    ///
    /// # Errors
    /// `NotFound` when it cannot be reached.
    pub(crate) fn look_back(&self, target: Target) -> Result<Arc<View>> {
        if let Some(view) = self.known_target(target) {
            return Ok(view);
        }
        let built = self.block_on(build(&self.files, target))?.ok_or_else(|| self.empty())?;
        let view = Arc::new(built.view);
        self.give(&built.loaded);
        let mut state = tasks::lock(&self.state);
        state.targets.retain(|(_, view)| view.strong_count() > 0);
        state.targets.push((target, Arc::downgrade(&view)));
        Ok(view)
    }

    fn known_target(&self, target: Target) -> Option<Arc<View>> {
        let state = tasks::lock(&self.state);
        state.targets.iter().find(|known| known.0 == target)?.1.upgrade()
    }

    fn give(&self, loaded: &[Loaded]) {
        for Loaded { file, front, .. } in loaded {
            if let Some(bytes) = front {
                self.fetcher.give(file, 0, bytes);
            }
        }
    }

    /// The error of an empty replica.
    pub(crate) fn empty(&self) -> Error {
        let text = format!(
            "replica {} is empty: nothing was written to it yet, or the URL is wrong",
            self.url()
        );
        Error::new(ErrorKind::NotFound, text)
    }

    /// The state of `view` out of other files than `gone`, which vanished; with
    /// `all` out of those that a new plan names, else no more of them than needed.
    ///
    /// # Errors
    /// `NotFound` when storage has this state no more; errors of storage.
    pub(crate) fn relocate(
        &self,
        view: &Arc<View>,
        gone: &RemoteFile,
        all: bool,
    ) -> Result<Arc<View>> {
        self.files.forget(gone);
        if let Some(moved) = self.moved(view, gone) {
            return Ok(moved);
        }
        let built = self.block_on(self.same_state_elsewhere(view))?;
        self.give(&built.built.loaded);
        let moved = Arc::new(built.in_place_of(view, |file| !all && file.uid != gone.uid));
        let mut state = tasks::lock(&self.state);
        state.moved.retain(|(sequence, view_of)| {
            *sequence != view.sequence() && view_of.strong_count() > 0
        });
        if state.moved.len() == MOVED_MAX {
            state.moved.remove(0);
        }
        state.moved.push((view.sequence(), Arc::downgrade(&moved)));
        if state.newest.as_ref().is_some_and(|newest| newest.sequence() == view.sequence()) {
            state.newest = Some(Arc::clone(&moved));
        }
        for (_, known) in &mut state.targets {
            if known.upgrade().is_some_and(|known| known.sequence() == view.sequence()) {
                *known = Arc::downgrade(&moved);
            }
        }
        drop(state);
        if let Some(copy) = &self.copy {
            copy.wake();
        }
        self.log(Level::Debug, &format!("{} is read from other files now", view.txid()));
        Ok(moved)
    }

    /// Where another session found the state of `view` without `gone`.
    fn moved(&self, view: &View, gone: &RemoteFile) -> Option<Arc<View>> {
        let state = tasks::lock(&self.state);
        let moved = state.moved.iter().find(|known| known.0 == view.sequence())?.1.upgrade()?;
        drop(state);
        let still = moved.index().files().any(|file| file.uid == gone.uid);
        (!still).then_some(moved)
    }

    async fn same_state_elsewhere(&self, view: &View) -> Result<Elsewhere> {
        let mut attempt = 1;
        loop {
            let listing = Listing::fetch(&self.files, false).await?;
            let mut files = view.index().files().chain([view.newest()]);
            if files.any(|file| listing.tag(&file.id).is_some_and(|tag| *tag != file.tag)) {
                return Err(self.vanished(view));
            }
            match build_from(&self.files, &listing, Target::Txid(view.txid())).await {
                Ok(built) => {
                    let same = same_state(view, built.view.header())
                        || is_stored(&self.files, view.newest()).await?;
                    let found = Elsewhere { built, listing };
                    return if same { Ok(found) } else { Err(self.vanished(view)) };
                }
                Err(Fault::Gone(_)) if attempt < RELOCATIONS_MAX => {
                    self.files.pause(attempt).await;
                    attempt += 1;
                }
                Err(Fault::Gone(_)) => return Err(self.vanished(view)),
                Err(Fault::Other(e)) if e.kind() == ErrorKind::NotFound => {
                    return Err(self.vanished(view));
                }
                Err(Fault::Other(e)) => return Err(e),
            }
        }
    }

    fn vanished(&self, view: &View) -> Error {
        let text = format!(
            "replica {}: the files of transaction {} were deleted while it was read, and no \
             others give the same state; end the transaction and read again",
            self.url(),
            view.txid()
        );
        Error::new(ErrorKind::NotFound, text)
    }

    /// Every file that storage lists, by level and transaction.
    ///
    /// # Errors
    /// Of storage.
    pub(crate) fn history(&self) -> Result<Vec<HistoryFile>> {
        let listing = self.block_on(Listing::fetch(&self.files, true))?;
        let of = |info: FileInfo| HistoryFile { info, pages: self.files.pages(&info) };
        Ok(listing.all().map(|listed| of(listed.info)).collect())
    }

    fn hydration(&self) -> Option<HydrationStatus> {
        let failed = |error: &String| HydrationStatus {
            error: Some(error.clone()),
            ..HydrationStatus::default()
        };
        let status = self.copy.as_ref().map(|copy| copy.status());
        status.or_else(|| self.copy_problem.as_ref().map(failed))
    }

    /// What is known of the replica.
    pub(crate) fn status(&self) -> SourceStatus {
        let lag = self.lag();
        let state = tasks::lock(&self.state);
        let (newest, health) = (state.newest.clone(), state.health.clone());
        drop(state);
        let view = newest.as_deref();
        SourceStatus {
            url: self.url().to_owned(),
            txid: view.map_or(Txid::NONE, View::txid),
            commit: view.map_or(0, View::commit),
            page_size: view.map_or(0, View::page_size),
            time_ms: view.map(View::time_ms),
            files: view.map_or(0, |view| view.index().files().count()),
            index_bytes: view.map_or(0, |view| view.index().memory()),
            lag,
            failures: health.failures,
            error: health.error,
            gap: health.gap,
            restarts: health.restarts,
            requests: self.counts.snapshot(),
            cache_bytes: self.cache.used() as u64,
            hydration: self.hydration(),
        }
    }
}
