//! SQLite replication to object storage in Litestream's LTX format.
//!
//! The library half: file formats, capture, spool, uploader, restore, and views
//! of a replica that is read where it lies. The loadable extension
//! (`litestream-vfs`) drives it from inside a SQLite host; the command line
//! (`litestream`, feature `cli`) from outside.
#![forbid(unsafe_code)]

mod backfill;
mod bookkeeping;
pub mod capture;
#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
pub mod compactor;
pub mod config;
pub mod config_file;
pub mod db;
mod difference;
pub mod error;
mod growth;
mod history;
pub mod host;
pub mod ledger;
pub mod log;
pub mod ltx;
pub mod moment;
mod node;
pub mod os;
mod pace;
mod pages;
pub mod plan;
mod probe;
mod replica;
pub mod replica_client;
pub mod restore;
mod shipped;
mod sibling;
mod snapshot;
mod spill;
pub mod sqlite;
pub mod store;
mod stream;
pub mod tasks;
pub mod view;
pub mod wal_reader;
mod worker;

pub use error::{Error, ErrorKind, Result};
