//! The border to SQLite's C interface, and the only unsafe code of the project.
//!
//! Every function that C calls keeps panics inside (`guard`); everything it
//! needs to decide is decided in safe modules outside this folder.
#![allow(unsafe_code)]

pub(crate) mod abi;
pub(crate) mod api;
mod forward;
mod functions;
pub(crate) mod guard;
mod history;
pub(crate) mod host_file;
mod init;
mod io;
mod own_file;
pub(crate) mod process;
mod replica_io;
#[cfg(feature = "simulation")]
pub mod simulation;
pub(crate) mod vfs;
mod vfs_methods;
mod vtab_abi;
pub(crate) mod wal_index;

pub use init::{sqlite3_extension_init, sqlite3_litestreamvfs_init};
