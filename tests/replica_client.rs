//! One suite for every replica client: the contract, then what is special to
//! files and to S3.
//!
//! S3 servers are started on loopback by `tests/services/services.sh` and end
//! with this process. `LITESTREAM_TEST_SERVICES` names a file of exports
//! (`services.sh env`) to use running ones instead.

#[path = "replica_client/contract.rs"]
mod contract;
#[path = "replica_client/files.rs"]
mod files;
#[path = "replica_client/mock.rs"]
mod mock;
#[path = "replica_client/s3.rs"]
mod s3;
#[path = "replica_client/s3_faults.rs"]
mod s3_faults;
#[path = "replica_client/s3_transport.rs"]
mod s3_transport;
#[path = "replica_client/services.rs"]
mod services;
#[path = "replica_client/support.rs"]
mod support;
#[path = "replica_client/wrappers.rs"]
mod wrappers;
