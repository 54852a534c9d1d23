//! No panic leaves this folder: SQLite's frames cannot unwind, so a panic that
//! reached them would abort the host process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the first panic and never cleared: replication of this process
/// stops, the host's own reads and writes go on.
static FAULTED: AtomicBool = AtomicBool::new(false);

/// Whether a callback has panicked in this process.
pub(crate) fn is_faulted() -> bool {
    #[cfg(feature = "simulation")]
    if let Some(faulted) = super::simulation::is_faulted() {
        return faulted;
    }
    FAULTED.load(Ordering::Relaxed)
}

/// Runs `f`; a panic marks the process as faulted and gives `fallback`.
pub(super) fn guarded<T>(fallback: T, f: impl FnOnce() -> T) -> T {
    // Whatever `f` left half-done belongs to replication, which is not
    // continued after a panic.
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(value) => value,
        Err(payload) => {
            // Dropping a payload can panic in its turn.
            std::mem::forget(payload);
            #[cfg(feature = "simulation")]
            if super::simulation::fault() {
                return fallback;
            }
            if !FAULTED.swap(true, Ordering::Relaxed) {
                let tell = || crate::primary_vfs::fault_all("a callback panicked");
                // A second panic changes nothing: the process is faulted.
                let _ = catch_unwind(AssertUnwindSafe(tell)).map_err(std::mem::forget);
            }
            fallback
        }
    }
}

/// Runs a hook of replication unless a former one panicked.
pub(super) fn hook<T>(fallback: T, f: impl FnOnce() -> T) -> T {
    if is_faulted() { fallback } else { guarded(fallback, f) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_the_fallback_and_sticks() {
        assert_eq!(guarded(1, || 2), 2);
        assert!(!is_faulted());
        let hushed = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        assert_eq!(guarded(1, || -> i32 { panic!("expected by the test") }), 1);
        std::panic::set_hook(hushed);
        assert!(is_faulted());
        assert_eq!(hook(3, || 4), 3);
        FAULTED.store(false, Ordering::Relaxed);
    }
}
