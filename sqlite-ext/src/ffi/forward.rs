//! Methods of watched files that need no look: straight to the host's file.

use std::ffi::{c_int, c_void};

use super::abi::*;
use super::io::host_part;

/// Calls a method of the host's file behind a file of ours, with the same
/// arguments. The file satisfies the invariant of `io`.
macro_rules! forward {
    ($file:expr, $method:ident, $missing:expr $(, $arg:expr)*) => {{
        // SAFETY: the file's invariant; the arguments are SQLite's own.
        unsafe {
            let host = host_part($file);
            match (*(*host).pMethods).$method {
                Some(method) => method(host $(, $arg)*),
                None => $missing,
            }
        }
    }};
}
pub(super) use forward;

/// Everything forwarded as it is; the other three differ in both tables.
pub(super) const PLAIN: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 3,
    xClose: None,
    xRead: Some(x_read),
    xWrite: None,
    xTruncate: None,
    xSync: Some(x_sync),
    xFileSize: Some(x_file_size),
    xLock: Some(x_lock),
    xUnlock: Some(x_unlock),
    xCheckReservedLock: Some(x_check_reserved_lock),
    xFileControl: Some(x_file_control),
    xSectorSize: Some(x_sector_size),
    xDeviceCharacteristics: Some(x_device_characteristics),
    xShmMap: Some(x_shm_map),
    xShmLock: Some(x_shm_lock),
    xShmBarrier: Some(x_shm_barrier),
    xShmUnmap: Some(x_shm_unmap),
    xFetch: Some(x_fetch),
    xUnfetch: Some(x_unfetch),
};

unsafe extern "C" fn x_read(f: *mut sqlite3_file, buf: *mut c_void, n: c_int, at: i64) -> c_int {
    forward!(f, xRead, SQLITE_IOERR, buf, n, at)
}

unsafe extern "C" fn x_sync(f: *mut sqlite3_file, flags: c_int) -> c_int {
    forward!(f, xSync, SQLITE_IOERR, flags)
}

unsafe extern "C" fn x_file_size(f: *mut sqlite3_file, size: *mut i64) -> c_int {
    forward!(f, xFileSize, SQLITE_IOERR, size)
}

unsafe extern "C" fn x_lock(f: *mut sqlite3_file, level: c_int) -> c_int {
    forward!(f, xLock, SQLITE_IOERR, level)
}

unsafe extern "C" fn x_unlock(f: *mut sqlite3_file, level: c_int) -> c_int {
    forward!(f, xUnlock, SQLITE_IOERR, level)
}

unsafe extern "C" fn x_check_reserved_lock(f: *mut sqlite3_file, held: *mut c_int) -> c_int {
    forward!(f, xCheckReservedLock, SQLITE_IOERR, held)
}

unsafe extern "C" fn x_file_control(f: *mut sqlite3_file, op: c_int, arg: *mut c_void) -> c_int {
    forward!(f, xFileControl, SQLITE_NOTFOUND, op, arg)
}

unsafe extern "C" fn x_sector_size(f: *mut sqlite3_file) -> c_int {
    // 4096 is what SQLite assumes of a file without the method.
    forward!(f, xSectorSize, 4096)
}

unsafe extern "C" fn x_device_characteristics(f: *mut sqlite3_file) -> c_int {
    forward!(f, xDeviceCharacteristics, 0)
}

unsafe extern "C" fn x_shm_map(
    f: *mut sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    forward!(f, xShmMap, SQLITE_IOERR, region, size, extend, out)
}

unsafe extern "C" fn x_shm_lock(
    f: *mut sqlite3_file,
    offset: c_int,
    n: c_int,
    flags: c_int,
) -> c_int {
    forward!(f, xShmLock, SQLITE_IOERR, offset, n, flags)
}

unsafe extern "C" fn x_shm_unmap(f: *mut sqlite3_file, delete: c_int) -> c_int {
    forward!(f, xShmUnmap, SQLITE_IOERR, delete)
}

unsafe extern "C" fn x_shm_barrier(f: *mut sqlite3_file) {
    forward!(f, xShmBarrier, ());
}

unsafe extern "C" fn x_fetch(
    f: *mut sqlite3_file,
    at: i64,
    n: c_int,
    page: *mut *mut c_void,
) -> c_int {
    forward!(f, xFetch, SQLITE_IOERR, at, n, page)
}

unsafe extern "C" fn x_unfetch(f: *mut sqlite3_file, at: i64, page: *mut c_void) -> c_int {
    forward!(f, xUnfetch, SQLITE_IOERR, at, page)
}
