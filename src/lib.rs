//! SQLite replication to object storage in Litestream's LTX format.
//!
//! The library half: file formats, capture, spool, uploader, restore. The
//! loadable extension (`litestream-vfs`) drives it from inside a SQLite host;
//! the command line (`litestream`, feature `cli`) from outside.
#![forbid(unsafe_code)]

#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
pub mod compactor;
pub mod error;
pub mod ltx;
pub mod os;
pub mod plan;
pub mod replica_client;
pub mod restore;

pub use error::{Error, ErrorKind, Result};
