//! A file of our own, opened through the host's VFS as SQLite itself would.
//!
//! The host VFS coordinates its POSIX locks between the handles of a process,
//! which a plain `open` of the same file would destroy.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{NonNull, null, null_mut};

use super::abi::*;
use super::api::api;
use super::wal_index::{REGION_BYTES, WalIndex};

/// A pointer to the host's VFS, which SQLite never frees.
#[derive(Clone, Copy)]
pub(crate) struct HostVfs(pub(super) NonNull<sqlite3_vfs>);

// SAFETY: SQLite calls the methods of a VFS from any thread; the structure is
// not changed after registration save `pNext`, which is not read here.
unsafe impl Send for HostVfs {}
// SAFETY: as above.
unsafe impl Sync for HostVfs {}

/// The alignment that every host VFS may rely on.
const ALIGNMENT: usize = 16;

/// A result code of SQLite other than `SQLITE_OK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub c_int);

impl Code {
    /// Whether another holder of a lock was in the way.
    pub(crate) fn is_busy(self) -> bool {
        self.0 & 0xff == SQLITE_BUSY
    }
}

fn checked(rc: c_int) -> Result<(), Code> {
    if rc == SQLITE_OK { Ok(()) } else { Err(Code(rc)) }
}

/// An open file of the host's VFS with its own memory and its own name.
///
/// Dropping it closes it; locks and maps must have been given back before.
pub(crate) struct HostFile {
    file: NonNull<sqlite3_file>,
    layout: Layout,
    /// Made by `sqlite3_create_filename`: the file refers to it until closed,
    /// and host VFSes read URI parameters behind it.
    name: *const c_char,
}

// SAFETY: no method of SQLite's VFSes depends on the thread that opened the
// file (process-wide locks and descriptors); `&mut self` or the owner's
// exclusive use keeps calls from overlapping.
unsafe impl Send for HostFile {}

impl HostFile {
    /// Opens the database `path` for reading and writing (for locks), never
    /// creating it.
    pub(crate) fn open(vfs: HostVfs, path: &[u8]) -> Result<HostFile, Code> {
        let Ok(text) = CString::new(path) else { return Err(Code(SQLITE_CANTOPEN)) };
        let suffixed = |suffix: &[u8]| CString::new([path, suffix].concat()).unwrap_or_default();
        let (journal, wal) = (suffixed(b"-journal"), suffixed(b"-wal"));
        // SAFETY: three C strings that outlive the call, which copies them; no
        // parameters follow.
        let name = unsafe {
            (api().create_filename)(text.as_ptr(), journal.as_ptr(), wal.as_ptr(), 0, null())
        };
        if name.is_null() {
            return Err(Code(7));
        }
        HostFile::open_named(vfs, name).inspect_err(|_| {
            // SAFETY: created just above, and the failed open refers to it no
            // longer.
            unsafe { (api().free_filename)(name) }
        })
    }

    fn open_named(vfs: HostVfs, name: *const c_char) -> Result<HostFile, Code> {
        // SAFETY: registered VFSes are never freed; plain fields are read.
        let (size, open) = unsafe { (vfs.0.as_ref().szOsFile, vfs.0.as_ref().xOpen) };
        let size = usize::try_from(size).unwrap_or(0).max(size_of::<sqlite3_file>());
        let Ok(layout) = Layout::from_size_align(size, ALIGNMENT) else { return Err(Code(7)) };
        let Some(open) = open else { return Err(Code(SQLITE_CANTOPEN)) };
        // SAFETY: the layout is not empty.
        let Some(file) = NonNull::new(unsafe { alloc_zeroed(layout) }.cast::<sqlite3_file>())
        else {
            handle_alloc_error(layout)
        };
        let flags = SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_READWRITE;
        let mut out = 0;
        // SAFETY: zeroed memory of szOsFile bytes, a name in the form that
        // xOpen wants, and the VFS that the method belongs to.
        let rc = unsafe { open(vfs.0.as_ptr(), name, file.as_ptr(), flags, &raw mut out) };
        let opened = HostFile { file, layout, name };
        if rc == SQLITE_OK && opened.methods().is_some() {
            return Ok(opened);
        }
        // A VFS that fails may still have set its methods, and then wants to
        // be closed; the name is the caller's again.
        opened.close();
        // SAFETY: `close` used the memory for the last time.
        unsafe { dealloc(opened.file.as_ptr().cast(), layout) };
        std::mem::forget(opened);
        Err(Code(if rc == SQLITE_OK { SQLITE_CANTOPEN } else { rc }))
    }

    fn methods(&self) -> Option<&sqlite3_io_methods> {
        // SAFETY: the memory is ours; a VFS sets `pMethods` to null or to a
        // table that lives at least as long as the open file.
        unsafe { self.file.as_ref().pMethods.as_ref() }
    }

    fn close(&self) {
        if let Some(close) = self.methods().and_then(|m| m.xClose) {
            // SAFETY: an open file, closed once: by `drop` or by a failed open.
            unsafe { close(self.file.as_ptr()) };
        }
    }

    /// Reads at `offset`. Returns false, with zeros for what is missing, past
    /// the end of the file.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<bool, Code> {
        let Some(read) = self.methods().and_then(|m| m.xRead) else {
            return Err(Code(SQLITE_IOERR));
        };
        let (Ok(n), Ok(at)) = (c_int::try_from(buf.len()), i64::try_from(offset)) else {
            return Err(Code(SQLITE_IOERR));
        };
        // SAFETY: an open file and a buffer of `n` writable bytes.
        match unsafe { read(self.file.as_ptr(), buf.as_mut_ptr().cast::<c_void>(), n, at) } {
            SQLITE_OK => Ok(true),
            SQLITE_IOERR_SHORT_READ => Ok(false),
            rc => Err(Code(rc)),
        }
    }

    /// Bytes of the file.
    pub(crate) fn size(&self) -> Result<u64, Code> {
        let Some(size) = self.methods().and_then(|m| m.xFileSize) else {
            return Err(Code(SQLITE_IOERR));
        };
        let mut bytes = 0_i64;
        // SAFETY: an open file and a place for the answer.
        checked(unsafe { size(self.file.as_ptr(), &raw mut bytes) })?;
        Ok(u64::try_from(bytes).unwrap_or(0))
    }

    /// Whether a connection of any process holds RESERVED or more.
    pub(crate) fn is_reserved(&self) -> Result<bool, Code> {
        let check = self.methods().and_then(|m| m.xCheckReservedLock).ok_or(Code(SQLITE_IOERR))?;
        let mut held = 0;
        // SAFETY: an open file and a place for the answer.
        checked(unsafe { check(self.file.as_ptr(), &raw mut held) })?;
        Ok(held != 0)
    }

    /// Raises the lock on the file to `level`.
    pub(crate) fn lock(&self, level: c_int) -> Result<(), Code> {
        let lock = self.methods().and_then(|m| m.xLock).ok_or(Code(SQLITE_IOERR))?;
        // SAFETY: an open file; the levels are SQLite's.
        checked(unsafe { lock(self.file.as_ptr(), level) })
    }

    /// Lowers the lock on the file to `level`.
    fn unlock(&self, level: c_int) {
        if let Some(unlock) = self.methods().and_then(|m| m.xUnlock) {
            // SAFETY: an open file; the levels are SQLite's.
            unsafe { unlock(self.file.as_ptr(), level) };
        }
    }

    fn shm_methods(&self) -> Option<&sqlite3_io_methods> {
        self.methods().filter(|m| m.iVersion >= 2)
    }

    /// Maps region 0 of the wal-index; `None` when there is none yet.
    pub(crate) fn map_wal_index(self) -> Result<Option<MappedFile>, Code> {
        let map = self.shm_methods().and_then(|m| m.xShmMap).ok_or(Code(SQLITE_CANTOPEN))?;
        let mut region = null_mut();
        // SAFETY: an open file of version 2 and a place for the answer.
        // Extension is not asked for, so that nothing is created or grown.
        let rc = unsafe { map(self.file.as_ptr(), 0, REGION_BYTES, 0, &raw mut region) };
        if rc != SQLITE_OK {
            // A VFS may have opened the -shm file before it failed.
            self.shm_unmap();
            return Err(Code(rc));
        }
        // SAFETY: region 0 with REGION_BYTES, or null; `MappedFile` keeps the
        // view private and unmaps when it is dropped itself.
        let Some(index) = (unsafe { WalIndex::new(region) }) else {
            self.shm_unmap();
            return Ok(None);
        };
        Ok(Some(MappedFile { file: self, index }))
    }

    fn shm_lock(&self, offset: c_int, n: c_int, flags: c_int) -> Result<(), Code> {
        let lock = self.shm_methods().and_then(|m| m.xShmLock).ok_or(Code(SQLITE_IOERR))?;
        // SAFETY: an open file of version 2 whose wal-index is mapped: the only
        // caller is `MappedFile`.
        checked(unsafe { lock(self.file.as_ptr(), offset, n, flags) })
    }

    fn shm_barrier(&self) {
        if let Some(barrier) = self.shm_methods().and_then(|m| m.xShmBarrier) {
            // SAFETY: an open file of version 2.
            unsafe { barrier(self.file.as_ptr()) };
        }
    }

    /// Gives the map back, leaving the `-shm` file alone.
    fn shm_unmap(&self) {
        if let Some(unmap) = self.shm_methods().and_then(|m| m.xShmUnmap) {
            // SAFETY: an open file of version 2; the only view of the map is in
            // the `MappedFile` that is being dropped, or none was made.
            unsafe { unmap(self.file.as_ptr(), 0) };
        }
    }
}

/// A file with region 0 of its wal-index mapped; dropping it unmaps.
pub(crate) struct MappedFile {
    file: HostFile,
    index: WalIndex,
}

// SAFETY: the map belongs to `file`, which moves along; the memory is only
// touched with atomics.
unsafe impl Send for MappedFile {}

impl MappedFile {
    /// The file itself.
    pub(crate) fn file(&self) -> &HostFile {
        &self.file
    }

    /// The first page of the wal-index.
    pub(crate) fn index(&self) -> &WalIndex {
        &self.index
    }

    /// Takes lock `slot` of the wal-index, shared or exclusive.
    pub(crate) fn lock_slot(&self, slot: c_int, exclusive: bool) -> Result<(), Code> {
        self.file.shm_lock(slot, 1, SQLITE_SHM_LOCK | sharing(exclusive))
    }

    /// Gives lock `slot` back.
    pub(crate) fn unlock_slot(&self, slot: c_int, exclusive: bool) {
        // The host VFS has nothing to refuse here that could be mended.
        let _ = self.file.shm_lock(slot, 1, SQLITE_SHM_UNLOCK | sharing(exclusive));
    }

    /// A memory barrier, as the host VFS makes it.
    pub(crate) fn barrier(&self) {
        self.file.shm_barrier();
    }
}

fn sharing(exclusive: bool) -> c_int {
    if exclusive { SQLITE_SHM_EXCLUSIVE } else { SQLITE_SHM_SHARED }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        self.file.shm_unmap();
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        self.unlock(SQLITE_LOCK_NONE);
        self.close();
        // SAFETY: closed just above: nothing refers to the memory or the name
        // any more; both were allocated by `open`.
        unsafe {
            dealloc(self.file.as_ptr().cast(), self.layout);
            (api().free_filename)(self.name);
        }
    }
}
