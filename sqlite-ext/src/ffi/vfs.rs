//! The VFS `litestream`: the host's default VFS with one question asked at
//! every open. Files that are not replicated are opened by the host's VFS in
//! the caller's memory, with the host's own methods, and are never seen again.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{NonNull, null, null_mut};
use std::sync::OnceLock;

use super::abi::*;
use super::api::{Api, api, c_text};
use super::guard::{guarded, hook};
use super::host_file::HostVfs;
use super::io::{HOST_OFFSET, host_part, place_main, place_wal};
use crate::primary_vfs::{self, OpenRequest, Plan};

/// The name under which the VFS is registered.
pub(crate) const NAME: &str = "litestream";
const NAME_C: &CStr = c"litestream";

/// Begins the name of an encrypting VFS (SQLite3 Multiple Ciphers) over the VFS
/// that the rest names. Nothing may lie above it: SQLite hands it pages only
/// when its files are the pager's own. So it goes on top of ours.
const CIPHERS: &str = "multipleciphers-";
/// The encrypting VFS over ours, which such a host makes when it is asked for it.
const CIPHERS_OVER_OURS: &CStr = c"multipleciphers-litestream";

/// What the VFS's `pAppData` points to.
struct AppData {
    host: HostVfs,
}

struct Registered {
    vfs: NonNull<sqlite3_vfs>,
    /// The default VFS as it was found.
    default: HostVfs,
    /// That one encrypts.
    encrypts: bool,
}

// SAFETY: the structure is leaked and, after registration, written by SQLite
// alone under its own mutex.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

static REGISTERED: OnceLock<Registered> = OnceLock::new();

/// Registers the VFS over the host's default one, unless done before.
///
/// # Errors
/// Text that says why not, for the message of the failed load.
pub(super) fn register(api: &'static Api) -> Result<(), String> {
    if REGISTERED.get().is_some() {
        return Ok(());
    }
    // SAFETY: a C string; SQLite is initialised, since it loads an extension.
    if !unsafe { (api.vfs_find)(NAME_C.as_ptr()) }.is_null() {
        return Err("a VFS named 'litestream' is registered already: another copy of this \
                    library, or Litestream's own, is loaded in this process; load only one"
            .to_owned());
    }
    // SAFETY: null asks for the default VFS.
    let Some(default) = NonNull::new(unsafe { (api.vfs_find)(null()) }) else {
        return Err("the host's SQLite has no default VFS".to_owned());
    };
    let below = below_ciphers(api, default)?;
    let vfs = shim_of(HostVfs(below.unwrap_or(default)));
    // SAFETY: a leaked, complete VFS.
    let rc = unsafe { (api.vfs_register)(vfs.as_ptr(), 0) };
    if rc != SQLITE_OK {
        return Err(format!("sqlite3_vfs_register answered {rc}"));
    }
    let encrypts = below.is_some();
    let _ = REGISTERED.set(Registered { vfs, default: HostVfs(default), encrypts });
    Ok(())
}

/// The VFS below `vfs` when that one encrypts.
fn below_ciphers(
    api: &Api,
    vfs: NonNull<sqlite3_vfs>,
) -> Result<Option<NonNull<sqlite3_vfs>>, String> {
    // SAFETY: a registered VFS and its name are readable for ever.
    let name = unsafe { CStr::from_ptr(vfs.as_ref().zName) }.to_string_lossy().into_owned();
    let Some(below) = name.strip_prefix(CIPHERS) else { return Ok(None) };
    // SAFETY: a C string.
    match NonNull::new(unsafe { (api.vfs_find)(c_text(below).as_ptr()) }) {
        Some(below) => Ok(Some(below)),
        None => Err(format!("the VFS below {name} is not registered")),
    }
}

/// The encrypting VFS over ours, made if need be.
fn ciphers_over_ours() -> Option<NonNull<sqlite3_vfs>> {
    let mut db = null_mut();
    let flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_MEMORY;
    // SAFETY: C strings and a place for the connection, which is closed whether
    // the open failed or not; opening by that name is what makes the VFS.
    unsafe {
        (api().open_v2)(c":memory:".as_ptr(), &raw mut db, flags, CIPHERS_OVER_OURS.as_ptr());
        (api().close_v2)(db);
        NonNull::new((api().vfs_find)(CIPHERS_OVER_OURS.as_ptr()))
    }
}

/// Makes ours, or the host's own, the VFS for opens that name none.
///
/// # Errors
/// SQLite's result code.
pub(crate) fn set_default(ours: bool) -> Result<(), c_int> {
    let Some(registered) = REGISTERED.get() else { return Err(SQLITE_ERROR) };
    let vfs = match (ours, registered.encrypts) {
        (true, true) => ciphers_over_ours().ok_or(SQLITE_ERROR)?,
        (true, false) => registered.vfs,
        (false, _) => registered.default.0,
    };
    // SAFETY: all are registered and live for ever; registering again only
    // changes which is the default.
    match unsafe { (api().vfs_register)(vfs.as_ptr(), 1) } {
        SQLITE_OK => Ok(()),
        rc => Err(rc),
    }
}

/// A VFS that forwards what the host's offers.
fn shim_of(host: HostVfs) -> NonNull<sqlite3_vfs> {
    // SAFETY: a registered VFS is readable for ever.
    let base = unsafe { host.0.as_ref() };
    let app = Box::leak(Box::new(AppData { host }));
    let version = base.iVersion.min(3);
    let (v2, v3) = (version >= 2, version >= 3);
    let shim = sqlite3_vfs {
        iVersion: version,
        szOsFile: base.szOsFile + HOST_OFFSET as c_int,
        mxPathname: base.mxPathname,
        pNext: null_mut(),
        zName: NAME_C.as_ptr(),
        pAppData: std::ptr::from_mut(app).cast(),
        xOpen: Some(x_open),
        xDelete: Some(x_delete),
        xAccess: Some(x_access),
        xFullPathname: Some(x_full_pathname),
        xDlOpen: base.xDlOpen.and(Some(x_dl_open)),
        xDlError: base.xDlError.and(Some(x_dl_error)),
        xDlSym: base.xDlSym.and(Some(x_dl_sym)),
        xDlClose: base.xDlClose.and(Some(x_dl_close)),
        xRandomness: base.xRandomness.and(Some(x_randomness)),
        xSleep: base.xSleep.and(Some(x_sleep)),
        xCurrentTime: base.xCurrentTime.and(Some(x_current_time)),
        xGetLastError: base.xGetLastError.and(Some(x_get_last_error)),
        xCurrentTimeInt64: base.xCurrentTimeInt64.filter(|_| v2).and(Some(x_current_time_int64)),
        xSetSystemCall: base.xSetSystemCall.filter(|_| v3).and(Some(x_set_system_call)),
        xGetSystemCall: base.xGetSystemCall.filter(|_| v3).and(Some(x_get_system_call)),
        xNextSystemCall: base.xNextSystemCall.filter(|_| v3).and(Some(x_next_system_call)),
    };
    NonNull::from(Box::leak(Box::new(shim)))
}

/// The host's VFS below `vfs`.
///
/// # Safety
/// `vfs` is the VFS made by [`shim_of`].
unsafe fn host_of(vfs: *mut sqlite3_vfs) -> HostVfs {
    // SAFETY: `pAppData` was set by `shim_of` and is leaked.
    unsafe { (*(*vfs).pAppData.cast::<AppData>()).host }
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

unsafe extern "C" fn x_open(
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
            } else if flags & SQLITE_OPEN_WAL != 0 {
                open_wal(vfs, name, file, flags, out)
            } else {
                open_by_host(vfs, name, file, flags, out)
            }
        }
    })
}

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
        }
    };
    let (flags, replicated) = match primary_vfs::plan(request) {
        Ok(Plan::Host { flags }) => (flags, None),
        Ok(Plan::Replicate { flags, replicated }) => (flags, Some(replicated)),
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

unsafe extern "C" fn x_delete(vfs: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    if !name.is_null() {
        // SAFETY: a C string.
        let name = unsafe { CStr::from_ptr(name) };
        hook((), || primary_vfs::before_delete(name.to_bytes()));
    }
    forward!(vfs, xDelete, SQLITE_IOERR, name, sync)
}

unsafe extern "C" fn x_access(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    what: c_int,
    out: *mut c_int,
) -> c_int {
    forward!(vfs, xAccess, SQLITE_IOERR, name, what, out)
}

unsafe extern "C" fn x_full_pathname(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    n: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: a C string.
    let given = unsafe { CStr::from_ptr(name) };
    let raw = guarded(Err(SQLITE_CANTOPEN), || crate::raw_name::parse(given.to_bytes()));
    let raw = match raw {
        Ok(None) => return forward!(vfs, xFullPathname, SQLITE_CANTOPEN, name, n, out),
        Ok(Some(raw)) => raw,
        Err(rc) => return rc,
    };
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

unsafe extern "C" fn x_dl_open(vfs: *mut sqlite3_vfs, name: *const c_char) -> *mut c_void {
    forward!(vfs, xDlOpen, null_mut(), name)
}

unsafe extern "C" fn x_dl_error(vfs: *mut sqlite3_vfs, n: c_int, out: *mut c_char) {
    forward!(vfs, xDlError, (), n, out);
}

unsafe extern "C" fn x_dl_sym(
    vfs: *mut sqlite3_vfs,
    library: *mut c_void,
    name: *const c_char,
) -> *mut c_void {
    forward!(vfs, xDlSym, null_mut(), library, name)
}

unsafe extern "C" fn x_dl_close(vfs: *mut sqlite3_vfs, library: *mut c_void) {
    forward!(vfs, xDlClose, (), library);
}

unsafe extern "C" fn x_randomness(vfs: *mut sqlite3_vfs, n: c_int, out: *mut c_char) -> c_int {
    forward!(vfs, xRandomness, 0, n, out)
}

unsafe extern "C" fn x_sleep(vfs: *mut sqlite3_vfs, microseconds: c_int) -> c_int {
    forward!(vfs, xSleep, 0, microseconds)
}

unsafe extern "C" fn x_current_time(vfs: *mut sqlite3_vfs, out: *mut f64) -> c_int {
    forward!(vfs, xCurrentTime, SQLITE_ERROR, out)
}

unsafe extern "C" fn x_get_last_error(vfs: *mut sqlite3_vfs, n: c_int, out: *mut c_char) -> c_int {
    forward!(vfs, xGetLastError, 0, n, out)
}

unsafe extern "C" fn x_current_time_int64(vfs: *mut sqlite3_vfs, out: *mut i64) -> c_int {
    forward!(vfs, xCurrentTimeInt64, SQLITE_ERROR, out)
}

unsafe extern "C" fn x_set_system_call(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    call: SysCall,
) -> c_int {
    forward!(vfs, xSetSystemCall, SQLITE_NOTFOUND, name, call)
}

unsafe extern "C" fn x_get_system_call(vfs: *mut sqlite3_vfs, name: *const c_char) -> SysCall {
    forward!(vfs, xGetSystemCall, None, name)
}

unsafe extern "C" fn x_next_system_call(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
) -> *const c_char {
    forward!(vfs, xNextSystemCall, null(), name)
}
