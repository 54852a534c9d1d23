//! Which files in storage were written from here.
//!
//! After a power loss storage can hold files of which no local trace is left:
//! nothing that is recorded about single files is fsynced. So every file carries
//! a number of this database's own in the node id of its header, and that number
//! is made durable once, before the first file. In the first session after a
//! boot a newest file with this number proves whose chain it is; later only
//! what was recorded since does. A number that was used is replaced in each boot:
//! where a copy of the disk went on, the original does not take its files for its own.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::clock::Random;
use crate::error::Result;
use crate::os::disk::{self, File, Owner};

const FILE: &str = "node.json";

/// What the number belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Device and inode of the database.
    pub identity: (u64, u64),
    /// Hash of the replica's URL.
    pub replica: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    id: String,
    #[serde(default)]
    previous: String,
    device: u64,
    inode: u64,
    replica: String,
    boot: String,
}

/// The number in the headers of this database's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node {
    /// Never 0, which Litestream writes.
    pub id: u64,
    /// The one before, or 0.
    pub previous: u64,
    /// The machine was started since a session last agreed with storage.
    pub rebooted: bool,
}

impl Record {
    fn new(id: u64, previous: u64, subject: Subject, boot: [u8; 16]) -> Record {
        Record {
            id: format!("{id:016x}"),
            previous: format!("{previous:016x}"),
            device: subject.identity.0,
            inode: subject.identity.1,
            replica: format!("{:016x}", subject.replica),
            boot: format!("{:032x}", u128::from_be_bytes(boot)),
        }
    }

    fn save(&self, dir: &Path, owner: Option<Owner>) -> Result<()> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        let path = dir.join(FILE);
        let tmp = path.with_extension("tmp");
        let file = File::open_private(&tmp, owner)?;
        file.set_len(0)?;
        file.write_all_at(&json, 0)?;
        file.sync()?;
        disk::rename(&tmp, &path)?;
        disk::sync_dir(dir)
    }
}

impl Node {
    /// The number recorded in `dir`, or a new one, durable on return.
    ///
    /// # Errors
    /// The record could not be read, or the new one not be made durable.
    pub(crate) fn of(
        dir: &Path,
        subject: Subject,
        random: &dyn Random,
        owner: Option<Owner>,
    ) -> Result<Node> {
        let boot = disk::boot_id();
        let found = disk::read(&dir.join(FILE))?;
        let found = found.and_then(|b| serde_json::from_slice::<Record>(&b).ok());
        if let Some(record) = found
            && let Ok(id @ 1..) = u64::from_str_radix(&record.id, 16)
        {
            let previous = u64::from_str_radix(&record.previous, 16).unwrap_or(0);
            let here = Record::new(id, previous, subject, boot);
            let same = Record { boot: record.boot.clone(), ..here.clone() } == record;
            if same {
                let rebooted = disk::knows_boot() && record.boot != here.boot;
                return Ok(Node { id, previous, rebooted });
            }
        }
        let id = random.next_u64().max(1);
        Record::new(id, 0, subject, boot).save(dir, owner)?;
        Ok(Node { id, previous: 0, rebooted: false })
    }

    /// Whether what is recorded in `dir` about single files was compared with
    /// storage in this boot.
    ///
    /// # Errors
    /// The record could not be read.
    pub(crate) fn is_settled(dir: &Path) -> Result<bool> {
        let found = disk::read(&dir.join(FILE))?;
        let found = found.and_then(|b| serde_json::from_slice::<Record>(&b).ok());
        let boot = format!("{:032x}", u128::from_be_bytes(disk::boot_id()));
        Ok(!disk::knows_boot() || found.is_none_or(|record| record.boot == boot))
    }

    /// As [`Node::wrote`], for a process that only reads the record in `dir`.
    ///
    /// # Errors
    /// The record could not be read.
    pub(crate) fn wrote_here(dir: &Path, node_id: u64) -> Result<bool> {
        let found = disk::read(&dir.join(FILE))?;
        let Some(record) = found.and_then(|b| serde_json::from_slice::<Record>(&b).ok()) else {
            return Ok(false);
        };
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
        let (id, previous) = (number(&record.id), number(&record.previous));
        Ok(Node { id, previous, rebooted: false }.wrote(node_id))
    }

    /// Whether a file with this node id was written from here.
    pub(crate) fn wrote(&self, node_id: u64) -> bool {
        node_id != 0 && [self.id, self.previous].contains(&node_id)
    }

    /// Storage and this database agree, and `newest` is the node id of the newest
    /// file there: until the next boot that is recorded file by file.
    ///
    /// # Errors
    /// The record could not be made durable.
    pub(crate) fn settle(
        self,
        dir: &Path,
        subject: Subject,
        newest: u64,
        random: &dyn Random,
        owner: Option<Owner>,
    ) -> Result<Node> {
        if !self.rebooted {
            return Ok(self);
        }
        let (id, previous) = if newest == self.id {
            (random.next_u64().max(1), self.id)
        } else {
            (self.id, self.previous)
        };
        Record::new(id, previous, subject, disk::boot_id()).save(dir, owner)?;
        Ok(Node { id, previous, rebooted: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededRandom;

    const SUBJECT: Subject = Subject { identity: (1, 2), replica: 3 };

    #[test]
    fn the_number_stays_with_its_database_and_replica() {
        let dir = tempfile::tempdir().unwrap();
        let random = SeededRandom::new(1);
        let of = |subject| Node::of(dir.path(), subject, &random, None).unwrap();
        let first = of(SUBJECT);
        assert!(first.id != 0 && !first.rebooted);
        assert_eq!(of(SUBJECT), first);
        let other = of(Subject { replica: 4, ..SUBJECT });
        assert_ne!(other.id, first.id);
        let moved = of(Subject { identity: (1, 9), replica: 4 });
        assert_ne!(moved.id, other.id);
        disk::write_private(&dir.path().join(FILE), b"{", None).unwrap();
        assert_ne!(of(SUBJECT).id, moved.id);
    }

    #[test]
    fn another_boot_is_noticed_until_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let random = SeededRandom::new(1);
        Record::new(77, 0, SUBJECT, [5; 16]).save(dir.path(), None).unwrap();
        let of = || Node::of(dir.path(), SUBJECT, &random, None).unwrap();
        let found = of();
        assert_eq!(found, Node { id: 77, previous: 0, rebooted: true });
        assert_eq!(of(), found);
        assert!(!Node::is_settled(dir.path()).unwrap());
        found.settle(dir.path(), SUBJECT, 5, &random, None).unwrap();
        assert!(Node::is_settled(dir.path()).unwrap());
        assert_eq!(of(), Node { id: 77, previous: 0, rebooted: false });
    }

    /// The original of a disk whose copy went on once took the copy's files for its own.
    #[test]
    fn a_number_that_was_used_is_replaced_in_the_next_boot() {
        let dir = tempfile::tempdir().unwrap();
        let random = SeededRandom::new(1);
        Record::new(77, 0, SUBJECT, [5; 16]).save(dir.path(), None).unwrap();
        let original = Node::of(dir.path(), SUBJECT, &random, None).unwrap();
        let copy = original.settle(dir.path(), SUBJECT, 77, &random, None).unwrap();
        assert!(copy.id != 77 && copy.wrote(77) && copy.wrote(copy.id));
        assert!(!original.wrote(copy.id) && !original.wrote(0));
    }
}
