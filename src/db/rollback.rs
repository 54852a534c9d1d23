//! What connections outside WAL mode tell, each in its own thread, inside its
//! own callback, while it holds the database's write lock.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use crate::capture::Gap;
use crate::capture::position::CleanMark;
use crate::capture::writes::Writes;
use crate::db::Db;
use crate::error::Result;
use crate::host::OwnFile;
use crate::log::Level;
use crate::os::disk as os;

impl Db {
    /// A connection of this process got the write lock outside WAL mode.
    pub fn writer_came(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
    }

    /// It gave the lock back.
    pub fn writer_went(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
    }

    /// A connection of this process has the write lock, so nobody else has.
    pub(crate) fn has_writer(&self) -> bool {
        self.writers.load(Ordering::Acquire) > 0
    }

    /// A connection of this process changed the file and did not commit yet.
    pub(crate) fn is_writing(&self) -> bool {
        self.writing.load(Ordering::Acquire)
    }

    /// A connection of this process got the file exclusively: no other one, of
    /// whatever process, reads or writes it.
    pub fn holder_came(&self) {
        self.holders.fetch_add(1, Ordering::AcqRel);
    }

    /// It let go of it.
    pub fn holder_went(&self) {
        self.holders.fetch_sub(1, Ordering::AcqRel);
    }

    /// A connection of this process has the file exclusively.
    pub(crate) fn has_holder(&self) -> bool {
        self.holders.load(Ordering::Acquire) > 0
    }

    /// A connection outside WAL mode is about to change the database file for
    /// the first time since its last commit. `by_transaction`: it holds
    /// RESERVED; the playback of a hot journal does not. `commits`: it writes
    /// page 1, which SQLite does first when it commits, and never before.
    pub fn rollback_begin(&self, by_transaction: bool, commits: bool, file: &dyn OwnFile) {
        // Before the lock is asked for: what cannot be recorded is known all the same.
        self.writing.store(true, Ordering::Release);
        self.in_wal.store(false, Ordering::Release);
        self.counters.change();
        if self.is_faulted() {
            return;
        }
        let mut guard = self.capture();
        let Some(capture) = guard.as_mut() else {
            guard.remember_gap(Gap::CaptureFailed);
            return;
        };
        let before = capture.gap();
        let begun = if by_transaction {
            capture.begin_rollback(self.mark(), file)
        } else {
            self.declare_gap(capture, Gap::Interrupted)
                .and_then(|()| capture.begin_rollback(None, file))
        };
        if before.is_none()
            && by_transaction
            && let Some(gap) = capture.gap()
        {
            self.count_gap(gap);
        }
        if let Err(e) = begun {
            self.uncaptured("the begin of a transaction cannot be recorded", &e.to_string());
            let _ = self.declare_gap(capture, Gap::CaptureFailed);
        } else if commits && by_transaction {
            guard.keep_lock();
            // Should the commit fail, and the connection keep its locks, nothing
            // but a batch gives this one back.
            self.arm();
        }
    }

    /// `SQLITE_FCNTL_COMMIT_PHASETWO` of a transaction outside WAL mode.
    pub fn rollback_commit(&self, writes: &mut Writes, file: &dyn OwnFile) {
        self.counters.change();
        // What the WAL's end was is history: it was checkpointed before this.
        self.handover.forget();
        if let Some(page_size) = writes.page_size() {
            self.note_page_size(page_size);
        }
        self.end_rollback(writes, file);
        self.writing.store(false, Ordering::Release);
        self.started.store(true, Ordering::Release);
        self.arm();
    }

    /// The connection lets go of the file with changes that it did not commit:
    /// it rolled them back, or failed.
    pub fn rollback_undone(&self, writes: &mut Writes, file: &dyn OwnFile) {
        self.counters.change();
        // A finished rollback leaves the file as it was, a commit that failed
        // after its journal was gone leaves it committed: either is captured as
        // it stands. Anything else is torn.
        if writes.is_complete() && !self.journal_is_hot() {
            self.end_rollback(writes, file);
            self.writing.store(false, Ordering::Release);
            return;
        }
        self.rollback_lost();
    }

    /// The connection is gone with changes that it neither committed nor undid.
    pub fn rollback_lost(&self) {
        self.counters.change();
        let mut guard = self.capture();
        if let Some(capture) = guard.as_mut() {
            let before = capture.gap();
            // The gap holds in memory even when its record cannot be written.
            let _ = capture.abandon_rollback();
            if before.is_none() && capture.gap().is_some() {
                self.count_gap(Gap::Interrupted);
            }
        } else {
            guard.remember_gap(Gap::Interrupted);
        }
        drop(guard);
        self.writing.store(false, Ordering::Release);
        self.arm();
    }

    fn end_rollback(&self, writes: &mut Writes, file: &dyn OwnFile) {
        if self.is_faulted() {
            self.peek().let_go();
            return;
        }
        let mut guard = self.capture();
        let Some(capture) = guard.as_mut() else {
            guard.remember_gap(Gap::CaptureFailed);
            return;
        };
        let before = capture.gap();
        let done = capture.end_rollback(writes, file, || self.mark());
        if let Err(e) = done {
            self.uncaptured("a commit cannot be captured", &e.to_string());
            let _ = self.declare_gap(capture, Gap::CaptureFailed);
        } else if before.is_none()
            && let Some(gap) = capture.gap()
        {
            self.count_gap(gap);
        } else if let Err(e) = self.bound_spool(capture) {
            self.uncaptured("the spool is full", &e.to_string());
        }
    }

    fn uncaptured(&self, what: &str, why: &str) {
        self.log(Level::Error, &format!("{what}: {why}"));
        self.set_error(format!("{what}: {why}"));
    }

    /// Capture begins anew at the first frame of the WAL.
    pub(crate) fn recapture(&self) {
        self.handover.recapture();
    }

    /// Since when something waits to be sealed.
    pub(crate) fn armed_since_ms(&self) -> u64 {
        self.armed_at_ms.load(Ordering::Acquire)
    }

    /// The state of the database file as the host's file system tells it; none
    /// when another file has its name.
    pub(crate) fn mark(&self) -> Option<CleanMark> {
        match os::stat(&self.path) {
            Ok(Some(s)) if (s.dev, s.ino) == self.identity => {
                Some(CleanMark { size: s.size, mtime_ns: s.mtime_ns, ctime_ns: s.ctime_ns })
            }
            _ => None,
        }
    }

    /// Whether a journal lies beside the database that is not finished. While
    /// nobody holds the write lock it has to be played back before anybody reads.
    pub(crate) fn journal_is_hot(&self) -> bool {
        let mut path = self.path.clone().into_os_string();
        path.push("-journal");
        journal_is_unfinished(&PathBuf::from(path)).unwrap_or(true)
    }
}

/// SQLite's own test: there is a journal and its first byte is not zero.
pub(crate) fn journal_is_unfinished(path: &std::path::Path) -> Result<bool> {
    let file = match os::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == crate::error::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let mut first = [0u8; 1];
    Ok(file.read_at(&mut first, 0)? == 1 && first[0] != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_unfinished_while_its_header_stands() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("db-journal");
        assert!(!journal_is_unfinished(&path).unwrap());
        let file = os::File::open_private(&path, None).unwrap();
        assert!(!journal_is_unfinished(&path).unwrap());
        file.write_all_at(b"\xd9\xd5\x05\xf9", 0).unwrap();
        assert!(journal_is_unfinished(&path).unwrap());
        file.write_all_at(&[0; 28], 0).unwrap();
        assert!(!journal_is_unfinished(&path).unwrap());
    }
}
