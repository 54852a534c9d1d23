//! Capture: from what the wal-index has published to pages in the spool.
//!
//! Nothing is believed but what is read back: salts of every frame, the
//! checksum of the frame at the position, a commit frame at the published end,
//! and the same WAL header after the read as before it. Whatever does not
//! prove that the position continues is a gap, and a gap ends in a snapshot.

pub mod backfill;
pub mod frames;
pub mod page_map;
pub mod position;
pub mod recover;
pub mod rollback;
pub mod segment;
pub mod writes;

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use crate::capture::frames::{FRAME_HEADER_SIZE, WAL_HEADER_SIZE};
use crate::capture::position::{CleanMark, POSITION_LEN, Position, SegmentMark, WalPosition};
use crate::capture::segment::{Seal, Segment};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Salts, WalIndexHeader};
use crate::ltx::{Txid, lock_pgno};
use crate::os::disk::{self as os, File, Owner};

/// Why only a full snapshot can continue the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Gap {
    /// There is no chain yet.
    First,
    /// The database was written while nobody captured it.
    Unproven,
    /// The WAL at the position is not what was captured (power loss, rewind).
    Rewind,
    /// The WAL was restarted, replaced or removed behind our back.
    WalReplaced,
    /// A frame was not what the wal-index said.
    BadFrame,
    /// Pages of a growth are missing.
    GrowthHole,
    /// A transaction outside WAL mode did what cannot be captured: another page size, a failed read.
    RollbackMode,
    /// The database file was replaced.
    Replaced,
    /// Capture had to let the WAL go: no room, or too late.
    CaptureFailed,
    /// More waits for storage than `spool_bytes_max`.
    SpoolFull,
    /// A spool file was damaged or lost.
    SpoolDamaged,
    /// A snapshot was cut short before storage had it.
    SnapshotInterrupted,
    /// Storage has less than it acknowledged.
    StorageBehind,
    /// The local database was adopted as the next state of the chain.
    Adopted,
    /// A transaction outside WAL mode was cut short while it wrote the database.
    Interrupted,
}

impl Gap {
    /// Every reason, for counters.
    pub const ALL: [Gap; 15] = [
        Gap::First,
        Gap::Unproven,
        Gap::Rewind,
        Gap::WalReplaced,
        Gap::BadFrame,
        Gap::GrowthHole,
        Gap::RollbackMode,
        Gap::Replaced,
        Gap::CaptureFailed,
        Gap::SpoolFull,
        Gap::SpoolDamaged,
        Gap::SnapshotInterrupted,
        Gap::StorageBehind,
        Gap::Adopted,
        Gap::Interrupted,
    ];

    /// The chain is repaired after a disturbance, which may come again.
    pub fn is_repair(self) -> bool {
        !matches!(self, Gap::First | Gap::Adopted | Gap::SnapshotInterrupted)
    }

    /// The name in status and logs.
    pub fn name(self) -> &'static str {
        match self {
            Gap::First => "first",
            Gap::Unproven => "unproven",
            Gap::Rewind => "rewind",
            Gap::WalReplaced => "wal_replaced",
            Gap::BadFrame => "bad_frame",
            Gap::GrowthHole => "growth_hole",
            Gap::RollbackMode => "rollback_mode",
            Gap::Replaced => "replaced",
            Gap::CaptureFailed => "capture_failed",
            Gap::SpoolFull => "spool_full",
            Gap::SpoolDamaged => "spool_damaged",
            Gap::SnapshotInterrupted => "snapshot_interrupted",
            Gap::StorageBehind => "storage_behind",
            Gap::Adopted => "adopted",
            Gap::Interrupted => "interrupted",
        }
    }
}

/// The published end of the WAL, as noted on the commit path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Published {
    /// First salt of the generation.
    pub salt1: u32,
    /// Last published frame.
    pub mx_frame: u32,
}

/// How a capture ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything published is captured.
    UpToDate,
    /// Nothing can be captured until a snapshot was begun.
    NotFollowing,
}

/// The capture state of one database. One process at a time, by the lock on
/// the position file.
#[derive(Debug)]
pub struct Capture {
    dir: PathBuf,
    wal_path: PathBuf,
    owner: Option<Owner>,
    /// The position file, which carries the lock; closed while the database rests.
    file: Option<File>,
    position: Position,
    segment: Option<Segment>,
    wal: Option<File>,
    buf: Vec<u8>,
    gap: Option<Gap>,
    /// The segment holds pages newer than the position: nothing may be sealed
    /// before the next successful capture.
    partial: bool,
}

/// Name of the position file, which also carries the lock.
pub const POSITION_FILE: &str = "position";

impl Capture {
    /// The position as recorded.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Why capture does not follow, if it does not.
    pub fn gap(&self) -> Option<Gap> {
        self.gap
    }

    /// Directory of the spool.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes of the open segment.
    pub fn open_bytes(&self) -> u64 {
        self.segment.as_ref().map_or(0, Segment::len)
    }

    /// Whether the open segment has anything to seal.
    pub fn has_open(&self) -> bool {
        self.segment.as_ref().is_some_and(|s| !s.is_empty())
    }

    /// Pages in the open segment.
    pub fn open_pages(&self) -> usize {
        self.segment.as_ref().map_or(0, Segment::page_count)
    }

    /// TXID that the open segment will get.
    pub fn open_txid(&self) -> Txid {
        self.position.segment.txid
    }

    /// Captures everything up to `published`.
    ///
    /// # Errors
    /// `Full` and other I/O errors of the spool: nothing is lost while the WAL
    /// keeps the frames, and the call can be repeated. What breaks continuity
    /// is no error: it is recorded as a gap and reported as `NotFollowing`.
    pub fn capture_to(&mut self, published: Published) -> Result<Outcome> {
        if !self.position.following {
            return Ok(Outcome::NotFollowing);
        }
        match self.try_capture(published) {
            Ok(()) => Ok(Outcome::UpToDate),
            Err(Stop::Gap(gap)) => {
                self.declare_gap(gap)?;
                Ok(Outcome::NotFollowing)
            }
            Err(Stop::Error(e)) => Err(e),
        }
    }

    fn try_capture(&mut self, published: Published) -> std::result::Result<(), Stop> {
        // Without a WAL in use the database file is proven by its mark when it
        // is written; what lies beside it may be a WAL of former times.
        let p = &self.position;
        if p.clean.is_some() && p.next_salts.is_none() && published.mx_frame == 0 {
            return Ok(());
        }
        let Some(header) = self.read_wal_header()? else {
            // Without a WAL there is nothing that was not captured before it went.
            let nothing = published.mx_frame == 0
                || (published.salt1 == self.position.wal.salts[0]
                    && published.mx_frame <= self.position.wal.frame);
            return if nothing { Ok(()) } else { Err(Stop::Gap(Gap::WalReplaced)) };
        };
        if header.salts != self.position.wal.salts {
            self.enter_generation(&header)?;
        }
        if published.salt1 != header.salts[0] {
            // Published before the restart (captured by then), or a restart
            // whose header is not written yet.
            return Ok(());
        }
        if header.page_size != self.position.page_size {
            return Err(Stop::Gap(Gap::Replaced));
        }
        if !self.position_frame_holds()? {
            return Err(Stop::Gap(Gap::Rewind));
        }
        match published.mx_frame.cmp(&self.position.wal.frame) {
            Ordering::Greater => self.capture_frames(published.mx_frame, header.salts),
            Ordering::Equal => Ok(()),
            Ordering::Less if self.position_is_reached(&header, published.mx_frame)? => Ok(()),
            Ordering::Less => Err(Stop::Gap(Gap::Rewind)),
        }
    }

    /// Whether the WAL is whole from `mx_frame` to the position behind it. Then
    /// the position was moved by another process, or by a snapshot, since this
    /// process noted the end; after a power loss the chain is broken before it.
    fn position_is_reached(&self, header: &frames::Header, mx_frame: u32) -> Result<bool> {
        let Some(wal) = &self.wal else { return Ok(false) };
        let checksum = match mx_frame {
            0 => Some(header.checksum),
            _ => frames::read_frame_header(wal, header.page_size, mx_frame)?
                .filter(|f| f.salts == header.salts)
                .map(|f| f.checksum),
        };
        let Some(checksum) = checksum else { return Ok(false) };
        let from = WalPosition { salts: header.salts, frame: mx_frame, checksum };
        Ok(frames::find_end(wal, header, from)? >= self.position.wal.frame)
    }

    /// Follows a restart that was recorded before its header was written.
    fn enter_generation(&mut self, header: &frames::Header) -> std::result::Result<(), Stop> {
        if self.position.next_salts != Some(header.salts) {
            return Err(Stop::Gap(Gap::WalReplaced));
        }
        self.position.wal =
            WalPosition { salts: header.salts, frame: 0, checksum: header.checksum };
        self.position.next_salts = None;
        self.position.segment.start_frame = 0;
        self.position.segment.restarted = true;
        Ok(self.write_position()?)
    }

    fn read_wal_header(&mut self) -> Result<Option<frames::Header>> {
        if self.wal.is_none() {
            self.wal = match File::open(&self.wal_path) {
                Ok(file) => Some(file),
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(e),
            };
        }
        match &self.wal {
            Some(wal) => frames::read_header(wal),
            None => Ok(None),
        }
    }

    /// Fact: with `synchronous=NORMAL` frames that were captured can be gone
    /// after a power loss while the salts stay. The frame's cumulative
    /// checksum tells.
    fn position_frame_holds(&self) -> Result<bool> {
        let at = &self.position.wal;
        if at.frame == 0 {
            return Ok(true);
        }
        let Some(wal) = &self.wal else { return Ok(false) };
        let found = frames::read_frame_header(wal, self.position.page_size, at.frame)?;
        Ok(found.is_some_and(|f| f.belongs_to(at.salts) && f.checksum == at.checksum))
    }

    fn capture_frames(&mut self, to: u32, salts: Salts) -> std::result::Result<(), Stop> {
        self.partial = true;
        let page_size = self.position.page_size;
        let frame_len = FRAME_HEADER_SIZE as u64 + u64::from(page_size);
        let per_chunk = (frames::CHUNK_BYTES / frame_len).max(1) as u32;
        let mut at = self.position.wal;
        let mut commit = self.position.commit;
        let mut min_commit = self.position.segment.min_commit;
        let mut ends_with_commit = true;
        let mut chunks = 0;
        while at.frame < to {
            let count = per_chunk.min(to - at.frame);
            self.read_frames(at.frame, count, frame_len)?;
            let chunk = frames::scan(&self.buf, page_size, salts, commit)
                .ok_or(Stop::Gap(Gap::BadFrame))?;
            self.spool(&chunk, page_size)?;
            commit = chunk.commit;
            min_commit = min_commit.min(chunk.min_commit);
            ends_with_commit = chunk.ends_with_commit;
            at = WalPosition { salts, frame: at.frame + count, checksum: chunk.checksum };
            chunks += 1;
        }
        if !ends_with_commit {
            return Err(Stop::Gap(Gap::BadFrame));
        }
        if chunks > 1
            && let Some(segment) = &mut self.segment
        {
            // A transaction over several chunks can have written pages beyond its final size.
            segment.shrink(commit)?;
        }
        // A foreign restart overwrites frames only after it wrote its header.
        let after = self.read_wal_header()?;
        if after.is_none_or(|h| h.salts != salts) {
            return Err(Stop::Gap(Gap::WalReplaced));
        }
        self.position.wal = at;
        self.position.commit = commit;
        self.position.segment.min_commit = min_commit;
        self.partial = false;
        self.write_position()?;
        self.rewrite_if_wanted()?;
        Ok(())
    }

    fn read_frames(
        &mut self,
        after: u32,
        count: u32,
        frame_len: u64,
    ) -> std::result::Result<(), Stop> {
        let Some(wal) = &self.wal else { return Err(Stop::Gap(Gap::WalReplaced)) };
        self.buf.resize((u64::from(count) * frame_len) as usize, 0);
        let from = WAL_HEADER_SIZE as u64 + u64::from(after) * frame_len;
        let got = wal.read_at(&mut self.buf, from)?;
        if got < self.buf.len() { Err(Stop::Gap(Gap::BadFrame)) } else { Ok(()) }
    }

    fn spool(&mut self, chunk: &frames::Chunk, page_size: u32) -> Result<()> {
        self.open_segment(page_size)?;
        let Some(segment) = &mut self.segment else { return Ok(()) };
        if chunk.shrank {
            segment.shrink(chunk.min_commit)?;
        }
        let page_len = page_size as usize;
        for pages in chunk.pages.chunks(segment::BATCH_PAGES_MAX) {
            segment.append(pages.iter().map(|&(pgno, at)| (pgno, &self.buf[at..at + page_len])))?;
        }
        Ok(())
    }

    fn rewrite_if_wanted(&mut self) -> Result<()> {
        if let Some(segment) = &mut self.segment
            && segment.wants_rewrite()
        {
            let old = segment.rewrite(&self.dir)?;
            self.position.segment.generation = segment.generation();
            self.write_position()?;
            os::remove_file(&old)?;
        }
        Ok(())
    }

    /// Captures the commits of a connection whose wal-index is private: the end
    /// is found by the checksum chain.
    ///
    /// # Errors
    /// As [`Capture::capture_to`].
    pub fn capture_hidden(&mut self) -> Result<Outcome> {
        if !self.position.following {
            return Ok(Outcome::NotFollowing);
        }
        let Some(header) = self.read_wal_header()? else { return Ok(Outcome::UpToDate) };
        let at = &self.position.wal;
        let from = if header.salts == at.salts && at.frame > 0 {
            *at
        } else {
            WalPosition { salts: header.salts, frame: 0, checksum: header.checksum }
        };
        let mx_frame = match &self.wal {
            Some(wal) => frames::find_end(wal, &header, from)?,
            None => from.frame,
        };
        self.capture_to(Published { salt1: header.salts[0], mx_frame })
    }

    /// Records that a WAL header with `salts` is about to be written and that
    /// everything before it is captured.
    ///
    /// # Errors
    /// The position could not be written.
    pub fn expect_generation(&mut self, salts: Salts) -> Result<()> {
        if self.position.following {
            self.position.next_salts = Some(salts);
            self.position.clean = None;
            self.write_position()?;
        }
        Ok(())
    }

    /// Records that the database is closed with everything captured, or takes
    /// the record back.
    ///
    /// # Errors
    /// The position could not be written.
    pub fn set_clean(&mut self, clean: Option<CleanMark>) -> Result<()> {
        if self.position.following && self.position.clean != clean {
            self.position.clean = clean;
            self.write_position()?;
        }
        Ok(())
    }

    /// Declares that only a snapshot can continue: the open segment is dropped.
    ///
    /// # Errors
    /// The position could not be written; the gap holds in memory all the same.
    pub fn declare_gap(&mut self, gap: Gap) -> Result<()> {
        self.gap = Some(self.gap.unwrap_or(gap));
        self.position.following = false;
        self.position.backfill = 0;
        self.position.next_salts = None;
        self.position.clean = None;
        self.partial = false;
        self.wal = None;
        let dropped = self.segment.take();
        self.position.segment.len = 0;
        self.position.segment.generation = 0;
        let wrote = self.write_position();
        if let Some(segment) = dropped {
            segment.remove()?;
        }
        wrote
    }

    /// Begins to follow at `header`, the state that the snapshot `txid` holds
    /// (or, with `txid` none, that the chain in storage holds already); the
    /// open segment starts there with TXID `next`.
    ///
    /// # Errors
    /// The WAL could not be read, or the position not be written.
    pub fn follow_from(
        &mut self,
        header: &WalIndexHeader,
        snapshot: Txid,
        next: Txid,
    ) -> Result<()> {
        if let Some(segment) = self.segment.take() {
            segment.remove()?;
        }
        self.wal = None;
        let found = self.read_wal_header()?;
        let on_disk = found.filter(|h| h.salts == header.salts);
        let checksum = match (&self.wal, header.mx_frame, &on_disk) {
            (Some(wal), frame, Some(_)) if frame > 0 => {
                frames::read_frame_header(wal, header.page_size, frame)?
                    .filter(|f| f.belongs_to(header.salts))
                    .ok_or_else(|| {
                        Error::new(ErrorKind::Transient, "the WAL changed while a snapshot began")
                    })?
                    .checksum
            }
            (_, 0, Some(h)) => h.checksum,
            (_, 0, None) => [0, 0],
            _ => {
                return Err(Error::new(
                    ErrorKind::Transient,
                    "the WAL changed while a snapshot began",
                ));
            }
        };
        self.position.following = true;
        self.position.backfill = 0;
        self.position.page_size = header.page_size;
        self.position.commit = header.n_page;
        self.position.wal = WalPosition { salts: header.salts, frame: header.mx_frame, checksum };
        // With no frame published, frames of the generation on disk begin after
        // this state, or (a restart whose header is not written yet) are in it.
        self.position.next_salts = match found {
            Some(h) if header.mx_frame == 0 && h.salts != header.salts => Some(h.salts),
            _ => None,
        };
        self.position.clean = None;
        self.position.snapshot_pending = snapshot;
        self.position.segment = SegmentMark {
            txid: next,
            generation: 0,
            len: 0,
            start_frame: header.mx_frame,
            restarted: false,
            min_commit: header.n_page,
        };
        self.partial = false;
        self.gap = None;
        self.write_position()
    }

    /// Records that the snapshot under way is in storage.
    ///
    /// # Errors
    /// The position could not be written.
    pub fn snapshot_done(&mut self) -> Result<()> {
        self.position.snapshot_pending = Txid(0);
        self.write_position()
    }

    /// Gives the open segment another TXID, once storage told where the chain is.
    ///
    /// # Errors
    /// The segment's file could not be renamed.
    pub fn rebase(&mut self, next: Txid) -> Result<()> {
        if self.position.segment.txid == next {
            return Ok(());
        }
        if let Some(segment) = &mut self.segment {
            let old = segment.retitle(&self.dir, next)?;
            self.position.segment.txid = next;
            self.position.segment.generation = segment.generation();
            self.write_position()?;
            return os::remove_file(&old);
        }
        self.position.segment.txid = next;
        self.position.segment.generation = 0;
        self.write_position()
    }

    /// Seals the open segment; `None` when there is nothing in it.
    ///
    /// # Errors
    /// `Full` when the seal could not be written. A growth with missing pages
    /// is a gap, not an error.
    pub fn seal(&mut self, now_ms: i64) -> Result<Option<Segment>> {
        if self.partial || !self.has_open() || self.position.backfill != 0 {
            return Ok(None);
        }
        if !self.growth_is_whole() {
            self.declare_gap(Gap::GrowthHole)?;
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
            self.write_position()
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

    /// Closes descriptors and frees buffers that an idle database needs not.
    pub fn rest(&mut self) {
        self.wal = None;
        self.buf = Vec::new();
    }

    /// Closes the descriptor on the WAL, before SQLite deletes the file.
    pub fn release_wal(&mut self) {
        self.wal = None;
    }

    /// Gives up the lock and its descriptor: nothing is open, nothing pending.
    /// Another process may take over until [`Capture::resume`].
    pub fn release(&mut self) {
        self.rest();
        self.file = None;
    }

    /// Takes the lock again after a rest. False: another process has it, or
    /// had it and moved the position; this state is then out of date.
    ///
    /// # Errors
    /// The position file cannot be used.
    pub fn resume(&mut self) -> Result<bool> {
        if self.file.is_some() {
            return Ok(true);
        }
        let file = File::open_private(&self.dir.join(POSITION_FILE), self.owner)?;
        if !file.try_lock()? {
            return Ok(false);
        }
        let mut found = [0u8; POSITION_LEN];
        let got = file.read_at(&mut found, 0)?;
        if got < found.len() || found != self.position.encode() {
            return Ok(false);
        }
        self.file = Some(file);
        Ok(true)
    }

    fn write_position(&mut self) -> Result<()> {
        // Pages beyond the position are overwritten after a crash, not sealed.
        if !self.partial {
            self.position.segment.len = self.open_bytes();
        }
        match &self.file {
            Some(file) => file.write_all_at(&self.position.encode(), 0),
            None => Err(Error::new(
                ErrorKind::Internal,
                format!("the position of {} was to be moved without its lock", self.dir.display()),
            )),
        }
    }
}

/// What ends an attempt to capture.
enum Stop {
    Gap(Gap),
    Error(Error),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Stop::Error(e)
    }
}
