//! What a process that does not capture can know about its own commits: the
//! position file of the one that does, and what it recorded as stored.

use std::sync::atomic::Ordering;

use crate::capture::POSITION_FILE;
use crate::capture::position::Position;
use crate::db::{Db, lock};
use crate::error::Result;
use crate::ltx::Txid;
use crate::os::disk;
use crate::shipped::Shipped;

/// The state of this process's commits in another process's hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    /// They are all captured.
    pub captured: bool,
    /// They are, or will be part of the snapshot that is due there.
    pub known: bool,
    /// Nothing at all waits for storage: there is nothing to watch.
    pub safe: bool,
    /// The TXID that has them, once they are captured.
    pub target: Txid,
    /// The newest TXID in storage.
    pub acked: Txid,
}

/// Whether `position` is at or behind the end `(salt1, mx_frame)`. A restart
/// of the WAL adds one to the first salt.
fn covers(position: &Position, salt1: u32, mx_frame: u32) -> bool {
    let at = &position.wal;
    let restarts = at.salts[0].wrapping_sub(salt1);
    position.following
        && if restarts == 0 { at.frame >= mx_frame } else { restarts <= i32::MAX.unsigned_abs() }
}

impl Db {
    /// `None`: this process captures, or the other one's state is not readable now.
    ///
    /// # Errors
    /// A file could not be read.
    pub(crate) fn elsewhere(&self) -> Result<Option<Elsewhere>> {
        let guard = lock(&self.capture);
        if guard.is_some() {
            return Ok(None);
        }
        let found = self.look_elsewhere();
        drop(guard);
        found
    }

    /// As [`Db::elsewhere`], for a caller that keeps `capture` locked and empty:
    /// closing the position file would drop a lock of this process on it.
    pub(crate) fn look_elsewhere(&self) -> Result<Option<Elsewhere>> {
        let note = self.note.load(Ordering::SeqCst);
        let hidden = self.hidden_wal.load(Ordering::SeqCst);
        let dir = self.vfs_dir();
        let Some(bytes) = disk::read(&dir.join(POSITION_FILE))? else { return Ok(None) };
        // A record that is just being written is looked at again later.
        let Ok(position) = Position::decode(&bytes) else { return Ok(None) };
        let acked = Shipped::load(&dir)?.map_or(Txid(0), |(txid, _)| txid);
        let captured = !hidden && covers(&position, (note >> 32) as u32, note as u32);
        let open = position.segment.len > 0;
        let sealed = position.segment.txid.prev();
        let safe = captured && !open && position.snapshot_pending == Txid(0) && acked >= sealed;
        if captured {
            self.captured.store(note, Ordering::Release);
        }
        let target = if open { position.segment.txid } else { sealed };
        Ok(Some(Elsewhere {
            captured,
            known: captured || !position.following,
            safe,
            target,
            acked,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_covers_what_lies_before_it() {
        let mut p = Position { following: true, ..Position::default() };
        (p.wal.salts, p.wal.frame) = ([7, 1], 5);
        for (salt1, mx_frame, expected) in
            [(7, 5, true), (7, 6, false), (6, 99, true), (8, 1, false), (8, 0, false)]
        {
            assert_eq!(covers(&p, salt1, mx_frame), expected, "{salt1} {mx_frame}");
        }
        p.following = false;
        assert!(!covers(&p, 7, 5));
    }
}
