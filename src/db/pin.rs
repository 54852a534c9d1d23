//! The read transaction of ours on a database, at most one at a time, that
//! gives way at once when the host wants the file for itself.

use std::sync::Mutex;

use crate::db::lock;
use crate::error::{Error, ErrorKind, Result};
use crate::host::{PinnedReader, WalIndexHeader};

/// Holds the pinned reader; its user reads through here so that a host thread
/// can take it away between two reads.
#[derive(Default)]
pub(crate) struct Pin(Mutex<Slot>);

#[derive(Default)]
struct Slot {
    reader: Option<Box<dyn PinnedReader>>,
    /// Counts pins, so that a user notices that his is gone.
    ticket: u64,
}

impl Pin {
    /// Puts a reader in, ending any other.
    pub(crate) fn set(&self, reader: Box<dyn PinnedReader>) -> (u64, WalIndexHeader) {
        let header = reader.header();
        let mut slot = lock(&self.0);
        slot.ticket += 1;
        slot.reader = Some(reader);
        (slot.ticket, header)
    }

    /// Reads from the database file under pin `ticket`.
    pub(crate) fn read_at(&self, ticket: u64, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut slot = lock(&self.0);
        let current = slot.ticket == ticket;
        match &mut slot.reader {
            Some(reader) if current => reader.read_at(buf, offset),
            _ => Err(gone()),
        }
    }

    /// Whether pin `ticket` still holds.
    pub(crate) fn holds(&self, ticket: u64) -> bool {
        let slot = lock(&self.0);
        slot.ticket == ticket && slot.reader.is_some()
    }

    /// Ends pin `ticket`.
    pub(crate) fn release(&self, ticket: u64) {
        let mut slot = lock(&self.0);
        if slot.ticket == ticket {
            slot.reader = None;
        }
    }

    /// Ends whatever pin there is: the host wants the file exclusively.
    pub(crate) fn yield_now(&self) {
        lock(&self.0).reader = None;
    }
}

fn gone() -> Error {
    Error::new(
        ErrorKind::Transient,
        "reading the database was interrupted because its application wanted it exclusively",
    )
}
