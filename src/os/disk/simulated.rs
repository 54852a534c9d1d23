//! What a simulated world's file system does for [`super`].

use std::fmt;
use std::io;
use std::path::Path;

use super::FileStat;

/// A file system. Paths are taken as they are: absolute and without links.
pub trait Disk: Send + Sync {
    /// The state of the file at `path`.
    ///
    /// # Errors
    /// An injected fault.
    fn stat(&self, path: &Path) -> io::Result<Option<FileStat>>;

    /// Opens for reading and writing; `NotFound` unless `create` is set.
    ///
    /// # Errors
    /// `NotFound`, or an injected fault.
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>>;

    /// Makes `path` and its parents.
    ///
    /// # Errors
    /// An injected fault.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// An injected fault.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound`, or an injected fault.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Renames a file over another.
    ///
    /// # Errors
    /// `NotFound`, or an injected fault.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
}

/// An open file, closed when dropped.
#[expect(clippy::len_without_is_empty, reason = "a length on disk, which can fail")]
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads up to `buf.len()` bytes; fewer only at the end.
    ///
    /// # Errors
    /// An injected fault.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `buf`, or after an error a part of it.
    ///
    /// # Errors
    /// An injected fault.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Sets the length in bytes.
    ///
    /// # Errors
    /// An injected fault.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// An injected fault.
    fn len(&self) -> io::Result<u64>;

    /// Device and inode, as [`Disk::stat`] tells them for the file's name until
    /// another file has it.
    ///
    /// # Errors
    /// An injected fault.
    fn identity(&self) -> io::Result<(u64, u64)>;

    /// Takes an exclusive POSIX lock on the file for the caller's process.
    ///
    /// # Errors
    /// An injected fault.
    fn try_lock(&self) -> io::Result<bool>;

    /// Gives such a lock back.
    ///
    /// # Errors
    /// An injected fault.
    fn unlock(&self) -> io::Result<()>;

    /// Makes the content durable.
    ///
    /// # Errors
    /// An injected fault.
    fn sync(&self) -> io::Result<()>;
}
