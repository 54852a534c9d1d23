//! Merging consecutive files into one.

pub mod merge;

pub use merge::merge;
