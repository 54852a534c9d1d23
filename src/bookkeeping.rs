//! Keeps the page ledger of a database in step with storage. Its failures never
//! stop shipping: a ledger that stays behind is brought forward from storage,
//! one that is lost costs a full snapshot at the next gap.

use std::sync::Arc;

use crate::capture::segment::Segment;
use crate::db::{Db, replica_hash};
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::{self, Builder, Ledger};
use crate::log::Level;
use crate::ltx::{HEADER_SIZE, Header, Pgno, Txid, lock_pgno, page_checksum};
use crate::plan::{RestorePlan, Target, calc_restore_plan, list_levels};
use crate::replica_client::{FileId, FileInfo, ReplicaClient};
use crate::restore::{PageSink, ReplayOptions, replay_changes};
use crate::shipped::Shipped;
use crate::tasks::{self, Handle};

/// Stored bytes that are read to bring a ledger forward, and the share of the
/// database that may be read for it when that is more.
const FORWARD_BYTES_MAX: u64 = 16 << 20;
const FORWARD_SHARE: u64 = 4;

/// Storage acknowledged `file`, which was made from `segment` or, without one,
/// from the next ledger.
pub(crate) fn acknowledged(db: &Db, file: &Header, segment: Option<&Segment>) {
    if let Err(e) = try_acknowledged(db, file, segment) {
        db.log(Level::Warn, &format!("{e}; the page ledger stays behind for now"));
    }
}

fn try_acknowledged(db: &Db, file: &Header, segment: Option<&Segment>) -> Result<()> {
    let Some(segment) = segment else {
        return ledger::promote(&db.vfs_dir(), file).map(drop);
    };
    // The record still names the file before: it is written after this.
    let before = Shipped::load(&db.vfs_dir())?;
    let Some(mut ledger) = load(db)?.filter(|l| is_before(l, before, file)) else {
        return from_whole(db, file, segment);
    };
    ledger
        .apply(file, |put| segment.for_each_page(|pgno, page| put(pgno, page_checksum(pgno, page))))
}

/// Whether the ledger is of the state that `file` follows: that of the file `before`.
/// TXIDs alone do not tell one chain from another.
fn is_before(ledger: &Ledger, before: Option<(Txid, [u8; HEADER_SIZE])>, file: &Header) -> bool {
    ledger.txid().next() == file.min_txid
        && before.is_some_and(|(txid, raw)| txid == ledger.txid() && ledger.stems_from(&raw))
}

/// Another chain is joined, whose newest file is `newest`: a ledger of any other
/// state is of no use there.
pub(crate) fn join(db: &Db, newest: &Header) -> Result<()> {
    match load(db)? {
        Some(ledger) if !ledger.is_state_of(newest) => discard(db),
        _ => Ok(()),
    }
}

/// A segment that holds every page makes the ledger anew.
fn from_whole(db: &Db, file: &Header, segment: &Segment) -> Result<()> {
    let lock_page = u64::from(lock_pgno(file.page_size) <= file.commit);
    if segment.page_count() as u64 + lock_page != u64::from(file.commit) {
        return Ok(());
    }
    let Some(mut next) = begin_next(db) else { return Ok(()) };
    segment.for_each_page(|pgno, page| next.set(pgno, page_checksum(pgno, page)))?;
    next.finish(file)?;
    ledger::promote(&db.vfs_dir(), file).map(drop)
}

/// The ledger, if it can be believed; one that is damaged is removed.
fn load(db: &Db) -> Result<Option<Ledger>> {
    match Ledger::load(&db.vfs_dir(), replica_hash(&db.client)) {
        Err(e) if e.kind() == ErrorKind::Corrupt => {
            drop_damaged(db, &e)?;
            Ok(None)
        }
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            db.log(Level::Debug, &format!("{e}; going on without"));
            Ok(None)
        }
        other => other,
    }
}

fn drop_damaged(db: &Db, why: &Error) -> Result<()> {
    db.log(Level::Warn, &format!("{why}; the next gap costs a full snapshot"));
    ledger::discard(&db.vfs_dir())
}

/// Storage has not what the ledger says.
pub(crate) fn discard(db: &Db) -> Result<()> {
    ledger::discard(&db.vfs_dir())
}

/// At rest: what the ledger says survives a power loss.
pub(crate) fn settle(db: &Db) {
    let settled = match load(db) {
        Ok(Some(mut ledger)) => ledger.settle(),
        Ok(None) => Ok(()),
        Err(e) => Err(e),
    };
    if let Err(e) = settled {
        db.log(Level::Warn, &e.to_string());
    }
}

/// A builder for the next ledger; without room for one there is none.
pub(crate) fn begin_next(db: &Db) -> Option<Builder> {
    let begun = Builder::create(&db.vfs_dir(), replica_hash(&db.client), db.owner);
    begun.inspect_err(|e| no_room(db, e)).ok()
}

/// The next ledger cannot be written; storage gets its file all the same.
pub(crate) fn no_room(db: &Db, e: &Error) {
    db.log(Level::Warn, &format!("{e}; there is no page ledger for now"));
}

/// Whether the ledger trails what storage acknowledged.
pub(crate) fn trails(db: &Db, acked: Txid) -> bool {
    matches!(
        Ledger::peek(&db.vfs_dir(), replica_hash(&db.client)),
        Ok(Some(header)) if header.txid < acked
    )
}

/// The ledger of storage's state at `acked`, brought forward if it trails, every
/// entry checked. `None`: it cannot be had for less than a full snapshot.
pub(crate) async fn at(db: &Arc<Db>, acked: Txid) -> Option<Ledger> {
    let (db, rt) = (Arc::clone(db), Handle::current());
    let work = move || match bring(&db, &rt, acked) {
        Ok(found) => found,
        Err(e) => {
            db.log(Level::Warn, &format!("{e}; going on without the page ledger"));
            None
        }
    };
    tasks::spawn_blocking(work).await.ok().flatten()
}

fn bring(db: &Db, rt: &Handle, acked: Txid) -> Result<Option<Ledger>> {
    let Some(mut ledger) = load(db)? else { return Ok(None) };
    // Whose chain it is was asked of storage for this header.
    let shipped = Shipped::load(&db.vfs_dir())?.filter(|(txid, _)| *txid == acked);
    let Some((_, newest)) = shipped else { return Ok(None) };
    let newest = Header::decode(&newest)?;
    if ledger.txid() < acked {
        if !forward(db, rt, &mut ledger, &newest)? {
            return Ok(None);
        }
        let Some(brought) = load(db)? else { return Ok(None) };
        ledger = brought;
    }
    if !ledger.is_state_of(&newest) {
        return Ok(None);
    }
    if let Err(e) = ledger.check() {
        drop_damaged(db, &e)?;
        return Ok(None);
    }
    Ok(Some(ledger))
}

/// Replays what storage has beyond the ledger into a copy, which takes its place.
fn forward(db: &Db, rt: &Handle, ledger: &mut Ledger, newest: &Header) -> Result<bool> {
    let (from, acked) = (ledger.txid(), newest.max_txid);
    if ledger.header().applying > acked || !is_of_this_chain(db, rt, ledger)? {
        return Ok(false);
    }
    if ledger.header().applying == Txid::NONE
        && let Err(e) = ledger.check()
    {
        drop_damaged(db, &e)?;
        return Ok(false);
    }
    let plan = rt.block_on(files_after(&*db.client.client, from, acked))?;
    let h = ledger.header();
    let bytes = u64::from(h.commit) * u64::from(h.page_size);
    if plan.bytes() > FORWARD_BYTES_MAX.max(bytes / FORWARD_SHARE) {
        return Ok(false);
    }
    let next = Builder::copy(&db.vfs_dir(), ledger, db.owner)?;
    let mut sink = Forward { next, page_size: h.page_size };
    let client = Arc::clone(&db.client.client);
    let reached = replay_changes(client, rt, &plan, &ReplayOptions::default(), &mut sink)?;
    if (reached.commit, reached.page_size) != (newest.commit, newest.page_size) {
        return Ok(false);
    }
    sink.next.finish(newest)?;
    let done = ledger::promote(&db.vfs_dir(), newest)?;
    db.log(Level::Info, &format!("page ledger brought forward from TXID {from} to {acked}"));
    Ok(done)
}

/// Whether storage's file of the ledger's TXID is the one that the ledger stems from.
fn is_of_this_chain(db: &Db, rt: &Handle, ledger: &Ledger) -> Result<bool> {
    let id = FileId { level: 0, min: ledger.txid(), max: ledger.txid() };
    match rt.block_on(db.client.read(&id, 0, Some(HEADER_SIZE as u64))) {
        Ok(bytes) => Ok(<&[u8; HEADER_SIZE]>::try_from(&bytes[..])
            .is_ok_and(|header| ledger.stems_from(header))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// The files that lead from `from` to `to`: those of level 0 if they are all there.
pub(crate) async fn files_after(
    client: &dyn ReplicaClient,
    from: Txid,
    to: Txid,
) -> Result<RestorePlan> {
    let mut files: Vec<FileInfo> = client.list(0, from.next(), false).await?;
    files.retain(|f| f.id.max <= to);
    let mut at = from;
    let whole = files.iter().all(|f| f.id.min == std::mem::replace(&mut at, f.id.max).next());
    if whole && at == to {
        return Ok(RestorePlan { files });
    }
    let levels = list_levels(client, false).await?;
    let mut plan = calc_restore_plan(&levels, Target::Txid(to))?;
    plan.files.retain(|f| f.id.max > from);
    Ok(plan)
}

struct Forward {
    next: Builder,
    page_size: u32,
}

impl PageSink for Forward {
    fn begin(&mut self, page_size: u32, _: Pgno) -> Result<()> {
        if page_size == self.page_size {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, "the page size of the replica changed"))
    }

    fn page(&mut self, pgno: Pgno, data: &[u8]) -> Result<()> {
        self.next.set(pgno, page_checksum(pgno, data))
    }
}

impl Db {
    /// Litestream's checksum of the database at the newest TXID that storage
    /// acknowledged, and that TXID; none while there is no ledger of it.
    pub fn replicated_checksum(&self) -> Option<(Txid, u64)> {
        let (acked, _) = Shipped::load(&self.vfs_dir()).ok().flatten()?;
        let state = Ledger::peek(&self.vfs_dir(), replica_hash(&self.client)).ok().flatten()?;
        (state.txid == acked).then(|| (acked, state.totals.checksum.value()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_of_another_chain_is_not_continued() {
        let tmp = tempfile::tempdir().unwrap();
        let file = |txid: u64, node_id: u64| Header {
            node_id,
            ..Header::new(512, 2, Txid(txid), Txid(txid), 1)
        };
        let (ours, theirs) = (file(5, 1), file(5, 2));
        let mut next = Builder::create(tmp.path(), 7, None).unwrap();
        for pgno in 1..=2 {
            next.set(pgno, u64::from(pgno)).unwrap();
        }
        next.finish(&ours).unwrap();
        assert!(ledger::promote(tmp.path(), &ours).unwrap());
        let ledger = Ledger::load(tmp.path(), 7).unwrap().unwrap();
        let record = |h: &Header| Some((h.max_txid, h.encode()));
        assert!(is_before(&ledger, record(&ours), &file(6, 1)));
        assert!(!is_before(&ledger, record(&theirs), &file(6, 1)));
        assert!(!is_before(&ledger, record(&file(6, 1)), &file(6, 1)));
        assert!(!is_before(&ledger, None, &file(6, 1)));
        assert!(!is_before(&ledger, record(&ours), &file(7, 1)));
    }
}
