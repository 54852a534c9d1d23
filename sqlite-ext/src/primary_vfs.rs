//! What the VFS knows about replicated databases: which opens become one, and
//! what each call on its files means for the engine. The calls arrive from
//! `ffi::io`, each on its connection's thread, before or after the host VFS
//! has done its part; nothing here touches a file.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use litestream::config::DbConfig;
use litestream::db::Db;
use litestream::host::OwnFile;
use litestream::replica_client::url::redact;

use crate::ffi::abi::*;
use crate::ffi::api::api;
use crate::ffi::guard::is_faulted;
use crate::ffi::host_file::HostVfs;
use crate::ffi::process;
use crate::ffi::wal_index::{CKPT_LOCK, READ_LOCK_0, READ_MARKS, WRITE_LOCK, WalIndex, decode};
use crate::options::{self, Configured, Mode};
use crate::pin::HostDatabase;
use crate::registry::{self, Entry};
use crate::replica_vfs::{self, ReplicaFile};
use crate::shield::Shield;
use crate::transaction::Transaction;
use crate::{last_error, log, raw_name, replica_name, runtime};

/// Settings given in SQL, for the whole process.
pub(crate) static CONFIGURED: Configured = Configured::new();

/// The VFS was made the default one by this library.
pub(crate) static IS_DEFAULT: AtomicBool = AtomicBool::new(false);

/// The arguments of `xOpen` for a main database.
pub(crate) struct OpenRequest {
    /// Full path, as the host VFS wants it.
    pub path: Vec<u8>,
    /// URI parameters that SQLite parsed.
    pub parameters: Vec<(String, String)>,
    /// Flags of `xOpen`.
    pub flags: i32,
    /// Where SQLite keeps the name: the WAL's name lies in the same memory.
    pub name_address: usize,
    /// Where it keeps the names of the journal and of the WAL.
    pub companions: [usize; 2],
    /// The open came by the VFS that opens replicas only.
    pub is_replica_vfs: bool,
}

/// What becomes of an open.
pub(crate) enum Plan {
    /// The host VFS opens it, and that is all.
    Host {
        /// Flags to open with.
        flags: i32,
    },
    /// The host VFS opens it behind our methods.
    Replicate {
        /// Flags to open with.
        flags: i32,
        /// What to do when it is open.
        replicated: Box<Replicated>,
    },
    /// No file of the host's: a replica is read.
    Replica(Box<ReplicaFile>),
}

/// An open of a replicated database that the host VFS is about to do.
pub(crate) struct Replicated {
    path: Vec<u8>,
    config: DbConfig,
    name_address: usize,
    exists: bool,
    /// The connection is registered.
    registered: bool,
}

impl Drop for Replicated {
    fn drop(&mut self) {
        if !self.registered {
            let path = Path::new(OsStr::from_bytes(&self.path));
            runtime::store().given_up(path);
        }
    }
}

/// Decides about the open of a main database.
///
/// # Errors
/// `SQLITE_CANTOPEN`, with the reason in the thread's last error and the log.
pub(crate) fn plan(request: OpenRequest) -> Result<Plan, i32> {
    last_error::clear();
    let path = request.path.clone();
    decide(request).map_err(|why| refuse(&path, &why))
}

fn refuse(path: &[u8], why: &str) -> i32 {
    let name = String::from_utf8_lossy(path);
    // The query of a replica's URL may hold credentials.
    let shown = if replica_name::is_url(path) { redact(&name) } else { name.into_owned() };
    let text = format!("cannot open {shown}: {why}");
    log::error(&text);
    last_error::set(text);
    SQLITE_CANTOPEN
}

fn decide(request: OpenRequest) -> Result<Plan, String> {
    let raw = raw_name::take(&request.path);
    // With the flag SQLite has parsed a URI, whose path looks like one itself.
    let unparsed = raw.as_ref().filter(|_| request.flags & SQLITE_OPEN_URI == 0);
    let flags = match unparsed {
        Some(raw) => raw_name::apply_mode(&raw.parameters, request.flags)?,
        None => request.flags,
    };
    let mut parameters = request.parameters.clone();
    parameters.extend(raw.iter().flat_map(|raw| raw.parameters.clone()));
    let parameters = &parameters;
    let vfs = parameters.iter().find(|(k, _)| k == "vfs").map(|(_, v)| v.as_str());
    let host = Plan::Host { flags };
    if unparsed.is_some() && vfs.is_some_and(|v| v != crate::ffi::vfs::NAME) {
        return Err(format!(
            "vfs={} works only when SQLite parses the URI",
            vfs.unwrap_or_default()
        ));
    }
    let named = vfs.is_some() || !IS_DEFAULT.load(Ordering::Relaxed);
    let mode = if named { Mode::Named } else { Mode::Default };
    if let Some(opening) = replica_vfs::plan(&request, raw.as_ref(), parameters, mode)? {
        return Ok(Plan::Replica(Box::new(opening.open()?)));
    }
    let path = Path::new(OsStr::from_bytes(&request.path));
    let found = options::find(path, parameters, &CONFIGURED, mode, &options::process_env)?;
    let Some(found) = found else { return Ok(host) };
    if let Some(why) = unreplicable(parameters) {
        return if found.explicit { Err(why.to_owned()) } else { Ok(host) };
    }
    if flags & SQLITE_OPEN_READWRITE == 0 {
        // Nothing can be committed through this handle, nor checkpointed.
        return Ok(host);
    }
    let exists = litestream::os::disk::stat(path).map_err(|e| e.to_string())?.is_some();
    if !exists && flags & SQLITE_OPEN_CREATE == 0 {
        return Ok(host);
    }
    if !exists {
        // A file that must not be, because storage has it, is not created first.
        runtime::store().before_open(path, &found.config, true).map_err(|e| e.to_string())?;
    }
    let replicated = Replicated {
        path: request.path,
        config: found.config,
        name_address: request.name_address,
        exists,
        registered: false,
    };
    Ok(Plan::Replicate { flags, replicated: Box::new(replicated) })
}

/// Why a database cannot be replicated, however it is configured.
fn unreplicable(parameters: &[(String, String)]) -> Option<&'static str> {
    // SQLite keeps the flag of a shared cache to itself.
    if parameters.iter().any(|(k, v)| k == "cache" && v == "shared") {
        return Some("a database in a shared cache is not replicated");
    }
    let on = |key: &str| {
        parameters
            .iter()
            .any(|(k, v)| k == key && litestream::config::parse_bool(key, v).unwrap_or(false))
    };
    if on("nolock") || on("immutable") {
        return Some("a database opened with nolock=1 or immutable=1 is not replicated");
    }
    None
}

impl Replicated {
    /// The host VFS has opened the file: registers the connection.
    ///
    /// # Errors
    /// `SQLITE_CANTOPEN`, with the reason in the thread's last error and the log.
    pub(crate) fn open(mut self, vfs: HostVfs) -> Result<MainFile, i32> {
        let as_path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        let checked = if self.exists {
            runtime::store().before_open(&as_path(&self.path), &self.config, false)
        } else {
            Ok(())
        };
        if let Err(e) = checked {
            return Err(refuse(&self.path, &e.to_string()));
        }
        let request = litestream::store::OpenRequest {
            path: as_path(&self.path),
            wal_path: as_path(&registry::wal_name(&self.path)),
            config: self.config.clone(),
            read_only: false,
            host: Arc::new(HostDatabase::new(vfs, &self.path)),
        };
        let db = match runtime::store().open(request) {
            Ok(db) => db,
            Err(e) => return Err(refuse(&self.path, &e.to_string())),
        };
        if is_faulted() {
            // No call of this connection will reach the engine: let it say so.
            db.fault("a callback panicked earlier in this process");
        }
        let shared = Arc::new(Connection {
            db,
            wal_open: AtomicBool::new(false),
            left_wal: AtomicBool::new(false),
            generation: process::generation(),
        });
        registry::add(Entry {
            name_address: self.name_address,
            path: std::mem::take(&mut self.path),
            connection: Arc::clone(&shared),
        });
        self.registered = true;
        Ok(MainFile {
            shared,
            level: Cell::new(SQLITE_LOCK_NONE),
            started: Cell::new(false),
            shield: Shield::new(api().version_number()),
            transaction: Transaction::default(),
            page_bytes: Cell::new(0),
        })
    }
}

/// What a connection's database and WAL have in common.
pub(crate) struct Connection {
    db: Arc<Db>,
    /// The connection has its WAL open: it is in WAL mode.
    wal_open: AtomicBool,
    /// It closed its WAL, which takes EXCLUSIVE, and still has that lock.
    left_wal: AtomicBool,
    /// The process that opened it, see [`process::generation`].
    generation: u32,
}

impl Connection {
    /// The database; none in a forked child, where a connection of the parent
    /// may at most be closed, and nothing of it replicated.
    #[inline]
    pub(crate) fn db(&self) -> Option<&Arc<Db>> {
        (self.generation == process::generation()).then_some(&self.db)
    }

    /// Whether process `process` opened it.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_of(&self, process: u32) -> bool {
        self.generation == process
    }

    fn is_wal(&self) -> bool {
        self.wal_open.load(Ordering::Relaxed)
    }
}

/// The watched WAL of the database whose name lies at `name_address` or, when
/// a VFS above ours moved it, is `path`.
pub(crate) fn wal_of(name_address: usize, path: &[u8], wal: &[u8]) -> Option<WalFile> {
    let shared = registry::find(name_address, path, wal)?;
    shared.wal_open.store(true, Ordering::Relaxed);
    if let Some(db) = shared.db() {
        db.wal_opened();
    }
    Some(WalFile { shared })
}

/// A file is about to be deleted: it may be a WAL.
pub(crate) fn before_delete(name: &[u8]) {
    for db in registry::by_wal(name) {
        db.before_wal_delete();
    }
}

/// Tells every open database that this library failed.
pub(crate) fn fault_all(what: &str) {
    for db in registry::all() {
        db.fault(what);
    }
}

/// One connection's handle on a replicated database.
pub(crate) struct MainFile {
    shared: Arc<Connection>,
    /// Lock level on the database file.
    level: Cell<i32>,
    /// The first read mark after the open was reported.
    started: Cell<bool>,
    /// What this connection's checkpoint may rely on.
    shield: Shield,
    /// The present transaction outside WAL mode.
    transaction: Transaction,
    /// Size of the last whole page that was read behind page 1.
    page_bytes: Cell<i32>,
}

impl MainFile {
    /// The database; none in a forked child.
    #[inline]
    pub(crate) fn db(&self) -> Option<&Arc<Db>> {
        self.shared.db()
    }

    pub(crate) fn before_lock(&self, level: i32) {
        if level == SQLITE_LOCK_EXCLUSIVE
            && let Some(db) = self.db()
        {
            db.before_exclusive();
        }
    }

    pub(crate) fn after_lock(&self, level: i32, rc: i32, index: Option<WalIndex>) {
        if rc != SQLITE_OK {
            return;
        }
        self.level.set(level);
        if let Some(db) = self.db() {
            self.transaction.locked(db, level);
        }
        // The last close checkpoints and deletes the WAL without a call of
        // `xShmLock`, and other processes may have written since this one did.
        if level == SQLITE_LOCK_EXCLUSIVE && self.shared.is_wal() {
            self.note(index);
        }
    }

    pub(crate) fn before_unlock(&self, level: i32, file: &dyn OwnFile) {
        if let Some(db) = self.db() {
            self.transaction.before_unlock(db, level, file);
        }
    }

    pub(crate) fn after_unlock(&self, level: i32) {
        self.level.set(level);
        if level < SQLITE_LOCK_EXCLUSIVE {
            self.shared.left_wal.store(false, Ordering::Relaxed);
        }
    }

    /// Whether this read tells a page size that was not told before. Page 1 is
    /// read before SQLite knows how large it is. Only comparisons: this is asked
    /// outside the guard.
    #[inline]
    pub(crate) fn shows_page_size(&self, n: i32, at: i64) -> bool {
        n != self.page_bytes.get()
            && at > 0
            && n >= 512
            && n & (n - 1) == 0
            && at & i64::from(n - 1) == 0
    }

    #[cold]
    pub(crate) fn page_read(&self, n: i32) {
        self.page_bytes.set(n);
        if let Some(db) = self.db() {
            db.note_page_size(n.unsigned_abs());
        }
    }

    /// Outside WAL mode every write of the file is a transaction's or the
    /// playback of one; in WAL mode it is a checkpoint's.
    pub(crate) fn before_write(&self, at: i64, n: i32, file: &dyn OwnFile) {
        if !self.shared.is_wal()
            && let Some(db) = self.db()
        {
            self.kept_since_wal(db);
            self.transaction.write(db, at.unsigned_abs(), n.unsigned_abs(), file);
        }
    }

    pub(crate) fn before_truncate(&self, size: i64, file: &dyn OwnFile) {
        if !self.shared.is_wal()
            && let Some(db) = self.db()
        {
            self.kept_since_wal(db);
            self.transaction.truncate(db, size.unsigned_abs(), file);
        }
    }

    /// A lock that was kept since WAL mode is a writer's: no journal is played
    /// back under it.
    fn kept_since_wal(&self, db: &Db) {
        if self.level.get() == SQLITE_LOCK_EXCLUSIVE
            && self.shared.left_wal.swap(false, Ordering::Relaxed)
        {
            self.transaction.may_write(db);
        }
    }

    /// `SQLITE_FCNTL_SYNC`.
    pub(crate) fn synced(&self) {
        self.transaction.synced();
    }

    /// `SQLITE_FCNTL_COMMIT_PHASETWO`: the last call of a commit.
    pub(crate) fn committed(&self, index: Option<WalIndex>, file: &dyn OwnFile) {
        let Some(db) = self.db() else { return };
        if !self.shared.is_wal() {
            self.transaction.committed(db, file);
            return;
        }
        // Otherwise the release of the write lock has told, in order with other
        // writers; only an exclusive connection makes no such call.
        if self.level.get() < SQLITE_LOCK_EXCLUSIVE {
            return;
        }
        match index.and_then(|i| i.header()) {
            Some(header) => db.note_published(&header),
            None => db.wal_written(),
        }
    }

    /// Whether a call of `xShmLock` means anything to replication. Only
    /// comparisons: this is asked outside the guard.
    #[inline]
    pub(crate) fn watches(&self, offset: i32, n: i32, flags: i32) -> bool {
        match flags {
            RELEASE => offset <= CKPT_LOCK,
            TAKE => match offset {
                WRITE_LOCK => self.shield.is_checkpointing(),
                CKPT_LOCK | READ_LOCK_0 => true,
                FIRST_MARK => n == ALL_MARKS,
                _ => false,
            },
            SHARE => !self.started.get(),
            _ => false,
        }
    }

    /// Returns a result code to give instead of asking the host VFS.
    pub(crate) fn before_shm_lock(
        &self,
        offset: i32,
        n: i32,
        flags: i32,
        index: Option<WalIndex>,
    ) -> Option<i32> {
        match (flags, offset) {
            (RELEASE, WRITE_LOCK) => {
                self.note(index);
                self.shield.writer_released(|| index.map(|i| i.salts()));
            }
            (RELEASE, CKPT_LOCK) => self.shield.checkpoint_released(),
            (TAKE, FIRST_MARK) if n == ALL_MARKS => {
                // The caller holds the write lock, so this is the WAL's end.
                self.note(index);
                let held = self.shield.is_checkpointing();
                if self.db().is_some_and(|db| !db.before_wal_restart(held)) {
                    return Some(SQLITE_BUSY);
                }
            }
            _ => {}
        }
        None
    }

    /// The host VFS granted or released a lock. False: it must be given back,
    /// and the caller hears BUSY.
    pub(crate) fn after_shm_lock(
        &self,
        offset: i32,
        n: i32,
        flags: i32,
        index: Option<WalIndex>,
    ) -> bool {
        match (flags, offset, n) {
            (SHARE, READ_LOCK_0.., _) if !self.started.get() => self.first_read(index),
            // A recovery takes this lock together with its own.
            (TAKE, CKPT_LOCK, 1) => {
                self.shield.checkpoint_granted(index.map(|i| i.salts()));
                if let Some(db) = self.db() {
                    db.checkpoint_granted();
                }
            }
            (TAKE, WRITE_LOCK, 1) => self.shield.writer_granted(),
            (TAKE, READ_LOCK_0, 1) => {
                fence(Ordering::SeqCst);
                return self.shield.may_copy(index.map(|i| i.salts()));
            }
            _ => {}
        }
        true
    }

    /// Tells the end of the WAL; the caller keeps every writer out.
    #[inline]
    fn note(&self, index: Option<WalIndex>) {
        if let Some(header) = index.and_then(|i| i.header())
            && let Some(db) = self.db()
        {
            db.note_published(&header);
        }
    }

    #[cold]
    fn first_read(&self, index: Option<WalIndex>) {
        let Some(db) = self.db() else { return };
        let noted = db.noted();
        // Another connection may be publishing just now; then the next read tells.
        if let Some(raw) = index.and_then(|i| i.raw_header(|| fence(Ordering::SeqCst))) {
            self.started.set(true);
            db.first_read(noted, &decode(&raw));
        }
    }

    /// The host VFS has closed the file.
    pub(crate) fn closed(self) {
        registry::remove(&self.shared);
        match self.db() {
            Some(db) => {
                self.transaction.closed(db);
                db.connection_closed();
            }
            // Dropping the parent's database would end threads that are not here.
            None => std::mem::forget(self),
        }
    }
}

/// What `xShmLock` is asked for.
const RELEASE: i32 = SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE;
const TAKE: i32 = SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE;
const SHARE: i32 = SQLITE_SHM_LOCK | SQLITE_SHM_SHARED;

/// Locks that a restart of the WAL takes: every read mark but the first.
const FIRST_MARK: i32 = READ_LOCK_0 + 1;
const ALL_MARKS: i32 = READ_MARKS as i32 - 1;

/// One connection's handle on the WAL of a replicated database.
pub(crate) struct WalFile {
    shared: Arc<Connection>,
}

impl WalFile {
    /// The header of a new generation is about to replace the old one.
    pub(crate) fn before_header_write(&self, header: &[u8]) {
        if let Some(db) = self.shared.db() {
            db.before_wal_header(header);
        }
    }

    /// The WAL is about to become empty.
    pub(crate) fn before_truncate(&self) {
        if let Some(db) = self.shared.db() {
            db.before_wal_truncate();
        }
    }

    /// The connection leaves the WAL.
    pub(crate) fn before_close(self) {
        self.shared.wal_open.store(false, Ordering::Relaxed);
        self.shared.left_wal.store(true, Ordering::Relaxed);
        if self.shared.db().is_none() {
            std::mem::forget(self);
        }
    }
}
