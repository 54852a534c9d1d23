//! SQLite's C interface as far as the extension uses it: two method tables,
//! opaque types and constants, in the layout of `sqlite3.h`.
#![allow(non_camel_case_types, non_snake_case)]

use std::ffi::{c_char, c_int, c_void};

/// A connection; opaque.
#[repr(C)]
pub(crate) struct sqlite3 {
    _opaque: [u8; 0],
}

/// The call of an SQL function; opaque.
#[repr(C)]
pub(crate) struct sqlite3_context {
    _opaque: [u8; 0],
}

/// An argument of an SQL function; opaque.
#[repr(C)]
pub(crate) struct sqlite3_value {
    _opaque: [u8; 0],
}

/// The common beginning of every VFS's file object.
#[repr(C)]
pub(crate) struct sqlite3_file {
    pub pMethods: *const sqlite3_io_methods,
}

pub(crate) type Close = unsafe extern "C" fn(*mut sqlite3_file) -> c_int;
pub(crate) type Read = unsafe extern "C" fn(*mut sqlite3_file, *mut c_void, c_int, i64) -> c_int;
pub(crate) type Write = unsafe extern "C" fn(*mut sqlite3_file, *const c_void, c_int, i64) -> c_int;
pub(crate) type FileInt64 = unsafe extern "C" fn(*mut sqlite3_file, i64) -> c_int;
pub(crate) type FileInt = unsafe extern "C" fn(*mut sqlite3_file, c_int) -> c_int;
pub(crate) type FileSize = unsafe extern "C" fn(*mut sqlite3_file, *mut i64) -> c_int;
pub(crate) type FileOutInt = unsafe extern "C" fn(*mut sqlite3_file, *mut c_int) -> c_int;
pub(crate) type FileControl = unsafe extern "C" fn(*mut sqlite3_file, c_int, *mut c_void) -> c_int;
pub(crate) type ShmMap =
    unsafe extern "C" fn(*mut sqlite3_file, c_int, c_int, c_int, *mut *mut c_void) -> c_int;
pub(crate) type ShmLock = unsafe extern "C" fn(*mut sqlite3_file, c_int, c_int, c_int) -> c_int;
pub(crate) type ShmBarrier = unsafe extern "C" fn(*mut sqlite3_file);
pub(crate) type Fetch =
    unsafe extern "C" fn(*mut sqlite3_file, i64, c_int, *mut *mut c_void) -> c_int;
pub(crate) type Unfetch = unsafe extern "C" fn(*mut sqlite3_file, i64, *mut c_void) -> c_int;

/// Methods of an open file. Version 1 ends after `xDeviceCharacteristics`,
/// version 2 after `xShmUnmap`, version 3 after `xUnfetch`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct sqlite3_io_methods {
    pub iVersion: c_int,
    pub xClose: Option<Close>,
    pub xRead: Option<Read>,
    pub xWrite: Option<Write>,
    pub xTruncate: Option<FileInt64>,
    pub xSync: Option<FileInt>,
    pub xFileSize: Option<FileSize>,
    pub xLock: Option<FileInt>,
    pub xUnlock: Option<FileInt>,
    pub xCheckReservedLock: Option<FileOutInt>,
    pub xFileControl: Option<FileControl>,
    pub xSectorSize: Option<Close>,
    pub xDeviceCharacteristics: Option<Close>,
    pub xShmMap: Option<ShmMap>,
    pub xShmLock: Option<ShmLock>,
    pub xShmBarrier: Option<ShmBarrier>,
    pub xShmUnmap: Option<FileInt>,
    pub xFetch: Option<Fetch>,
    pub xUnfetch: Option<Unfetch>,
}

pub(crate) type SysCall = Option<unsafe extern "C" fn()>;

/// A VFS. Version 2 adds `xCurrentTimeInt64`, version 3 the three system-call
/// methods.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct sqlite3_vfs {
    pub iVersion: c_int,
    pub szOsFile: c_int,
    pub mxPathname: c_int,
    pub pNext: *mut sqlite3_vfs,
    pub zName: *const c_char,
    pub pAppData: *mut c_void,
    pub xOpen: Option<
        unsafe extern "C" fn(
            *mut sqlite3_vfs,
            *const c_char,
            *mut sqlite3_file,
            c_int,
            *mut c_int,
        ) -> c_int,
    >,
    pub xDelete: Option<unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char, c_int) -> c_int>,
    pub xAccess:
        Option<unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char, c_int, *mut c_int) -> c_int>,
    pub xFullPathname:
        Option<unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char, c_int, *mut c_char) -> c_int>,
    pub xDlOpen: Option<unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char) -> *mut c_void>,
    pub xDlError: Option<unsafe extern "C" fn(*mut sqlite3_vfs, c_int, *mut c_char)>,
    pub xDlSym:
        Option<unsafe extern "C" fn(*mut sqlite3_vfs, *mut c_void, *const c_char) -> *mut c_void>,
    pub xDlClose: Option<unsafe extern "C" fn(*mut sqlite3_vfs, *mut c_void)>,
    pub xRandomness: Option<unsafe extern "C" fn(*mut sqlite3_vfs, c_int, *mut c_char) -> c_int>,
    pub xSleep: Option<unsafe extern "C" fn(*mut sqlite3_vfs, c_int) -> c_int>,
    pub xCurrentTime: Option<unsafe extern "C" fn(*mut sqlite3_vfs, *mut f64) -> c_int>,
    pub xGetLastError: Option<unsafe extern "C" fn(*mut sqlite3_vfs, c_int, *mut c_char) -> c_int>,
    pub xCurrentTimeInt64: Option<unsafe extern "C" fn(*mut sqlite3_vfs, *mut i64) -> c_int>,
    pub xSetSystemCall:
        Option<unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char, SysCall) -> c_int>,
    pub xGetSystemCall: Option<unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char) -> SysCall>,
    pub xNextSystemCall:
        Option<unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char) -> *const c_char>,
}

pub(crate) type Function =
    unsafe extern "C" fn(*mut sqlite3_context, c_int, *mut *mut sqlite3_value);
pub(crate) type EntryPoint =
    unsafe extern "C" fn(*mut sqlite3, *mut *mut c_char, *const c_void) -> c_int;

pub(crate) const SQLITE_OK: c_int = 0;
pub(crate) const SQLITE_ERROR: c_int = 1;
pub(crate) const SQLITE_BUSY: c_int = 5;
pub(crate) const SQLITE_READONLY: c_int = 8;
pub(crate) const SQLITE_IOERR: c_int = 10;
pub(crate) const SQLITE_NOTFOUND: c_int = 12;
pub(crate) const SQLITE_CANTOPEN: c_int = 14;
pub(crate) const SQLITE_NOTICE: c_int = 27;
pub(crate) const SQLITE_WARNING: c_int = 28;
pub(crate) const SQLITE_OK_LOAD_PERMANENTLY: c_int = 256;
pub(crate) const SQLITE_IOERR_READ: c_int = 266;
pub(crate) const SQLITE_IOERR_SHORT_READ: c_int = 522;
pub(crate) const SQLITE_IOERR_FSTAT: c_int = 1802;
pub(crate) const SQLITE_IOERR_LOCK: c_int = 3850;

pub(crate) const SQLITE_OPEN_READONLY: c_int = 0x0000_0001;
pub(crate) const SQLITE_OPEN_READWRITE: c_int = 0x0000_0002;
pub(crate) const SQLITE_OPEN_CREATE: c_int = 0x0000_0004;
pub(crate) const SQLITE_OPEN_DELETEONCLOSE: c_int = 0x0000_0008;
/// Given to xOpen when SQLite has parsed the name as a URI.
pub(crate) const SQLITE_OPEN_URI: c_int = 0x0000_0040;
pub(crate) const SQLITE_OPEN_MEMORY: c_int = 0x0000_0080;
pub(crate) const SQLITE_OPEN_MAIN_DB: c_int = 0x0000_0100;
pub(crate) const SQLITE_OPEN_MAIN_JOURNAL: c_int = 0x0000_0800;
pub(crate) const SQLITE_OPEN_SUPER_JOURNAL: c_int = 0x0000_4000;
pub(crate) const SQLITE_OPEN_WAL: c_int = 0x0008_0000;

pub(crate) const SQLITE_LOCK_NONE: c_int = 0;
pub(crate) const SQLITE_LOCK_SHARED: c_int = 1;
pub(crate) const SQLITE_LOCK_RESERVED: c_int = 2;
pub(crate) const SQLITE_LOCK_EXCLUSIVE: c_int = 4;

pub(crate) const SQLITE_SHM_UNLOCK: c_int = 1;
pub(crate) const SQLITE_SHM_LOCK: c_int = 2;
pub(crate) const SQLITE_SHM_SHARED: c_int = 4;
pub(crate) const SQLITE_SHM_EXCLUSIVE: c_int = 8;

pub(crate) const SQLITE_FCNTL_FILE_POINTER: c_int = 7;
/// Ours: asks a file, through any VFS above it, for its hooks. The argument is
/// a [`HooksQuery`]. SQLite keeps codes below 100 for itself.
pub(crate) const FCNTL_HOOKS: c_int = 0x4c54_5801;

/// What [`FCNTL_HOOKS`] is asked with.
#[repr(C)]
pub(crate) struct HooksQuery {
    /// Tells this library's question from another one's of the same code.
    pub question: usize,
    /// The answer, of the asker's type; null before.
    pub answer: *const c_void,
}
pub(crate) const SQLITE_FCNTL_VFSNAME: c_int = 12;
pub(crate) const SQLITE_FCNTL_PRAGMA: c_int = 14;
pub(crate) const SQLITE_FCNTL_SYNC: c_int = 21;
pub(crate) const SQLITE_FCNTL_COMMIT_PHASETWO: c_int = 22;

pub(crate) const SQLITE_NULL: c_int = 5;
pub(crate) const SQLITE_UTF8: c_int = 1;
pub(crate) const SQLITE_DIRECTONLY: c_int = 0x0008_0000;
