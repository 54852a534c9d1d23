//! Capture: from what the wal-index has published to pages in the spool.
//!
//! Nothing is believed but what is read back: salts of every frame, the
//! checksum of the frame at the position, a commit frame at the published end,
//! and the same WAL header after the read as before it. Whatever does not
//! prove that the position continues is a gap, and a gap ends in a repair.
//!
//! Any process captures, one batch at a time, under the lock of the position
//! file: what [`Capture::try_acquire`] read there is the state until
//! [`Capture::let_go`], whoever left it.

pub mod backfill;
pub mod frames;
pub mod gap;
pub mod page_map;
pub mod position;
mod prove;
mod recent;
pub mod recover;
pub mod rollback;
mod seal;
pub mod sealed;
pub mod segment;
#[cfg(test)]
pub(crate) mod test_wal;
pub mod writes;

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::capture::frames::{FRAME_HEADER_SIZE, WAL_HEADER_SIZE};
pub use crate::capture::gap::Gap;
use crate::capture::position::{CleanMark, POSITION_LEN, Position, SegmentMark, WalPosition};
use crate::capture::recover::Place;
use crate::capture::segment::Segment;
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Salts, WalIndexHeader};
use crate::ltx::{Pgno, Txid};
use crate::os::disk::{self as os, File};

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

/// The capture state of one database, shared with other processes through the
/// position file and the open segment.
#[derive(Debug)]
pub struct Capture {
    place: Place,
    /// The position file, which carries the lock; closed while the database rests.
    file: Option<File>,
    /// The lock is held.
    locked: bool,
    /// The record as this process last read or wrote it.
    record: [u8; POSITION_LEN],
    position: Position,
    /// What the position goes back to when it cannot be written: as in the record,
    /// or a gap that could not be recorded either.
    sure: Position,
    /// The open segment, once something was to be done with it.
    segment: Option<Segment>,
    wal: Option<File>,
    buf: Vec<u8>,
    /// The segment holds pages newer than the position: nothing may be sealed
    /// before the next successful capture.
    partial: bool,
    /// A gap that is not in the record yet.
    unrecorded: Option<Gap>,
    /// Salts of a WAL header that a connection of this process is about to write,
    /// or wrote; none since the WAL went.
    announced: Option<Salts>,
    /// The end that was captured last here, and the position after that.
    last: (Published, WalPosition),
    /// Another process wrote the record since this one knows it.
    shared: bool,
    /// How often this process began to follow.
    begun: u64,
    /// The record was compared with the files since this process opened it.
    proved: bool,
    /// This process, for the record.
    process: u32,
    /// Until when the position file counts as in its place.
    in_place_until: Option<Instant>,
    notes: Vec<String>,
}

/// Name of the position file, which also carries the lock.
pub const POSITION_FILE: &str = "position";

impl Capture {
    /// The position as recorded.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Why capture does not follow, if it does not; also when that could not be
    /// recorded yet.
    pub fn gap(&self) -> Option<Gap> {
        self.position.gap.or(self.unrecorded)
    }

    /// Directory of the spool.
    pub fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// Pages in the open segment, whoever captured them; none when it cannot be read.
    pub fn open_page_numbers(&mut self) -> Option<Vec<Pgno>> {
        self.load_open().ok()?;
        let numbers = |s: &Segment| s.page_numbers();
        Some(self.segment.as_ref().map(numbers).unwrap_or_default())
    }

    /// Bytes of the open segment.
    pub fn open_bytes(&self) -> u64 {
        self.segment.as_ref().map_or(self.position.segment.len, Segment::len)
    }

    /// Whether the open segment has anything to seal.
    pub fn has_open(&self) -> bool {
        self.segment.as_ref().map_or(self.position.segment.len > 0, |s| !s.is_empty())
    }

    /// Pages in the open segment, as far as this process read it.
    pub fn open_pages(&self) -> usize {
        self.segment.as_ref().map_or(0, Segment::page_count)
    }

    /// TXID that the open segment will get.
    pub fn open_txid(&self) -> Txid {
        self.position.segment.txid
    }

    /// Another process captured too since this one opened the database.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// How often this process began to follow the database: what it looked at is
    /// the beginning of what is captured while this is the same, unless it
    /// [is shared](Self::is_shared).
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Things to tell the user, each once.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
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
            Ok(()) => {
                self.last = (published, self.position.wal);
                Ok(Outcome::UpToDate)
            }
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
        if self.is_without_wal() && published.mx_frame == 0 {
            return Ok(());
        }
        let Some(header) = self.read_wal_header()? else {
            return if self.is_clean()? { Ok(()) } else { Err(Stop::Gap(Gap::WalReplaced)) };
        };
        if header.salts != self.position.wal.salts {
            self.enter_generation(&header)?;
        }
        if header.page_size != self.position.page_size {
            return Err(Stop::Gap(Gap::Replaced));
        }
        if !self.position_frame_holds()? {
            return Err(Stop::Gap(Gap::Rewind));
        }
        if published.salt1 != header.salts[0] {
            // Published before the restart, and captured by then; or a restart whose
            // header is not written yet: `prove_end` is asked before it is.
            return Ok(());
        }
        match published.mx_frame.cmp(&self.position.wal.frame) {
            Ordering::Greater => self.capture_frames(published.mx_frame, header.salts),
            Ordering::Equal => Ok(()),
            Ordering::Less if self.is_old_news(published) => Ok(()),
            Ordering::Less if self.position_is_reached(&header, published.mx_frame)? => Ok(()),
            Ordering::Less => Err(Stop::Gap(Gap::Rewind)),
        }
    }

    /// Whether an end behind the position is so because another process has
    /// captured more since: then it is not behind what was captured here before.
    fn is_old_news(&self, published: Published) -> bool {
        let (seen, at) = self.last;
        let before = if at.salts == self.position.wal.salts { at.frame } else { 0 };
        seen == published || (self.shared && published.mx_frame >= before)
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

    /// Follows a restart that was recorded before its header was written, or the
    /// first WAL of whomsoever after a state that the file still is in.
    fn enter_generation(&mut self, header: &frames::Header) -> std::result::Result<(), Stop> {
        if self.position.next_salts != Some(header.salts) && !self.is_clean()? {
            return Err(Stop::Gap(Gap::WalReplaced));
        }
        self.position.wal =
            WalPosition { salts: header.salts, frame: 0, checksum: header.checksum };
        self.position.next_salts = None;
        self.position.clean = None;
        self.position.segment.start_frame = 0;
        self.position.segment.restarted = true;
        Ok(self.write_position()?)
    }

    fn read_wal_header(&mut self) -> Result<Option<frames::Header>> {
        if self.wal.is_none() {
            self.wal = match File::open(&self.place.wal_path) {
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
        self.attach_segment()?;
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
        self.position.next_salts = None;
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

    /// Opens the segment that the record names, or makes it.
    fn attach_segment(&mut self) -> std::result::Result<(), Stop> {
        if self.segment.is_some() {
            return Ok(());
        }
        let (dir, owner, mark) = (&self.place.dir, self.place.owner, self.position.segment);
        let found = if mark.len == 0 {
            Segment::create(dir, mark.txid, mark.generation, self.position.page_size, owner)
        } else {
            Segment::attach(dir, mark.txid, mark.generation, Some(mark.len), owner)
        };
        match found {
            Ok(segment) => {
                self.segment = Some(segment);
                Ok(())
            }
            Err(e) if mark.len > 0 && is_damage(&e) => {
                self.notes.push(e.to_string());
                Err(Stop::Gap(Gap::SpoolDamaged))
            }
            Err(e) => Err(Stop::Error(e)),
        }
    }

    fn spool(&mut self, chunk: &frames::Chunk, page_size: u32) -> Result<()> {
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
        let Some(segment) = &mut self.segment else { return Ok(()) };
        if !segment.is_long() {
            return Ok(());
        }
        segment.load()?;
        if segment.wants_rewrite() {
            let old = segment.rewrite(&self.place.dir)?;
            let new = segment.path().to_path_buf();
            self.position.segment.generation = segment.generation();
            if let Err(e) = self.write_position() {
                os::remove_file(&new)?;
                return Err(e);
            }
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
        let end = match &self.wal {
            Some(wal) => frames::find_chain_end(wal, &header, from)?,
            None => frames::ChainEnd { frame: from.frame, unfilled: false },
        };
        if end.unfilled {
            // Nobody else knows the end, and something was committed.
            self.declare_gap(Gap::BadFrame)?;
            return Ok(Outcome::NotFollowing);
        }
        let mx_frame = end.frame;
        self.capture_to(Published { salt1: header.salts[0], mx_frame })
    }

    /// Records that a WAL header with `salts` is about to be written, once it is
    /// proven that everything before it is captured; otherwise that is a gap.
    ///
    /// # Errors
    /// The position could not be written.
    pub fn expect_generation(&mut self, salts: Salts) -> Result<Outcome> {
        let proven = self.prove_end();
        // Whoever begins to follow before the header is on disk must know of it.
        self.announced = Some(salts);
        if proven? == Outcome::NotFollowing {
            return Ok(Outcome::NotFollowing);
        }
        self.position.next_salts = Some(salts);
        self.write_position()?;
        Ok(Outcome::UpToDate)
    }

    /// Records that the database is closed with everything captured, or takes
    /// the record back.
    ///
    /// # Errors
    /// The position could not be written.
    pub fn set_clean(&mut self, clean: Option<CleanMark>) -> Result<()> {
        if self.position.following && self.position.clean != clean {
            self.position.clean = clean;
            self.position.head = None;
            self.write_position()?;
        }
        Ok(())
    }

    /// Records the state of the database file, which is all that there is now.
    ///
    /// # Errors
    /// The file could not be looked at, or the position not be written.
    pub fn mark_clean(&mut self) -> Result<()> {
        let mark = self.clean_mark()?;
        self.set_clean(mark)
    }

    /// A gap that cannot be recorded now is, as soon as the lock is had again.
    pub fn remember_gap(&mut self, gap: Gap) {
        self.unrecorded = Some(self.unrecorded.unwrap_or(gap));
    }

    /// Declares that only a repair can continue: the open segment is dropped.
    ///
    /// # Errors
    /// The position could not be written; the gap holds in memory all the same,
    /// and is recorded as soon as that succeeds.
    pub fn declare_gap(&mut self, gap: Gap) -> Result<()> {
        let gap = self.position.gap.unwrap_or(gap);
        self.unrecorded = Some(gap);
        self.position.gap = Some(gap);
        self.position.following = false;
        self.position.backfill = 0;
        self.position.next_salts = None;
        self.position.clean = None;
        self.partial = false;
        self.wal = None;
        let mark = self.sure.segment;
        self.segment = None;
        self.position.segment.len = 0;
        self.position.segment.generation = 0;
        if let Err(e) = self.write_record() {
            // The file that the record names is removed with its name in there.
            self.sure = Position { segment: mark, ..self.position };
            return Err(e);
        }
        self.unrecorded = None;
        if mark.len > 0 { os::remove_file(&self.segment_path(&mark)) } else { Ok(()) }
    }

    /// Lets go of the open segment; its file, to be removed once the record names
    /// another one.
    fn drop_segment(&mut self) -> Option<PathBuf> {
        let mark = self.sure.segment;
        let made = self.segment.take().is_some() || mark.len > 0;
        self.position.segment.len = 0;
        made.then(|| self.segment_path(&mark))
    }

    /// Reads what other processes appended to the open segment.
    ///
    /// # Errors
    /// The segment is damaged, which is recorded as a gap, or cannot be read.
    pub fn load_open(&mut self) -> Result<()> {
        if !self.has_open() {
            return Ok(());
        }
        let loaded = match self.attach_segment() {
            Ok(()) => self.segment.as_mut().map_or(Ok(()), Segment::load),
            Err(stop) => Err(stop.into_error()),
        };
        if loaded.as_ref().is_err_and(is_damage) {
            self.declare_gap(Gap::SpoolDamaged)?;
        }
        loaded
    }

    fn segment_path(&self, mark: &SegmentMark) -> PathBuf {
        self.place.dir.join(segment::file_name(mark.txid, mark.generation))
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
        // Without a WAL the file alone is the state, and its times will prove it; also
        // when the header that is announced fails to be written.
        let clean = if found.is_none() { self.clean_mark()? } else { None };
        let (dropped, unrecorded) = (self.drop_segment(), self.unrecorded.take());
        self.begun += 1;
        self.position.following = true;
        self.position.backfill = 0;
        self.position.gap = None;
        self.position.page_size = header.page_size;
        self.position.commit = header.n_page;
        self.position.wal = WalPosition { salts: header.salts, frame: header.mx_frame, checksum };
        // With no frame published, frames of the generation on disk begin after
        // this state, or (a restart whose header is not written yet) are in it.
        self.position.next_salts = match found {
            Some(h) if header.mx_frame == 0 && h.salts != header.salts => Some(h.salts),
            None => self.announced,
            _ => None,
        };
        if found.is_none() {
            // The next header is entered like any restart, also when the wal-index
            // has its salts already: it tells where the checksums begin, and ends
            // what the file's times prove.
            self.position.wal = WalPosition::default();
        }
        self.position.clean = clean;
        self.position.head = None;
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
        if let Err(e) = self.write_position() {
            // A gap stays one, for whoever asks before it is declared again.
            self.unrecorded = unrecorded;
            return Err(e);
        }
        dropped.map_or(Ok(()), |path| os::remove_file(&path))
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
        let unknown = std::mem::take(&mut self.position.unknown_chain);
        let done = self.rebase_to(next, unknown);
        if done.is_err() {
            // Others go by the record.
            self.position.unknown_chain |= unknown;
            self.sure.unknown_chain |= unknown;
        }
        done
    }

    fn rebase_to(&mut self, next: Txid, is_news: bool) -> Result<()> {
        if self.position.segment.txid == next {
            return if is_news { self.write_position() } else { Ok(()) };
        }
        if self.has_open() {
            match self.attach_segment() {
                Ok(()) => {}
                Err(Stop::Gap(gap)) => self.declare_gap(gap)?,
                Err(Stop::Error(e)) => return Err(e),
            }
        }
        let dir = self.place.dir.clone();
        let retitled = self.segment.as_mut().map_or(Ok(()), |s| s.retitle(&dir, next, 0));
        match retitled {
            Err(e) if is_damage(&e) => self.declare_gap(Gap::SpoolDamaged)?,
            other => other?,
        }
        let before = self.position.segment;
        self.position.segment.txid = next;
        self.position.segment.generation = 0;
        let done = self.write_record();
        if done.is_err() {
            // The record names the file as it was; without it, that is a gap.
            let back = |s: &mut Segment| s.retitle(&dir, before.txid, before.generation).is_ok();
            if !self.segment.as_mut().is_none_or(back) {
                self.segment = None;
            }
            self.position.segment = before;
        }
        done
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

    /// Writes the position, or takes back all that changed in it since it was
    /// written last: others go by the record, and may append to the segment that
    /// it names.
    fn write_position(&mut self) -> Result<()> {
        let done = self.write_record();
        if done.is_err() {
            (self.position, self.segment, self.partial) = (self.sure, None, false);
        }
        done
    }

    /// Writes the position; the caller knows what to do where that fails.
    fn write_record(&mut self) -> Result<()> {
        // Pages beyond the position are overwritten after a crash, not sealed.
        if !self.partial {
            self.position.segment.len = self.open_bytes();
        }
        let (true, Some(file)) = (self.locked, &self.file) else {
            return Err(Error::new(
                ErrorKind::Internal,
                format!(
                    "the position of {} was to be moved without its lock",
                    self.dir().display()
                ),
            ));
        };
        let mut next = self.position;
        next.sequence = next.sequence.wrapping_add(1);
        next.writer = self.process;
        let record = next.encode();
        file.write_all_at(&record, 0)?;
        (self.position, self.sure, self.record) = (next, next, record);
        Ok(())
    }
}

/// The file is there and is not what it should be, or it is gone.
fn is_damage(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound)
}

/// What ends an attempt to capture.
enum Stop {
    Gap(Gap),
    Error(Error),
}

impl Stop {
    fn into_error(self) -> Error {
        match self {
            Stop::Error(e) => e,
            Stop::Gap(gap) => {
                Error::new(ErrorKind::Corrupt, format!("capture stopped: {}", gap.name()))
            }
        }
    }
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Stop::Error(e)
    }
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod share_tests;
