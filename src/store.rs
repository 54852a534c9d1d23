//! All replicated databases of one process: registry, capture worker, runtime.
//!
//! Nothing starts before the first database is opened, and nothing is left
//! when the last one is closed. A process has one store; after a fork the
//! child makes its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::{Clock, Random};
use crate::config::DbConfig;
use crate::db::{Client, Db, Opened, canonical_identity, lock, meta_dir, vfs_dir};
use crate::error::{Error, ErrorKind, Result};
use crate::host::Host;
use crate::log::{Level, Log};
use crate::os::disk;
use crate::os::watch::Watch;
use crate::pages::page_size_of;
use crate::probe::Found;
use crate::sibling::{Sibling, other_page_size};
use crate::tasks::{self, Handle, Runtime, Signal, Task, Thread};
use crate::worker::Worker;
use crate::{probe, replica};

/// Device and inode.
pub(crate) type Identity = (u64, u64);

/// What the extension knows about a database file that the host has opened.
pub struct OpenRequest {
    /// Path as the host gave it to its VFS.
    pub path: PathBuf,
    /// Path of its WAL as the host will give it.
    pub wal_path: PathBuf,
    /// Settings.
    pub config: DbConfig,
    /// The host opened it read-only.
    pub read_only: bool,
    /// The host's side.
    pub host: Arc<dyn Host>,
}

/// All replicated databases of this process.
pub struct Store {
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    registry: Mutex<Registry>,
    /// Signalled when a database has gone.
    closed: Signal,
    worker: Worker,
    io: Mutex<Io>,
    /// Tells when another process lets a database go.
    watch: Mutex<Option<Watch>>,
}

#[derive(Default)]
struct Registry {
    databases: BTreeMap<Identity, Arc<Db>>,
    clients: BTreeMap<PathBuf, (DbConfig, Arc<Client>)>,
    /// What storage held when a database without local state was looked at.
    found: BTreeMap<PathBuf, Found>,
}

/// The upload threads and who uses them; an idle process has none.
#[derive(Default)]
struct Io {
    runtime: Option<Runtime>,
    /// Counts runtimes, so that a late user of an old one does not end the present one.
    generation: u64,
    users: usize,
    /// Those of them that are threads of the host in the midst of an open.
    waiting: usize,
}

/// Keeps the upload threads while it lives.
struct IoUser {
    store: Arc<Store>,
    generation: u64,
}

impl Drop for IoUser {
    fn drop(&mut self) {
        {
            let mut io = lock(&self.store.io);
            if io.generation != self.generation {
                return;
            }
            io.users = io.users.saturating_sub(1);
            if io.users > 0 {
                return;
            }
        }
        // Without users the threads are ended, so that an idle process has
        // neither timers nor descriptors of ours.
        let store = &self.store;
        store.worker_told(store.worker.rest_io(|life| store.start_worker(life)));
    }
}

/// Through a hard link SQLite would keep a second WAL for the same file.
fn two_names(request: &OpenRequest, db: &Db) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!(
            "{} is the same file as {}, which is open under that name: SQLite would keep a journal \
             for each name and damage it; open it by one name",
            request.path.display(),
            db.path().display()
        ),
    )
}

/// Takes a closed database out of the registry when dropped.
struct Gone<'a> {
    store: &'a Store,
    db: &'a Db,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let mut registry = lock(&self.store.registry);
        registry.databases.remove(&self.db.identity);
        registry.clients.remove(&self.db.path);
        drop(registry);
        self.store.closed.notify_all();
    }
}

/// In one meta directory two databases would overwrite each other's spool.
fn refuse_shared_meta_dir(registry: &Registry, request: &OpenRequest) -> Result<()> {
    let real = |dir: &Path| disk::canonical(dir).unwrap_or_else(|_| dir.to_owned());
    let mine = real(&meta_dir(&request.path, &request.config)?);
    match registry.databases.values().find(|db| real(&db.meta_dir) == mine) {
        None => Ok(()),
        // What is open there is no longer the file at the path.
        Some(other) if other.has_moved() => {
            other.let_go();
            Ok(())
        }
        Some(other) => Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "{} and {} would both keep their files in {}: give each database a meta_path of \
                 its own, or none",
                request.path.display(),
                other.path().display(),
                mine.display()
            ),
        )),
    }
}

/// A thread of the host that waits for work on the upload threads.
struct Waiting {
    user: IoUser,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut io = lock(&self.user.store.io);
        if io.generation == self.user.generation {
            io.waiting = io.waiting.saturating_sub(1);
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// An empty store; starts nothing.
    pub fn new(log: Arc<dyn Log>) -> Arc<Store> {
        Arc::new(Store {
            log,
            clock: tasks::clock(),
            random: tasks::random(),
            registry: Mutex::default(),
            closed: Signal::default(),
            worker: Worker::default(),
            io: Mutex::default(),
            watch: Mutex::default(),
        })
    }

    pub(crate) fn log(&self, level: Level, message: &str) {
        self.log.log(level, message);
    }

    /// Checks a configuration before the host opens the file: the URL, another
    /// database on the same URL, and, when there is no local state yet, what
    /// the replica already holds.
    ///
    /// # Errors
    /// Whatever must fail the open; the text is for the user.
    pub fn before_open(
        self: &Arc<Self>,
        path: &Path,
        config: &DbConfig,
        will_create: bool,
    ) -> Result<()> {
        let checked = self.client(path, config).and_then(|client| {
            self.refuse_shared_url(path, &client)?;
            probe::check(self, path, config, &client, will_create)
        });
        if let Ok(Some(found)) = &checked {
            lock(&self.registry).found.insert(path.to_owned(), *found);
        }
        if checked.is_err() {
            self.given_up(path);
            self.stop_if_unused();
        }
        checked.map(drop)
    }

    /// An open that was checked did not come to be: nothing is kept for it.
    pub fn given_up(&self, path: &Path) {
        let mut registry = lock(&self.registry);
        registry.found.remove(path);
        if !registry.databases.values().any(|db| db.path == path) {
            registry.clients.remove(path);
        }
    }

    /// Paths for which something is kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        let registry = lock(&self.registry);
        registry.clients.len() + registry.found.len()
    }

    fn client(&self, path: &Path, config: &DbConfig) -> Result<Arc<Client>> {
        let mut registry = lock(&self.registry);
        if let Some((known, client)) = registry.clients.get(path)
            && known == config
        {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(Client::open(&self.with_sibling(path, config)?)?);
        registry.clients.insert(path.to_owned(), (config.clone(), Arc::clone(&client)));
        Ok(client)
    }

    /// The configuration with the URL beside its own that this machine went on to.
    fn with_sibling(&self, path: &Path, config: &DbConfig) -> Result<DbConfig> {
        let mut config = config.clone();
        // Before the database exists there is no directory of ours either.
        if let Ok(meta) = meta_dir(path, &config)
            && let Some(url) = Sibling::url(&vfs_dir(&meta), &config.replica_url)?
        {
            config.replica_url = url;
        }
        Ok(config)
    }

    fn refuse_shared_url(&self, path: &Path, client: &Client) -> Result<()> {
        let mine = canonical_identity(path).ok().map(|s| (s.dev, s.ino));
        let registry = lock(&self.registry);
        for (identity, db) in &registry.databases {
            let other = Some(*identity) != mine && db.client.identity() == client.identity();
            if other && !db.has_moved() {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "{} and {} would both be replicated to {}: give each database a URL of \
                         its own ({{name}} in the URL stands for the file name)",
                        path.display(),
                        db.path.display(),
                        client.url()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Registers a connection on a database that the host has just opened.
    ///
    /// # Errors
    /// The meta directory cannot be used, or its format is newer than this library.
    pub fn open(self: &Arc<Self>, request: OpenRequest) -> Result<Arc<Db>> {
        let stat = canonical_identity(&request.path)?;
        let identity = (stat.dev, stat.ino);
        let client = self.client(&request.path, &request.config)?;
        let found = lock(&self.registry).found.remove(&request.path);
        let client = self.client_for_page_size(&request, client, found)?;
        let mut registry = lock(&self.registry);
        while registry.databases.get(&identity).is_some_and(|db| db.closing.load(Ordering::Acquire))
        {
            registry = self.closed.wait(&self.registry, registry);
        }
        if let Some(db) = registry.databases.get(&identity) {
            if db.wal_path != request.wal_path {
                return Err(two_names(&request, db));
            }
            if db.client.identity() != client.identity() {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "{} is already replicated to {} in this process and cannot be replicated \
                         to {} as well",
                        request.path.display(),
                        db.client.url(),
                        client.url()
                    ),
                ));
            }
            db.connections.fetch_add(1, Ordering::AcqRel);
            return Ok(Arc::clone(db));
        }
        refuse_shared_meta_dir(&registry, &request)?;
        let db = Db::open(Opened {
            path: request.path,
            wal_path: request.wal_path,
            stat,
            config: request.config,
            host: request.host,
            client,
            clock: Arc::clone(&self.clock),
            random: Arc::clone(&self.random),
            store: Arc::downgrade(self),
        })?;
        if let Some(found) = found
            && db.page_size_seen() == 0
        {
            // Of an encrypted database nothing else tells, until a page is read.
            db.note_page_size(found.page_size);
        }
        db.connections.fetch_add(1, Ordering::AcqRel);
        registry.databases.insert(identity, Arc::clone(&db));
        drop(registry);
        if let Err(e) = self.watch(&db) {
            // Unshipped work of a process that dies is then found by the next commit.
            db.log(Level::Warn, &format!("takeover is not watched for: {e}"));
        }
        if found.is_some() {
            db.begin_baseline_at_rest();
        }
        Ok(db)
    }

    /// Has this process told when another one stops to ship the database.
    fn watch(self: &Arc<Self>, db: &Arc<Db>) -> Result<()> {
        let file = db.shipper_file()?;
        let mut watch = lock(&self.watch);
        if watch.is_none() {
            let store = Arc::downgrade(self);
            *watch = Watch::start(move |identity| {
                let Some(store) = store.upgrade() else { return };
                if let Some(db) = store.find(identity) {
                    store.guarded(&db, || db.shipper_moved());
                }
            });
        }
        if let Some(watch) = &*watch {
            watch.add(&file, db.identity);
        }
        Ok(())
    }

    /// A chain has one page size: with `adopt`, a database of another one starts
    /// a chain beside it; without, the open fails when nothing local knows better.
    fn client_for_page_size(
        &self,
        request: &OpenRequest,
        client: Arc<Client>,
        found: Option<Found>,
    ) -> Result<Arc<Client>> {
        let dir = vfs_dir(&meta_dir(&request.path, &request.config)?);
        let mut wanted = Sibling::waiting(&dir, &request.config.replica_url)?;
        if let Some(found) = found {
            let mut head = [0u8; 100];
            let got = request.host.open_unlocked()?.read_at(&mut head, 0)?;
            wanted = page_size_of(&head[..got]).filter(|mine| *mine != found.page_size);
            if let Some(mine) = wanted
                && !request.config.adopt
            {
                return Err(other_page_size(request, &client, mine, found));
            }
        }
        let Some(page_size) = wanted.filter(|_| request.config.adopt) else { return Ok(client) };
        let stat = canonical_identity(&request.path)?;
        let url = &request.config.replica_url;
        Sibling::adopt(&dir, url, page_size, Some(stat.owner))?;
        lock(&self.registry).clients.remove(&request.path);
        let client = self.client(&request.path, &request.config)?;
        self.refuse_shared_url(&request.path, &client)?;
        self.log(
            Level::Warn,
            &format!(
                "{}: its pages are of {page_size} bytes now, so a new chain begins at {}",
                request.path.display(),
                client.url()
            ),
        );
        Ok(client)
    }

    /// The open database whose WAL has this path.
    pub fn find_by_wal(&self, wal_path: &Path) -> Option<Arc<Db>> {
        let registry = lock(&self.registry);
        registry.databases.values().find(|db| db.wal_path == wal_path).map(Arc::clone)
    }

    pub(crate) fn find(&self, identity: Identity) -> Option<Arc<Db>> {
        lock(&self.registry).databases.get(&identity).map(Arc::clone)
    }

    /// The last connection of a database was closed: flush and forget it.
    pub(crate) fn close_database(self: &Arc<Self>, identity: Identity) {
        let Some(db) = self.find(identity) else { return };
        {
            // A new connection may have come meanwhile.
            let _registry = lock(&self.registry);
            if db.connections.load(Ordering::Acquire) != 0
                || db.closing.swap(true, Ordering::AcqRel)
            {
                return;
            }
        }
        // Whatever happens in here, nobody may wait for its end for ever.
        let gone = Gone { store: self, db: &db };
        replica::flush(&db, db.config.close_timeout);
        self.worker.forget(identity);
        if let Some(watch) = &*lock(&self.watch) {
            watch.remove(identity);
        }
        // Before anybody can open it anew: closing a file later would drop his locks.
        db.end();
        drop(gone);
        if lock(&self.registry).databases.is_empty() {
            self.stop_if_unused();
        }
    }

    /// Flushes every open database, each for at most its `close_timeout`: the
    /// process is about to exit with connections open.
    pub fn flush_all(&self) {
        let all: Vec<_> = lock(&self.registry).databases.values().map(Arc::clone).collect();
        for db in all {
            // What is not shipped in time is shipped at the next open.
            let _ = db.sync(db.config.close_timeout);
            db.write_status();
        }
    }

    /// Lets the worker capture and seal after `delay`.
    pub(crate) fn schedule(self: &Arc<Self>, identity: Identity, delay: Duration) {
        let due = tasks::now() + delay;
        self.worker_told(self.worker.schedule(identity, due, |life| self.start_worker(life)));
    }

    /// Lets the worker capture now, without sealing.
    pub(crate) fn capture_soon(self: &Arc<Self>, identity: Identity) {
        self.worker_told(self.worker.capture_soon(identity, |life| self.start_worker(life)));
    }

    fn start_worker(self: &Arc<Self>, life: u64) -> std::io::Result<Thread> {
        let store = Arc::clone(self);
        Thread::spawn("litestream", move || store.work(life))
    }

    fn worker_told(&self, told: std::io::Result<()>) {
        if let Err(e) = told {
            self.log(Level::Error, &format!("cannot start the capture thread: {e}"));
        }
    }

    fn work(&self, life: u64) {
        while let Some(work) = self.worker.next(life) {
            if work.rest_io {
                self.rest_io();
            }
            for id in work.captures {
                if let Some(db) = self.find(id) {
                    self.guarded(&db, || db.capture_only());
                }
            }
            for id in work.seals {
                if let Some(db) = self.find(id) {
                    self.guarded(&db, || self.seal(&db));
                }
            }
            if lock(&self.registry).databases.is_empty() && self.worker.retire(life) {
                return;
            }
        }
    }

    fn seal(&self, db: &Db) {
        if let Err(e) = db.capture_and_seal() {
            db.log(Level::Error, &e.to_string());
        }
    }

    /// A panic of ours ends replication of one database, not its host.
    fn guarded(&self, db: &Db, work: impl FnOnce()) {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
            db.fault("the capture thread panicked");
        }
    }

    /// The upload threads, started on first use and kept while the returned
    /// user lives. `waiting`: 1 for a thread of the host that waits for them.
    fn enter_io(self: &Arc<Self>, waiting: usize) -> Result<(Handle, IoUser)> {
        let mut io = lock(&self.io);
        let handle = match &io.runtime {
            Some(runtime) => runtime.handle(),
            None => {
                let runtime = Runtime::start()?;
                let handle = runtime.handle();
                io.runtime = Some(runtime);
                io.generation += 1;
                (io.users, io.waiting) = (0, 0);
                handle
            }
        };
        io.users += 1;
        io.waiting += waiting;
        Ok((handle, IoUser { store: Arc::clone(self), generation: io.generation }))
    }

    /// Runs a future to its end on the upload threads, from a thread of the host.
    pub(crate) fn block_on<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> Result<T> {
        // Threads that somebody waits on are not ended below him by the close
        // of another database.
        let (handle, user) = self.enter_io(1)?;
        let _waiting = Waiting { user };
        Ok(handle.block_on(work))
    }

    /// Runs blocking work on the upload threads.
    pub(crate) fn spawn_blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Task<T>> {
        let (handle, user) = self.enter_io(0)?;
        Ok(handle.spawn_blocking(move || {
            let _user = user;
            work()
        }))
    }

    pub(crate) fn spawn_shipper(self: &Arc<Self>, identity: Identity) {
        let Some(db) = self.find(identity) else { return };
        match self.enter_io(0) {
            Ok((handle, user)) => {
                handle.spawn(async move {
                    let _user = user;
                    let task = tasks::spawn(replica::run(Arc::clone(&db)));
                    if task.await.is_err_and(|e| e.panicked) {
                        db.fault("the upload task panicked");
                        lock(&db.ship).running = false;
                        db.ship_signal.notify_all();
                        db.retire_soon();
                    }
                });
            }
            Err(e) => {
                lock(&db.ship).running = false;
                db.set_error(e.to_string());
            }
        }
    }

    fn rest_io(&self) {
        let runtime = {
            let mut io = lock(&self.io);
            if io.users > 0 { None } else { io.runtime.take() }
        };
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }

    /// Ends the worker and the runtime when no database is open.
    fn stop_if_unused(self: &Arc<Self>) {
        let (watch, runtime);
        {
            let registry = lock(&self.registry);
            if !registry.databases.is_empty() {
                return;
            }
            watch = lock(&self.watch).take();
            let mut io = lock(&self.io);
            if io.waiting > 0 {
                return;
            }
            io.generation += 1;
            runtime = io.runtime.take();
        }
        // Its thread may want the registry before it ends.
        drop(watch);
        let is_open = || !lock(&self.registry).databases.is_empty();
        self.worker_told(self.worker.stop(is_open, |life| self.start_worker(life)));
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}
