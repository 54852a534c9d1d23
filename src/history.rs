//! Whose history is it? Where the chain in storage stands is asked of storage
//! and reconciled with what this machine knows; local state alone is never
//! trusted, and without any the database is compared with the chain.

use std::sync::Arc;

use crate::capture::{Capture, Gap, Outcome, Published};
use crate::db::{Db, History, Pending, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::Sums;
use crate::log::Level;
use crate::ltx::{HEADER_SIZE, Header, Pgno, Txid, page_checksum};
use crate::node::Node;
use crate::pages::{Origin, Pages};
use crate::replica::{acknowledge, conflict, prepared_equals, stored_header_is};
use crate::replica_client::{FileId, FileInfo, ReplicaClient, SNAPSHOT_LEVEL};
use crate::restore::PageSet;
use crate::shipped::{self, Shipped};
use crate::{bookkeeping, snapshot, tasks};

mod compare;

use compare::compare;

/// Checksums of every page of the database as it was first opened.
#[derive(Debug)]
pub(crate) struct Baseline {
    page_size: u32,
    commit: Pgno,
    sums: Sums,
    /// Pages captured before this state, if it is not the one that capture began at.
    written: Option<PageSet>,
    /// [`Capture::begun`] when it was looked at.
    begun: u64,
}

/// How the chain in storage and what is captured here go together.
enum Standing {
    /// They do not, and that is recorded.
    Conflict,
    /// They do as far as local state proves it, or a gap was declared.
    Known,
    /// The state that capture began at, this many beginnings ago at most, is the
    /// newest one there.
    Equal(u64),
}

/// Name, for a moment, of the file that holds them.
const BASELINE_FILE: &str = "baseline.tmp";

/// The newest file of the chain at or after `seek` on level 0, or of any level.
pub(crate) async fn newest(
    client: &(impl ReplicaClient + ?Sized),
    seek: Txid,
) -> Result<Option<FileInfo>> {
    let by_max = |files: Vec<FileInfo>| files.into_iter().max_by_key(|f| f.id.max);
    if seek > Txid(1)
        && let Some(found) = by_max(client.list(0, seek, false).await?)
    {
        return Ok(Some(found));
    }
    let lists = (0..=SNAPSHOT_LEVEL).map(|level| client.list(level, Txid(0), false));
    let mut newest: Option<FileInfo> = None;
    for files in futures_util::future::join_all(lists).await {
        let found = by_max(files?);
        if found.map(|f| f.id.max) > newest.map(|f| f.id.max) {
            newest = found;
        }
    }
    Ok(newest)
}

/// The end of the chain when its files are asked for by name: a listing can be
/// older than they are, and after a power loss nothing here remembers the last
/// ones, which would be taken for somebody else's.
async fn beyond(db: &Db, listed: Option<FileInfo>) -> Result<Option<FileInfo>> {
    let mut found = listed;
    loop {
        let next = found.map_or(Txid(1), |file| file.id.max.next());
        let id = FileId { level: 0, min: next, max: next };
        match db.client.read_prefix(&id, Some(HEADER_SIZE as u64)).await {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(found),
            Err(e) => return Err(e),
            Ok(piece) => {
                let created_at_ms = Header::decode(&piece.bytes)?.timestamp_ms;
                found = Some(FileInfo { id, size: piece.size, created_at_ms });
            }
        }
    }
}

/// Decides whether shipping goes on, and from which TXID.
pub(crate) async fn reconcile(db: &Arc<Db>) -> Result<()> {
    let dir = db.vfs_dir();
    know_node(db).await?;
    let known = Shipped::load(&dir)?;
    let trusted = lock(&db.ship).trusted;
    let seek = known.filter(|_| trusted).map_or(Txid(1), |(txid, _)| txid);
    let mut found = newest(&*db.client.client, seek).await?;
    if lock(&db.node).is_some_and(|node| node.rebooted) {
        found = beyond(db, found).await?;
    }
    let mut equal = None;
    let acked = match (found, known.filter(|_| trusted)) {
        (None, None) => fresh(db)?,
        (None, Some((txid, header))) => {
            if stored(db, txid, &header).await? {
                return Err(stale_listing(db, txid));
            }
            let acked = behind(db, Txid(0), txid)?;
            // Other processes believe what is recorded.
            let held = db.hold_shipper().ok_or_else(|| taken_over(db))?;
            shipped::forget(&dir)?;
            drop(held);
            acked
        }
        (Some(file), Some((txid, header))) => {
            if !advance(db, file, txid, &header).await? {
                return Ok(());
            }
            lock(&db.ship).acked
        }
        (Some(file), None) => {
            match join(db, file, trusted).await? {
                Standing::Conflict => return Ok(()),
                Standing::Known => {}
                Standing::Equal(begun) => equal = Some(begun),
            }
            file.id.max
        }
    };
    agree(db, acked, equal)?;
    settle(db).await
}

/// Once storage and this database agree: only now may other processes believe what
/// is recorded. Called until it is done, before anything else is shipped.
pub(crate) async fn settle(db: &Arc<Db>) -> Result<()> {
    let node = *lock(&db.node);
    if node.is_some_and(|n| n.rebooted) {
        let for_settle = Arc::clone(db);
        let settled = tasks::spawn_blocking(move || {
            let db = for_settle;
            let dir = db.vfs_dir();
            let held = db.hold_shipper().ok_or_else(|| taken_over(&db))?;
            // Another process that shipped meanwhile may have done it.
            let node = Node::of(&dir, db.subject(), &*db.random, db.owner)?;
            let newest = Shipped::load(&dir)?.and_then(|(_, h)| Header::decode(&h).ok());
            let newest = newest.map_or(0, |h| h.node_id);
            let settled = node.settle(&dir, db.subject(), newest, &*db.random, db.owner);
            drop(held);
            settled
        })
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "recording the boot failed").with_source(e))?;
        *lock(&db.node) = Some(settled?);
    }
    Ok(())
}

/// The number that files from here carry, durable before the first of them.
async fn know_node(db: &Arc<Db>) -> Result<()> {
    let for_read = Arc::clone(db);
    let node = tasks::spawn_blocking(move || {
        let db = for_read;
        Node::of(&db.vfs_dir(), db.subject(), &*db.random, db.owner)
    })
    .await
    .map_err(|e| Error::new(ErrorKind::Internal, "reading the node id failed").with_source(e))??;
    *lock(&db.node) = Some(node);
    Ok(())
}

/// After a boot that local state did not survive: whether the newest file there
/// was written from here. The chain then goes on from it, with whatever the
/// database differs by now.
async fn take_up(db: &Arc<Db>, file: FileInfo) -> Result<bool> {
    let Some(node) = *lock(&db.node) else { return Ok(false) };
    let newest = header_of(db, file).await?;
    if !node.rebooted || !node.wrote(newest.node_id) {
        return Ok(false);
    }
    db.log(
        Level::Warn,
        &format!(
            "the machine was started anew and storage has more than is recorded here: going on \
             after TXID {}, which was written from here",
            file.id.max
        ),
    );
    with_capture(db, |capture| match capture.gap() {
        None => db.declare_gap(capture, Gap::Rewind),
        Some(_) => Ok(()),
    })?;
    drop_pending(db)?;
    save_newest(db, &newest)?;
    let mut ship = lock(&db.ship);
    (ship.acked, ship.page_size) = (file.id.max, newest.page_size);
    Ok(true)
}

/// No chain yet: what was captured since the open is part of the first snapshot.
fn fresh(db: &Arc<Db>) -> Result<Txid> {
    // The gap first: what is dropped after it is not missed.
    with_capture(db, |capture| capture.declare_gap(Gap::First))?;
    drop_pending(db)?;
    bookkeeping::discard(db)?;
    Ok(Txid(0))
}

/// Whether storage has the file that was written from here with this header.
async fn stored(db: &Db, txid: Txid, header: &[u8; HEADER_SIZE]) -> Result<bool> {
    let id = FileId { level: 0, min: txid, max: txid };
    match stored_header_is(db, &id, header).await {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        other => other,
    }
}

/// The listing does not have what can be read: it is out of date.
fn stale_listing(db: &Db, txid: Txid) -> Error {
    Error::new(
        ErrorKind::Transient,
        format!(
            "the listing of {} lacks TXID {txid}, which is there: asking again",
            db.client.url()
        ),
    )
}

/// Storage has less than it acknowledged: the chain goes on from what it has.
fn behind(db: &Arc<Db>, has: Txid, known: Txid) -> Result<Txid> {
    db.log(
        Level::Error,
        &format!(
            "storage at {} acknowledged TXID {known} and now has {has}: files were removed there. \
             A snapshot repairs the chain",
            db.client.url()
        ),
    );
    with_capture(db, |capture| db.declare_gap(capture, Gap::StorageBehind))?;
    drop_pending(db)?;
    bookkeeping::discard(db)?;
    Ok(has)
}

/// What is decided here has to be recorded, or is decided again later.
pub(crate) fn with_capture<T>(db: &Db, work: impl FnOnce(&mut Capture) -> Result<T>) -> Result<T> {
    let mut guard = db.capture();
    match guard.as_mut() {
        Some(capture) => work(capture),
        None => Err(not_now(db)),
    }
}

/// The capture state could not be had: another process captures, or its record
/// cannot be read or written.
pub(crate) fn not_now(db: &Db) -> Error {
    Error::new(ErrorKind::Transient, format!("{} cannot be captured just now", db.path.display()))
}

fn drop_pending(db: &Arc<Db>) -> Result<()> {
    let dropped: Vec<Arc<Pending>> = lock(&db.ship).pending.drain(..).collect();
    for p in dropped {
        crate::os::disk::remove_file(p.segment.path())?;
    }
    Ok(())
}

/// Local state knows TXID `known`; storage may have it, more of ours, less, or
/// somebody else's. False: a conflict was recorded.
async fn advance(
    db: &Arc<Db>,
    file: FileInfo,
    known: Txid,
    header: &[u8; HEADER_SIZE],
) -> Result<bool> {
    let max = file.id.max;
    if max < known && stored(db, known, header).await? {
        return Err(stale_listing(db, known));
    }
    if max < known {
        behind(db, max, known)?;
        // Other processes believe what is recorded.
        remember_newest(db, file).await?;
        lock(&db.ship).acked = max;
        return Ok(true);
    }
    let id = FileId { level: 0, min: known, max: known };
    match stored_header_is(db, &id, header).await {
        Ok(true) => {}
        Ok(false) => {
            return rejoin(db, file, "the newest file there is not the one written from here")
                .await;
        }
        // Files of level 0 do not stay for ever; those after it tell whose chain it is.
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    lock(&db.ship).acked = known;
    let mut at = known;
    while at < max {
        at = at.next();
        if !own(db, at).await? {
            return rejoin(db, file, "it went on without this database").await;
        }
    }
    Ok(true)
}

/// Somebody else extended the chain while this database was closed (Litestream's
/// daemon, say). If the database, as it was first read, is the newest state
/// there, both went on together and the chain continues with a snapshot.
async fn rejoin(db: &Arc<Db>, file: FileInfo, why: &str) -> Result<bool> {
    if take_up(db, file).await? {
        return Ok(true);
    }
    let task = lock(&db.baseline).take();
    let baseline = match task {
        Some(task) => task.await.ok().flatten(),
        None => None,
    };
    let Some(baseline) = baseline else { return differ(db, file, why).await };
    if let Some(difference) = compare(db, file, baseline).await? {
        return differ(db, file, &format!("{why}, and {difference}")).await;
    }
    with_capture(db, |capture| match capture.gap() {
        None => db.declare_gap(capture, Gap::Unproven),
        Some(_) => Ok(()),
    })?;
    drop_pending(db)?;
    remember_newest(db, file).await?;
    lock(&db.ship).acked = file.id.max;
    Ok(true)
}

/// Acknowledges file `txid` if it was written from here and the answer was lost.
async fn own(db: &Arc<Db>, txid: Txid) -> Result<bool> {
    let pending = lock(&db.ship).pending.iter().find(|p| p.segment.txid() == txid).map(Arc::clone);
    if let Some(pending) = pending {
        return match prepared_equals(db, pending.clone()).await? {
            Some(header) => acknowledge(db, header, Some(&pending)).await.map(|()| true),
            None if own_snapshot(db, txid).await? => {
                // It was given up and came late: what was sealed instead is not on top of it.
                with_capture(db, |c| db.declare_gap(c, Gap::SnapshotInterrupted))?;
                drop_pending(db)?;
                Ok(true)
            }
            None => Ok(false),
        };
    }
    own_snapshot(db, txid).await
}

async fn own_snapshot(db: &Arc<Db>, txid: Txid) -> Result<bool> {
    let id = FileId { level: 0, min: txid, max: txid };
    let attempts = shipped::attempts(&db.vfs_dir())?;
    for (i, header) in attempts.iter().enumerate() {
        match stored_header_is(db, &id, header).await {
            Ok(true) => {
                let newest = i + 1 == attempts.len();
                let follows = with_capture(db, |capture| {
                    let from = capture.position().following && snapshot_is(capture, txid);
                    if newest && from {
                        return Ok(true);
                    }
                    not_on_top(db, capture).map(|()| false)
                })?;
                acknowledge(db, Header::decode(header)?, None).await?;
                if follows {
                    with_capture(db, Capture::snapshot_done)?;
                }
                return Ok(true);
            }
            Ok(false) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    if let Some(header) = forgotten_attempt(db, &id, &attempts).await? {
        with_capture(db, |capture| not_on_top(db, capture))?;
        acknowledge(db, header, None).await?;
        return Ok(true);
    }
    Ok(false)
}

/// What is captured goes on from another state than that of the snapshot which
/// storage turned out to have. Recorded before the snapshot is: a crash between
/// them leaves the gap.
pub(crate) fn not_on_top(db: &Db, capture: &mut Capture) -> Result<()> {
    match capture.gap() {
        None => db.declare_gap(capture, Gap::SnapshotInterrupted),
        Some(_) => Ok(()),
    }
}

/// The header of stored file `id` when it is one of so many attempts of ours
/// that it is not remembered: storage was away for long, and one of them had
/// come there. Its node id is this database's own.
pub(crate) async fn forgotten_attempt(
    db: &Db,
    id: &FileId,
    attempts: &[[u8; HEADER_SIZE]],
) -> Result<Option<Header>> {
    if !shipped::forgot_attempts(attempts) {
        return Ok(None);
    }
    let bytes = match db.client.read(id, 0, Some(HEADER_SIZE as u64)).await {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let header = Header::decode(&bytes)?;
    let node = *lock(&db.node);
    Ok(node.is_some_and(|n| n.wrote(header.node_id)).then_some(header))
}

fn snapshot_is(capture: &crate::capture::Capture, txid: Txid) -> bool {
    capture.position().snapshot_pending == txid
}

/// No file there is known to be ours: it may be our first one, whose answer was
/// lost, or a chain that this database was restored from, or a stranger.
async fn join(db: &Arc<Db>, file: FileInfo, trusted: bool) -> Result<Standing> {
    if trusted && own(db, file.id.max).await? {
        return Ok(Standing::Known);
    }
    if take_up(db, file).await? {
        return Ok(Standing::Known);
    }
    let adopted = |adopted| if adopted { Standing::Known } else { Standing::Conflict };
    let baseline = baseline(db).await?;
    let Some(baseline) = baseline else {
        let why = "the database could not be read to compare them";
        return differ(db, file, why).await.map(adopted);
    };
    let (later, begun) = (baseline.written.is_some(), baseline.begun);
    if let Some(why) = compare(db, file, baseline).await? {
        return differ(db, file, &why).await.map(adopted);
    }
    let equal = if later { "continues" } else { "equals" };
    db.log(
        Level::Info,
        &format!("the database {equal} the replica's TXID {}; going on", file.id.max),
    );
    remember_newest(db, file).await?;
    // Whether what others captured begins at the state that was compared cannot
    // be told: what the next file must hold is found by comparing once more.
    Ok(if later { Standing::Known } else { Standing::Equal(begun) })
}

/// Keeps the header of a joined chain's newest file, so that the next open
/// recognises it without another comparison.
async fn remember_newest(db: &Arc<Db>, file: FileInfo) -> Result<()> {
    let header = header_of(db, file).await?;
    save_newest(db, &header)
}

/// Records the newest file. What was found out meanwhile counts for nothing when
/// another process ships by now: it may have recorded more.
pub(crate) fn save_newest(db: &Db, header: &Header) -> Result<()> {
    let held = db.hold_shipper().ok_or_else(|| taken_over(db))?;
    Shipped::new(header).save(&db.vfs_dir(), db.owner)?;
    drop(held);
    Ok(())
}

fn taken_over(db: &Db) -> Error {
    Error::new(
        ErrorKind::Transient,
        format!("{} was closed or taken over while storage was asked", db.path.display()),
    )
}

async fn header_of(db: &Arc<Db>, file: FileInfo) -> Result<Header> {
    let bytes = db.client.read(&file.id, 0, Some(HEADER_SIZE as u64)).await?;
    Header::decode(&bytes)
}

/// The replica holds another history. With `adopt` the local database becomes
/// its next state; otherwise nothing is shipped.
async fn differ(db: &Arc<Db>, file: FileInfo, why: &str) -> Result<bool> {
    let max = file.id.max;
    if db.config.adopt {
        let newest = header_of(db, file).await?;
        db.log(
            Level::Warn,
            &format!("the replica differs ({why}); the local database is adopted after TXID {max}"),
        );
        with_capture(db, |capture| db.declare_gap(capture, Gap::Adopted))?;
        drop_pending(db)?;
        // What the local database is to differ from, in the ledger: the chain's, or none.
        bookkeeping::join(db, &newest)?;
        save_newest(db, &newest)?;
        let mut ship = lock(&db.ship);
        (ship.acked, ship.page_size) = (max, newest.page_size);
        return Ok(true);
    }
    conflict(
        db,
        format!(
            "{} already holds a chain up to TXID {max} that is not the history of {}: {why}. \
             Nothing is shipped. Give this database a URL of its own, restore the chain over it, \
             or open it with adopt=1 to make it the next state of that chain",
            db.client.url(),
            db.path.display()
        ),
    );
    Ok(false)
}

/// From here on local state proves how the chain goes on. `equal`: the state that
/// capture began at was compared; see [`Standing::Equal`].
pub(crate) fn agree(db: &Arc<Db>, acked: Txid, equal: Option<u64>) -> Result<()> {
    // Whoever took over goes by the record that is changed here.
    let held = db.hold_shipper().ok_or_else(|| taken_over(db))?;
    let stored = Shipped::load(&db.vfs_dir())?;
    let newest_attempt = shipped::attempts(&db.vfs_dir())?.pop();
    let pending = snapshot::pending(db);
    let landed =
        stored.is_some_and(|(txid, header)| txid == pending && Some(header) == newest_attempt);
    let mut guard = db.capture();
    if guard.is_none() {
        return Err(not_now(db));
    }
    let (acked, shipped, kept, whole) = {
        let ship = lock(&db.ship);
        let acked = ship.acked.max(acked);
        // Files that storage has: a crash came between its answer and their removal.
        let shipped = ship.pending.iter().take_while(|p| p.segment.txid() <= acked).count();
        let kept = ship.pending.len() - shipped;
        let whole = ship.pending.get(shipped).is_none_or(|p| p.segment.txid() == acked.next());
        (acked, shipped, if whole { kept } else { 0 }, whole)
    };
    // One that is not the snapshot just stored may come there yet, and only the
    // next repair finds out.
    let doubtful = shipped::is_doubtful(&db.vfs_dir(), acked, None)?;
    let after = Txid(acked.0.saturating_add(kept as u64));
    let page_size = stored.and_then(|(_, h)| Header::decode(&h).ok()).map_or(0, |h| h.page_size);
    // What can fail comes first: only then is anything sealed or shipped.
    if let Some(capture) = guard.as_mut() {
        if !whole {
            db.declare_gap(capture, Gap::SpoolDamaged)?;
        } else if landed && !doubtful && capture.gap().is_none() {
            capture.snapshot_done()?;
        } else if (pending != Txid(0) || doubtful) && capture.gap().is_none() {
            db.declare_gap(capture, Gap::SnapshotInterrupted)?;
        }
        if capture.gap().is_none() && !is_proven(capture, equal) {
            db.declare_gap(capture, if acked == Txid(0) { Gap::First } else { Gap::Unproven })?;
        }
        capture.rebase(after.next())?;
    }
    let dropped: Vec<_> = {
        let mut ship = lock(&db.ship);
        ship.acked = acked;
        ship.sealed_txid = after;
        if ship.page_size == 0 && acked > Txid(0) {
            ship.page_size = page_size;
        }
        ship.history = History::Agreed;
        // The record goes by the chain now: asked again, storage is asked for what
        // was sent from here, and not compared with a state of long ago.
        ship.trusted = true;
        ship.agreed += 1;
        ship.changed = true;
        let count = if whole { shipped } else { ship.pending.len() };
        ship.pending.drain(..count).collect()
    };
    drop(guard);
    for p in dropped {
        crate::os::disk::remove_file(p.segment.path())?;
    }
    drop(held);
    db.ship_signal.notify_all();
    Ok(())
}

/// Whether what is captured goes on from the chain's newest state. While storage
/// has not been asked whoever opens the database may begin to follow it anew,
/// also where a gap was declared a moment ago: only what is found with the
/// record held, when that comes to its end, is known.
fn is_proven(capture: &Capture, equal: Option<u64>) -> bool {
    let same = equal.is_some_and(|begun| begun == capture.begun());
    !capture.position().unknown_chain || (same && !capture.is_shared())
}

/// The record was begun anew while this process ships, because its directory went:
/// storage is known here, what was captured is not.
pub(crate) fn reclaim(db: &Db, capture: &mut Capture) -> Result<()> {
    let sealed = {
        let ship = lock(&db.ship);
        if ship.history != History::Agreed || !capture.position().unknown_chain {
            return Ok(());
        }
        ship.sealed_txid
    };
    db.declare_gap(capture, Gap::SpoolDamaged)?;
    capture.rebase(sealed.next())
}

impl Db {
    /// At the first read after an open without local state: starts to follow
    /// the WAL from here, and notes what the database looks like, so that it can
    /// be compared with a chain even when the application writes on. Only the
    /// record tells whether there is local state: another process can have begun
    /// it a moment ago, and what follows already is never begun again.
    pub(crate) fn begin_baseline(self: &Arc<Self>) {
        let mut guard = self.capture();
        let Some(capture) = guard.as_mut() else { return };
        // Whoever follows, in whatever process, is not to be made to begin anew.
        if capture.gap().is_none() {
            return;
        }
        let trusted = !capture.position().unknown_chain;
        let pages = match Pages::pin(self) {
            Ok(pages) => pages,
            Err(e) => {
                self.log(Level::Debug, &format!("no baseline: {e}"));
                return;
            }
        };
        // With local state a gap stays one: it gets its snapshot in any case.
        if !trusted && let Err(e) = capture.follow_from(&pages.header, Txid(0), Txid(1)) {
            self.log(Level::Debug, &format!("no baseline: {e}"));
            // Without a baseline the shipper compares later, or takes a snapshot.
            let _ = capture.declare_gap(Gap::First);
            return;
        }
        let begun = capture.begun();
        drop(guard);
        let db = Arc::clone(self);
        let Some(store) = self.store.upgrade() else { return };
        let task = store.spawn_blocking(move || match checksums(&db, pages, None, begun) {
            Ok(baseline) => Some(baseline),
            Err(e) => {
                db.log(Level::Debug, &format!("no baseline: {e}"));
                None
            }
        });
        *lock(&self.baseline) = task.ok();
    }

    /// At an open without local state beside a chain in storage: notes what a
    /// database outside WAL mode looks like, in the caller's thread. A read lock
    /// in the background would be in the way of its first commit.
    pub(crate) fn begin_baseline_at_rest(self: &Arc<Self>) {
        match self.try_baseline_at_rest() {
            Ok(Some(found)) => {
                let Some(store) = self.store.upgrade() else { return };
                *lock(&self.baseline) = store.spawn_blocking(move || Some(found)).ok();
            }
            Ok(None) => {}
            Err(e) => {
                self.log(Level::Debug, &format!("no baseline: {e}"));
                // Without one the shipper compares later.
                if let Some(capture) = self.capture().as_mut() {
                    let _ = capture.declare_gap(Gap::First);
                }
            }
        }
    }

    fn try_baseline_at_rest(self: &Arc<Self>) -> Result<Option<Baseline>> {
        if snapshot::in_wal_mode(self)? {
            return Ok(None);
        }
        let mut guard = self.capture();
        let Some(capture) = guard.as_mut() else { return Ok(None) };
        if capture.gap().is_none() || !capture.position().unknown_chain {
            return Ok(None);
        }
        let pages = follow_at_rest(self, capture)?;
        let begun = capture.begun();
        drop(guard);
        checksums(self, pages, None, begun).map(Some)
    }
}

/// Follows from the database file as it is; the pages fail if it is written
/// while they are read.
fn follow_at_rest(db: &Arc<Db>, capture: &mut Capture) -> Result<Pages> {
    let pages = Pages::closed(db)?;
    capture.follow_from(&pages.header, Txid(0), Txid(1))?;
    if let Origin::Closed(mark) = pages.origin() {
        capture.set_clean(Some(mark))?;
    }
    Ok(pages)
}

/// The pages that were captured between the first read, by another process, and
/// the state `pages`; none when nobody follows, so that one may begin there.
fn written(capture: &mut Capture, pages: &Pages) -> Option<PageSet> {
    if capture.gap().is_some() {
        return None;
    }
    let (salt1, mx_frame) = (pages.header.salts[0], pages.header.mx_frame);
    if capture.capture_to(Published { salt1, mx_frame }).ok()? != Outcome::UpToDate {
        return None;
    }
    let mut set = PageSet::default();
    for pgno in capture.open_page_numbers()? {
        set.insert(pgno);
    }
    Some(set)
}

fn checksums(db: &Db, pages: Pages, written: Option<PageSet>, begun: u64) -> Result<Baseline> {
    let sums = Sums::scratch(&db.vfs_dir().join(BASELINE_FILE), db.owner)?;
    let (page_size, commit) = (pages.header.page_size, pages.header.n_page);
    let mut b = Baseline { page_size, commit, sums, written, begun };
    pages.for_each(|pgno, page| b.sums.set(pgno, page_checksum(pgno, page)).map(drop))?;
    Ok(b)
}

async fn baseline(db: &Arc<Db>) -> Result<Option<Baseline>> {
    let task = lock(&db.baseline).take();
    if let Some(task) = task
        && let Ok(Some(found)) = task.await
    {
        return Ok(Some(found));
    }
    // The first read gave none: the present state is what there is to compare.
    let db = Arc::clone(db);
    let now = tasks::spawn_blocking(move || {
        let mut guard = db.capture();
        let Some(capture) = guard.as_mut() else { return Ok(None) };
        let open = db.connections.load(std::sync::atomic::Ordering::Acquire) > 0;
        let pages = if (open && snapshot::in_wal_mode(&db)?) || Pages::at_rest(&db)?.is_none() {
            let pages = Pages::pin(&db)?;
            let written = written(capture, &pages);
            if written.is_none() {
                capture.follow_from(&pages.header, Txid(0), Txid(1))?;
            }
            let begun = capture.begun();
            drop(guard);
            return checksums(&db, pages, written, begun).map(Some);
        } else {
            follow_at_rest(&db, capture)?
        };
        let begun = capture.begun();
        drop(guard);
        checksums(&db, pages, None, begun).map(Some)
    });
    now.await.map_err(|e| {
        Error::new(ErrorKind::Internal, "reading the database failed").with_source(e)
    })?
}
