//! Replicas read where they lie.
#![cfg(feature = "cli")]

#[path = "../common/mod.rs"]
mod common;

mod follow;
mod reads;
mod support;
