//! Read transactions of our own on the host's database: a private file handle,
//! a SHARED lock and a read mark, by the steps of SQLite's `walTryBeginRead`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use litestream::host::{DatabaseFile, Host, PinnedReader, WalIndexHeader};
use litestream::os::disk;
use litestream::{Error, ErrorKind, Result};

use crate::ffi::abi::SQLITE_LOCK_SHARED;
use crate::ffi::api::api;
use crate::ffi::host_file::{Code, HostFile, HostVfs, MappedFile};
use crate::ffi::wal_index::{READ_LOCK_0, READ_MARKS, RawHeader, checksum_holds, decode};

/// Attempts before a pin gives up; the pauses between them add up to about a
/// quarter of a second, more than a commit or a restart of the WAL holds on.
const ATTEMPTS: u32 = 50;
const PAUSE_MAX: Duration = Duration::from_millis(8);

/// One database as the engine sees it: its path and the VFS below ours.
pub(crate) struct HostDatabase {
    vfs: HostVfs,
    /// The name that the host VFS was opened with.
    path: Vec<u8>,
}

impl HostDatabase {
    /// The database that the host VFS knows as `path`.
    pub(crate) fn new(vfs: HostVfs, path: &[u8]) -> Self {
        HostDatabase { vfs, path: path.to_vec() }
    }

    fn open(&self) -> Result<HostFile> {
        HostFile::open(self.vfs, &self.path).map_err(|code| self.error("open", code))
    }

    fn error(&self, action: &str, code: Code) -> Error {
        let kind = if code.is_busy() { ErrorKind::Transient } else { ErrorKind::Internal };
        let path = String::from_utf8_lossy(&self.path);
        Error::new(kind, format!("cannot {action} {path} (host VFS result {})", code.0))
    }

    fn locked(&self, code: Code) -> Error {
        if !code.is_busy() {
            return self.error("lock", code);
        }
        let path = String::from_utf8_lossy(&self.path);
        Error::new(
            ErrorKind::Transient,
            format!(
                "{path} is held exclusively (locking_mode=EXCLUSIVE?): the snapshot that the \
                 replica needs is taken when the application lets go or closes it"
            ),
        )
    }

    fn unsupported(&self, why: &str) -> Error {
        let path = String::from_utf8_lossy(&self.path);
        Error::new(ErrorKind::Unsupported, format!("cannot read {path} beside its host: {why}"))
    }

    /// Takes SHARED and maps the wal-index.
    fn open_shared(&self) -> Result<MappedFile> {
        let file = self.open()?;
        retry(|| settle(file.lock(SQLITE_LOCK_SHARED))).map_err(|code| self.locked(code))?;
        // Without this look the map would create a -shm file beside a database
        // that has none. With SHARED held none can go away: that takes EXCLUSIVE.
        let shm = [&self.path[..], b"-shm"].concat();
        if disk::stat(Path::new(OsStr::from_bytes(&shm)))?.is_none() {
            return Err(self.unsupported("it has no wal-index"));
        }
        let mapped =
            file.map_wal_index().map_err(|code| self.error("map the wal-index of", code))?;
        mapped.ok_or_else(|| {
            let path = String::from_utf8_lossy(&self.path);
            Error::new(ErrorKind::Transient, format!("the wal-index of {path} is just being made"))
        })
    }
}

impl Host for HostDatabase {
    fn pin(&self) -> Result<Box<dyn PinnedReader>> {
        let file = self.open_shared()?;
        let (slot, raw) = retry(|| take_read_mark(&file))
            .map_err(|code| self.error("begin a read transaction on", code))?;
        Ok(Box::new(Pinned { reader: Reader::new(&self.path), file, slot, raw }))
    }

    fn open_unlocked(&self) -> Result<Box<dyn DatabaseFile>> {
        Ok(Box::new(Unlocked { reader: Reader::new(&self.path), file: self.open()? }))
    }

    fn threadsafe(&self) -> bool {
        api().is_threadsafe()
    }

    fn sqlite_version(&self) -> String {
        api().version_text()
    }

    fn wal_reset(&self) -> (&'static str, u64) {
        crate::shield::report()
    }
}

/// One step of a retried operation.
enum Step<T> {
    Done(T),
    Again,
}

fn settle(result: std::result::Result<(), Code>) -> std::result::Result<Step<()>, Code> {
    match result {
        Ok(()) => Ok(Step::Done(())),
        Err(code) if code.is_busy() => Ok(Step::Again),
        Err(code) => Err(code),
    }
}

/// Runs `step` until it is done; SQLITE_BUSY after [`ATTEMPTS`].
fn retry<T>(
    mut step: impl FnMut() -> std::result::Result<Step<T>, Code>,
) -> std::result::Result<T, Code> {
    let mut pause = Duration::from_micros(50);
    for attempt in 0..ATTEMPTS {
        if let Step::Done(value) = step()? {
            return Ok(value);
        }
        // The first few collisions are with a commit in progress.
        if attempt >= 5 {
            litestream::tasks::sleep_blocking(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
    Err(Code(crate::ffi::abi::SQLITE_BUSY))
}

/// One round of `walTryBeginRead`: a stable header, a mark for its last frame,
/// the mark's lock shared, and the proof that neither changed meanwhile.
fn take_read_mark(file: &MappedFile) -> std::result::Result<Step<(usize, RawHeader)>, Code> {
    let Some(raw) = file.index().raw_header(|| file.barrier()).filter(checksum_holds) else {
        return Ok(Step::Again);
    };
    let mx_frame = decode(&raw).mx_frame;
    // Read mark 0 means "the database file alone", right only for an empty WAL:
    // it would let the WAL restart under us.
    let slot = if mx_frame == 0 { 0 } else { choose_mark(file, mx_frame)? };
    if mx_frame != 0 && slot == 0 {
        return Ok(Step::Again);
    }
    let mark = file.index().read_mark(slot);
    let lock = READ_LOCK_0 + slot as i32;
    match settle(file.lock_slot(lock, false))? {
        Step::Again => return Ok(Step::Again),
        Step::Done(()) => file.barrier(),
    }
    let moved = slot != 0 && (mark > mx_frame || file.index().read_mark(slot) != mark);
    if moved || !file.index().is_still(&raw) {
        file.unlock_slot(lock, false);
        return Ok(Step::Again);
    }
    Ok(Step::Done((slot, raw)))
}

/// The slot of a mark at `mx_frame`, made so if a slot is free, else the
/// highest mark below it (which holds back more than needed); 0 for none.
fn choose_mark(file: &MappedFile, mx_frame: u32) -> std::result::Result<usize, Code> {
    let (mut best, mut best_mark) = (0, 0);
    for slot in 1..READ_MARKS {
        let mark = file.index().read_mark(slot);
        if mark <= mx_frame && mark >= best_mark {
            (best, best_mark) = (slot, mark);
        }
    }
    if best != 0 && best_mark == mx_frame {
        return Ok(best);
    }
    for slot in 1..READ_MARKS {
        let lock = READ_LOCK_0 + slot as i32;
        if let Step::Done(()) = settle(file.lock_slot(lock, true))? {
            file.index().set_read_mark(slot, mx_frame);
            file.unlock_slot(lock, true);
            return Ok(slot);
        }
    }
    Ok(best)
}

/// What both kinds of handle need for reading and for messages.
struct Reader {
    path: Vec<u8>,
}

impl Reader {
    fn new(path: &[u8]) -> Self {
        Reader { path: path.to_vec() }
    }

    fn error(&self, action: &str, code: Code) -> Error {
        let path = String::from_utf8_lossy(&self.path);
        Error::new(
            ErrorKind::Internal,
            format!("cannot {action} {path} (host VFS result {})", code.0),
        )
    }

    fn size(&self, file: &HostFile) -> Result<u64> {
        file.size().map_err(|code| self.error("get the size of", code))
    }

    fn is_reserved(&self, file: &HostFile) -> Result<bool> {
        file.is_reserved().map_err(|code| self.error("look at the locks on", code))
    }

    fn read_at(&self, file: &HostFile, buf: &mut [u8], offset: u64) -> Result<usize> {
        if file.read(buf, offset).map_err(|code| self.error("read", code))? {
            return Ok(buf.len());
        }
        // The host VFS tells only that it was short; the size tells how much.
        let present = self.size(file)?.saturating_sub(offset);
        Ok(usize::try_from(present).map_or(buf.len(), |n| n.min(buf.len())))
    }
}

struct Unlocked {
    reader: Reader,
    file: HostFile,
}

impl DatabaseFile for Unlocked {
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.reader.read_at(&self.file, buf, offset)
    }

    fn size(&mut self) -> Result<u64> {
        self.reader.size(&self.file)
    }

    fn is_reserved(&mut self) -> Result<bool> {
        self.reader.is_reserved(&self.file)
    }
}

/// Dropping gives the mark back, then (in [`MappedFile`] and [`HostFile`]) the
/// map, SHARED and the descriptor.
struct Pinned {
    reader: Reader,
    file: MappedFile,
    slot: usize,
    raw: RawHeader,
}

impl DatabaseFile for Pinned {
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.reader.read_at(self.file.file(), buf, offset)
    }

    fn size(&mut self) -> Result<u64> {
        self.reader.size(self.file.file())
    }

    fn is_reserved(&mut self) -> Result<bool> {
        self.reader.is_reserved(self.file.file())
    }
}

impl PinnedReader for Pinned {
    fn header(&self) -> WalIndexHeader {
        decode(&self.raw)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.file.unlock_slot(READ_LOCK_0 + self.slot as i32, false);
    }
}
