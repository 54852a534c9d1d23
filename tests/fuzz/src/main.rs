//! One libFuzzer program for every target: `FUZZ_TARGET` names the one to run.
#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use targets::extension::{ffi, last_error, raw_name};

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = targets::TARGETS.iter().find(|t| t.0 == name);
    found.unwrap_or_else(|| panic!("FUZZ_TARGET={name} is no target")).1
});

fuzz_target!(|data: &[u8]| (*TARGET)(data));
