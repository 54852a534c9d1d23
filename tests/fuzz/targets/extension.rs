//! Sources of the extension that need no SQLite, compiled once more. They name
//! what they use from their crate's root, which is the including crate's here:
//! it imports `ffi`, `last_error` and `raw_name` from this module.

#[path = "../../../sqlite-ext/src/last_error.rs"]
#[allow(dead_code)]
pub(crate) mod last_error;
#[path = "../../../sqlite-ext/src/raw_name.rs"]
pub(crate) mod raw_name;
#[path = "../../../sqlite-ext/src/replica_name.rs"]
#[allow(dead_code)]
pub(crate) mod replica_name;

pub(crate) mod ffi {
    pub(crate) mod abi {
        use std::ffi::c_int;

        pub(crate) const SQLITE_CANTOPEN: c_int = 14;
        pub(crate) const SQLITE_OPEN_READONLY: c_int = 1;
        pub(crate) const SQLITE_OPEN_READWRITE: c_int = 2;
        pub(crate) const SQLITE_OPEN_CREATE: c_int = 4;
    }
}
