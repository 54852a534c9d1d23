//! From SQLite's method tables to the traits of a simulated host.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use litestream::tasks::simulated::Killed;

use super::super::abi::*;
use super::{HOST, HostFile, HostFs, Region};

const SQLITE_OPEN_OUT: c_int = 0x7;
const SQLITE_ACCESS_EXISTS: c_int = 0;

/// Behind the fields that SQLite knows: what the simulation gave.
struct State {
    file: Box<dyn HostFile>,
    /// Kept mapped for as long as SQLite may use the pointers.
    regions: Vec<Region>,
}

#[repr(C)]
struct SimFile {
    base: sqlite3_file,
    state: *mut State,
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// The VFS, leaked.
pub(super) fn vfs() -> *mut sqlite3_vfs {
    Box::into_raw(Box::new(sqlite3_vfs {
        iVersion: 2,
        szOsFile: size_of::<SimFile>() as c_int,
        mxPathname: 512,
        pNext: null_mut(),
        zName: c"host".as_ptr(),
        pAppData: null_mut(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: Some(last_error),
        xCurrentTimeInt64: Some(current_time_int64),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }))
}

/// Runs a method of the simulation; `fallback` when it panics.
fn run<T>(fallback: T, f: impl FnOnce(&dyn HostFs) -> T) -> T {
    let Some(host) = HOST.get() else { return fallback };
    match catch_unwind(AssertUnwindSafe(|| f(&**host))) {
        Ok(value) => value,
        Err(payload) => {
            if !payload.is::<Killed>() {
                host.panicked();
            }
            fallback
        }
    }
}

/// # Safety
/// `file` was opened by [`open`], is not closed, and no other reference lives.
unsafe fn state<'a>(file: *mut sqlite3_file) -> &'a mut State {
    // SAFETY: `open` set the pointer to a leaked box that `close` takes back;
    // SQLite calls no two methods of one file at the same time.
    unsafe { &mut *(*file.cast::<SimFile>()).state }
}

/// # Safety
/// As for [`state`].
unsafe fn on(file: *mut sqlite3_file, f: impl FnOnce(&mut dyn HostFile) -> c_int) -> c_int {
    // SAFETY: the caller's promise.
    let state = unsafe { state(file) };
    run(SQLITE_IOERR, |_| f(&mut *state.file))
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: szOsFile bytes of memory; the name is null or a C string.
    let path = unsafe {
        (*file).pMethods = std::ptr::null();
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    };
    match run(Err(SQLITE_CANTOPEN), |host| host.open(path.as_deref(), flags)) {
        Ok(opened) => {
            let state = Box::into_raw(Box::new(State { file: opened, regions: Vec::new() }));
            // SAFETY: as above; `out` is null or a place for the flags.
            unsafe {
                let base = sqlite3_file { pMethods: &raw const METHODS };
                file.cast::<SimFile>().write(SimFile { base, state });
                if !out.is_null() {
                    *out = flags & SQLITE_OPEN_OUT;
                }
            }
            SQLITE_OK
        }
        Err(rc) => rc,
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: made by `open`, closed once.
    let state = unsafe {
        (*file).pMethods = std::ptr::null();
        Box::from_raw((*file.cast::<SimFile>()).state)
    };
    run((), |_| drop(state));
    SQLITE_OK
}

unsafe extern "C" fn read(f: *mut sqlite3_file, buf: *mut c_void, n: c_int, at: i64) -> c_int {
    // SAFETY: SQLite's buffer of `n` bytes and a file of ours.
    unsafe {
        let buf = std::slice::from_raw_parts_mut(buf.cast::<u8>(), n as usize);
        on(f, |file| file.read(buf, at as u64))
    }
}

unsafe extern "C" fn write(f: *mut sqlite3_file, buf: *const c_void, n: c_int, at: i64) -> c_int {
    // SAFETY: SQLite's buffer of `n` bytes and a file of ours.
    unsafe {
        let buf = std::slice::from_raw_parts(buf.cast::<u8>(), n as usize);
        on(f, |file| file.write(buf, at as u64))
    }
}

unsafe extern "C" fn truncate(f: *mut sqlite3_file, size: i64) -> c_int {
    // SAFETY: a file of ours.
    unsafe { on(f, |file| file.truncate(size as u64)) }
}

unsafe extern "C" fn sync(f: *mut sqlite3_file, _: c_int) -> c_int {
    // SAFETY: a file of ours.
    unsafe { on(f, |file| file.sync()) }
}

unsafe extern "C" fn file_size(f: *mut sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: a file of ours and a place for the answer.
    unsafe {
        on(f, |file| match file.size() {
            Ok(size) => {
                *out = size as i64;
                SQLITE_OK
            }
            Err(rc) => rc,
        })
    }
}

unsafe extern "C" fn lock(f: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: a file of ours.
    unsafe { on(f, |file| file.lock(level)) }
}

unsafe extern "C" fn unlock(f: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: a file of ours.
    unsafe { on(f, |file| file.unlock(level)) }
}

unsafe extern "C" fn check_reserved(f: *mut sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: a file of ours and a place for the answer.
    unsafe {
        on(f, |file| match file.is_reserved() {
            Ok(reserved) => {
                *out = c_int::from(reserved);
                SQLITE_OK
            }
            Err(rc) => rc,
        })
    }
}

unsafe extern "C" fn control(f: *mut sqlite3_file, op: c_int, arg: *mut c_void) -> c_int {
    let _ = arg;
    // SAFETY: a file of ours.
    unsafe { on(f, |file| file.control(op).unwrap_or(SQLITE_NOTFOUND)) }
}

unsafe extern "C" fn sector_size(_: *mut sqlite3_file) -> c_int {
    512
}

unsafe extern "C" fn characteristics(f: *mut sqlite3_file) -> c_int {
    // SAFETY: a file of ours.
    let state = unsafe { state(f) };
    state.file.characteristics()
}

unsafe extern "C" fn shm_map(
    f: *mut sqlite3_file,
    index: c_int,
    _: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: a file of ours.
    let state = unsafe { state(f) };
    let found = run(Err(SQLITE_IOERR), |_| state.file.shm_map(index as usize, extend != 0));
    let (rc, pointer) = match found {
        Ok(Some(region)) => {
            // Atomics may be written through a shared reference.
            let pointer = region.0.as_ptr().cast_mut().cast::<c_void>();
            state.regions.push(region);
            (SQLITE_OK, pointer)
        }
        Ok(None) => (SQLITE_OK, null_mut()),
        Err(rc) => (rc, null_mut()),
    };
    // SAFETY: a place for the answer; the region lives until it is unmapped.
    unsafe { *out = pointer };
    rc
}

unsafe extern "C" fn shm_lock(f: *mut sqlite3_file, at: c_int, n: c_int, flags: c_int) -> c_int {
    // SAFETY: a file of ours.
    unsafe { on(f, |file| file.shm_lock(at, n, flags)) }
}

unsafe extern "C" fn shm_barrier(_: *mut sqlite3_file) {}

unsafe extern "C" fn shm_unmap(f: *mut sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: a file of ours, whose map SQLite uses no more.
    let state = unsafe { state(f) };
    state.regions.clear();
    run(SQLITE_OK, |_| state.file.shm_unmap(delete != 0))
}

/// # Safety
/// `name` is a C string.
unsafe fn text(name: *const c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: SQLite's name.
    let name = unsafe { text(name) };
    run(SQLITE_IOERR, |host| host.delete(&name, sync != 0))
}

unsafe extern "C" fn access(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    what: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's name.
    let name = unsafe { text(name) };
    let _ = what == SQLITE_ACCESS_EXISTS;
    let (rc, answer) = match run(Err(SQLITE_IOERR), |host| host.exists(&name)) {
        Ok(exists) => (SQLITE_OK, exists),
        Err(rc) => (rc, false),
    };
    // SAFETY: a place for the answer.
    unsafe { *out = c_int::from(answer) };
    rc
}

unsafe extern "C" fn full_pathname(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    n: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite's name.
    let full = CString::new(unsafe { text(name) }).unwrap_or_default();
    let bytes = full.as_bytes_with_nul();
    if bytes.len() > n as usize {
        return SQLITE_CANTOPEN;
    }
    // SAFETY: a buffer of `n` bytes.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len()) };
    SQLITE_OK
}

unsafe extern "C" fn randomness(_: *mut sqlite3_vfs, n: c_int, out: *mut c_char) -> c_int {
    // SAFETY: a buffer of `n` bytes.
    let buf = unsafe { std::slice::from_raw_parts_mut(out.cast::<u8>(), n as usize) };
    run((), |host| host.randomness(buf));
    n
}

unsafe extern "C" fn sleep(_: *mut sqlite3_vfs, microseconds: c_int) -> c_int {
    run((), |host| host.sleep(microseconds as u64));
    microseconds
}

unsafe extern "C" fn current_time(_: *mut sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: a place for the answer.
    unsafe { *out = julian_ms() as f64 / 86_400_000.0 };
    SQLITE_OK
}

unsafe extern "C" fn current_time_int64(_: *mut sqlite3_vfs, out: *mut i64) -> c_int {
    // SAFETY: a place for the answer.
    unsafe { *out = julian_ms() };
    SQLITE_OK
}

/// Milliseconds of the Julian day, whose epoch lies this long before Unix's.
fn julian_ms() -> i64 {
    210_866_760_000_000 + run(0, |host| host.now_ms())
}

unsafe extern "C" fn last_error(_: *mut sqlite3_vfs, _: c_int, _: *mut c_char) -> c_int {
    0
}
