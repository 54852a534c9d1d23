//! What the shipper and the rest of a database share.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::capture::segment::Segment;
use crate::ltx::Txid;

/// Whether the chain in storage and the local database are one history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum History {
    /// Storage was not asked yet.
    Unknown,
    /// They are; shipping goes on.
    Agreed,
    /// They are not; nothing is shipped. The text says why.
    Conflict(String),
}

/// A sealed segment on its way.
#[derive(Debug)]
pub(crate) struct Pending {
    pub segment: Segment,
    /// Wall-clock milliseconds of its oldest commit; 0: unknown.
    pub since_ms: u64,
}

/// The shipper's state, behind `Db::ship`.
#[derive(Debug)]
pub(crate) struct Ship {
    pub history: History,
    /// How often storage and this process agreed since the open.
    pub agreed: u64,
    pub pending: VecDeque<Arc<Pending>>,
    /// Page size of the chain in storage; 0: there is none, or it is not known yet.
    pub page_size: u32,
    /// Highest TXID that storage acknowledged, contiguously.
    pub acked: Txid,
    /// Highest TXID that was sealed or given to a snapshot.
    pub sealed_txid: Txid,
    /// A shipper task exists.
    pub running: bool,
    /// Its last attempt failed: it pauses, and commits do not end the pause.
    pub failing: bool,
    /// The database is closing: the shipper ends when it has nothing to do or fails.
    pub closing: bool,
    pub last_error: Option<String>,
    /// Something that the status shows changed since it was last written.
    pub changed: bool,
    /// Milliseconds since the epoch of the oldest commit in the snapshot under way.
    pub snapshot_since_ms: u64,
    /// Wall-clock milliseconds of the last acknowledgement.
    pub acked_at_ms: i64,
    /// The local state names this database and replica.
    pub trusted: bool,
}

impl Ship {
    pub(crate) fn new(trusted: bool) -> Self {
        Ship {
            history: History::Unknown,
            agreed: 0,
            pending: VecDeque::new(),
            page_size: 0,
            acked: Txid(0),
            sealed_txid: Txid(0),
            running: false,
            failing: false,
            closing: false,
            last_error: None,
            changed: true,
            snapshot_since_ms: 0,
            acked_at_ms: 0,
            trusted,
        }
    }
}
