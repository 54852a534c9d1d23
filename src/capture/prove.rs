//! What proves that nothing is missing: between the position and the end of a
//! WAL that is about to go, and between one run and the next.

use crate::capture::frames;
use crate::capture::position::{CleanMark, WalPosition};
use crate::capture::{Capture, Gap, Outcome, Stop};
use crate::error::Result;
use crate::os::disk as os;
use crate::tasks;

impl Capture {
    /// Proves that the position is the end of the WAL, before that goes: no
    /// commit frame lies behind it that nobody of ours saw published. One that
    /// does may be another program's commit, or what a failed commit left
    /// behind; as the wal-index no longer tells, that is a gap.
    ///
    /// # Errors
    /// A file could not be read, or the gap not be recorded.
    pub fn prove_end(&mut self) -> Result<Outcome> {
        self.announced = None;
        if !self.position.following {
            return Ok(Outcome::NotFollowing);
        }
        match self.try_prove_end() {
            Ok(()) => Ok(Outcome::UpToDate),
            Err(Stop::Gap(gap)) => {
                self.declare_gap(gap)?;
                Ok(Outcome::NotFollowing)
            }
            Err(Stop::Error(e)) => Err(e),
        }
    }

    fn try_prove_end(&mut self) -> std::result::Result<(), Stop> {
        let header = if self.is_without_wal() { None } else { self.read_wal_header()? };
        let Some(header) = header else {
            return match (self.position.dirty, self.is_clean()?) {
                (true, _) => Err(Stop::Gap(Gap::Interrupted)),
                (false, true) => Ok(()),
                (false, false) => Err(Stop::Gap(Gap::Unproven)),
            };
        };
        if header.salts != self.position.wal.salts {
            self.enter_generation(&header)?;
        }
        if !self.position_frame_holds()? {
            return Err(Stop::Gap(Gap::Rewind));
        }
        let Some(wal) = &self.wal else { return Err(Stop::Gap(Gap::WalReplaced)) };
        let from = self.position.wal;
        let end = frames::find_chain_end(wal, &header, from)?;
        // Behind a frame that SQLite left unfilled the commit may go on.
        if end.frame == from.frame && !end.unfilled {
            Ok(())
        } else {
            Err(Stop::Gap(Gap::WalReplaced))
        }
    }

    /// Whether the checksums alone can tell the end of the WAL from its first frame
    /// on: no frame that SQLite left unfilled breaks their chain.
    ///
    /// # Errors
    /// The WAL could not be read.
    pub fn is_chain_whole(&mut self) -> Result<bool> {
        let Some(header) = self.read_wal_header()? else { return Ok(true) };
        let Some(wal) = &self.wal else { return Ok(true) };
        let from = WalPosition { salts: header.salts, frame: 0, checksum: header.checksum };
        Ok(!frames::find_chain_end(wal, &header, from)?.unfilled)
    }

    /// Continuity at an open is proven by the WAL at the position, by a recorded
    /// next generation, or by the state of the database file as it was closed.
    ///
    /// # Errors
    /// A file could not be read, or the gap not be recorded.
    pub fn prove_open(&mut self) -> Result<()> {
        if !self.position.following {
            return Ok(());
        }
        if self.position.dirty {
            // While its process lives it is a transaction like any other; should
            // the number be another process's now, the next writer finds it. This
            // process has not begun any: in a container the number is always the same.
            let writer = self.position.dirty_writer;
            return if writer != self.process && tasks::is_alive(writer) {
                Ok(())
            } else {
                self.declare_gap(Gap::Interrupted)
            };
        }
        let header = self.read_wal_header()?;
        let gap = match header {
            Some(h) if h.salts == self.position.wal.salts => {
                (!self.position_frame_holds()?).then_some(Gap::Rewind)
            }
            Some(h) if self.position.next_salts == Some(h.salts) => None,
            _ if self.is_clean()? => None,
            Some(_) => Some(Gap::WalReplaced),
            None => Some(Gap::Unproven),
        };
        self.wal = None;
        match gap {
            Some(gap) => self.declare_gap(gap),
            None => Ok(()),
        }
    }

    /// The file alone was the state when it was last captured; what lies beside
    /// it may be a WAL of former times, or one that nobody captured yet.
    pub(super) fn is_without_wal(&self) -> bool {
        self.position.clean.is_some() && self.position.next_salts.is_none()
    }

    /// Whether the database file is in the state that was recorded when its WAL
    /// went with everything captured.
    pub(super) fn is_clean(&self) -> Result<bool> {
        Ok(self.position.clean.is_some() && self.position.clean == self.clean_mark()?)
    }

    /// The state of the database file now; none when it was replaced or is gone.
    pub(super) fn clean_mark(&self) -> Result<Option<CleanMark>> {
        let found = os::stat(&self.place.path)?;
        Ok(found.filter(|s| (s.dev, s.ino) == self.place.identity).map(|s| CleanMark {
            size: s.size,
            mtime_ns: s.mtime_ns,
            ctime_ns: s.ctime_ns,
        }))
    }
}
