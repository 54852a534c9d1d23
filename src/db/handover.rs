//! How commits reach the capture thread: the published end of the WAL, how far
//! it was captured, and whether the thread was told. Atomics only: every commit
//! passes here.
//!
//! A writer publishes and then looks whether the thread was told; the thread
//! first says that it begins and then looks at what is published. Both in one
//! order for all threads, so one of the two sees what the other one did.

use crate::tasks::{AtomicBool, AtomicU64, Ordering};

/// What a WAL's end is told as: the first salt in the upper half, the last frame
/// in the lower.
pub(crate) type Note = u64;

/// The state of one database.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// Published end of the WAL.
    note: AtomicU64,
    /// What `note` was when capture last was up to date.
    captured: AtomicU64,
    /// The capture thread was told and has not begun.
    armed: AtomicBool,
    /// Commits may be in a WAL whose index is private to its connection.
    hidden: AtomicBool,
}

impl Handover {
    /// A writer is about to release the WAL's write lock. True: the thread is to
    /// be told, see [`Handover::arm`].
    #[inline]
    pub(crate) fn publish(&self, note: Note) -> bool {
        if self.note.load(Ordering::Relaxed) == note {
            return false;
        }
        self.note.store(note, Ordering::SeqCst);
        !self.armed.load(Ordering::SeqCst)
    }

    /// The published end of the WAL.
    pub(crate) fn noted(&self) -> Note {
        self.note.load(Ordering::SeqCst)
    }

    /// Replaces the note `noted`, unless a newer one came. True: with another.
    pub(crate) fn renew(&self, noted: Note, note: Note) -> bool {
        let renewed = self.note.compare_exchange(noted, note, Ordering::SeqCst, Ordering::SeqCst);
        renewed.is_ok() && note != noted
    }

    /// A connection with a private wal-index committed; the thread is to be told.
    pub(crate) fn hide(&self) {
        self.hidden.store(true, Ordering::SeqCst);
    }

    /// What was hidden is looked for now. True: something may be.
    pub(crate) fn take_hidden(&self) -> bool {
        self.hidden.swap(false, Ordering::SeqCst)
    }

    /// True for the one caller that has to tell the thread.
    pub(crate) fn arm(&self) -> bool {
        !self.armed.swap(true, Ordering::SeqCst)
    }

    /// The thread begins: what is published from now on is told again. True when
    /// it had been told.
    pub(crate) fn begin(&self) -> bool {
        self.armed.swap(false, Ordering::SeqCst)
    }

    /// Everything up to `note` is captured, or given up.
    pub(crate) fn captured(&self, note: Note) {
        self.captured.store(note, Ordering::Release);
    }

    /// How far capture came.
    pub(crate) fn captured_to(&self) -> Note {
        self.captured.load(Ordering::Acquire)
    }

    /// Nothing published is uncaptured.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.captured_to() == self.note.load(Ordering::Acquire)
            && !self.hidden.load(Ordering::Acquire)
    }

    /// There is no WAL any more.
    pub(crate) fn forget(&self) {
        self.note.store(0, Ordering::SeqCst);
        self.captured.store(0, Ordering::SeqCst);
    }

    /// Capture begins anew at the first frame of the WAL.
    pub(crate) fn recapture(&self) {
        self.captured.store(0, Ordering::SeqCst);
        if self.noted() & 0xffff_ffff == 0 {
            self.hide();
        }
    }
}
