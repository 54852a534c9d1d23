//! The end of shipping in a process whose connections go on: after a fault of
//! ours, or when storage holds another history. Other processes, which may be
//! well, find everything as if this one had died.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::capture::Gap;
use crate::db::{Db, History, lock};

impl Db {
    /// Storage holds another history, as far as this process knows.
    pub(crate) fn is_in_conflict(&self) -> bool {
        matches!(lock(&self.ship).history, History::Conflict(_))
    }

    /// Nothing is shipped from here any more while the database is open.
    pub(crate) fn has_retired(&self) -> bool {
        self.is_faulted() || self.is_in_conflict()
    }

    /// Has [`Db::retire`] called, by a thread that may wait for locks.
    pub(crate) fn retire_soon(&self) {
        self.ship_notify.notify_one();
        if let Some(store) = self.store.upgrade() {
            store.schedule(self.identity, Duration::ZERO);
        }
    }

    /// Lets the shipper lock and every descriptor go; while the shipper's task is
    /// under way, that does so at its end. It may be waiting for storage, and what
    /// it does with the answer to the record is for the holder of the lock alone.
    pub(crate) fn retire(&self) {
        if lock(&self.ship).running {
            self.pin.yield_now();
            self.ship_notify.notify_one();
            self.signal_captured();
            self.ship_signal.notify_all();
        } else {
            self.retire_now();
        }
    }

    /// [`Db::retire`], by the shipper's task. What waits for storage lies in the
    /// spool, for whoever ships next.
    pub(crate) fn retire_now(&self) {
        self.pin.yield_now();
        let file = {
            let mut slot = lock(&self.shipper);
            if slot.is_some() && self.is_in_conflict() {
                self.doubt();
            }
            let mut capture = lock(&self.capture);
            self.ships.store(false, Ordering::Release);
            self.forget_pending();
            capture.release();
            slot.take()
        };
        if file.is_some() {
            // Still under the lock, which goes with the file, also by a panic. The
            // file says that somebody ships: others take it for a death.
            self.put_status();
        }
        drop(file);
        self.signal_captured();
        self.ship_signal.notify_all();
    }

    /// Storage decides whether this database has a future there: whoever ships
    /// next compares. Said once; the record is not touched again from here.
    fn doubt(&self) {
        if let Some(capture) = self.capture().as_mut()
            && capture.gap().is_none()
        {
            // It holds in memory even when its record cannot be written.
            let _ = self.declare_gap(capture, Gap::Unproven);
        }
    }

    /// The lag goes on from the oldest commit that nobody ships from here.
    fn forget_pending(&self) {
        let mut ship = lock(&self.ship);
        let oldest = ship.pending.iter().map(|p| p.since_ms).filter(|&ms| ms != 0).min();
        ship.pending.clear();
        ship.changed = true;
        drop(ship);
        if let Some(oldest) = oldest {
            self.armed_at_ms.store(oldest, Ordering::Release);
        }
    }
}
