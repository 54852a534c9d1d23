//! SQLite's file formats, read only: database header, WAL, wal-index.
//!
//! Pure parsing: no input or output, no panic whatever the bytes.

pub mod header;
pub mod page;
pub mod wal;
pub mod wal_index;

pub use header::{DatabaseHeader, JournalMode};
pub use wal::{Checksum, FrameHeader, Salts, WalHeader};
pub use wal_index::{CheckpointInfo, WalIndexHeader};

/// The `N` bytes of `b` at `at`.
///
/// # Panics
///
/// When `b` is shorter: callers hold an array or checked the length.
fn bytes_at<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&b[at..at + N]);
    out
}

fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes_at(b, at))
}

fn ne32(b: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes_at(b, at))
}
