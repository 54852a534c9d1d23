//! The loadable extension: the VFS `litestream` over the host's default one, the
//! VFS `litestream-replica`, and the SQL functions `litestream_...`.
//!
//! | module | what it is |
//! |---|---|
//! | `ffi` | the border to SQLite: method tables, entry points, the only unsafe code |
//! | `primary_vfs` | what each call on a replicated database means for the engine |
//! | `shield` | keeps checkpoints of older hosts from damaging a restarted WAL |
//! | `replica_vfs` | what each call on a replica means for its session |
//! | `replica_options`, `replica_name` | which opens are replicas, and their settings |
//! | `options`, `config_source`, `raw_name` | configuration: environment, file, SQL, URI |
//! | `pin` | read transactions of our own, through the host's VFS |
//! | `sql` | functions and pragmas |
//! | `runtime`, `registry` | what the process shares: the store, open connections |
//! | `log`, `last_error` | where messages go |
#![deny(unsafe_code)]

mod config_source;
mod ffi;
mod last_error;
mod log;
mod options;
mod pin;
mod primary_vfs;
mod raw_name;
mod registry;
mod replica_name;
mod replica_options;
mod replica_vfs;
mod runtime;
mod shield;
mod sql;
mod sql_replica;
mod transaction;

#[cfg(feature = "simulation")]
pub use ffi::simulation;
pub use ffi::{sqlite3_extension_init, sqlite3_litestreamvfs_init};
