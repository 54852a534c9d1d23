//! The last look at a sealed segment before it becomes a file in storage: a chain
//! in which pages of a growth are missing can never be restored.
//!
//! Capture asks the same of each segment beside its own record. Here the state in
//! storage is asked, so that no fault of the record can break the chain.

use std::sync::Arc;

use crate::capture::Gap;
use crate::capture::segment::Segment;
use crate::db::{Db, Pending, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::log::Level;
use crate::ltx::{Header, Pgno, Txid, lock_pgno};
use crate::shipped::Shipped;
use crate::tasks;

/// Whether the segment that becomes the file `header` holds every page by which
/// the database outgrew its state in storage. If not, it and what was sealed after
/// it are taken back, and a repair takes their place.
///
/// # Errors
/// They could not be taken back: nothing may be shipped.
pub(crate) async fn continues(
    db: &Arc<Db>,
    header: Header,
    pending: &Arc<Pending>,
) -> Result<bool> {
    let (db, pending) = (Arc::clone(db), Arc::clone(pending));
    tasks::spawn_blocking(move || {
        let before = header.min_txid.prev();
        let stored = Shipped::load(&db.vfs_dir())?.filter(|(txid, _)| *txid == before);
        let Some(stored) = stored.and_then(|(_, raw)| Header::decode(&raw).ok()) else {
            return Ok(true);
        };
        if stored.page_size != header.page_size
            || is_whole(&pending.segment, stored.commit, header.commit)
        {
            return Ok(true);
        }
        db.log(Level::Error, "pages of a growth are missing in the spool");
        take_back(&db, before, Gap::GrowthHole).map(|()| false)
    })
    .await
    .map_err(|e| Error::new(ErrorKind::Internal, "checking a segment failed").with_source(e))?
}

/// Whether `segment` has every page from `before + 1` to `after`.
fn is_whole(segment: &Segment, before: Pgno, after: Pgno) -> bool {
    let lock_page = lock_pgno(segment.page_size());
    (before.saturating_add(1)..=after).all(|p| p == lock_page || segment.contains(p))
}

/// Drops what is sealed after `acked`: a repair gets the next TXID.
pub(crate) fn take_back(db: &Db, acked: Txid, gap: Gap) -> Result<()> {
    let busy = |what: &str| {
        Error::new(ErrorKind::Transient, format!("another process {what} {}", db.path.display()))
    };
    let held = db.hold_shipper().ok_or_else(|| busy("ships"))?;
    let mut guard = db.capture();
    let capture = guard.as_mut().ok_or_else(|| busy("captures"))?;
    db.declare_gap(capture, gap)?;
    capture.rebase(acked.next())?;
    let dropped: Vec<_> = {
        let mut ship = lock(&db.ship);
        (ship.sealed_txid, ship.changed) = (acked, true);
        ship.pending.drain(..).collect()
    };
    drop(guard);
    for p in dropped {
        crate::os::disk::remove_file(p.segment.path())?;
    }
    drop(held);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_01_a_hole_in_a_growth_is_seen_against_the_state_in_storage() {
        let tmp = tempfile::tempdir().unwrap();
        let mut s = Segment::create(tmp.path(), Txid(2), 0, 512, None).unwrap();
        let page = [7_u8; 512];
        s.append([1, 4, 5, 7].map(|p| (p, page.as_slice())).into_iter()).unwrap();
        assert!(is_whole(&s, 3, 5));
        assert!(is_whole(&s, 9, 5));
        assert!(!is_whole(&s, 2, 5));
        assert!(!is_whole(&s, 3, 7));
    }

    #[test]
    fn the_lock_page_is_no_hole() {
        let tmp = tempfile::tempdir().unwrap();
        let mut s = Segment::create(tmp.path(), Txid(2), 0, 65536, None).unwrap();
        let lock_page = lock_pgno(65536);
        let page = vec![7_u8; 65536];
        s.append([(lock_page + 1, page.as_slice())].into_iter()).unwrap();
        assert!(is_whole(&s, lock_page - 1, lock_page + 1));
    }
}
