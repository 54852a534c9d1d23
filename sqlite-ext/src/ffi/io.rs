//! Methods of the files that replication watches: a replicated database and
//! its WAL. Every call reaches the host VFS's own file, which lies behind our
//! fields in the memory that SQLite gave to `xOpen`.
//!
//! Invariant of this file, kept by `vfs.rs`: a `sqlite3_file` whose `pMethods`
//! is one of the tables below is a [`MainShim`] or [`WalShim`] that `place_*`
//! initialised, followed at [`HOST_OFFSET`] by an open file of the host VFS.
//! SQLite calls no two methods of one file at the same time.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};

use super::abi::*;
use super::api::api;
use super::forward::{PLAIN, forward};
use super::guard::hook;
use super::own_file::ConnectionFile;
use super::wal_index::WalIndex;
use crate::primary_vfs::{MainFile, WalFile};
use crate::sql;

/// A replicated database file.
#[repr(C)]
struct MainShim {
    base: sqlite3_file,
    /// Region 0 of this connection's wal-index while it is mapped.
    wal_index: Cell<Option<WalIndex>>,
    hooks: MainFile,
}

/// The WAL of a replicated database.
#[repr(C)]
struct WalShim {
    base: sqlite3_file,
    hooks: WalFile,
}

const fn larger(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// Where the host VFS's file begins: behind ours, aligned for any type.
pub(super) const HOST_OFFSET: usize =
    (larger(larger(size_of::<MainShim>(), size_of::<WalShim>()), super::replica_io::BYTES) + 15)
        & !15;

/// The host VFS's part of `file`.
///
/// # Safety
/// `file` has room for `HOST_OFFSET` bytes and the host VFS's file.
pub(super) unsafe fn host_part(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: within the allocation, as the caller vouches.
    unsafe { file.byte_add(HOST_OFFSET) }
}

/// The fields of a replicated database file.
///
/// # Safety
/// `file` satisfies the file's invariant with a table of [`MAIN`], and is not
/// closed while the reference lives.
unsafe fn main_of<'a>(file: *mut sqlite3_file) -> &'a MainShim {
    // SAFETY: the caller's promise; only shared references are ever made.
    unsafe { &*file.cast::<MainShim>() }
}

/// The host's file of a connection in one of its callbacks.
///
/// # Safety
/// As [`main_of`], on the connection's thread, for the time of one callback.
unsafe fn own_file(file: *mut sqlite3_file) -> ConnectionFile {
    // SAFETY: the file's invariant; SQLite calls no two methods of it at a time.
    unsafe { ConnectionFile::new(host_part(file)) }
}

/// The fields of a replicated database's WAL; as [`main_of`].
unsafe fn wal_of<'a>(file: *mut sqlite3_file) -> &'a WalShim {
    // SAFETY: as in `main_of`, with the tables of `WAL`.
    unsafe { &*file.cast::<WalShim>() }
}

/// Turns `file`, whose host part is open, into a replicated database file.
///
/// # Safety
/// `file` is memory of our VFS's `szOsFile` with an open host part.
pub(super) unsafe fn place_main(file: *mut sqlite3_file, hooks: MainFile) {
    // SAFETY: the caller's memory is large and aligned enough (SQLite aligns
    // files to 8) and holds nothing that needs dropping.
    unsafe {
        let base = sqlite3_file { pMethods: table(&MAIN, file) };
        file.cast::<MainShim>().write(MainShim { base, wal_index: Cell::new(None), hooks });
    }
}

/// Turns `file`, whose host part is open, into a replicated database's WAL.
///
/// # Safety
/// As [`place_main`].
pub(super) unsafe fn place_wal(file: *mut sqlite3_file, hooks: WalFile) {
    // SAFETY: as in `place_main`.
    unsafe {
        let base = sqlite3_file { pMethods: table(&WAL, file) };
        file.cast::<WalShim>().write(WalShim { base, hooks });
    }
}

/// The hooks of `file` when it is a replicated database of this library, or
/// one lies below it: a VFS above ours (encryption, say) passes the question on.
///
/// # Safety
/// `file` is null or an open file of any VFS, not closed meanwhile.
pub(super) unsafe fn main_hooks<'a>(file: *mut sqlite3_file) -> Option<&'a MainFile> {
    // SAFETY: every open file begins with its methods; the address of a table
    // of ours proves the type. Only `main_file_control` knows the question, and
    // answers with the hooks of an open file below `file`.
    unsafe {
        let methods = file.as_ref()?.pMethods.as_ref()?;
        if MAIN.iter().any(|t| std::ptr::eq(t, methods)) {
            return Some(&main_of(file).hooks);
        }
        let mut query = HooksQuery { question: question(), answer: std::ptr::null() };
        let rc = methods.xFileControl?(file, FCNTL_HOOKS, (&raw mut query).cast());
        if rc == SQLITE_OK { query.answer.cast::<MainFile>().as_ref() } else { None }
    }
}

/// An address in this copy of the library, which no other question can hold.
fn question() -> usize {
    (&raw const MAIN) as usize
}

/// The table for what the host's file offers: never a method more.
unsafe fn table(
    tables: &'static [sqlite3_io_methods; 4],
    file: *mut sqlite3_file,
) -> *const sqlite3_io_methods {
    // SAFETY: the host part is open, so its methods are set.
    let methods = unsafe { &*(*host_part(file)).pMethods };
    let shm = methods.iVersion >= 2 && methods.xShmMap.is_some();
    let fetch = methods.iVersion >= 3 && methods.xFetch.is_some();
    &tables[match (shm, fetch) {
        (false, false) => 0,
        (true, false) => 1,
        (false, true) => 2,
        (true, true) => 3,
    }]
}

/// `full` without what the host's file lacks.
const fn methods(full: sqlite3_io_methods, shm: bool, fetch: bool) -> sqlite3_io_methods {
    let mut m = full;
    m.iVersion = if fetch {
        3
    } else if shm {
        2
    } else {
        1
    };
    if !shm {
        m.xShmMap = None;
        m.xShmLock = None;
        m.xShmBarrier = None;
        m.xShmUnmap = None;
    }
    if !fetch {
        m.xFetch = None;
        m.xUnfetch = None;
    }
    m
}

const fn four(full: sqlite3_io_methods) -> [sqlite3_io_methods; 4] {
    [
        methods(full, false, false),
        methods(full, true, false),
        methods(full, false, true),
        methods(full, true, true),
    ]
}

static MAIN: [sqlite3_io_methods; 4] = four(sqlite3_io_methods {
    xClose: Some(main_close),
    xRead: Some(main_read),
    xWrite: Some(main_write),
    xTruncate: Some(main_truncate),
    xLock: Some(main_lock),
    xUnlock: Some(main_unlock),
    xFileControl: Some(main_file_control),
    xShmMap: Some(main_shm_map),
    xShmLock: Some(main_shm_lock),
    xShmUnmap: Some(main_shm_unmap),
    ..PLAIN
});

static WAL: [sqlite3_io_methods; 4] = four(sqlite3_io_methods {
    xClose: Some(wal_close),
    xWrite: Some(wal_write),
    xTruncate: Some(wal_truncate),
    ..PLAIN
});

unsafe extern "C" fn main_close(f: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once and uses it no more: the hooks are
    // moved out and the methods cleared.
    let hooks = unsafe {
        let shim = f.cast::<MainShim>().read();
        (*f).pMethods = std::ptr::null();
        shim.hooks
    };
    let rc = forward!(f, xClose, SQLITE_IOERR);
    // Dropping the hooks may run code of replication, so inside the guard; a
    // faulted process leaks them.
    super::guard::guarded((), || hooks.closed());
    rc
}

unsafe extern "C" fn main_read(f: *mut sqlite3_file, buf: *mut c_void, n: c_int, at: i64) -> c_int {
    // SAFETY: a file of `MAIN`.
    let shim = unsafe { main_of(f) };
    if shim.hooks.shows_page_size(n, at) {
        hook((), || shim.hooks.page_read(n));
    }
    forward!(f, xRead, SQLITE_IOERR, buf, n, at)
}

unsafe extern "C" fn main_write(
    f: *mut sqlite3_file,
    data: *const c_void,
    n: c_int,
    at: i64,
) -> c_int {
    // SAFETY: a file of `MAIN`.
    let (shim, own) = unsafe { (main_of(f), own_file(f)) };
    hook((), || shim.hooks.before_write(at, n, &own));
    forward!(f, xWrite, SQLITE_IOERR, data, n, at)
}

unsafe extern "C" fn main_truncate(f: *mut sqlite3_file, size: i64) -> c_int {
    // SAFETY: a file of `MAIN`.
    let (shim, own) = unsafe { (main_of(f), own_file(f)) };
    hook((), || shim.hooks.before_truncate(size, &own));
    forward!(f, xTruncate, SQLITE_IOERR, size)
}

unsafe extern "C" fn main_lock(f: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: a file of `MAIN`.
    let shim = unsafe { main_of(f) };
    hook((), || shim.hooks.before_lock(level));
    let rc = forward!(f, xLock, SQLITE_IOERR, level);
    hook((), || shim.hooks.after_lock(level, rc, shim.wal_index.get()));
    rc
}

unsafe extern "C" fn main_unlock(f: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: a file of `MAIN`.
    let (shim, own) = unsafe { (main_of(f), own_file(f)) };
    hook((), || shim.hooks.before_unlock(level, &own));
    let rc = forward!(f, xUnlock, SQLITE_IOERR, level);
    hook((), || shim.hooks.after_unlock(level));
    rc
}

unsafe extern "C" fn main_file_control(f: *mut sqlite3_file, op: c_int, arg: *mut c_void) -> c_int {
    match op {
        SQLITE_FCNTL_PRAGMA => {
            // SAFETY: a file of `MAIN`; the argument of this opcode.
            let answered = unsafe {
                answer_pragma(arg.cast(), |name, value| {
                    sql::pragma(sql::Database::Primary(&main_of(f).hooks), name, value)
                })
            };
            if let Some(rc) = answered {
                return rc;
            }
            forward!(f, xFileControl, SQLITE_NOTFOUND, op, arg)
        }
        SQLITE_FCNTL_VFSNAME => {
            let rc = forward!(f, xFileControl, SQLITE_NOTFOUND, op, arg);
            // SAFETY: the argument of this opcode is a place for a string.
            unsafe { prefix_vfs_name(rc, arg.cast()) }
        }
        FCNTL_HOOKS => {
            // SAFETY: whoever uses this code gives null or memory that begins
            // with an address-sized question.
            match unsafe { arg.cast::<HooksQuery>().as_mut() } {
                Some(query) if query.question == question() => {
                    // SAFETY: a file of `MAIN`.
                    query.answer = unsafe { (&raw const main_of(f).hooks).cast() };
                    SQLITE_OK
                }
                _ => forward!(f, xFileControl, SQLITE_NOTFOUND, op, arg),
            }
        }
        SQLITE_FCNTL_COMMIT_PHASETWO => {
            let rc = forward!(f, xFileControl, SQLITE_NOTFOUND, op, arg);
            // SAFETY: a file of `MAIN`.
            let (shim, own) = unsafe { (main_of(f), own_file(f)) };
            hook((), || shim.hooks.committed(shim.wal_index.get(), &own));
            rc
        }
        SQLITE_FCNTL_SYNC => {
            // SAFETY: a file of `MAIN`.
            let shim = unsafe { main_of(f) };
            hook((), || shim.hooks.synced());
            forward!(f, xFileControl, SQLITE_NOTFOUND, op, arg)
        }
        _ => forward!(f, xFileControl, SQLITE_NOTFOUND, op, arg),
    }
}

/// Answers `PRAGMA litestream_...` by `answer`; `None` for one that is not ours.
///
/// # Safety
/// `args` is the argument of `SQLITE_FCNTL_PRAGMA`: `[answer or error, name, value]`.
pub(super) unsafe fn answer_pragma(
    args: *mut *mut c_char,
    answer: impl FnOnce(&str, Option<&str>) -> Option<Result<String, String>>,
) -> Option<c_int> {
    // SAFETY: the name is a C string, the value one or null.
    let (name, value) = unsafe {
        let value = *args.add(2);
        (CStr::from_ptr(*args.add(1)), (!value.is_null()).then(|| CStr::from_ptr(value)))
    };
    let name = name.to_str().ok()?;
    let prefix = sql::PREFIX;
    if !name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)) {
        return None;
    }
    let value = value.map(|v| v.to_string_lossy());
    let failed = || Some(Err(sql::FAULTED.to_owned()));
    let answer = super::guard::guarded(failed(), || answer(name, value.as_deref()))?;
    let (rc, text) = match answer {
        Ok(text) => (SQLITE_OK, text),
        Err(text) => (SQLITE_ERROR, text),
    };
    // SAFETY: SQLite frees the first element with sqlite3_free.
    unsafe { *args = api().allocated_text(&text) };
    Some(rc)
}

/// Makes `HOST` to `litestream/HOST`.
///
/// # Safety
/// `name` is the argument of `SQLITE_FCNTL_VFSNAME` after the host answered `rc`.
unsafe fn prefix_vfs_name(rc: c_int, name: *mut *mut c_char) -> c_int {
    // SAFETY: on success the place holds a string of SQLite's memory or null.
    unsafe {
        if rc == SQLITE_OK && !(*name).is_null() {
            let host = CStr::from_ptr(*name).to_string_lossy().into_owned();
            let ours = api().allocated_text(&format!("{}/{host}", super::vfs::NAME));
            if !ours.is_null() {
                (api().free)((*name).cast());
                *name = ours;
            }
        }
    }
    rc
}

unsafe extern "C" fn main_shm_map(
    f: *mut sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    let rc = forward!(f, xShmMap, SQLITE_IOERR, region, size, extend, out);
    if region == 0 && rc == SQLITE_OK {
        // SAFETY: a file of `MAIN`, and region 0 as the host mapped it; the
        // view is forgotten in `main_shm_unmap` and dies with the file.
        unsafe { main_of(f).wal_index.set(WalIndex::new(*out)) };
    }
    rc
}

unsafe extern "C" fn main_shm_lock(
    f: *mut sqlite3_file,
    offset: c_int,
    n: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: a file of `MAIN`.
    let shim = unsafe { main_of(f) };
    // Of the six calls of a small commit only one needs a look.
    if shim.hooks.watches(offset, n, flags) {
        // SAFETY: as above.
        return unsafe { watched_shm_lock(f, offset, n, flags) };
    }
    forward!(f, xShmLock, SQLITE_IOERR, offset, n, flags)
}

/// # Safety
/// The arguments of `xShmLock` for a file of `MAIN`.
#[inline(never)]
unsafe fn watched_shm_lock(f: *mut sqlite3_file, offset: c_int, n: c_int, flags: c_int) -> c_int {
    // SAFETY: a file of `MAIN`.
    let shim = unsafe { main_of(f) };
    let index = shim.wal_index.get();
    if let Some(rc) = hook(None, || shim.hooks.before_shm_lock(offset, n, flags, index)) {
        return rc;
    }
    let rc = forward!(f, xShmLock, SQLITE_IOERR, offset, n, flags);
    if rc != SQLITE_OK || hook(true, || shim.hooks.after_shm_lock(offset, n, flags, index)) {
        return rc;
    }
    // Refused: SQLite must not believe that it holds the lock.
    match forward!(f, xShmLock, SQLITE_IOERR, offset, n, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE) {
        SQLITE_OK => SQLITE_BUSY,
        rc => rc,
    }
}

unsafe extern "C" fn main_shm_unmap(f: *mut sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: a file of `MAIN`.
    unsafe { main_of(f).wal_index.set(None) };
    forward!(f, xShmUnmap, SQLITE_IOERR, delete)
}

unsafe extern "C" fn wal_close(f: *mut sqlite3_file) -> c_int {
    // SAFETY: as in `main_close`.
    let hooks = unsafe {
        let shim = f.cast::<WalShim>().read();
        (*f).pMethods = std::ptr::null();
        shim.hooks
    };
    super::guard::guarded((), || hooks.before_close());
    forward!(f, xClose, SQLITE_IOERR)
}

unsafe extern "C" fn wal_write(
    f: *mut sqlite3_file,
    data: *const c_void,
    n: c_int,
    at: i64,
) -> c_int {
    if at == 0 && n >= WAL_HEADER_BYTES as c_int {
        // SAFETY: a file of `WAL`; SQLite writes at least that many bytes.
        let (shim, header) = unsafe { (wal_of(f), &*data.cast::<[u8; WAL_HEADER_BYTES]>()) };
        hook((), || shim.hooks.before_header_write(header));
    }
    forward!(f, xWrite, SQLITE_IOERR, data, n, at)
}

const WAL_HEADER_BYTES: usize = 32;

unsafe extern "C" fn wal_truncate(f: *mut sqlite3_file, size: i64) -> c_int {
    if size < WAL_HEADER_BYTES as i64 {
        // SAFETY: a file of `WAL`.
        let shim = unsafe { wal_of(f) };
        hook((), || shim.hooks.before_truncate());
    }
    forward!(f, xTruncate, SQLITE_IOERR, size)
}
