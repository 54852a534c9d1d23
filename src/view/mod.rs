//! Reading a database where it is stored: pages out of the LTX files of a
//! replica, without restoring it.
//!
//! | part | what it is |
//! |---|---|
//! | [`file`] | one stored file of one version, and where its pages lie |
//! | [`index`] | which file holds the newest version of each page |
//! | [`state`] | a view: one state of the database, immutable |
//!
//! Knows nothing of capture, and nothing of SQLite but page numbers.

#![allow(dead_code)]

pub(crate) mod build;
pub(crate) mod file;
pub(crate) mod follow;
pub(crate) mod index;
pub(crate) mod load;
pub(crate) mod state;

pub use state::View;
