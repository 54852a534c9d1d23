//! Replicas read where they lie.
//!
//! S3 servers are started as for `tests/replica_client.rs`.
#![cfg(feature = "cli")]

#[allow(dead_code)]
#[path = "../replica_client/support.rs"]
mod backends;
#[path = "../common/mod.rs"]
mod common;
#[path = "../replica_client/services.rs"]
mod services;

mod disk;
mod faults;
mod follow;
mod random;
mod reads;
mod regressions;
mod s3;
mod support;
