//! A database file that was replaced, renamed or removed under its connections.

use std::sync::atomic::Ordering;

use crate::db::Db;
use crate::os::disk;

impl Db {
    /// Whether the path leads to another file than the one that is open here, or
    /// to none. Its WAL is then another one's, too.
    pub(crate) fn has_moved(&self) -> bool {
        match disk::stat(&self.path) {
            Ok(found) => found.is_none_or(|s| (s.dev, s.ino) != self.identity),
            // It cannot be told now; what is read is checked in any case.
            Err(_) => false,
        }
    }

    /// Ends replication of a file that is no longer the one at its path: its
    /// later commits have no history that anybody could go on with.
    pub(crate) fn stop_if_moved(&self) -> bool {
        if self.is_in_conflict() || !self.has_moved() {
            return false;
        }
        // The error is for callers that stop with it; this one is told by the state.
        let _ = crate::replica::conflict(self, self.moved_text());
        true
    }

    /// Gives the files in the meta directory up to the database that took the
    /// path. Opening them again would end that one's locks, which belong to the
    /// process.
    pub(crate) fn let_go(&self) {
        self.stop_if_moved();
        self.end();
        self.let_go.store(true, Ordering::Release);
        // Whoever was between the two looks has given his lock back by now.
        self.end();
    }

    /// Its meta directory belongs to another database of this process.
    pub(crate) fn has_let_go(&self) -> bool {
        self.let_go.load(Ordering::Acquire)
    }

    pub(crate) fn moved_text(&self) -> String {
        format!(
            "{} was replaced, renamed or removed while it was open: what is written through the \
             old file is not replicated; close all connections and open it again",
            self.path.display()
        )
    }
}
