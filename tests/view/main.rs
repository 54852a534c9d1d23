//! Replicas read where they lie.
#![cfg(feature = "cli")]

#[path = "../common/mod.rs"]
mod common;

mod faults;
mod follow;
mod random;
mod reads;
mod regressions;
mod support;
