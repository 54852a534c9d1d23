//! The file system, as the library uses it: the only module with `std::fs`.
//!
//! Files that we create are private (directories 0700, files 0600) and belong
//! to the owner of the database they serve where the process may give them away.

pub mod append;
pub mod disk;
pub mod replace;
pub mod watch;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, ErrorKind, Result};

/// Mode of a directory that only its owner may read.
pub const PRIVATE_DIR_MODE: u32 = 0o700;
/// Mode of a file that only its owner may read.
pub const PRIVATE_FILE_MODE: u32 = 0o600;
/// Suffix of files that are not complete; readers ignore them.
pub const TMP_SUFFIX: &str = ".tmp";

/// Modes and owner given to what is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Mode of new directories.
    pub dir_mode: u32,
    /// Mode of new files.
    pub file_mode: u32,
    /// User and group id to hand new files to; refusals are ignored.
    pub owner: Option<(u32, u32)>,
}

impl Access {
    /// Private modes, owned by the process.
    pub const PRIVATE: Access =
        Access { dir_mode: PRIVATE_DIR_MODE, file_mode: PRIVATE_FILE_MODE, owner: None };

    /// Private modes, owned by the owner of `path` if that exists.
    pub fn owner_of(path: &Path) -> Access {
        let owner = fs::metadata(path).ok().map(|m| (m.uid(), m.gid()));
        Access { owner, ..Access::PRIVATE }
    }

    fn give(&self, path: &Path) {
        if let Some((uid, gid)) = self.owner {
            // Only root may give files away; the modes still keep others out.
            let _ = std::os::unix::fs::chown(path, Some(uid), Some(gid));
        }
    }
}

impl Default for Access {
    fn default() -> Self {
        Access::PRIVATE
    }
}

/// Creates `path` and its missing parents with the modes of `access`, and makes
/// the new entries durable.
pub fn create_dir_all(path: &Path, access: &Access) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    if parent != path {
        create_dir_all(parent, access)?;
    }
    match DirBuilder::new().mode(access.dir_mode).create(path) {
        Ok(()) => {
            access.give(path);
            fsync_dir(parent)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("cannot create directory {}: a file is in the way", path.display()),
        )),
        Err(e) => Err(Error::io("create directory", path, e)),
    }
}

/// [`create_dir_all`] with private modes.
pub fn create_private_dir(path: &Path) -> Result<()> {
    create_dir_all(path, &Access::PRIVATE)
}

/// Makes the entries of directory `path` durable.
pub fn fsync_dir(path: &Path) -> Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path).and_then(|d| d.sync_all()).map_err(|e| Error::io("fsync directory", path, e))
}

/// The directory that holds `path`; `.` for a bare name.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if p.as_os_str().is_empty() => Path::new("."),
        Some(p) => p,
        None => path,
    }
}

/// Opens `path` for reading.
pub fn open_read(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::io("open", path, e))
}

/// The size of an open file in bytes, and a text that tells it from any other
/// file that has or had its name: device, inode, size, and the times of its last
/// write and, where the system keeps it, of its creation.
pub fn size_and_version(file: &File) -> io::Result<(u64, String)> {
    let meta = file.metadata()?;
    Ok((meta.len(), version_of(&meta)))
}

fn version_of(meta: &fs::Metadata) -> String {
    // Not the time of change: a second link to the file moves that one.
    let born = meta.created().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    format!(
        "{:x}-{:x}-{:x}-{:x}.{:x}-{:x}",
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
        born.map_or(0, |t| t.as_nanos())
    )
}

/// Reads the whole of `path`.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| Error::io("read", path, e))
}

/// The process's working directory.
pub fn current_dir() -> Result<PathBuf> {
    std::env::current_dir().map_err(|e| Error::io("find", Path::new("working directory"), e))
}

/// The home directory that the user database has for this process's user.
pub fn home_dir() -> Option<PathBuf> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    home_of(&users, rustix::process::getuid().as_raw())
}

/// The sixth field of the line whose third field is `uid`.
fn home_of(users: &str, uid: u32) -> Option<PathBuf> {
    let uid = uid.to_string();
    let line = users.lines().find(|line| line.split(':').nth(2) == Some(&uid))?;
    line.split(':').nth(5).filter(|home| home.starts_with('/')).map(PathBuf::from)
}

/// Fills `buf` from `offset` of `file` as far as the file goes; returns the count.
pub fn read_at(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<usize> {
    let mut total = 0;
    while !buf.is_empty() {
        match file.read_at(buf, offset) {
            Ok(0) => break,
            Ok(n) => {
                total += n;
                offset += n as u64;
                buf = &mut buf[n..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(total)
}

/// Removes the file `path`; a missing one is no error.
pub fn remove_if_exists(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Replaces `path` by `data`: temporary file, fsync, rename, directory fsync.
pub fn write_atomic(path: &Path, data: &[u8], access: &Access) -> Result<()> {
    let mut tmp = TmpFile::create(path, access)?;
    tmp.write(data)?;
    tmp.publish_over()
}

/// Removes files named `*.tmp` below `dir`; returns how many went.
///
/// Only for directories of one writer: a temporary file in use would be lost.
pub fn remove_stale_tmp(dir: &Path) -> Result<usize> {
    let mut removed = 0;
    for entry in list_dir(dir)? {
        if entry.is_dir {
            removed += remove_stale_tmp(&dir.join(&entry.name))?;
        } else if entry.name.ends_with(TMP_SUFFIX) {
            remove_if_exists(&dir.join(&entry.name))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes temporary files directly in `dir` that nothing touched since
/// `before_ms` (Unix milliseconds): their writers are gone.
///
/// The time of the last change of status decides; the modification time of a
/// file that is about to be published is whatever its writer wants.
pub fn remove_tmp_before(dir: &Path, before_ms: i64) -> Result<()> {
    for entry in list_dir(dir)? {
        if entry.name.ends_with(TMP_SUFFIX) && !entry.is_dir && entry.changed_ms < before_ms {
            remove_if_exists(&dir.join(&entry.name))?;
        }
    }
    Ok(())
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Name within the directory; names that are not UTF-8 are left out of listings.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Modification time, Unix milliseconds.
    pub modified_ms: i64,
    /// Time of the last change of content or status, Unix milliseconds.
    pub changed_ms: i64,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Tells it from other files of its name, as [`size_and_version`] does; empty
    /// for a symbolic link.
    pub version: String,
}

/// The entries of `dir`, in no particular order; a missing directory is empty.
pub fn list_dir(dir: &Path) -> Result<Vec<DirEntry>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list directory", dir, e)),
    };
    let mut out = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list directory", dir, e))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // A file that vanishes between the two calls was not there.
        let Ok(meta) = entry.metadata() else { continue };
        out.push(DirEntry {
            name,
            size: meta.len(),
            modified_ms: unix_ms(meta.mtime(), meta.mtime_nsec()),
            changed_ms: unix_ms(meta.ctime(), meta.ctime_nsec()),
            is_dir: meta.is_dir(),
            version: if meta.is_symlink() { String::new() } else { version_of(&meta) },
        });
    }
    Ok(out)
}

/// Removes the directory `path` if nothing is in it; a missing one is no error.
pub fn remove_dir_if_empty(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(e) => Err(Error::io("remove directory", path, e)),
        Ok(()) => Ok(()),
    }
}

fn unix_ms(seconds: i64, nanos: i64) -> i64 {
    seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000)
}

fn system_time(ms: i64) -> SystemTime {
    let d = Duration::from_millis(ms.unsigned_abs());
    if ms < 0 { UNIX_EPOCH - d } else { UNIX_EPOCH + d }
}

/// A file under construction beside its final name; removed when dropped
/// before it was published.
#[derive(Debug)]
pub struct TmpFile {
    file: File,
    tmp: PathBuf,
    path: PathBuf,
    published: bool,
}

impl TmpFile {
    /// Opens a temporary file beside `path`, in an existing directory.
    ///
    /// The name is unique: several writers may prepare the same file.
    pub fn create(path: &Path, access: &Access) -> Result<TmpFile> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let serial = COUNTER.fetch_add(1, Ordering::Relaxed);
        let mut tmp = path.as_os_str().to_owned();
        tmp.push(format!(".{}-{serial}{TMP_SUFFIX}", process::id()));
        let tmp = PathBuf::from(tmp);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(access.file_mode)
            .open(&tmp)
            .map_err(|e| Error::io("create", &tmp, e))?;
        access.give(&tmp);
        Ok(TmpFile { file, tmp, path: path.to_owned(), published: false })
    }

    /// Appends `data`.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        self.file.write_all(data).map_err(|e| Error::io("write", &self.tmp, e))
    }

    /// Sets modification and access time, Unix milliseconds.
    pub fn set_times(&self, ms: i64) -> Result<()> {
        let time = system_time(ms);
        let times = fs::FileTimes::new().set_modified(time).set_accessed(time);
        self.file.set_times(times).map_err(|e| Error::io("set times of", &self.tmp, e))
    }

    /// Publishes under the final name, replacing what is there.
    pub fn publish_over(mut self) -> Result<()> {
        self.sync()?;
        self.rename()
    }

    /// Publishes under the final name unless that exists: `AlreadyExists`.
    ///
    /// A hard link decides between racers. Where the file system refuses links
    /// a check and a rename do, which two writers in the same instant can both
    /// pass.
    pub fn publish_new(mut self) -> Result<()> {
        self.sync()?;
        match fs::hard_link(&self.tmp, &self.path) {
            Ok(()) => fsync_dir(parent_of(&self.path)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(self.exists()),
            Err(e) if links_refused(&e) && self.path.exists() => Err(self.exists()),
            Err(e) if links_refused(&e) => self.rename(),
            Err(e) => Err(Error::io("create", &self.path, e)),
        }
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io("fsync", &self.tmp, e))
    }

    fn rename(&mut self) -> Result<()> {
        fs::rename(&self.tmp, &self.path).map_err(|e| Error::io("create", &self.path, e))?;
        self.published = true;
        fsync_dir(parent_of(&self.path))
    }

    fn exists(&self) -> Error {
        Error::new(
            ErrorKind::AlreadyExists,
            format!("{} exists already and was not replaced", self.path.display()),
        )
    }
}

fn links_refused(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS | libc::EMLINK | libc::EACCES)
    )
}

impl Drop for TmpFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.tmp);
        }
    }
}

/// Permission bits and owner of `path`, for tests and reports.
pub fn mode_and_owner(path: &Path) -> Result<(u32, u32)> {
    let meta = fs::metadata(path).map_err(|e| Error::io("stat", path, e))?;
    Ok((meta.permissions().mode() & 0o7777, meta.uid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_files_are_private() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b/c");
        create_private_dir(&dir).unwrap();
        assert_eq!(mode_and_owner(&root.path().join("a/b")).unwrap().0, PRIVATE_DIR_MODE);
        let file = dir.join("f");
        write_atomic(&file, b"one", &Access::PRIVATE).unwrap();
        write_atomic(&file, b"two", &Access::PRIVATE).unwrap();
        assert_eq!(mode_and_owner(&file).unwrap().0, PRIVATE_FILE_MODE);
        assert_eq!(read(&file).unwrap(), b"two");
        assert_eq!(list_dir(&dir).unwrap().len(), 1);
    }

    #[test]
    fn publish_new_never_replaces() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("f");
        let write = |data: &[u8]| {
            let mut tmp = TmpFile::create(&path, &Access::PRIVATE)?;
            tmp.write(data)?;
            tmp.publish_new()
        };
        write(b"first").unwrap();
        assert_eq!(write(b"second").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(read(&path).unwrap(), b"first");
        assert_eq!(list_dir(root.path()).unwrap().len(), 1);
    }

    #[test]
    fn an_unpublished_file_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        drop(TmpFile::create(&root.path().join("f"), &Access::PRIVATE).unwrap());
        assert!(list_dir(root.path()).unwrap().is_empty());
        fs::write(root.path().join("old.tmp"), b"x").unwrap();
        assert_eq!(remove_stale_tmp(root.path()).unwrap(), 1);
    }

    #[test]
    fn files_that_are_about_to_be_published_are_not_swept() {
        let root = tempfile::tempdir().unwrap();
        let tmp = TmpFile::create(&root.path().join("f"), &Access::PRIVATE).unwrap();
        tmp.set_times(0).unwrap();
        let entry = list_dir(root.path()).unwrap().remove(0);
        remove_tmp_before(root.path(), entry.changed_ms).unwrap();
        assert_eq!(list_dir(root.path()).unwrap().len(), 1);
        remove_tmp_before(root.path(), entry.changed_ms + 1).unwrap();
        assert!(list_dir(root.path()).unwrap().is_empty());
    }
}
