//! The sealed segments that the last process which shipped left behind.
//!
//! They are read whole, which may take a while, before the capture lock is taken
//! to judge them: whoever has the shipper lock is the only one to change them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::capture::segment::{self, Segment};
use crate::capture::{Capture, Gap};
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::Txid;
use crate::os::disk::{self as os, Owner};

/// TXID and generation.
type Name = (Txid, u32);

/// Segments that may wait for storage, by their names.
#[derive(Debug)]
pub struct Unread {
    dir: PathBuf,
    owner: Option<Owner>,
    names: Vec<Name>,
}

/// What was found in them.
#[derive(Debug, Default)]
pub struct Read(BTreeMap<Name, Result<Segment>>);

impl Unread {
    /// Reads and checks them; nothing has to be locked.
    pub fn read(self) -> Read {
        let open = |&(txid, generation): &Name| {
            ((txid, generation), Segment::open(&self.dir, txid, generation, None, self.owner))
        };
        Read(self.names.iter().map(open).collect())
    }
}

impl Capture {
    /// The segments that [`Capture::take_sealed`] will ask for.
    ///
    /// # Errors
    /// The directory could not be read.
    pub fn unread(&self, stored: Option<Txid>) -> Result<Unread> {
        let (dir, owner) = (self.place.dir.clone(), self.place.owner);
        let mut names = Vec::new();
        if !self.position.unknown_chain {
            let all = os::list_dir(&dir)?;
            let named = all.iter().filter_map(|name| segment::parse_file_name(name));
            names.extend(named.filter(|(txid, _)| self.waits(*txid, stored)));
        }
        Ok(Unread { dir, owner, names })
    }

    /// Whether a segment of that TXID can be a sealed one that storage lacks.
    fn waits(&self, txid: Txid, stored: Option<Txid>) -> bool {
        txid < self.position.segment.txid && Some(txid) > stored
    }

    /// The sealed segments that storage may not have, ascending by TXID, for
    /// the process that ships; others are removed. `stored`: the newest TXID
    /// that storage is recorded to have, if any is. What `read` lacks is read now.
    ///
    /// # Errors
    /// The directory could not be read, or a gap not be recorded.
    pub fn take_sealed(&mut self, stored: Option<Txid>, mut read: Read) -> Result<Vec<Segment>> {
        let (mark, trusted) = (self.position.segment, !self.position.unknown_chain);
        let mut waiting: BTreeMap<Txid, Vec<u32>> = BTreeMap::new();
        let mut damaged = None;
        for name in os::list_dir(&self.place.dir)? {
            let Some((txid, generation)) = segment::parse_file_name(&name) else { continue };
            if (txid, generation) == (mark.txid, mark.generation) && mark.len > 0 {
                continue;
            }
            let waits = self.waits(txid, stored);
            if trusted && waits {
                waiting.entry(txid).or_default().push(generation);
                continue;
            }
            if waits && self.position.following {
                // The chain that they belong to is not known; what they hold is missed.
                damaged = Some(format!("{name} is of an unknown chain"));
            }
            os::remove_file(&self.place.dir.join(&name))?;
        }
        let mut sealed: Vec<Segment> = Vec::new();
        for (txid, generations) in waiting {
            let contiguous = sealed.last().is_none_or(|s| s.txid().next() == txid);
            if damaged.is_some() {
                self.remove(txid, &generations)?;
                continue;
            }
            match self.sealed_of(txid, generations, &mut read) {
                Ok(segment) if contiguous => sealed.push(segment),
                Ok(other) => damaged = Some(format!("{} is out of order", other.path().display())),
                Err(e) => damaged = Some(e.to_string()),
            }
        }
        let last_waits = sealed.last().is_none_or(|s| s.txid().next() == mark.txid);
        // After a power loss the record may be older than what storage was sent.
        let first = sealed.first().map_or(mark.txid, Segment::txid);
        let proven = self.position.following && self.position.snapshot_pending == Txid(0);
        let continues = !proven || stored.is_none_or(|s| s.next() == first);
        if damaged.is_none() && trusted && !(last_waits && continues) {
            damaged = Some(format!(
                "{} misses segments or their record: TXID {first} follows {}",
                self.dir().display(),
                stored.unwrap_or_default()
            ));
        }
        if let Some(why) = damaged {
            self.notes.push(format!("spool: {why}; a repair will follow"));
            self.declare_gap(Gap::SpoolDamaged)?;
        }
        Ok(sealed)
    }

    /// The sealed one of the files of one TXID. A rewrite that was cut short left
    /// another generation, which has no seal or is torn, and goes.
    fn sealed_of(&self, txid: Txid, generations: Vec<u32>, read: &mut Read) -> Result<Segment> {
        let (mut sealed, mut others, mut why) = (Vec::new(), Vec::new(), None);
        for generation in generations {
            let open = || Segment::open(&self.place.dir, txid, generation, None, self.place.owner);
            match read.0.remove(&(txid, generation)).unwrap_or_else(open) {
                Ok(segment) if segment.sealed().is_some() => sealed.push(segment),
                Ok(_) => others.push(generation),
                Err(e) => {
                    why = Some(e);
                    others.push(generation);
                }
            }
        }
        match (sealed.pop(), sealed.is_empty()) {
            (Some(segment), true) => self.remove(txid, &others).map(|()| segment),
            _ => Err(why.unwrap_or_else(|| {
                let path = self.place.dir.join(segment::file_name(txid, 0));
                let why =
                    format!("spool segment {} is not the one that was sealed", path.display());
                Error::new(ErrorKind::Corrupt, why)
            })),
        }
    }

    fn remove(&self, txid: Txid, generations: &[u32]) -> Result<()> {
        for generation in generations {
            os::remove_file(&self.place.dir.join(segment::file_name(txid, *generation)))?;
        }
        Ok(())
    }
}
