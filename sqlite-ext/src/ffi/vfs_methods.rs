//! Methods of both VFSes: the host's default VFS with one question asked at
//! every open. Files that are none of ours are opened by the host's VFS in
//! the caller's memory, with the host's own methods, and are never seen again.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use super::abi::*;
use super::api::{api, c_text};
use super::guard::{guarded, hook};
use super::host_file::HostVfs;
use super::io::{host_part, place_main, place_wal};
use super::replica_io::place_replica;
use super::vfs::AppData;
use crate::last_error;
use crate::primary_vfs::{self, OpenRequest, Plan};
use crate::replica_name::{self, Name};
use litestream::replica_client::url::redact;

/// The host's VFS below `vfs`.
///
/// # Safety
/// `vfs` is the VFS made by `vfs::shim_of`.
unsafe fn host_of(vfs: *mut sqlite3_vfs) -> HostVfs {
    // SAFETY: `pAppData` was set by `vfs::shim_of` and is leaked.
    unsafe { (*(*vfs).pAppData.cast::<AppData>()).host }
}

/// Whether `vfs` opens replicas only.
///
/// # Safety
/// As [`host_of`].
unsafe fn is_replica(vfs: *mut sqlite3_vfs) -> bool {
    // SAFETY: as in `host_of`.
    unsafe { (*(*vfs).pAppData.cast::<AppData>()).is_replica }
}

/// Whether a name other than a database's can be no file: a journal or a WAL
/// of a replica.
///
/// # Safety
/// The arguments of a method of ours.
unsafe fn is_nowhere(vfs: *mut sqlite3_vfs, name: *const c_char) -> bool {
    // SAFETY: the VFS is ours; a name is a C string.
    unsafe {
        is_replica(vfs)
            || replica_name::is_url(CStr::from_ptr(name).to_bytes())
            || replica_name::is_labelled(name as usize)
    }
}

macro_rules! forward {
    ($vfs:expr, $method:ident, $missing:expr $(, $arg:expr)*) => {{
        // SAFETY: SQLite calls with the VFS that it found the method in, which
        // is ours; the arguments are its own and go to the host's VFS as they are.
        unsafe {
            let host = host_of($vfs).0.as_ptr();
            match (*host).$method {
                Some(method) => method(host $(, $arg)*),
                None => $missing,
            }
        }
    }};
}

pub(super) unsafe extern "C" fn x_open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's memory of our szOsFile; no methods means "not open".
    unsafe { (*file).pMethods = null() };
    guarded(SQLITE_CANTOPEN, || {
        // SAFETY: the arguments of xOpen.
        unsafe {
            if name.is_null() || flags & SQLITE_OPEN_DELETEONCLOSE != 0 {
                open_by_host(vfs, name, file, flags, out)
            } else if flags & SQLITE_OPEN_MAIN_DB != 0 {
                open_main(vfs, name, file, flags, out)
            } else if flags & JOURNALS != 0 && is_nowhere(vfs, name) {
                last_error::set(NO_JOURNAL);
                SQLITE_CANTOPEN
            } else if flags & SQLITE_OPEN_WAL != 0 {
                open_wal(vfs, name, file, flags, out)
            } else {
                open_by_host(vfs, name, file, flags, out)
            }
        }
    })
}

const JOURNALS: c_int = SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL | SQLITE_OPEN_WAL;
const NO_JOURNAL: &str = "a replica has no journal: for a transaction over several local databases \
                          outside WAL mode open one of them as the main database and attach the \
                          replica";

/// Opens in the caller's memory with the host's methods.
///
/// # Safety
/// The arguments of xOpen; `file` may be the host part of a file.
unsafe fn open_by_host(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    forward!(vfs, xOpen, SQLITE_CANTOPEN, name, file, flags, out)
}

/// Opens a main database: through the host alone, or watched.
///
/// # Safety
/// The arguments of xOpen for a main database.
unsafe fn open_main(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes a main database's name with its URI parameters.
    let request = unsafe {
        OpenRequest {
            path: CStr::from_ptr(name).to_bytes().to_vec(),
            parameters: uri_parameters(name),
            flags,
            name_address: name as usize,
            companions: [
                (api().filename_journal)(name) as usize,
                (api().filename_wal)(name) as usize,
            ],
            is_replica_vfs: is_replica(vfs),
        }
    };
    let (flags, replicated) = match primary_vfs::plan(request) {
        Ok(Plan::Host { flags }) => (flags, None),
        Ok(Plan::Replicate { flags, replicated }) => (flags, Some(replicated)),
        Ok(Plan::Replica(hooks)) => {
            // SAFETY: the arguments of xOpen.
            unsafe {
                if !out.is_null() {
                    *out = flags & !(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE)
                        | SQLITE_OPEN_READONLY;
                }
                place_replica(file, hooks);
            }
            return SQLITE_OK;
        }
        Err(rc) => return rc,
    };
    let Some(replicated) = replicated else {
        // SAFETY: the arguments of xOpen, with flags that the plan narrowed.
        return unsafe { open_by_host(vfs, name, file, flags, out) };
    };
    let mut got = 0;
    let out = if out.is_null() { &raw mut got } else { out };
    // SAFETY: our szOsFile leaves room for the host's file behind HOST_OFFSET.
    unsafe {
        let rc = open_host_part(vfs, name, file, flags, out);
        if rc != SQLITE_OK {
            return rc;
        }
        if *out & SQLITE_OPEN_READONLY != 0 {
            // The file cannot be written, so nothing can be committed: the host's alone.
            close_host_part(file);
            return open_by_host(vfs, name, file, flags, out);
        }
        // A panic here must not leave the host's file open.
        match guarded(Err(SQLITE_CANTOPEN), || replicated.open(host_of(vfs))) {
            Ok(hooks) => place_main(file, hooks),
            Err(rc) => {
                close_host_part(file);
                return rc;
            }
        }
    }
    SQLITE_OK
}

/// Opens a WAL: watched when its database is.
///
/// # Safety
/// The arguments of xOpen for a WAL.
unsafe fn open_wal(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes a WAL's name in the memory of its database's name.
    let (database, path, wal) = unsafe {
        let database = (api().filename_database)(name);
        let path = if database.is_null() { &[][..] } else { CStr::from_ptr(database).to_bytes() };
        (database as usize, path, CStr::from_ptr(name).to_bytes())
    };
    let Some(hooks) = primary_vfs::wal_of(database, path, wal) else {
        // SAFETY: the arguments of xOpen.
        return unsafe { open_by_host(vfs, name, file, flags, out) };
    };
    // SAFETY: as in `open_main`.
    unsafe {
        let rc = open_host_part(vfs, name, file, flags, out);
        if rc == SQLITE_OK {
            place_wal(file, hooks);
        } else {
            hooks.before_close();
        }
        rc
    }
}

/// Opens the host's file behind ours; after a failure nothing is open.
///
/// # Safety
/// The arguments of xOpen.
unsafe fn open_host_part(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: room for the host's file; its methods tell whether it is open.
    unsafe {
        let host = host_part(file);
        (*host).pMethods = null();
        let rc = open_by_host(vfs, name, host, flags, out);
        if rc != SQLITE_OK {
            close_host_part(file);
        } else if (*host).pMethods.is_null() {
            return SQLITE_CANTOPEN;
        }
        rc
    }
}

/// Closes the host part if it is open.
///
/// # Safety
/// `file` is one whose host part's methods are null or its own.
unsafe fn close_host_part(file: *mut sqlite3_file) {
    // SAFETY: the caller's promise.
    unsafe {
        let host = host_part(file);
        if let Some(close) = (*host).pMethods.as_ref().and_then(|m| m.xClose) {
            close(host);
        }
    }
}

/// The URI parameters behind a main database's name.
///
/// # Safety
/// `name` is one that SQLite passed to xOpen for a main database.
unsafe fn uri_parameters(name: *const c_char) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for i in 0.. {
        // SAFETY: the caller's promise; keys and values are C strings in the
        // name's memory.
        unsafe {
            let key = (api().uri_key)(name, i);
            if key.is_null() {
                break;
            }
            let value = (api().uri_parameter)(name, key);
            let text = |p: *const c_char| CStr::from_ptr(p).to_string_lossy().into_owned();
            all.push((text(key), if value.is_null() { String::new() } else { text(value) }));
        }
    }
    all
}

pub(super) unsafe extern "C" fn x_delete(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    sync: c_int,
) -> c_int {
    if !name.is_null() {
        // SAFETY: the arguments of xDelete.
        if unsafe { is_nowhere(vfs, name) } {
            return SQLITE_OK;
        }
        // SAFETY: a C string.
        let name = unsafe { CStr::from_ptr(name) };
        hook((), || primary_vfs::before_delete(name.to_bytes()));
    }
    forward!(vfs, xDelete, SQLITE_IOERR, name, sync)
}

pub(super) unsafe extern "C" fn x_access(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    what: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: the arguments of xAccess.
    unsafe {
        if !name.is_null() && is_nowhere(vfs, name) {
            *out = 0;
            return SQLITE_OK;
        }
    }
    forward!(vfs, xAccess, SQLITE_IOERR, name, what, out)
}

pub(super) unsafe extern "C" fn x_full_pathname(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    n: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: the VFS is ours; a C string.
    let (own, given) = unsafe { (is_replica(vfs), CStr::from_ptr(name)) };
    let named = guarded(Err(SQLITE_CANTOPEN), || replica_name::name_of(given.to_bytes(), own));
    match named {
        Ok(Name::Path(None)) => forward!(vfs, xFullPathname, SQLITE_CANTOPEN, name, n, out),
        Ok(Name::Path(Some(raw))) => {
            let path = c_text(&raw.path);
            let rc = forward!(vfs, xFullPathname, SQLITE_CANTOPEN, path.as_ptr(), n, out);
            // SQLITE_OK_SYMLINK and the like are successes too.
            if rc & 0xff == SQLITE_OK {
                // SAFETY: on success `out` holds a C string.
                let full = unsafe { CStr::from_ptr(out) };
                guarded((), || raw.remember(full.to_bytes()));
            }
            rc
        }
        Ok(Name::Replica(text, raw)) => {
            // SAFETY: the arguments of xFullPathname.
            let rc = unsafe { copy_name(vfs, &text, n, out) };
            if let Some(raw) = raw {
                guarded((), || raw.remember(text.as_bytes()));
            }
            rc
        }
        Err(rc) => rc,
    }
}

/// Copies the name of a replica, which is no path, to where SQLite wants it.
///
/// # Safety
/// The arguments of xFullPathname of a VFS of ours.
unsafe fn copy_name(vfs: *mut sqlite3_vfs, text: &str, n: c_int, out: *mut c_char) -> c_int {
    /// SQLite appends the longest of `-journal` and `-wal`.
    const SUFFIX: usize = 8;
    // SAFETY: the VFS is ours.
    let most = usize::try_from(unsafe { (*vfs).mxPathname }).unwrap_or(0).saturating_sub(SUFFIX);
    if text.len() > most || text.len() >= usize::try_from(n).unwrap_or(0) {
        last_error::set(format!(
            "cannot open {}: the name has {} bytes and SQLite takes {most} at most; pass options of \
             the URL as parameters of the URI",
            redact(text),
            text.len()
        ));
        return SQLITE_CANTOPEN;
    }
    // SAFETY: `out` has room for `n` bytes, and the text is shorter.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), out.cast::<u8>(), text.len());
        *out.add(text.len()) = 0;
    }
    SQLITE_OK
}

pub(super) unsafe extern "C" fn x_dl_open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
) -> *mut c_void {
    forward!(vfs, xDlOpen, null_mut(), name)
}

pub(super) unsafe extern "C" fn x_dl_error(vfs: *mut sqlite3_vfs, n: c_int, out: *mut c_char) {
    forward!(vfs, xDlError, (), n, out);
}

pub(super) unsafe extern "C" fn x_dl_sym(
    vfs: *mut sqlite3_vfs,
    library: *mut c_void,
    name: *const c_char,
) -> *mut c_void {
    forward!(vfs, xDlSym, null_mut(), library, name)
}

pub(super) unsafe extern "C" fn x_dl_close(vfs: *mut sqlite3_vfs, library: *mut c_void) {
    forward!(vfs, xDlClose, (), library);
}

pub(super) unsafe extern "C" fn x_randomness(
    vfs: *mut sqlite3_vfs,
    n: c_int,
    out: *mut c_char,
) -> c_int {
    forward!(vfs, xRandomness, 0, n, out)
}

pub(super) unsafe extern "C" fn x_sleep(vfs: *mut sqlite3_vfs, microseconds: c_int) -> c_int {
    forward!(vfs, xSleep, 0, microseconds)
}

pub(super) unsafe extern "C" fn x_current_time(vfs: *mut sqlite3_vfs, out: *mut f64) -> c_int {
    forward!(vfs, xCurrentTime, SQLITE_ERROR, out)
}

pub(super) unsafe extern "C" fn x_get_last_error(
    vfs: *mut sqlite3_vfs,
    n: c_int,
    out: *mut c_char,
) -> c_int {
    forward!(vfs, xGetLastError, 0, n, out)
}

pub(super) unsafe extern "C" fn x_current_time_int64(
    vfs: *mut sqlite3_vfs,
    out: *mut i64,
) -> c_int {
    forward!(vfs, xCurrentTimeInt64, SQLITE_ERROR, out)
}

pub(super) unsafe extern "C" fn x_set_system_call(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    call: SysCall,
) -> c_int {
    forward!(vfs, xSetSystemCall, SQLITE_NOTFOUND, name, call)
}

pub(super) unsafe extern "C" fn x_get_system_call(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
) -> SysCall {
    forward!(vfs, xGetSystemCall, None, name)
}

pub(super) unsafe extern "C" fn x_next_system_call(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
) -> *const c_char {
    forward!(vfs, xNextSystemCall, null(), name)
}
