//! Keeps the host's checkpoints away from a WAL that was restarted under them.
//!
//! SQLite before 3.51.3 has this fault: a PASSIVE checkpoint takes the CKPT
//! lock and copies the wal-index header. When everything is backfilled already,
//! a writer may restart the WAL at this moment: it publishes new salts and sets
//! the count of backfilled frames to 0. The checkpoint then sees work to do, and
//! at its end stores the old generation's last frame as that count: commits of
//! the new generation below it are never copied and no reader sees them.
//!
//! The shield compares the salts of the wal-index when the host granted READ0
//! exclusively, right before the checkpoint's first copy, with those of when it
//! granted CKPT. A difference answers BUSY, from which a checkpoint concludes
//! that it has nothing to copy, as newer versions do. Why that is enough:
//!
//! - The checkpoint copies the header after CKPT was granted, so salts that are
//!   the same before and after are those of the copy: they change with every
//!   restart, to values that do not come back.
//! - While CKPT is held no other connection runs a checkpoint or a recovery; the
//!   generation is changed only by a writer that holds READ0 shared until it
//!   has published the new salts. READ0 granted exclusively therefore sees the
//!   outcome, and no restart follows until it is released, which is after the
//!   count is stored.
//! - FULL, RESTART and TRUNCATE copy the header, and recover it if need be,
//!   while they hold the write lock: nothing to compare then, and no busy handler
//!   ever hears of the shield. One that does not get that lock goes on as PASSIVE.
//! - A PASSIVE checkpoint that finds a broken header copies it again, or recovers
//!   it, under the write lock: the salts count as of that lock's release.
//! - A private wal-index makes no calls of `xShmLock`, and nobody else can write.
//!
//! A restart between the grant of CKPT and the copy is refused needlessly: the
//! next checkpoint copies those few frames.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use litestream::host::Salts;

use crate::ffi::api::api;
use crate::ffi::guard::is_faulted;

/// Checkpoints of this process that were kept from a restarted WAL.
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// What one connection's checkpoint may rely on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// It holds no checkpoint lock.
    Nothing,
    /// It holds CKPT; the salts of then, none while no wal-index was mapped.
    Checkpoint(Option<Salts>),
    /// It holds CKPT and the write lock: nobody restarts the WAL.
    Writer,
}

/// The shield of one connection.
pub(crate) struct Shield {
    vulnerable: bool,
    held: Cell<Held>,
}

impl Shield {
    /// For a host of version `number` (3.40.1 is 3040001).
    pub(crate) fn new(number: i32) -> Self {
        Shield { vulnerable: is_vulnerable(number), held: Cell::new(Held::Nothing) }
    }

    /// Whether this connection holds CKPT.
    #[inline]
    pub(crate) fn is_checkpointing(&self) -> bool {
        self.held.get() != Held::Nothing
    }

    /// CKPT was granted.
    pub(crate) fn checkpoint_granted(&self, salts: Option<Salts>) {
        self.held.set(Held::Checkpoint(salts));
    }

    /// CKPT is about to be released.
    pub(crate) fn checkpoint_released(&self) {
        self.held.set(Held::Nothing);
    }

    /// The write lock was granted.
    pub(crate) fn writer_granted(&self) {
        if self.is_checkpointing() {
            self.held.set(Held::Writer);
        }
    }

    /// The write lock is about to be released.
    pub(crate) fn writer_released(&self, salts: impl FnOnce() -> Option<Salts>) {
        if self.held.get() == Held::Writer {
            self.held.set(Held::Checkpoint(salts()));
        }
    }

    /// Whether a checkpoint may use READ0, just granted exclusively, with `salts`
    /// in the wal-index now.
    pub(crate) fn may_copy(&self, salts: Option<Salts>) -> bool {
        let same = match self.held.get() {
            // Without a wal-index nobody has copied a header from it.
            Held::Checkpoint(then) => salts.is_none() || then == salts,
            Held::Nothing | Held::Writer => true,
        };
        if !same && self.vulnerable {
            REFUSED.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        true
    }
}

/// Whether SQLite version `number` has the fault; 3.44.6 and 3.50.7 are fixed too.
fn is_vulnerable(number: i32) -> bool {
    !matches!(number, 3_044_006..=3_044_999 | 3_050_007..=3_050_999 | 3_051_003..)
}

/// What status says about this process: the state, and how many checkpoints were
/// kept from a restarted WAL.
pub(crate) fn report() -> (&'static str, u64) {
    let state = if !is_vulnerable(api().version_number()) {
        "fixed"
    } else if is_faulted() {
        "vulnerable"
    } else {
        "vulnerable, shielded"
    };
    (state, REFUSED.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Option<Salts> = Some([1, 2]);
    const NEW: Option<Salts> = Some([2, 9]);

    fn shield() -> Shield {
        Shield::new(3_040_001)
    }

    #[test]
    fn the_fixed_versions_are_known() {
        for fixed in [3_044_006, 3_044_007, 3_050_007, 3_051_003, 3_052_000, 3_053_002, 4_000_000] {
            assert!(!is_vulnerable(fixed), "{fixed}");
        }
        for open in [3_034_000, 3_040_001, 3_044_005, 3_045_000, 3_050_006, 3_051_002] {
            assert!(is_vulnerable(open), "{open}");
        }
    }

    #[test]
    fn a_checkpoint_of_the_same_wal_goes_on_and_of_another_does_not() {
        let s = shield();
        s.checkpoint_granted(OLD);
        assert!(s.may_copy(OLD));
        assert!(!s.may_copy(NEW));
        assert!(!s.may_copy(Some([1, 3])));
        s.checkpoint_released();
        assert!(s.may_copy(NEW));
        s.checkpoint_granted(NEW);
        assert!(s.may_copy(NEW));
    }

    #[test]
    fn a_wal_index_that_appears_meanwhile_is_refused() {
        let s = shield();
        s.checkpoint_granted(None);
        assert!(s.may_copy(None));
        assert!(!s.may_copy(NEW));
    }

    #[test]
    fn under_the_write_lock_nothing_is_refused() {
        let s = shield();
        s.checkpoint_granted(OLD);
        s.writer_granted();
        assert!(s.may_copy(NEW));
    }

    #[test]
    fn salts_count_as_of_the_release_of_the_write_lock() {
        let s = shield();
        s.checkpoint_granted(OLD);
        s.writer_granted();
        s.writer_released(|| NEW);
        assert!(s.may_copy(NEW));
        assert!(!s.may_copy(OLD));
    }

    #[test]
    fn a_write_lock_without_a_checkpoint_means_nothing() {
        let s = shield();
        s.writer_granted();
        assert!(!s.is_checkpointing());
        s.writer_released(|| unreachable!("no salts are read on the way of a commit"));
        assert!(!s.is_checkpointing());
    }

    #[test]
    fn a_fixed_host_decides_by_itself() {
        let s = Shield::new(3_051_003);
        s.checkpoint_granted(OLD);
        assert!(s.may_copy(NEW));
    }
}
