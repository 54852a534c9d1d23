//! Reading a database where it is stored: pages out of the LTX files of a
//! replica, without restoring it.
//!
//! | part | what it is |
//! |---|---|
//! | `sources`, `source` | the replicas of this process, each with its newest view |
//! | `session` | one connection: what it sees, and for how long |
//! | `poll`, [`follow`] | looking for new files, and what they belong to |
//! | [`build`], [`load`] | from what storage lists to a view; files and their indexes |
//! | [`file`] | one stored file of one version, and where its pages lie |
//! | [`index`] | which file holds the newest version of each page |
//! | [`state`] | a view: one state of the database, immutable |
//! | [`page_cache`] | decoded pages, shared by all connections, bounded by bytes |
//! | `ranges` | fetched and not decoded yet; one request per chunk of a file |
//! | `download`, `pace` | the requests: how many at once, how large, how slow before another |
//! | [`disk_cache`] | what was fetched, kept in a directory, for all processes |
//! | `kept` | there, too: indexes, and the chain to open without storage |
//! | `btree`, [`prefetch`] | what is likely to be read next |
//! | [`fetch`] | a page for a connection: from the cache, a range, or storage |
//! | [`hydrate`], `hydrate_meta` | a local copy of the newest state, and what it leaves behind |
//! | [`page_one`] | page 1 as SQLite is to see it |
//!
//! Knows nothing of capture, and of SQLite only pages.

#![allow(dead_code)]

mod btree;
pub(crate) mod build;
pub(crate) mod disk_cache;
mod disk_entry;
mod download;
pub(crate) mod fetch;
pub(crate) mod file;
pub(crate) mod follow;
pub(crate) mod hydrate;
mod hydrate_meta;
pub(crate) mod index;
mod kept;
pub(crate) mod load;
mod pace;
pub(crate) mod page_cache;
pub mod page_one;
mod poll;
pub(crate) mod prefetch;
mod ranges;
#[cfg(test)]
mod reading_tests;
mod session;
mod source;
mod sources;
pub(crate) mod state;
#[cfg(test)]
mod testing;

pub use hydrate::{Hydrate, HydrationStatus};
pub use session::Session;
pub use source::{HistoryFile, SourceStatus};
pub use sources::{SourceOptions, Sources};
pub use state::View;
