//! What this machine knows about a database's replication, read from the files
//! of the processes that replicate it. No lock of theirs is touched.

use std::path::{Path, PathBuf};

use crate::capture::POSITION_FILE;
use crate::capture::Published;
use crate::capture::position::Position;
use crate::error::{ErrorKind, Result};
use crate::ltx::{HEADER_SIZE, Txid};
use crate::os::disk;
use crate::replica_client::{FileId, ReplicaClient};
use crate::shipped::Shipped;

/// The local state of a database that belongs to a replica.
pub(super) struct Local {
    dir: PathBuf,
}

impl Local {
    /// The local state in `dir`, if it is about the chain at `client`: storage
    /// has the file that was recorded last.
    ///
    /// # Errors
    /// Files or storage could not be read.
    pub(super) async fn find(dir: &Path, client: &dyn ReplicaClient) -> Result<Option<Local>> {
        let Some((txid, header)) = Shipped::load(dir)? else { return Ok(None) };
        let id = FileId { level: 0, min: txid, max: txid };
        match client.read(&id, 0, Some(HEADER_SIZE as u64)).await {
            Ok(found) if found[..] == header[..] => Ok(Some(Local { dir: dir.to_owned() })),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The newest transaction that storage acknowledged.
    ///
    /// # Errors
    /// The record could not be read.
    pub(super) fn replicated(&self) -> Result<Option<Txid>> {
        Ok(Shipped::load(&self.dir)?.map(|(txid, _)| txid))
    }

    /// What is captured; none while something is missing, or not known.
    ///
    /// # Errors
    /// The record could not be read.
    pub(super) fn captured(&self) -> Result<Option<Captured>> {
        let Some(bytes) = disk::read(&self.dir.join(POSITION_FILE))? else { return Ok(None) };
        // A record that is just being written is looked at again.
        let Ok(p) = Position::decode(&bytes) else { return Ok(None) };
        let follows =
            p.following && p.gap.is_none() && !p.dirty && p.snapshot_pending == Txid::NONE;
        Ok(follows.then_some(Captured(p)))
    }
}

/// The record of what is captured.
pub(super) struct Captured(Position);

impl Captured {
    /// The transaction that is sure to hold what was committed up to `published`,
    /// if that is captured.
    pub(super) fn target(&self, published: Option<Published>) -> Option<Txid> {
        let segment = self.0.segment;
        let txid = if segment.len > 0 { segment.txid } else { segment.txid.prev() };
        captured(&self.0, published).then_some(txid)
    }
}

/// A restart of the WAL adds one to the first salt.
fn captured(p: &Position, published: Option<Published>) -> bool {
    let Some(at) = published else { return true };
    let restarts = p.wal.salts[0].wrapping_sub(at.salt1);
    match restarts {
        0 => p.wal.frame >= at.mx_frame,
        n => n <= i32::MAX.unsigned_abs(),
    }
}
