//! What the engine asks of the SQLite host. The extension implements these
//! traits on top of the host's own VFS; nothing in this crate opens the
//! database or its -shm file (closing any descriptor of them would drop every
//! POSIX lock that the process holds there).

use crate::error::Result;

/// The two salts of a WAL generation, as the numbers stored big-endian at
/// bytes 16..24 of the WAL header.
pub type Salts = [u32; 2];

/// The published header of the wal-index: what SQLite's readers see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalIndexHeader {
    /// Last valid frame of the WAL; 0 when the WAL is empty.
    pub mx_frame: u32,
    /// Size of the database in pages after that frame.
    pub n_page: u32,
    /// Page size in bytes.
    pub page_size: u32,
    /// Salts of the current WAL generation.
    pub salts: Salts,
}

/// A private read handle on the database file, opened through the host VFS.
pub trait DatabaseFile: Send {
    /// Reads at `offset` bytes; fewer bytes than asked only at the end of the file.
    ///
    /// # Errors
    /// The host VFS's read failed.
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize>;

    /// Size of the file in bytes.
    ///
    /// # Errors
    /// The host VFS could not tell.
    fn size(&mut self) -> Result<u64>;

    /// Whether a connection of any process holds the write lock (RESERVED).
    ///
    /// # Errors
    /// The host VFS could not tell.
    fn is_reserved(&mut self) -> Result<bool>;
}

/// The database file through the handle of the connection whose callback is
/// running: usable there and then only.
pub trait OwnFile {
    /// Reads at `offset` bytes; fewer bytes than asked only at the end of the file.
    ///
    /// # Errors
    /// The host VFS's read failed.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;

    /// Size of the file in bytes.
    ///
    /// # Errors
    /// The host VFS could not tell.
    fn size(&self) -> Result<u64>;
}

/// A read transaction of our own: SHARED on the database and a READ mark at
/// the end of the WAL as of its start. Dropping it ends it. While it lives no
/// checkpoint copies frames past the mark into the database and the WAL is
/// not restarted.
pub trait PinnedReader: DatabaseFile {
    /// The wal-index header as of the start.
    fn header(&self) -> WalIndexHeader;
}

/// One database of the SQLite host.
pub trait Host: Send + Sync {
    /// Starts a read transaction of our own.
    ///
    /// # Errors
    /// `Transient` when locks could not be had in time, `Unsupported` when the
    /// wal-index is private to the host's connection.
    fn pin(&self) -> Result<Box<dyn PinnedReader>>;

    /// Opens the database file without any lock.
    ///
    /// # Errors
    /// The host VFS could not open it.
    fn open_unlocked(&self) -> Result<Box<dyn DatabaseFile>>;

    /// Whether the host's SQLite may be called from threads of ours
    /// (`sqlite3_threadsafe()` is not 0).
    fn threadsafe(&self) -> bool;

    /// The host's SQLite version, such as `3.40.1`.
    fn sqlite_version(&self) -> String;

    /// What becomes of checkpoints that a restart of the WAL overtakes: `fixed`
    /// (by the host's SQLite), `vulnerable, shielded` or `vulnerable`, and how
    /// many of this process were stopped for it.
    fn wal_reset(&self) -> (&'static str, u64);
}
