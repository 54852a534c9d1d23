//! A host VFS whose files, locks and shared memory a simulation provides, and
//! what else it needs of SQLite and of this library. Only with the feature
//! `simulation`, which no release build has.

mod table;

use std::collections::BTreeSet;
use std::ffi::{c_char, c_int};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use libsqlite3_sys as sqlite;
use litestream::tasks::simulated::current;

use super::abi::SQLITE_OK;

/// Words of one region of a wal-index.
const REGION_WORDS: usize = 32768 / 4;

/// One region of a wal-index, shared by everybody who mapped it.
#[derive(Clone)]
pub struct Region(Arc<[AtomicU32]>);

impl Default for Region {
    fn default() -> Self {
        Region((0..REGION_WORDS).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Region {
    /// A copy of its words.
    pub fn words(&self) -> Vec<u32> {
        self.0.iter().map(|w| w.load(Ordering::Relaxed)).collect()
    }

    /// One word.
    pub fn word(&self, index: usize) -> u32 {
        self.0[index].load(Ordering::Relaxed)
    }

    /// Overwrites it with a copy that was taken before.
    pub fn restore(&self, words: &[u32]) {
        for (word, value) in self.0.iter().zip(words) {
            word.store(*value, Ordering::Relaxed);
        }
    }
}

/// An open file, closed when dropped. Every method answers a result code of
/// SQLite; a panic is answered for it with `SQLITE_IOERR`.
pub trait HostFile {
    /// Reads all of `buf`, with zeros and `SQLITE_IOERR_SHORT_READ` past the end.
    fn read(&mut self, buf: &mut [u8], offset: u64) -> i32;
    /// Writes.
    fn write(&mut self, data: &[u8], offset: u64) -> i32;
    /// Cuts the file.
    fn truncate(&mut self, size: u64) -> i32;
    /// Makes it durable.
    fn sync(&mut self) -> i32;
    /// Its size in bytes.
    ///
    /// # Errors
    /// A result code.
    fn size(&mut self) -> Result<u64, i32>;
    /// Raises the lock.
    fn lock(&mut self, level: i32) -> i32;
    /// Lowers the lock.
    fn unlock(&mut self, level: i32) -> i32;
    /// Whether anybody holds RESERVED or more.
    ///
    /// # Errors
    /// A result code.
    fn is_reserved(&mut self) -> Result<bool, i32>;
    /// A file control; `None` for one that it does not know.
    fn control(&mut self, op: i32) -> Option<i32>;
    /// `SQLITE_IOCAP_...` bits.
    fn characteristics(&self) -> i32;
    /// Maps region `index` of the wal-index; none unless it exists or `extend`.
    ///
    /// # Errors
    /// A result code.
    fn shm_map(&mut self, index: usize, extend: bool) -> Result<Option<Region>, i32>;
    /// Locks or unlocks `n` slots from `offset`.
    fn shm_lock(&mut self, offset: i32, n: i32, flags: i32) -> i32;
    /// Gives the map back, and removes it when `delete`.
    fn shm_unmap(&mut self, delete: bool) -> i32;
}

/// The host's file system as SQLite uses it.
pub trait HostFs: Send + Sync {
    /// Opens a file, one without a name when `path` is `None`.
    ///
    /// # Errors
    /// A result code.
    fn open(&self, path: Option<&str>, flags: i32) -> Result<Box<dyn HostFile>, i32>;
    /// Deletes a file.
    fn delete(&self, path: &str, sync_dir: bool) -> i32;
    /// Whether a file exists.
    ///
    /// # Errors
    /// A result code.
    fn exists(&self, path: &str) -> Result<bool, i32>;
    /// Fills `buf` with random bytes.
    fn randomness(&self, buf: &mut [u8]);
    /// Puts the caller to sleep.
    fn sleep(&self, microseconds: u64);
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
    /// A method panicked, and not because its process was killed.
    fn panicked(&self);
}

static HOST: OnceLock<Box<dyn HostFs>> = OnceLock::new();

/// Makes `fs` the default VFS of this process's SQLite, under the name `host`,
/// and the library an extension of every connection; once for all.
///
/// # Errors
/// SQLite refused.
pub fn install(fs: Box<dyn HostFs>) -> Result<(), i32> {
    if HOST.set(fs).is_err() {
        return Ok(());
    }
    // SAFETY: the table is leaked, complete, and laid out as sqlite3.h says;
    // the entry point has the type that SQLite calls it with.
    unsafe {
        let vfs = table::vfs();
        let rc = sqlite::sqlite3_vfs_register(vfs.cast(), 1);
        if rc != SQLITE_OK {
            return Err(rc);
        }
        let rc = sqlite::sqlite3_auto_extension(Some(entry));
        if rc == SQLITE_OK { Ok(()) } else { Err(rc) }
    }
}

unsafe extern "C" fn entry(
    db: *mut sqlite::sqlite3,
    error: *mut *mut c_char,
    api: *const sqlite::sqlite3_api_routines,
) -> c_int {
    // SAFETY: the arguments of an entry point.
    let rc = unsafe { super::sqlite3_litestreamvfs_init(db.cast(), error, api.cast()) };
    if rc == super::abi::SQLITE_OK_LOAD_PERMANENTLY { SQLITE_OK } else { rc }
}

/// Has SQLite draw its next random numbers from the VFS again.
pub fn reset_randomness() {
    // SAFETY: no bytes are asked for: SQLite forgets its state.
    unsafe { sqlite::sqlite3_randomness(0, null_mut()) };
}

/// Simulated processes in which a callback panicked.
static FAULTED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn faulted() -> std::sync::MutexGuard<'static, BTreeSet<u32>> {
    FAULTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a callback panicked in the caller's simulated process.
pub(super) fn is_faulted() -> Option<bool> {
    current().map(|world| faulted().contains(&world.process_id()))
}

/// Remembers that a callback panicked; false outside a simulated process.
pub(super) fn fault() -> bool {
    let Some(world) = current() else { return false };
    faulted().insert(world.process_id());
    true
}

/// Simulated processes in which a callback of the library has panicked.
pub fn faults() -> Vec<u32> {
    faulted().iter().copied().collect()
}

/// Drops what the library holds for a simulated process that has ended. To be
/// called on a thread of that process.
pub fn end_process(process: u32) {
    drop(crate::runtime::take(process));
    crate::registry::forget(process);
    faulted().remove(&process);
}

/// The flush at the regular exit of the caller's simulated process.
pub fn exit_process() {
    crate::runtime::flush();
}
