//! Methods of replica files: version 1, since there is neither shared memory
//! nor a map, and no file of the host's behind them.
//!
//! Invariant of this file, kept by `vfs.rs`: a `sqlite3_file` whose `pMethods`
//! is [`REPLICA`] is a [`Shim`] that `place_replica` initialised. SQLite calls
//! no two methods of one file at the same time.

use std::ffi::{c_int, c_void};

use super::abi::*;
use super::api::api;
use super::guard::guarded;
use super::io::answer_pragma;
use super::vfs::REPLICA_NAME;
use crate::replica_vfs::ReplicaFile;
use crate::sql;

/// A replica file; in SQLite's memory, so the handle lies elsewhere.
#[repr(C)]
struct Shim {
    base: sqlite3_file,
    hooks: Box<ReplicaFile>,
}

/// Bytes of our VFSes' files that are not the host's must hold a [`Shim`].
pub(super) const BYTES: usize = size_of::<Shim>();

/// What SQLite assumes of a file whose VFS does not tell.
const SECTOR_BYTES: c_int = 4096;

static REPLICA: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(x_close),
    xRead: Some(x_read),
    xWrite: Some(x_write),
    xTruncate: Some(x_truncate),
    xSync: Some(x_sync),
    xFileSize: Some(x_file_size),
    xLock: Some(x_lock),
    xUnlock: Some(x_unlock),
    xCheckReservedLock: Some(x_check_reserved_lock),
    xFileControl: Some(x_file_control),
    xSectorSize: Some(x_sector_size),
    xDeviceCharacteristics: Some(x_device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// Turns `file` into an open replica.
///
/// # Safety
/// `file` is memory of one of our VFSes' `szOsFile` in which nothing is open.
pub(super) unsafe fn place_replica(file: *mut sqlite3_file, hooks: Box<ReplicaFile>) {
    // SAFETY: the caller's memory is large and aligned enough (SQLite aligns
    // files to 8) and holds nothing that needs dropping.
    unsafe {
        let base = sqlite3_file { pMethods: &raw const REPLICA };
        file.cast::<Shim>().write(Shim { base, hooks });
    }
}

/// The handle behind `file` when that is a replica of this library, or one lies
/// below it.
///
/// # Safety
/// `file` is null or an open file of any VFS, not closed meanwhile.
pub(super) unsafe fn replica_hooks<'a>(file: *mut sqlite3_file) -> Option<&'a ReplicaFile> {
    // SAFETY: every open file begins with its methods; the address of our table
    // proves the type. Only `x_file_control` knows the question, and answers
    // with the handle of an open file below `file`.
    unsafe {
        let methods = file.as_ref()?.pMethods.as_ref()?;
        if std::ptr::eq(&raw const REPLICA, methods) {
            return Some(hooks_of(file));
        }
        let mut query = HooksQuery { question: question(), answer: std::ptr::null() };
        let rc = methods.xFileControl?(file, FCNTL_HOOKS, (&raw mut query).cast());
        if rc == SQLITE_OK { query.answer.cast::<ReplicaFile>().as_ref() } else { None }
    }
}

/// An address in this copy of the library, which no other question can hold.
fn question() -> usize {
    (&raw const REPLICA) as usize
}

/// # Safety
/// `file` satisfies the file's invariant and is not closed while the reference lives.
unsafe fn hooks_of<'a>(file: *mut sqlite3_file) -> &'a ReplicaFile {
    // SAFETY: the caller's promise; only shared references are ever made.
    unsafe { &(*file.cast::<Shim>()).hooks }
}

unsafe extern "C" fn x_close(f: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once and uses it no more: the handle is
    // moved out and the methods cleared.
    let hooks = unsafe {
        let shim = f.cast::<Shim>().read();
        (*f).pMethods = std::ptr::null();
        shim.hooks
    };
    guarded((), || hooks.closed());
    SQLITE_OK
}

unsafe extern "C" fn x_read(f: *mut sqlite3_file, buf: *mut c_void, n: c_int, at: i64) -> c_int {
    let (Ok(len), Ok(offset)) = (usize::try_from(n), u64::try_from(at)) else {
        return SQLITE_IOERR_READ;
    };
    // SAFETY: the arguments of xRead: `n` bytes of SQLite's memory, which hold
    // something, whatever it is, and which nobody else touches meanwhile.
    let buf = unsafe { std::slice::from_raw_parts_mut(buf.cast::<u8>(), len) };
    // SAFETY: a file of `REPLICA`.
    guarded(SQLITE_IOERR_READ, || unsafe { hooks_of(f) }.read(buf, offset))
}

unsafe extern "C" fn x_write(f: *mut sqlite3_file, _: *const c_void, _: c_int, _: i64) -> c_int {
    // SAFETY: a file of `REPLICA`.
    guarded(SQLITE_READONLY, || unsafe { hooks_of(f) }.write())
}

unsafe extern "C" fn x_truncate(f: *mut sqlite3_file, _: i64) -> c_int {
    // SAFETY: a file of `REPLICA`.
    guarded(SQLITE_READONLY, || unsafe { hooks_of(f) }.write())
}

unsafe extern "C" fn x_sync(_: *mut sqlite3_file, _: c_int) -> c_int {
    SQLITE_OK
}

unsafe extern "C" fn x_file_size(f: *mut sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: a file of `REPLICA`.
    match guarded(Err(SQLITE_IOERR_FSTAT), || unsafe { hooks_of(f) }.size()) {
        Ok(bytes) => {
            // SAFETY: the argument of xFileSize.
            unsafe { *size = i64::try_from(bytes).unwrap_or(i64::MAX) };
            SQLITE_OK
        }
        Err(rc) => rc,
    }
}

unsafe extern "C" fn x_lock(f: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: a file of `REPLICA`.
    guarded(SQLITE_IOERR_LOCK, || unsafe { hooks_of(f) }.lock(level))
}

unsafe extern "C" fn x_unlock(f: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: a file of `REPLICA`.
    guarded((), || unsafe { hooks_of(f) }.unlock(level));
    SQLITE_OK
}

unsafe extern "C" fn x_check_reserved_lock(_: *mut sqlite3_file, held: *mut c_int) -> c_int {
    // SAFETY: the argument of xCheckReservedLock.
    unsafe { *held = 0 };
    SQLITE_OK
}

unsafe extern "C" fn x_file_control(f: *mut sqlite3_file, op: c_int, arg: *mut c_void) -> c_int {
    match op {
        SQLITE_FCNTL_PRAGMA => {
            // SAFETY: a file of `REPLICA`; the argument of this opcode.
            let answered = unsafe {
                answer_pragma(arg.cast(), |name, value| {
                    sql::pragma(sql::Database::Replica(hooks_of(f)), name, value)
                })
            };
            answered.unwrap_or(SQLITE_NOTFOUND)
        }
        SQLITE_FCNTL_VFSNAME => {
            // SAFETY: the argument of this opcode is a place for a string that
            // SQLite frees.
            unsafe { *arg.cast() = api().allocated_text(REPLICA_NAME) };
            SQLITE_OK
        }
        FCNTL_HOOKS => {
            // SAFETY: whoever uses this code gives null or memory that begins
            // with an address-sized question.
            match unsafe { arg.cast::<HooksQuery>().as_mut() } {
                Some(query) if query.question == question() => {
                    // SAFETY: a file of `REPLICA`.
                    query.answer = unsafe { std::ptr::from_ref(hooks_of(f)).cast() };
                    SQLITE_OK
                }
                _ => SQLITE_NOTFOUND,
            }
        }
        _ => SQLITE_NOTFOUND,
    }
}

unsafe extern "C" fn x_sector_size(_: *mut sqlite3_file) -> c_int {
    SECTOR_BYTES
}

unsafe extern "C" fn x_device_characteristics(_: *mut sqlite3_file) -> c_int {
    0
}
