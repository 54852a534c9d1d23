//! Taking the capture state over, from another process or from the last run:
//! the lock, the position file, and the segments that wait for storage.

use std::path::PathBuf;
use std::time::Duration;

use crate::capture::position::{POSITION_LEN, Position, WalPosition};
use crate::capture::{Capture, Gap, POSITION_FILE, Published};
use crate::error::{ErrorKind, Result};
use crate::os::disk::{self as os, File, Owner};
use crate::tasks;

/// How long a look at the name of the position file counts, so that in a burst of
/// commits not every one looks: less than a batch may take.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Where and what to capture.
#[derive(Debug, Clone)]
pub struct Place {
    /// Directory of the spool.
    pub dir: PathBuf,
    /// The database.
    pub path: PathBuf,
    /// Its WAL.
    pub wal_path: PathBuf,
    /// Device and inode of the database.
    pub identity: (u64, u64),
    /// Hash of the replica's URL.
    pub replica: u64,
    /// Owner of files that are made.
    pub owner: Option<Owner>,
}

/// What came of an attempt to take the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// The lock is held, and the state is the newest one.
    Held,
    /// Another process has the lock.
    Busy,
    /// The lock is held, but the record is not about this database and this
    /// replica: nothing may be done before [`Capture::reset`].
    Stranger(Stranger),
}

/// Why a record is not ours to continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// It is damaged.
    Damaged,
    /// It is about another replica.
    Replica,
    /// It is about another file of the database's name.
    Database,
}

impl Stranger {
    /// For the user.
    pub fn text(self) -> &'static str {
        match self {
            Stranger::Damaged => {
                "its position record is damaged; the database is compared with the replica instead"
            }
            Stranger::Replica => "the replica URL changed since the last run",
            Stranger::Database => "the database file was replaced since the last run",
        }
    }
}

impl Capture {
    /// The state of a database that nothing was read of yet. Makes nothing.
    pub fn new(place: Place) -> Capture {
        let position = Position { gap: Some(Gap::First), ..Position::default() };
        Capture {
            place,
            file: None,
            locked: false,
            record: [0; POSITION_LEN],
            position,
            sure: position,
            segment: None,
            wal: None,
            buf: Vec::new(),
            partial: false,
            unrecorded: None,
            announced: None,
            last: (Published::default(), WalPosition::default()),
            shared: false,
            begun: 0,
            proved: false,
            process: tasks::process_id(),
            in_place_until: None,
            notes: Vec::new(),
        }
    }

    /// Takes the lock, and what other processes did meanwhile into account.
    ///
    /// # Errors
    /// The directory cannot be used, or a newer version of this library wrote it.
    pub fn try_acquire(&mut self) -> Result<Acquired> {
        // Kept since the last batch, the lock left nobody to write the record.
        if !self.locked {
            if !self.lock_file()? {
                return Ok(Acquired::Busy);
            }
            self.locked = true;
            let found = self.reload();
            match &found {
                Ok(Acquired::Held) => {}
                Ok(_) => return found,
                Err(_) => {
                    self.let_go();
                    return found;
                }
            }
        }
        match self.catch_up() {
            Ok(()) => Ok(Acquired::Held),
            Err(e) => {
                self.let_go();
                Err(e)
            }
        }
    }

    /// What could not be done without the lock.
    fn catch_up(&mut self) -> Result<()> {
        if let Some(gap) = self.unrecorded {
            self.declare_gap(gap)?;
        }
        if !self.proved {
            self.prove_open()?;
            self.proved = true;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn is_locked(&self) -> bool {
        self.locked
    }

    /// Gives the lock back; the descriptors are kept for the next batch.
    pub fn let_go(&mut self) {
        if !std::mem::take(&mut self.locked) {
            return;
        }
        if self.partial {
            // Others may write where the record says that the segment ends.
            (self.segment, self.partial) = (None, false);
        }
        if let Some(file) = &self.file
            && file.unlock().is_err()
        {
            // Closing it drops the lock in any case.
            self.file = None;
        }
    }

    /// Gives up the lock and every descriptor: there is nothing to do.
    pub fn release(&mut self) {
        self.rest();
        self.locked = false;
        self.file = None;
        self.segment = None;
        self.partial = false;
    }

    /// Whether another process wrote the record since this one knows it. Without
    /// the lock it can be read half written, and is then another one as well.
    pub fn is_moved(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let mut bytes = [0u8; POSITION_LEN];
        matches!(file.read_at(&mut bytes, 0), Ok(POSITION_LEN)) && bytes != self.record
    }

    /// Opens the file that has the name now: a meta directory can be removed.
    fn lock_file(&mut self) -> Result<bool> {
        for _ in 0..2 {
            let file = match self.file.take() {
                Some(file) => file,
                None => {
                    self.in_place_until = None;
                    os::create_private_dir(&self.place.dir, self.place.owner)?;
                    File::open_private(&self.place.dir.join(POSITION_FILE), self.place.owner)?
                }
            };
            if !file.try_lock()? {
                self.file = file.is_in_place().then_some(file);
                return Ok(false);
            }
            if self.is_known_in_place(&file) {
                self.file = Some(file);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the name leads to the locked `file`, or did a moment ago and it was
    /// not removed: a batch can be that much late after its look in any case.
    fn is_known_in_place(&mut self, file: &File) -> bool {
        let now = tasks::now();
        if self.in_place_until.is_some_and(|until| now < until) && file.is_linked() {
            return true;
        }
        let found = file.is_in_place();
        self.in_place_until = found.then(|| now + LOOK_INTERVAL);
        found
    }

    fn reload(&mut self) -> Result<Acquired> {
        let Some(file) = &self.file else { return Ok(Acquired::Busy) };
        let mut bytes = [0u8; POSITION_LEN];
        let got = file.read_at(&mut bytes, 0)?;
        if got == POSITION_LEN && bytes == self.record {
            return Ok(Acquired::Held);
        }
        if got == 0 {
            self.reset()?;
            return Ok(Acquired::Held);
        }
        let found = match Position::decode(&bytes[..got]) {
            Ok(found) => found,
            Err(e) if e.kind() == ErrorKind::Unsupported => {
                return Err(e.context(file.path().display().to_string()));
            }
            Err(_) => return Ok(Acquired::Stranger(Stranger::Damaged)),
        };
        if found.replica != self.place.replica {
            return Ok(Acquired::Stranger(Stranger::Replica));
        }
        if found.identity != self.place.identity {
            return Ok(Acquired::Stranger(Stranger::Database));
        }
        let known = self.record != [0; POSITION_LEN];
        self.shared |= known;
        self.adopt(found, bytes);
        // An older format is replaced at once: its library is not to go on.
        if got < POSITION_LEN {
            self.write_position().map(|()| Acquired::Held)
        } else {
            Ok(Acquired::Held)
        }
    }

    /// Goes on from a record that another process wrote. Of the segment only
    /// the length is taken over; who needs its pages reads them.
    fn adopt(&mut self, found: Position, record: [u8; POSITION_LEN]) {
        let mark = found.segment;
        let same = self.segment.as_ref().is_some_and(|s| {
            (s.txid(), s.generation()) == (mark.txid, mark.generation)
                && s.len() <= mark.len
                && !self.partial
                && s.is_in_place()
        });
        if same && let Some(segment) = &mut self.segment {
            segment.extend_to(mark.len);
        } else {
            self.segment = None;
        }
        self.partial = false;
        self.wal = None;
        (self.position, self.sure, self.record) = (found, found, record);
    }

    /// Begins a new record: nothing is known of the database's past. Segments
    /// that lie about are not shipped.
    ///
    /// # Errors
    /// The record could not be written.
    pub fn reset(&mut self) -> Result<()> {
        (self.segment, self.wal, self.partial, self.unrecorded) = (None, None, false, None);
        self.position = Position {
            gap: Some(Gap::First),
            unknown_chain: true,
            sequence: self.position.sequence,
            identity: self.place.identity,
            replica: self.place.replica,
            ..Position::default()
        };
        // Whether or not that can be recorded, nothing that was known holds.
        self.sure = self.position;
        self.write_record()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::sealed::Read;
    use crate::capture::segment::{self, Seal, Segment};
    use crate::ltx::Txid;

    fn sealed(dir: &std::path::Path, txid: u64) {
        sealed_as(dir, txid, 0);
    }

    fn sealed_as(dir: &std::path::Path, txid: u64, generation: u32) {
        let mut s = Segment::create(dir, Txid(txid), generation, 512, None).unwrap();
        s.append([(1, [7u8; 512].as_slice())].into_iter()).unwrap();
        let seal =
            Seal { commit: 1, timestamp_ms: 1, wal_offset: 32, wal_size: 536, wal_salts: [1, 2] };
        s.seal(seal).unwrap();
    }

    fn place(dir: &std::path::Path) -> Place {
        let path = dir.join("db");
        File::open_private(&path, None).unwrap().write_all_at(b"x", 0).unwrap();
        let stat = os::stat(&path).unwrap().unwrap();
        let place = Place {
            dir: dir.join("vfs"),
            wal_path: dir.join("db-wal"),
            identity: (stat.dev, stat.ino),
            path,
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

    fn held(place: &Place) -> Capture {
        let mut capture = Capture::new(place.clone());
        assert_eq!(capture.try_acquire().unwrap(), Acquired::Held);
        capture
    }

    /// A segment that was acknowledged but not yet removed when the process
    /// was killed once made the next ones look out of order.
    #[test]
    fn acknowledged_segments_are_swept_by_the_next_shipper() {
        let tmp = tempfile::tempdir().unwrap();
        let place = place(tmp.path());
        let mut position = Position { replica: 1, identity: place.identity, ..Position::default() };
        position.segment.txid = Txid(7);
        record(&place, &position);
        for txid in [3, 5, 6] {
            sealed(&place.dir, txid);
        }
        let mut capture = held(&place);
        let kept = capture.take_sealed(Some(Txid(4)), Read::default()).unwrap();
        let kept: Vec<u64> = kept.iter().map(|s| s.txid().0).collect();
        assert_eq!((kept, capture.take_notes()), (vec![5, 6], Vec::<String>::new()));
        assert!(!place.dir.join(segment::file_name(Txid(3), 0)).exists());
    }

    /// A rewrite that a kill cut short left a second file of a TXID, and the one
    /// that was sealed later was taken for damaged beside it.
    #[test]
    fn what_a_rewrite_left_behind_is_not_what_was_sealed() {
        for (left, torn) in [(0, false), (2, false), (2, true)] {
            let tmp = tempfile::tempdir().unwrap();
            let place = place(tmp.path());
            let identity = place.identity;
            let mut position = Position { replica: 1, identity, ..Position::default() };
            position.segment.txid = Txid(8);
            record(&place, &position);
            let mut s = Segment::create(&place.dir, Txid(7), left, 512, None).unwrap();
            s.append([(1, [7u8; 512].as_slice())].into_iter()).unwrap();
            if torn {
                File::open_private(s.path(), None).unwrap().set_len(300).unwrap();
            }
            sealed_as(&place.dir, 7, 1);
            let mut capture = held(&place);
            let read = capture.unread(Some(Txid(6))).unwrap().read();
            let kept = capture.take_sealed(Some(Txid(6)), read).unwrap();
            let kept: Vec<u32> = kept.iter().map(Segment::generation).collect();
            assert_eq!((kept, capture.take_notes()), (vec![1], Vec::<String>::new()));
            assert!(!place.dir.join(segment::file_name(Txid(7), left)).exists());
        }
    }

    /// Segments of a chain that a record begun anew does not know were removed
    /// without a gap: what they held was missed.
    #[test]
    fn sealed_segments_of_an_unknown_chain_leave_a_gap() {
        let tmp = tempfile::tempdir().unwrap();
        let place = place(tmp.path());
        let identity = place.identity;
        let mut position = Position { replica: 1, identity, ..Position::default() };
        (position.following, position.page_size) = (true, 512);
        (position.unknown_chain, position.segment.txid) = (true, Txid(8));
        record(&place, &position);
        sealed(&place.dir, 7);
        let mut capture = Capture::new(place.clone());
        capture.proved = true;
        assert_eq!(capture.try_acquire().unwrap(), Acquired::Held);
        assert_eq!(capture.gap(), None);
        assert!(capture.take_sealed(Some(Txid(6)), Read::default()).unwrap().is_empty());
        assert_eq!(capture.gap(), Some(Gap::SpoolDamaged));
    }

    /// What an earlier file of that name committed, but storage never got, would
    /// have been laid over the state that the file was restored to.
    #[test]
    fn segments_of_a_replaced_database_are_not_shipped() {
        let tmp = tempfile::tempdir().unwrap();
        let place = place(tmp.path());
        let identity = (place.identity.0, place.identity.1 + 1);
        let mut position = Position { replica: 1, identity, ..Position::default() };
        position.segment.txid = Txid(6);
        record(&place, &position);
        sealed(&place.dir, 5);
        let mut capture = Capture::new(place.clone());
        let found = capture.try_acquire().unwrap();
        assert_eq!(found, Acquired::Stranger(Stranger::Database));
        capture.reset().unwrap();
        assert!(capture.take_sealed(None, Read::default()).unwrap().is_empty());
        assert!(capture.position().unknown_chain);
        assert!(!place.dir.join(segment::file_name(Txid(5), 0)).exists());
    }

    /// The TXID of a seal that could not be recorded was skipped: a hole in the chain.
    #[test]
    fn a_seal_without_its_record_is_taken_back() {
        let tmp = tempfile::tempdir().unwrap();
        let place = place(tmp.path());
        let mut capture = held(&place);
        let mut s = Segment::create(&place.dir, Txid(3), 0, 512, None).unwrap();
        s.append([(1, [7u8; 512].as_slice())].into_iter()).unwrap();
        capture.segment = Some(s);
        capture.position.page_size = 512;
        capture.position.commit = 1;
        capture.position.segment.txid = Txid(3);
        capture.locked = false;
        assert!(capture.seal(1).is_err());
        capture.locked = true;
        let segment = capture.seal(2).unwrap().unwrap();
        assert_eq!((segment.txid(), capture.open_txid()), (Txid(3), Txid(4)));
        let path = segment.path().to_owned();
        drop(segment);
        let again = Segment::open(path.parent().unwrap(), Txid(3), 0, None, None).unwrap();
        assert_eq!(again.sealed().map(|s| s.timestamp_ms), Some(2));
    }

    #[test]
    fn an_older_format_is_replaced_and_a_newer_one_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let place = place(tmp.path());
        let path = place.dir.join(POSITION_FILE);
        let mut old = Position { replica: 1, identity: place.identity, ..Position::default() }
            .encode()[..160]
            .to_vec();
        old[8] = 1;
        old[44..64].fill(0);
        old[92..96].fill(0);
        let crc = crate::ltx::checksum::crc64(&old[..152]);
        old[152..].copy_from_slice(&crc.to_le_bytes());
        File::open_private(&path, None).unwrap().write_all_at(&old, 0).unwrap();
        drop(held(&place));
        let mut now = os::read(&path).unwrap().unwrap();
        assert_eq!((now.len(), now[8]), (POSITION_LEN, 2));
        now[8] = 3;
        File::open_private(&path, None).unwrap().write_all_at(&now, 0).unwrap();
        let e = Capture::new(place.clone()).try_acquire().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(e.to_string().contains("use the newer library"), "{e}");
        assert_eq!(os::read(&path).unwrap().unwrap(), now);
    }

    #[test]
    fn a_removed_meta_directory_is_made_again() {
        let tmp = tempfile::tempdir().unwrap();
        let place = place(tmp.path());
        let mut capture = held(&place);
        capture.let_go();
        std::fs::remove_dir_all(&place.dir).unwrap();
        assert_eq!(capture.try_acquire().unwrap(), Acquired::Held);
        assert!(capture.position().unknown_chain);
        assert!(place.dir.join(POSITION_FILE).exists());
    }
}
