//! Opening the capture state of a database: the lock, the position file, the
//! spool, and the proof that the position still continues.

use std::path::PathBuf;

use crate::capture::frames;
use crate::capture::position::{POSITION_LEN, Position};
use crate::capture::segment::{self, Segment};
use crate::capture::{Capture, Gap, POSITION_FILE};
use crate::error::{ErrorKind, Result};
use crate::ltx::Txid;
use crate::os::disk::{self as os, File, FileStat, Owner};
use crate::shipped::Shipped;

/// Where and what to open.
#[derive(Debug, Clone)]
pub struct Place {
    /// Directory of the spool.
    pub dir: PathBuf,
    /// The database's WAL.
    pub wal_path: PathBuf,
    /// The database file as it is now.
    pub database: FileStat,
    /// Hash of the replica's URL.
    pub replica: u64,
    /// Owner of files that are made.
    pub owner: Option<Owner>,
}

/// What was found.
#[derive(Debug)]
pub struct Recovered {
    /// The capture state, locked by this process.
    pub capture: Capture,
    /// Sealed segments that storage may not have, ascending by TXID.
    pub sealed: Vec<Segment>,
    /// The position is about this database and this replica.
    pub trusted: bool,
    /// Things to tell the user.
    pub notes: Vec<String>,
}

/// Opens the capture state; `None` when another process has it.
///
/// # Errors
/// The directory cannot be used, or a newer version of this library wrote it.
pub fn open(place: &Place) -> Result<Option<Recovered>> {
    os::create_private_dir(&place.dir, place.owner)?;
    let file = File::open_private(&place.dir.join(POSITION_FILE), place.owner)?;
    if !file.try_lock()? {
        return Ok(None);
    }
    let mut notes = Vec::new();
    let found = read_position(&file, &mut notes)?;
    let trusted = found.as_ref().is_some_and(|p| belongs(p, place, &mut notes));
    let mut position = if trusted { found.unwrap_or_default() } else { Position::default() };
    position.replica = place.replica;
    position.identity = (place.database.dev, place.database.ino);
    let mut capture = Capture {
        dir: place.dir.clone(),
        wal_path: place.wal_path.clone(),
        owner: place.owner,
        file: Some(file),
        position,
        segment: None,
        wal: None,
        buf: Vec::new(),
        gap: None,
        partial: false,
    };
    let before = found.map_or(Txid(0), |p| p.segment.txid);
    let sealed = capture.open_segments(before, trusted, &mut notes)?;
    if trusted {
        capture.prove(place)?;
    } else {
        capture.declare_gap(Gap::First)?;
    }
    Ok(Some(Recovered { capture, sealed, trusted, notes }))
}

fn read_position(file: &File, notes: &mut Vec<String>) -> Result<Option<Position>> {
    let mut bytes = [0u8; POSITION_LEN];
    let got = file.read_at(&mut bytes, 0)?;
    if got == 0 {
        return Ok(None);
    }
    match Position::decode(&bytes[..got]) {
        Ok(p) => Ok(Some(p)),
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            Err(e.context(file.path().display().to_string()))
        }
        Err(e) => {
            notes.push(format!(
                "{}: {e}; the database is compared with the replica instead",
                file.path().display()
            ));
            Ok(None)
        }
    }
}

fn belongs(p: &Position, place: &Place, notes: &mut Vec<String>) -> bool {
    if p.replica != place.replica {
        notes.push("the replica URL changed since the last run".to_owned());
        return false;
    }
    if p.identity != (place.database.dev, place.database.ino) {
        notes.push("the database file was replaced since the last run".to_owned());
        return false;
    }
    true
}

impl Capture {
    fn open_segments(
        &mut self,
        open_txid: Txid,
        trusted: bool,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Segment>> {
        let mut sealed: Vec<Segment> = Vec::new();
        let mark = self.position.segment;
        let stored = Shipped::load(&self.dir)?.map_or(Txid(0), |(txid, _)| txid);
        for name in os::list_dir(&self.dir)? {
            let path = self.dir.join(&name);
            let Some((txid, generation)) = segment::parse_file_name(&name) else { continue };
            if trusted && txid == mark.txid && generation == mark.generation && mark.len > 0 {
                match Segment::open(&self.dir, txid, generation, Some(mark.len), self.owner) {
                    Ok(segment) => self.segment = Some(segment),
                    Err(e) => {
                        notes.push(e.to_string());
                        self.gap = Some(Gap::SpoolDamaged);
                        os::remove_file(&path)?;
                    }
                }
                continue;
            }
            let waiting = trusted && txid < open_txid && self.gap.is_none();
            let contiguous = sealed.last().is_none_or(|s| s.txid().next() == txid);
            if !waiting || txid <= stored {
                os::remove_file(&path)?;
                continue;
            }
            match Segment::open(&self.dir, txid, generation, None, self.owner) {
                Ok(segment) if segment.sealed().is_some() && contiguous => sealed.push(segment),
                Ok(_) => self.damaged(&path.display().to_string(), "is out of order", notes),
                Err(e) => self.damaged(&path.display().to_string(), &e.to_string(), notes),
            }
        }
        let last_waits = sealed.last().is_none_or(|s| s.txid().next() == mark.txid);
        let open_lost = trusted && mark.len > 0 && self.segment.is_none();
        if trusted && (!last_waits || open_lost) && self.gap.is_none() {
            self.damaged(&self.dir.display().to_string(), "misses a segment", notes);
        }
        Ok(sealed)
    }

    fn damaged(&mut self, what: &str, why: &str, notes: &mut Vec<String>) {
        notes.push(format!("spool {what}: {why}; a snapshot will repair the replica"));
        self.gap = Some(Gap::SpoolDamaged);
    }

    /// Continuity is proven by the WAL at the position, by a recorded next
    /// generation, or by the state of the database file as it was closed.
    fn prove(&mut self, place: &Place) -> Result<()> {
        if let Some(gap) = self.gap.take() {
            return self.declare_gap(gap);
        }
        if self.position.backfill != 0 {
            return self.declare_gap(Gap::SnapshotInterrupted);
        }
        if self.position.following && self.position.dirty {
            return self.declare_gap(Gap::Interrupted);
        }
        if !self.position.following {
            let gap = if self.position.snapshot_pending == Txid(0) {
                Gap::Unproven
            } else {
                Gap::SnapshotInterrupted
            };
            self.gap = Some(gap);
            return Ok(());
        }
        let header = match File::open(&place.wal_path) {
            Ok(wal) => {
                let header = frames::read_header(&wal)?;
                self.wal = Some(wal);
                header
            }
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let at = self.position.wal;
        let gap = match header {
            Some(h) if h.salts == at.salts => {
                if self.position_frame_holds()? {
                    None
                } else {
                    Some(Gap::Rewind)
                }
            }
            Some(h) if self.position.next_salts == Some(h.salts) => None,
            Some(_) => Some(Gap::WalReplaced),
            None => {
                let d = &place.database;
                let same = self.position.clean.is_some_and(|c| {
                    (c.size, c.mtime_ns, c.ctime_ns) == (d.size, d.mtime_ns, d.ctime_ns)
                });
                if same { None } else { Some(Gap::Unproven) }
            }
        };
        self.wal = None;
        match gap {
            Some(gap) => self.declare_gap(gap),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::segment::Seal;
    use crate::ltx::Header;

    fn sealed(dir: &std::path::Path, txid: u64) {
        let mut s = Segment::create(dir, Txid(txid), 0, 512, None).unwrap();
        s.append([(1, [7u8; 512].as_slice())].into_iter()).unwrap();
        let seal =
            Seal { commit: 1, timestamp_ms: 1, wal_offset: 32, wal_size: 536, wal_salts: [1, 2] };
        s.seal(seal).unwrap();
    }

    /// A segment that was acknowledged but not yet removed when the process
    /// was killed once made the next ones look out of order.
    #[test]
    fn acknowledged_segments_are_swept_at_open() {
        let tmp = tempfile::tempdir().unwrap();
        let database = tmp.path().join("db");
        disk_file(&database);
        let place = Place {
            dir: tmp.path().join("vfs"),
            wal_path: tmp.path().join("db-wal"),
            database: os::stat(&database).unwrap().unwrap(),
            replica: 1,
            owner: None,
        };
        os::create_private_dir(&place.dir, None).unwrap();
        let mut position = Position {
            replica: 1,
            identity: (place.database.dev, place.database.ino),
            ..Position::default()
        };
        position.segment.txid = Txid(7);
        let file = File::open_private(&place.dir.join(POSITION_FILE), None).unwrap();
        file.write_all_at(&position.encode(), 0).unwrap();
        drop(file);
        for txid in [3, 5, 6] {
            sealed(&place.dir, txid);
        }
        let header = Header::new(512, 1, Txid(4), Txid(4), 1);
        Shipped::new(&header).save(&place.dir, None).unwrap();
        let found = open(&place).unwrap().unwrap();
        let kept: Vec<u64> = found.sealed.iter().map(|s| s.txid().0).collect();
        assert_eq!((kept, found.notes), (vec![5, 6], Vec::<String>::new()));
        assert!(!place.dir.join(segment::file_name(Txid(3), 0)).exists());
    }

    fn place(dir: &std::path::Path) -> Place {
        let database = dir.join("db");
        disk_file(&database);
        let place = Place {
            dir: dir.join("vfs"),
            wal_path: dir.join("db-wal"),
            database: os::stat(&database).unwrap().unwrap(),
            replica: 1,
            owner: None,
        };
        os::create_private_dir(&place.dir, None).unwrap();
        place
    }

    fn record(place: &Place, position: &Position) {
        let file = File::open_private(&place.dir.join(POSITION_FILE), None).unwrap();
        file.write_all_at(&position.encode(), 0).unwrap();
    }

    /// What an earlier file of that name committed, but storage never got, would
    /// have been laid over the state that the file was restored to.
    #[test]
    fn segments_of_a_replaced_database_are_not_shipped() {
        let tmp = tempfile::tempdir().unwrap();
        let place = place(tmp.path());
        let identity = (place.database.dev, place.database.ino + 1);
        let mut position = Position { replica: 1, identity, ..Position::default() };
        position.segment.txid = Txid(6);
        record(&place, &position);
        sealed(&place.dir, 5);
        let found = open(&place).unwrap().unwrap();
        assert!(found.sealed.is_empty() && !found.trusted);
        assert!(!place.dir.join(segment::file_name(Txid(5), 0)).exists());
    }

    /// The TXID of a seal that could not be recorded was skipped: a hole in the chain.
    #[test]
    fn a_seal_without_its_record_is_taken_back() {
        let tmp = tempfile::tempdir().unwrap();
        let mut capture = open(&place(tmp.path())).unwrap().unwrap().capture;
        let mut s = Segment::create(&capture.dir, Txid(3), 0, 512, None).unwrap();
        s.append([(1, [7u8; 512].as_slice())].into_iter()).unwrap();
        capture.segment = Some(s);
        capture.position.page_size = 512;
        capture.position.commit = 1;
        capture.position.segment.txid = Txid(3);
        let file = capture.file.take();
        assert!(capture.seal(1).is_err());
        capture.file = file;
        let segment = capture.seal(2).unwrap().unwrap();
        assert_eq!((segment.txid(), capture.open_txid()), (Txid(3), Txid(4)));
        let path = segment.path().to_owned();
        drop(segment);
        let again = Segment::open(path.parent().unwrap(), Txid(3), 0, None, None).unwrap();
        assert_eq!(again.sealed().map(|s| s.timestamp_ms), Some(2));
    }

    fn disk_file(path: &std::path::Path) {
        File::open_private(path, None).unwrap().write_all_at(b"x", 0).unwrap();
    }
}
