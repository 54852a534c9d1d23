//! The only user of `std::fs` in the library: files with private modes, exact
//! positioned I/O, file identity, and locks, with errors that name the path.

#[cfg(feature = "simulation")]
pub mod simulated;

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::error::{Error, Result};

/// Mode of files that only the database's owner may read.
const PRIVATE_FILE: u32 = 0o600;
/// Mode of directories that only the database's owner may enter.
const PRIVATE_DIR: u32 = 0o700;

/// User and group of a file.
pub type Owner = (u32, u32);

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Change time, nanoseconds since the epoch.
    pub ctime_ns: i64,
    /// User and group.
    pub owner: Owner,
    /// It is a directory.
    pub is_dir: bool,
}

/// The file system of the simulated world that this thread belongs to.
#[cfg(feature = "simulation")]
fn simulated_disk() -> Option<std::sync::Arc<dyn simulated::Disk>> {
    crate::tasks::simulated::current().map(|world| world.disk())
}

/// The state of the file at `path`, or `None` when there is none.
///
/// # Errors
/// The file system could not tell.
pub fn stat(path: &Path) -> Result<Option<FileStat>> {
    #[cfg(feature = "simulation")]
    if let Some(disk) = simulated_disk() {
        return disk.stat(path).map_err(|e| Error::io("look at", path, e));
    }
    match fs::metadata(path) {
        Ok(m) => Ok(Some(FileStat {
            dev: m.dev(),
            ino: m.ino(),
            size: m.size(),
            mtime_ns: m.mtime().saturating_mul(1_000_000_000).saturating_add(m.mtime_nsec()),
            ctime_ns: m.ctime().saturating_mul(1_000_000_000).saturating_add(m.ctime_nsec()),
            owner: (m.uid(), m.gid()),
            is_dir: m.is_dir(),
        })),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}

/// An open file that remembers its path for error messages.
#[derive(Debug)]
pub struct File {
    file: Kind,
    path: PathBuf,
    /// Device and inode, once they were asked: they stay while it is open.
    identity: OnceLock<(u64, u64)>,
}

/// Descriptors of ours, and the files behind them. A forked child has them too;
/// see [`inherited_descriptors`].
static KEPT: Mutex<Vec<(i32, Identity)>> = Mutex::new(Vec::new());

type Identity = (u64, u64);

fn identity_of(descriptor: i32) -> Option<Identity> {
    let m = fs::metadata(format!("/proc/self/fd/{descriptor}")).ok()?;
    Some((m.dev(), m.ino()))
}

/// Counts a descriptor as ours until [`forget_descriptor`].
pub(crate) fn keep_descriptor(descriptor: i32) {
    if let Some(identity) = identity_of(descriptor) {
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).push((descriptor, identity));
    }
}

/// A descriptor of ours is about to be closed.
pub(crate) fn forget_descriptor(descriptor: i32) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.retain(|(known, _)| *known != descriptor);
}

/// The descriptors of ours that a forked child has from its parent, once. They
/// are to be closed before the child opens one of the same files: closing one
/// later would drop the child's own locks. Those whose numbers lead to other
/// files by now are left out, as is everything when a thread of the parent was
/// opening a file just then.
pub fn inherited_descriptors() -> Vec<i32> {
    let Ok(mut kept) = KEPT.try_lock() else { return Vec::new() };
    let all = std::mem::take(&mut *kept).into_iter();
    all.filter(|(n, identity)| identity_of(*n) == Some(*identity)).map(|(n, _)| n).collect()
}

#[derive(Debug)]
enum Kind {
    Real(fs::File),
    #[cfg(feature = "simulation")]
    Simulated(Box<dyn simulated::DiskFile>),
}

/// Runs the first expression with a real file, the second with a simulated one.
macro_rules! on_file {
    ($file:expr, $real:ident => $there:expr, $simulated:ident => $here:expr) => {
        match &$file {
            Kind::Real($real) => $there,
            #[cfg(feature = "simulation")]
            Kind::Simulated($simulated) => $here,
        }
    };
}

impl Drop for File {
    fn drop(&mut self) {
        match &self.file {
            Kind::Real(file) => forget_descriptor(file.as_raw_fd()),
            #[cfg(feature = "simulation")]
            Kind::Simulated(_) => {}
        }
    }
}

impl File {
    /// Opens for reading.
    ///
    /// # Errors
    /// `NotFound` when it does not exist.
    pub fn open(path: &Path) -> Result<File> {
        #[cfg(feature = "simulation")]
        if let Some(disk) = simulated_disk() {
            let file = disk.open(path, false).map_err(|e| Error::io("open", path, e))?;
            return Ok(File {
                file: Kind::Simulated(file),
                path: path.to_owned(),
                identity: OnceLock::new(),
            });
        }
        let file = fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
        Ok(File { file: Kind::Real(file), path: path.to_owned(), identity: OnceLock::new() })
    }

    /// Opens for reading and writing; makes it with a private mode, owned by
    /// `owner`, when missing.
    ///
    /// # Errors
    /// The file could not be opened or made.
    pub fn open_private(path: &Path, owner: Option<Owner>) -> Result<File> {
        #[cfg(feature = "simulation")]
        if let Some(disk) = simulated_disk() {
            let file = disk.open(path, true).map_err(|e| Error::io("open", path, e))?;
            return Ok(File {
                file: Kind::Simulated(file),
                path: path.to_owned(),
                identity: OnceLock::new(),
            });
        }
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).mode(PRIVATE_FILE);
        let file = match options.open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let file = options
                    .create(true)
                    .truncate(false)
                    .open(path)
                    .map_err(|e| Error::io("create", path, e))?;
                give_to(path, owner);
                file
            }
            other => other.map_err(|e| Error::io("open", path, e))?,
        };
        Ok(Self::kept(file, path))
    }

    /// A file of ours that may come to carry a lock.
    fn kept(file: fs::File, path: &Path) -> File {
        if let Ok(m) = file.metadata() {
            let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push((file.as_raw_fd(), (m.dev(), m.ino())));
        }
        File { file: Kind::Real(file), path: path.to_owned(), identity: OnceLock::new() }
    }

    /// Opens for reading and writing.
    ///
    /// # Errors
    /// `NotFound` when it does not exist.
    pub fn open_existing(path: &Path) -> Result<File> {
        #[cfg(feature = "simulation")]
        if let Some(disk) = simulated_disk() {
            let file = disk.open(path, false).map_err(|e| Error::io("open", path, e))?;
            return Ok(File {
                file: Kind::Simulated(file),
                path: path.to_owned(),
                identity: OnceLock::new(),
            });
        }
        let file = fs::OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|e| Error::io("open", path, e))?;
        Ok(Self::kept(file, path))
    }

    /// Whether the path still leads to this very file.
    pub fn is_in_place(&self) -> bool {
        let mine = match self.identity.get() {
            Some(known) => *known,
            None => {
                let asked = on_file!(self.file,
                    f => f.metadata().map(|m| (m.dev(), m.ino())), f => f.identity());
                let Ok(asked) = asked else { return false };
                *self.identity.get_or_init(|| asked)
            }
        };
        matches!(stat(&self.path), Ok(Some(there)) if mine == (there.dev, there.ino))
    }

    /// Whether the file has a name still, its own or one that it was given since;
    /// cheaper to ask than [`File::is_in_place`].
    pub fn is_linked(&self) -> bool {
        match &self.file {
            Kind::Real(file) => file.metadata().is_ok_and(|m| m.nlink() > 0),
            #[cfg(feature = "simulation")]
            Kind::Simulated(_) => self.is_in_place(),
        }
    }

    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end.
    ///
    /// # Errors
    /// The read failed.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let (rest, at) = (&mut buf[done..], offset + done as u64);
            match on_file!(self.file, f => f.read_at(rest, at), f => f.read_at(rest, at)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", &self.path, e)),
            }
        }
        Ok(done)
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `Corrupt` when the file ends before.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if self.read_at(buf, offset)? == buf.len() {
            return Ok(());
        }
        let short = io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before");
        Err(Error::io("read", &self.path, short))
    }

    /// Writes all of `buf` at `offset`.
    ///
    /// # Errors
    /// `Full` when the device has no room.
    pub fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        on_file!(self.file, f => f.write_all_at(buf, offset), f => f.write_all_at(buf, offset))
            .map_err(|e| Error::io("write", &self.path, e))
    }

    /// Sets the length in bytes.
    ///
    /// # Errors
    /// The file system refused.
    pub fn set_len(&self, len: u64) -> Result<()> {
        on_file!(self.file, f => f.set_len(len), f => f.set_len(len))
            .map_err(|e| Error::io("resize", &self.path, e))
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// The file system could not tell.
    pub fn len(&self) -> Result<u64> {
        on_file!(self.file, f => f.metadata().map(|m| m.len()), f => f.len())
            .map_err(|e| Error::io("look at", &self.path, e))
    }

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// The file system could not tell.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Takes an exclusive POSIX lock on the whole file; false when another
    /// process has it. Such locks do not exclude two callers of one process,
    /// and closing any descriptor of the file in this process drops them.
    ///
    /// # Errors
    /// The file system does not support locks.
    pub fn try_lock(&self) -> Result<bool> {
        use rustix::fs::{FlockOperation, fcntl_lock};
        use rustix::io::Errno;
        let lock = |file| match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
            Err(e) => Err(io::Error::from(e)),
        };
        on_file!(self.file, f => lock(f), f => f.try_lock())
            .map_err(|e| Error::io("lock", &self.path, e))
    }

    /// Whether another process has such a lock on the file at `path`. Nothing of
    /// this process's may be locked there, nor is anything opened for writing.
    pub fn is_locked(path: &Path) -> bool {
        #[cfg(feature = "simulation")]
        if simulated_disk().is_some() {
            return false;
        }
        use rustix::process::{Flock, FlockType, fcntl_getlk};
        let Ok(file) = fs::File::open(path) else { return false };
        matches!(fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)), Ok(Some(_)))
    }

    /// Gives such a lock back without closing the file.
    ///
    /// # Errors
    /// The file system does not support locks.
    pub fn unlock(&self) -> Result<()> {
        use rustix::fs::{FlockOperation, fcntl_lock};
        let unlock = |file| fcntl_lock(file, FlockOperation::NonBlockingUnlock);
        on_file!(self.file, f => unlock(f).map_err(io::Error::from), f => f.unlock())
            .map_err(|e| Error::io("unlock", &self.path, e))
    }

    /// Makes the content survive a power loss.
    ///
    /// # Errors
    /// The device failed: what was written before may be lost.
    pub fn sync(&self) -> Result<()> {
        on_file!(self.file, f => f.sync_data(), f => f.sync())
            .map_err(|e| Error::io("fsync", &self.path, e))
    }

    /// Gives the file another name, in place of whatever has it.
    ///
    /// # Errors
    /// It could not be renamed, or its path leads to another file.
    pub fn rename(&mut self, to: &Path) -> Result<()> {
        if !self.is_in_place() {
            let gone = io::Error::from(io::ErrorKind::NotFound);
            return Err(Error::io("rename", &self.path, gone));
        }
        rename(&self.path, to)?;
        to.clone_into(&mut self.path);
        Ok(())
    }

    /// The path that it was opened by, or has by now.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes `path` and missing parents; what is made is private and owned by `owner`.
///
/// # Errors
/// A directory could not be made, or `path` is not one.
pub fn create_private_dir(path: &Path, owner: Option<Owner>) -> Result<()> {
    #[cfg(feature = "simulation")]
    if let Some(disk) = simulated_disk() {
        return disk.create_dir_all(path).map_err(|e| Error::io("create directory", path, e));
    }
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent()
        && !parent.as_os_str().is_empty()
    {
        create_private_dir(parent, owner)?;
    }
    match fs::DirBuilder::new().mode(PRIVATE_DIR).create(path) {
        Ok(()) => {
            give_to(path, owner);
            Ok(())
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(Error::io("create directory", path, e)),
    }
}

/// Ownership matters only when a privileged process made the file, and is
/// refused for everybody else; the mode protects the content either way.
fn give_to(path: &Path, owner: Option<Owner>) {
    if let Some((uid, gid)) = owner {
        let _ = std::os::unix::fs::chown(path, Some(uid), Some(gid));
    }
}

/// Names of the entries of a directory; empty when it does not exist.
///
/// # Errors
/// The directory could not be read.
pub fn list_dir(path: &Path) -> Result<Vec<String>> {
    #[cfg(feature = "simulation")]
    if let Some(disk) = simulated_disk() {
        return disk.list(path).map_err(|e| Error::io("list", path, e));
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", path, e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", path, e))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Removes a file; none is fine.
///
/// # Errors
/// The file system refused.
pub fn remove_file(path: &Path) -> Result<()> {
    match remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    #[cfg(feature = "simulation")]
    if let Some(disk) = simulated_disk() {
        return disk.remove(path);
    }
    fs::remove_file(path)
}

/// Renames a file over another.
///
/// # Errors
/// The file system refused.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    #[cfg(feature = "simulation")]
    if let Some(disk) = simulated_disk() {
        return disk.rename(from, to).map_err(|e| Error::io("rename", from, e));
    }
    fs::rename(from, to).map_err(|e| Error::io("rename", from, e))
}

/// Reads a whole file, or `None` when there is none. Only for small files.
///
/// # Errors
/// The file could not be read.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    #[cfg(feature = "simulation")]
    if simulated_disk().is_some() {
        let file = match File::open(path) {
            Err(e) if e.kind() == crate::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut content = vec![0; file.len()? as usize];
        let got = file.read_at(&mut content, 0)?;
        content.truncate(got);
        return Ok(Some(content));
    }
    match fs::read(path) {
        Ok(b) => Ok(Some(b)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

/// Replaces a small private file by way of a temporary one and a rename.
///
/// # Errors
/// The temporary file could not be written or renamed.
pub fn write_private(path: &Path, content: &[u8], owner: Option<Owner>) -> Result<()> {
    let tmp = path.with_extension("tmp");
    let file = File::open_private(&tmp, owner)?;
    file.set_len(0)?;
    file.write_all_at(content, 0)?;
    rename(&tmp, path)
}

/// Makes the names in a directory survive a power loss.
///
/// # Errors
/// The directory could not be synced.
pub fn sync_dir(path: &Path) -> Result<()> {
    // There, syncing a file makes every name before it durable.
    #[cfg(feature = "simulation")]
    if simulated_disk().is_some() {
        return Ok(());
    }
    super::fsync_dir(path)
}

/// Tells one boot of the machine from another: what was written in this one is
/// in the page cache still. Never zeros. Where the system has no such number,
/// each process has one of its own.
pub fn boot_id() -> [u8; 16] {
    #[cfg(feature = "simulation")]
    if let Some(world) = crate::tasks::simulated::current() {
        return world.boot_id();
    }
    static ID: OnceLock<[u8; 16]> = OnceLock::new();
    *ID.get_or_init(|| system_boot_id().unwrap_or_else(process_id))
}

/// Whether [`boot_id`] is one of the machine, not of the process.
pub fn knows_boot() -> bool {
    #[cfg(feature = "simulation")]
    if crate::tasks::simulated::current().is_some() {
        return true;
    }
    system_boot_id().is_some()
}

fn system_boot_id() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(std::str::from_utf8(digits.get(..32)?).ok()?, 16).ok()?;
    (number != 0).then(|| number.to_be_bytes())
}

fn process_id() -> [u8; 16] {
    let random = RandomState::new();
    let mut id = [0xff; 16];
    id[..8].copy_from_slice(&random.hash_one(0).to_le_bytes());
    id[8..15].copy_from_slice(&random.hash_one(1).to_le_bytes()[..7]);
    id
}

/// The canonical form of a path whose last component may not exist yet.
///
/// # Errors
/// The directory part does not exist or cannot be read.
pub fn canonical(path: &Path) -> Result<PathBuf> {
    #[cfg(feature = "simulation")]
    if simulated_disk().is_some() {
        return Ok(path.to_owned());
    }
    if let Ok(found) = fs::canonicalize(path) {
        return Ok(found);
    }
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let dir = fs::canonicalize(parent).map_err(|e| Error::io("resolve", parent, e))?;
    Ok(match path.file_name() {
        Some(name) => dir.join(name),
        None => dir,
    })
}
