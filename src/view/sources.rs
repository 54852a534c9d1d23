//! The replicas that this process reads, each once however many connections
//! there are.
//!
//! Nothing starts before the first one is opened, and nothing is left when the
//! last session is closed. After a fork the child makes its own.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::disk_cache::DiskCache;
use super::fetch::Fetcher;
use super::hydrate::{Hydrate, Hydration};
use super::load::Files;
use super::page_cache::PageCache;
use super::session::Session;
use super::source::{Parts, Source, SourceStatus};
use crate::error::{Error, ErrorKind, Result};
use crate::log::Log;
use crate::plan::Target;
use crate::replica_client::retry::{Retrier, RetryPolicy};
use crate::replica_client::url::redact;
use crate::replica_client::{
    self, AccessKeys, CountingClient, ReplicaClient, ReplicaOptions, RequestCounts,
};
use crate::tasks::{self, Handle, Mutex, Runtime};

/// Some seconds of one request failing before a reader hears of it.
const RETRIES: RetryPolicy =
    RetryPolicy { attempts: 3, base: Duration::from_millis(50), cap: Duration::from_secs(1) };
/// How long ending the runtime waits for blocking work.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// How a replica is opened.
#[derive(Clone, PartialEq)]
pub struct SourceOptions {
    /// Where it is; may hold credentials.
    pub url: String,
    /// Parameters beside those in the URL, which win.
    pub parameters: Vec<(String, String)>,
    /// Credentials beside those of the environment.
    pub keys: Option<AccessKeys>,
    /// Time between looks for new files.
    pub poll_interval: Duration,
    /// How long opening waits for an empty replica to have something.
    pub wait_timeout: Duration,
    /// Reads fail rather than show a state that was not known to be the newest
    /// for so long.
    pub max_staleness: Option<Duration>,
    /// Size of the page cache in bytes. Replicas with the same size share one.
    pub cache_bytes_max: u64,
    /// Where fetched pages are kept beyond the process.
    pub cache_dir: Option<PathBuf>,
    /// The most bytes kept there.
    pub cache_dir_bytes_max: u64,
    /// Open from the cache directory when storage does not answer.
    pub offline: bool,
    /// Where a local copy is kept.
    pub hydrate: Hydrate,
}

impl fmt::Debug for SourceOptions {
    /// Without what may be a credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceOptions").field("url", &redact(&self.url)).finish_non_exhaustive()
    }
}

impl SourceOptions {
    /// The defaults for the replica at `url`.
    pub fn new(url: impl Into<String>) -> SourceOptions {
        SourceOptions {
            url: url.into(),
            parameters: Vec::new(),
            keys: None,
            poll_interval: Duration::from_secs(1),
            wait_timeout: Duration::ZERO,
            max_staleness: None,
            cache_bytes_max: 64 << 20,
            cache_dir: None,
            cache_dir_bytes_max: 1 << 30,
            offline: false,
            hydrate: Hydrate::Off,
        }
    }

    /// What sessions of one source have in common.
    fn shared(&self) -> SourceOptions {
        SourceOptions { wait_timeout: Duration::ZERO, max_staleness: None, ..self.clone() }
    }
}

/// The replicas of one process, or of one generation after a fork.
pub struct Sources {
    log: Arc<dyn Log>,
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    sources: Vec<Open>,
    caches: BTreeMap<u64, Weak<PageCache>>,
    disks: Vec<Weak<DiskCache>>,
    runtime: Option<Runtime>,
}

struct Open {
    options: SourceOptions,
    source: Arc<Source>,
    sessions: usize,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Sources {
    /// None open; starts nothing.
    pub fn new(log: Arc<dyn Log>) -> Arc<Sources> {
        Arc::new(Sources { log, registry: Mutex::default() })
    }

    /// Opens the replica of `options` at `target`.
    ///
    /// Blocks the calling thread until there is something to read.
    ///
    /// # Errors
    /// `InvalidInput` for a URL or parameter that is wrong; `NotFound` for a replica that is
    /// empty, at once or after [`SourceOptions::wait_timeout`], and for a target
    /// that cannot be reached; `Corrupt` for files without a beginning or
    /// damaged ones; errors of storage.
    pub fn open(self: &Arc<Self>, options: &SourceOptions, target: Target) -> Result<Session> {
        self.open_with(options, target, || connect(options))
    }

    /// [`Sources::open`] with a client of the caller's in place of the URL's, which
    /// only names it.
    ///
    /// # Errors
    /// As [`Sources::open`].
    pub fn open_client(
        self: &Arc<Self>,
        options: &SourceOptions,
        target: Target,
        client: Arc<dyn ReplicaClient>,
    ) -> Result<Session> {
        self.open_with(options, target, || Ok(client))
    }

    fn open_with(
        self: &Arc<Self>,
        options: &SourceOptions,
        target: Target,
        client: impl FnOnce() -> Result<Arc<dyn ReplicaClient>>,
    ) -> Result<Session> {
        let source = self.enter(options, client)?;
        let held = Held { sources: Arc::clone(self), source };
        Session::open(held, options, target)
    }

    /// What is known of every open replica.
    pub fn status(&self) -> Vec<SourceStatus> {
        let open: Vec<_> = {
            let registry = tasks::lock(&self.registry);
            registry.sources.iter().map(|open| Arc::clone(&open.source)).collect()
        };
        open.iter().map(|source| source.status()).collect()
    }

    fn enter(
        &self,
        options: &SourceOptions,
        client: impl FnOnce() -> Result<Arc<dyn ReplicaClient>>,
    ) -> Result<Arc<Source>> {
        if options.offline && options.cache_dir.is_none() {
            let text = "offline needs cache_dir, where what was read is kept";
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let shared = options.shared();
        let mut registry = tasks::lock(&self.registry);
        if let Some(open) = registry.sources.iter_mut().find(|open| open.options == shared) {
            open.sessions += 1;
            return Ok(Arc::clone(&open.source));
        }
        let client = client()?;
        let runtime = registry.runtime()?;
        let cache = registry.cache(options.cache_bytes_max);
        let disk = options
            .cache_dir
            .as_ref()
            .map(|dir| registry.disk(dir, options.cache_dir_bytes_max, &self.log));
        let source = self.start(options, client, runtime, cache, disk);
        registry.sources.push(Open { options: shared, source: Arc::clone(&source), sessions: 1 });
        Ok(source)
    }

    fn start(
        &self,
        options: &SourceOptions,
        client: Arc<dyn ReplicaClient>,
        runtime: Handle,
        cache: Arc<PageCache>,
        disk: Option<Arc<DiskCache>>,
    ) -> Arc<Source> {
        let counts = Arc::new(RequestCounts::default());
        let client: Arc<dyn ReplicaClient> =
            Arc::new(CountingClient::new(client, Arc::clone(&counts)));
        let copy = Hydration::open(&options.hydrate, client.url());
        let retrier = Retrier { policy: RETRIES, clock: tasks::clock(), random: tasks::random() };
        let fetcher =
            Fetcher::new(Arc::clone(&client), runtime.clone(), Arc::clone(&cache), disk.clone());
        Source::start(Parts {
            fetcher,
            cache,
            files: Files::new(client, retrier, disk),
            poll_interval: options.poll_interval,
            offline: options.offline,
            counts,
            log: Arc::clone(&self.log),
            runtime,
            copy,
        })
    }

    /// A session of `source` is closed.
    fn leave(&self, source: &Arc<Source>) {
        let (gone, runtime) = {
            let mut registry = tasks::lock(&self.registry);
            let found = registry.sources.iter().position(|o| Arc::ptr_eq(&o.source, source));
            let Some(at) = found else { return };
            let open = &mut registry.sources[at];
            open.sessions -= 1;
            if open.sessions > 0 {
                return;
            }
            let gone = registry.sources.swap_remove(at);
            let last = registry.sources.is_empty();
            (gone, if last { registry.runtime.take() } else { None })
        };
        gone.source.stop();
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(SHUTDOWN);
        }
    }
}

impl Registry {
    fn runtime(&mut self) -> Result<Handle> {
        if let Some(runtime) = &self.runtime {
            return Ok(runtime.handle());
        }
        let runtime = Runtime::start()?;
        let handle = runtime.handle();
        self.runtime = Some(runtime);
        Ok(handle)
    }

    fn cache(&mut self, bytes: u64) -> Arc<PageCache> {
        self.caches.retain(|_, cache| cache.strong_count() > 0);
        if let Some(cache) = self.caches.get(&bytes).and_then(Weak::upgrade) {
            return cache;
        }
        let cache = Arc::new(PageCache::new(usize::try_from(bytes).unwrap_or(usize::MAX)));
        self.caches.insert(bytes, Arc::downgrade(&cache));
        cache
    }

    /// The cache in `dir`; of several bounds the first one counts.
    fn disk(&mut self, dir: &Path, bytes: u64, log: &Arc<dyn Log>) -> Arc<DiskCache> {
        self.disks.retain(|disk| disk.strong_count() > 0);
        let open = self.disks.iter().filter_map(Weak::upgrade).find(|disk| disk.dir() == dir);
        open.unwrap_or_else(|| {
            let disk = Arc::new(DiskCache::open(dir, bytes, Arc::clone(log)));
            self.disks.push(Arc::downgrade(&disk));
            disk
        })
    }
}

/// A session's hold on its source.
#[derive(Debug)]
pub(crate) struct Held {
    sources: Arc<Sources>,
    source: Arc<Source>,
}

impl std::ops::Deref for Held {
    type Target = Arc<Source>;

    fn deref(&self) -> &Arc<Source> {
        &self.source
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.sources.leave(&self.source);
    }
}

fn connect(options: &SourceOptions) -> Result<Arc<dyn ReplicaClient>> {
    let replica = ReplicaOptions {
        parameters: options.parameters.clone(),
        keys: options.keys.clone(),
        ..ReplicaOptions::default()
    };
    replica_client::open(&options.url, &replica)
}
