//! Sealing: the open segment becomes a file with a TXID.

use crate::capture::frames::{FRAME_HEADER_SIZE, WAL_HEADER_SIZE};
use crate::capture::gap::Gap;
use crate::capture::position::SegmentMark;
use crate::capture::segment::{Seal, Segment};
use crate::capture::{Capture, Stop, is_damage};
use crate::error::Result;
use crate::ltx::lock_pgno;

impl Capture {
    /// Seals the open segment; `None` when there is nothing in it.
    ///
    /// # Errors
    /// `Full` when the seal could not be written. A growth with missing pages
    /// is a gap, not an error.
    pub fn seal(&mut self, now_ms: i64) -> Result<Option<Segment>> {
        let is_whole = !self.partial && self.position.backfill == 0 && self.unrecorded.is_none();
        if !is_whole || !self.has_open() {
            return Ok(None);
        }
        if let Some(gap) = self.load_segment()? {
            self.declare_gap(gap)?;
            return Ok(None);
        }
        let seal = self.seal_facts(now_ms);
        let Some(mut segment) = self.segment.take() else { return Ok(None) };
        let (len, before) = (segment.len(), self.position.segment);
        let done = segment.seal(seal).and_then(|()| {
            self.position.segment = SegmentMark {
                txid: before.txid.next(),
                generation: 0,
                len: 0,
                start_frame: self.position.wal.frame,
                restarted: false,
                min_commit: self.position.commit,
            };
            self.write_record()
        });
        if let Err(e) = done {
            // A TXID that is not recorded as given would be given again.
            segment.unseal(len);
            self.segment = Some(segment);
            self.position.segment = before;
            return Err(e);
        }
        Ok(Some(segment))
    }

    /// Reads all of the open segment; the gap if it is not what it should be.
    pub(super) fn load_segment(&mut self) -> Result<Option<Gap>> {
        match self.attach_segment() {
            Ok(()) => {}
            Err(Stop::Gap(gap)) => return Ok(Some(gap)),
            Err(Stop::Error(e)) => return Err(e),
        }
        let Some(segment) = &mut self.segment else { return Ok(None) };
        match segment.load() {
            Err(e) if is_damage(&e) => {
                self.notes.push(e.to_string());
                Ok(Some(Gap::SpoolDamaged))
            }
            Err(e) => Err(e),
            Ok(()) => Ok((!self.growth_is_whole()).then_some(Gap::GrowthHole)),
        }
    }

    fn seal_facts(&self, now_ms: i64) -> Seal {
        let p = &self.position;
        let frame_len = FRAME_HEADER_SIZE as i64 + i64::from(p.page_size);
        let start = if p.segment.restarted { 0 } else { p.segment.start_frame };
        Seal {
            commit: p.commit,
            timestamp_ms: now_ms,
            wal_offset: WAL_HEADER_SIZE as i64 + i64::from(start) * frame_len,
            wal_size: i64::from(p.wal.frame.saturating_sub(start)) * frame_len,
            wal_salts: p.wal.salts,
        }
    }

    /// Every page between the smallest and the present size was written since.
    fn growth_is_whole(&self) -> bool {
        let Some(segment) = &self.segment else { return true };
        let lock = lock_pgno(self.position.page_size);
        let from = self.position.segment.min_commit.saturating_add(1);
        (from..=self.position.commit).all(|p| p == lock || segment.contains(p))
    }
}
