//! The VFSes `litestream` and `litestream-replica`, and which VFS is the default.

use std::ffi::{CStr, c_int};
use std::ptr::{NonNull, null, null_mut};
use std::sync::OnceLock;

use super::abi::*;
use super::api::{Api, api, c_text};
use super::host_file::HostVfs;
use super::io::HOST_OFFSET;
use super::vfs_methods::*;

/// The VFS for databases that are written and for replicas by their URLs.
pub(crate) const NAME: &str = "litestream";
const NAME_C: &CStr = c"litestream";
/// The VFS that opens replicas only, whatever the name.
pub(crate) const REPLICA_NAME: &str = "litestream-replica";
const REPLICA_NAME_C: &CStr = c"litestream-replica";

/// Begins the name of an encrypting VFS (SQLite3 Multiple Ciphers) over the VFS
/// that the rest names. Nothing may lie above it: SQLite hands it pages only
/// when its files are the pager's own. So it goes on top of ours.
const CIPHERS: &str = "multipleciphers-";
/// The encrypting VFS over ours, which such a host makes when it is asked for it.
const CIPHERS_OVER_OURS: &CStr = c"multipleciphers-litestream";

/// What a VFS's `pAppData` points to.
pub(super) struct AppData {
    /// The VFS below.
    pub host: HostVfs,
    /// It opens replicas only.
    pub is_replica: bool,
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

/// Registers the VFSes over the host's default one, unless done before.
///
/// # Errors
/// Text that says why not, for the message of the failed load.
pub(super) fn register(api: &'static Api) -> Result<(), String> {
    if REGISTERED.get().is_some() {
        return Ok(());
    }
    for name in [NAME_C, REPLICA_NAME_C] {
        // SAFETY: a C string; SQLite is initialised, since it loads an extension.
        if !unsafe { (api.vfs_find)(name.as_ptr()) }.is_null() {
            let name = name.to_string_lossy();
            return Err(format!(
                "a VFS named '{name}' is registered already: another copy of this library, or \
                 Litestream's own, is loaded in this process; load only one"
            ));
        }
    }
    // SAFETY: null asks for the default VFS.
    let Some(default) = NonNull::new(unsafe { (api.vfs_find)(null()) }) else {
        return Err("the host's SQLite has no default VFS".to_owned());
    };
    let below = below_ciphers(api, default)?;
    let host = HostVfs(below.unwrap_or(default));
    let vfs = shim_of(host, NAME_C);
    for vfs in [vfs, shim_of(host, REPLICA_NAME_C)] {
        // SAFETY: a leaked, complete VFS.
        let rc = unsafe { (api.vfs_register)(vfs.as_ptr(), 0) };
        if rc != SQLITE_OK {
            return Err(format!("sqlite3_vfs_register answered {rc}"));
        }
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
fn shim_of(host: HostVfs, name: &'static CStr) -> NonNull<sqlite3_vfs> {
    // SAFETY: a registered VFS is readable for ever.
    let base = unsafe { host.0.as_ref() };
    let app = Box::leak(Box::new(AppData { host, is_replica: name == REPLICA_NAME_C }));
    let version = base.iVersion.min(3);
    let (v2, v3) = (version >= 2, version >= 3);
    let shim = sqlite3_vfs {
        iVersion: version,
        szOsFile: base.szOsFile + HOST_OFFSET as c_int,
        mxPathname: base.mxPathname,
        pNext: null_mut(),
        zName: name.as_ptr(),
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
