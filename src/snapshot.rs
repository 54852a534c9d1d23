//! The answer to a gap: what the next file must hold so that the chain ends
//! with the database's present state. With a page ledger these are the pages
//! that differ from what storage has; without one, and at the beginning of a
//! chain, all. Either streams from the database to storage and is never staged
//! on disk.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::capture::Gap;
use crate::capture::frames::WAL_HEADER_SIZE;
use crate::db::status::Repair;
use crate::db::{Db, History, lock};
use crate::difference::{self, Found};
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::Ledger;
use crate::log::Level;
use crate::ltx::{Encoder, Header, PageForm, Txid, lock_pgno, page_checksum};
use crate::os::disk;
use crate::pages::{Origin, Pages, page_size_of};
use crate::replica::{acknowledge, conflict, stored_attempt, stored_header_is};
use crate::replica_client::{Body, ByteStream, FileId, ReplicaClient, WriteMode};
use crate::restore::PageSet;
use crate::sibling::{self, Sibling};
use crate::spill::{Growth, Room, Spill};
use crate::stream::ChunkWriter;
use crate::{backfill, bookkeeping, history, shipped, tasks};

/// A state that capture follows from and storage shall have.
struct Begun {
    header: Header,
    reason: Gap,
    content: Content,
    /// Pages compared with the ledger; 0 without one.
    compared: u64,
    /// Pages in the file.
    pages: u64,
}

/// What the file holds.
enum Content {
    /// Storage has this state: there is no file.
    Nothing,
    /// It is encoded.
    Encoded(Bytes),
    /// All pages, or those of the set, to be read while they are sent.
    Stream(Pages, Option<PageSet>),
}

/// What there is to bring storage to.
enum State {
    Still(Box<Begun>),
    /// That of a database which can only be gathered while it changes.
    Moving(Option<Box<Ledger>>),
    /// The capture state could not be had just now.
    Busy,
    /// The database is empty, or nothing is due.
    None,
}

/// What capture can follow from.
enum Followed {
    From(Box<(Pages, Header, Gap)>),
    /// The database cannot be held still.
    Moving,
    /// The capture state could not be had just now.
    Busy,
    /// The database is empty, or nothing is due.
    Not,
}

/// Nothing changed since a snapshot was last found impossible: an empty
/// database.
pub(crate) fn is_pointless(db: &Db) -> bool {
    db.counters.is_pointless()
}

/// Brings storage to the database's present state under the next TXID. False:
/// there is nothing to bring it to.
pub(crate) async fn take(db: &Arc<Db>) -> Result<bool> {
    let changes = db.counters.changes();
    let acked = lock(&db.ship).acked;
    let ledger = bookkeeping::at(db, acked).await;
    let for_begin = Arc::clone(db);
    let begun = tasks::spawn_blocking(move || begin(&for_begin, ledger))
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "beginning a snapshot failed").with_source(e))
        .and_then(|begun| begun)
        .inspect_err(|_| abandon(db))?;
    let Begun { header, reason, content, compared, pages } = match begun {
        State::Still(begun) => *begun,
        State::Moving(ledger) => return gather(db, changes, ledger.map(|l| *l)).await,
        // A failure: as something that is not due it would never be tried again, or
        // without a pause.
        State::Busy => return Err(history::not_now(db)),
        State::None => {
            db.counters.pointless(changes);
            return Ok(false);
        }
    };
    let repair = Repair {
        reason,
        at_ms: header.timestamp_ms,
        txid: header.max_txid,
        full: matches!(content, Content::Stream(_, None)),
        compared,
        pages,
    };
    let body = match content {
        Content::Nothing => {
            let repair = Repair { txid: acked, ..repair };
            unchanged(db, &header, repair).inspect_err(|_| abandon(db))?;
            return Ok(true);
        }
        Content::Encoded(bytes) => Body::Bytes(bytes),
        Content::Stream(pages, set) => Body::Stream(stream(db, pages, set, header)),
    };
    store(db, &header, body).await.inspect_err(|_| abandon(db))?;
    db.counters.snapshot_bytes_of(pages, header.page_size);
    done(db, repair);
    acknowledge(db, header, None).await.inspect_err(|_| abandon(db))?;
    let recorded = db.capture().as_mut().map_or_else(
        || {
            Err(Error::new(
                ErrorKind::Transient,
                format!("{} is being captured by another process", db.path.display()),
            ))
        },
        |capture| capture.snapshot_done(),
    );
    // Storage is asked again, and what the record lacks is written then.
    recorded.inspect_err(|_| ask_again(db))?;
    shipped::forget_attempts(&db.vfs_dir())?;
    lock(&db.ship).snapshot_since_ms = 0;
    Ok(true)
}

async fn store(db: &Arc<Db>, header: &Header, body: Body) -> Result<()> {
    let id = FileId { level: 0, min: header.min_txid, max: header.max_txid };
    match db.client.write(&id, header.timestamp_ms, body, WriteMode::Create).await {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => already_there(db, &id, header).await,
        Err(e) => Err(e),
    }
}

/// Counts and tells what was done about a gap.
fn done(db: &Db, repair: Repair) {
    db.log(Level::Info, &repair.to_string());
    if repair.reason.is_repair() {
        lock(&db.pace).done(tasks::now());
    }
    db.counters.repaired(repair);
}

/// Sends the pages of `set`, or all, which also make the next ledger.
fn stream(db: &Arc<Db>, pages: Pages, set: Option<PageSet>, header: Header) -> ByteStream {
    let db = Arc::clone(db);
    ChunkWriter::stream(move |out| {
        let room =
            Room { dir: db.vfs_dir(), owner: db.owner, bytes_max: db.config.spool_bytes_max };
        let for_growth = Arc::clone(&db);
        let published = move || for_growth.published();
        let growth = Growth::new(&db.wal_path, header.page_size, Box::new(published));
        let mut spill = Spill::new(out, growth, room);
        encode(&db, pages, set, header, &mut spill)?;
        spill.finish().map_err(|e| {
            Error::new(ErrorKind::Transient, "a snapshot was cut short while it was sent")
                .with_source(e)
        })
    })
}

fn encode(
    db: &Db,
    mut pages: Pages,
    set: Option<PageSet>,
    header: Header,
    out: &mut impl Write,
) -> Result<()> {
    let mut encoder = Encoder::new(out, header, db.config.page_form)?;
    if let Some(set) = set {
        let mut page = Vec::new();
        for pgno in set.iter() {
            pages.page(pgno, &mut page)?;
            encoder.encode_page(pgno, &page)?;
        }
        pages.finish()?;
    } else {
        let mut next = bookkeeping::begin_next(db);
        pages.for_each(|pgno, page| {
            difference::note(db, &mut next, pgno, page_checksum(pgno, page));
            encoder.encode_page(pgno, page)
        })?;
        difference::complete(db, next, &header);
    }
    encoder.finish().map(drop)
}

/// Gathers the state of a database that cannot be held still. It is shipped as
/// the segment that it was gathered in.
async fn gather(db: &Arc<Db>, changes: u64, ledger: Option<Ledger>) -> Result<bool> {
    let for_take = Arc::clone(db);
    let gathered = tasks::spawn_blocking(move || backfill::take(&for_take, ledger)).await;
    let repair = gathered.map_err(|e| {
        Error::new(ErrorKind::Internal, "gathering a snapshot failed").with_source(e)
    })??;
    match repair {
        Some(repair) => done(db, repair),
        None => db.counters.pointless(changes),
    }
    Ok(repair.is_some())
}

/// The name was taken: by this very snapshot, by an earlier one of ours whose
/// answer was lost, or by somebody else.
async fn already_there(db: &Arc<Db>, id: &FileId, header: &Header) -> Result<()> {
    if stored_header_is(db, id, &header.encode()).await? {
        return Ok(());
    }
    if let Some(earlier) = stored_attempt(db, id).await? {
        // First: with its TXID stored, the state of this one would seem to be.
        history::with_capture(db, |capture| history::not_on_top(db, capture))?;
        acknowledge(db, earlier, None).await?;
        return Err(Error::new(
            ErrorKind::Transient,
            format!("an earlier snapshot is in storage as {id}; another one follows"),
        ));
    }
    Err(conflict(
        db,
        format!(
            "{id} at {} was written by somebody else: another program replicates to this URL. \
             Nothing is shipped until it stops and this database is opened with adopt=1, or gets \
             a URL of its own",
            db.client.url()
        ),
    ))
}

/// Storage is asked anew where the chain stands, unless it answered that there is
/// another history.
fn ask_again(db: &Db) {
    let mut ship = lock(&db.ship);
    if ship.history == History::Agreed {
        ship.history = History::Unknown;
    }
}

/// A snapshot that storage may not have, or that could not be recorded, is
/// taken again from the state then.
pub(crate) fn abandon(db: &Arc<Db>) {
    // Without the shipper lock the record is another process's to move.
    let held = db.hold_shipper();
    let mut guard = db.capture();
    let Some(capture) = guard.as_mut().filter(|_| held.is_some()) else {
        // Storage is asked again what became of it.
        ask_again(db);
        return;
    };
    let acked = {
        let mut ship = lock(&db.ship);
        ship.sealed_txid = ship.acked;
        ship.acked
    };
    // The gap holds in memory even when its record cannot be written.
    let _ = capture.declare_gap(Gap::SnapshotInterrupted);
    let _ = capture.rebase(acked.next());
}

/// Nothing differs: what was captured meanwhile gets the TXID that was kept
/// for the file.
fn unchanged(db: &Arc<Db>, header: &Header, repair: Repair) -> Result<()> {
    let held = db.hold_shipper();
    let mut guard = db.capture();
    let Some(capture) = guard.as_mut().filter(|_| held.is_some()) else {
        return Err(Error::new(
            ErrorKind::Transient,
            format!("{} was closed or taken over while it was compared", db.path.display()),
        ));
    };
    capture.rebase(header.min_txid)?;
    capture.snapshot_done()?;
    shipped::forget_attempt(&db.vfs_dir(), header, db.owner)?;
    done(db, repair);
    let mut ship = lock(&db.ship);
    ship.sealed_txid = ship.acked;
    ship.snapshot_since_ms = 0;
    ship.changed = true;
    drop(ship);
    drop(guard);
    db.ship_signal.notify_all();
    Ok(())
}

fn begin(db: &Arc<Db>, ledger: Option<Ledger>) -> Result<State> {
    let (pages, header, reason) = match follow(db)? {
        Followed::From(from) => *from,
        Followed::Moving => return Ok(State::Moving(ledger.map(Box::new))),
        Followed::Busy => return Ok(State::Busy),
        Followed::Not => return Ok(State::None),
    };
    let all = {
        let lock_page = u64::from(lock_pgno(header.page_size) <= header.commit);
        u64::from(header.commit) - lock_page
    };
    let usable = ledger.filter(|l| l.header().page_size == header.page_size);
    let Some(ledger) = usable else {
        let content = Content::Stream(pages, None);
        let begun = Begun { header, reason, content, compared: 0, pages: all };
        return Ok(State::Still(Box::new(begun)));
    };
    let form: PageForm = db.config.page_form;
    // A file settles which of them storage has: this one, or one that was given up.
    let needed = shipped::is_doubtful(&db.vfs_dir(), header.min_txid.prev(), Some(&header))?;
    let (found, pages) = difference::find(db, pages, ledger, &header, form, needed)?;
    let (count, content) = match found {
        Found::Nothing => (0, Content::Nothing),
        Found::Encoded(bytes, count) => (count, Content::Encoded(bytes)),
        Found::Pages(set) => {
            let pages = pages.ok_or_else(|| {
                Error::new(ErrorKind::Internal, "the pages that differ cannot be read again")
            })?;
            (set.len(), Content::Stream(pages, Some(set)))
        }
    };
    let begun = Begun { header, reason, content, compared: all, pages: count };
    Ok(State::Still(Box::new(begun)))
}

/// Starts a read transaction, lets capture follow from its state, and gives
/// that state the next TXID.
fn follow(db: &Arc<Db>) -> Result<Followed> {
    let in_wal = db.published().mx_frame > 0;
    if !in_wal && disk::stat(&db.path)?.is_none_or(|s| s.size == 0) {
        return Ok(Followed::Not);
    }
    let in_use = db.connections.load(Ordering::Acquire) > 0;
    if in_use && (backfill::is_under_way(db) || !in_wal && !in_wal_mode(db)?) {
        return Ok(Followed::Moving);
    }
    let mut guard = db.capture();
    let Some(capture) = guard.as_mut() else {
        let over = db.has_let_go() || db.has_retired();
        return Ok(if over { Followed::Not } else { Followed::Busy });
    };
    history::reclaim(db, capture)?;
    let Some(reason) = capture.gap() else { return Ok(Followed::Not) };
    let open_elsewhere = Pages::at_rest(db)?.is_none();
    let pages = match (in_use || open_elsewhere).then(|| Pages::pin(db)) {
        Some(Ok(pages)) => pages,
        // Held exclusively, or with a wal-index that nobody else sees.
        Some(Err(e)) if in_use && backfill::is_alone(db, &e) => return Ok(Followed::Moving),
        // Turned to WAL mode, and no connection has opened a WAL yet.
        Some(Err(e)) if e.kind() == ErrorKind::Unsupported && !open_elsewhere => Pages::closed(db)?,
        Some(Err(e)) => return Err(e),
        None => Pages::closed(db)?,
    };
    if pages.header.n_page == 0 {
        return Ok(Followed::Not);
    }
    // Asked only now: what was opened by its path is the right file.
    if db.stop_if_moved() {
        return Ok(Followed::Not);
    }
    sibling::refuse_other(db, pages.header.page_size)?;
    Sibling::settle(&db.vfs_dir(), &db.config.replica_url, db.owner)?;
    let txid = lock(&db.ship).acked.next();
    let now_ms = db.clock.now_ms();
    let mut header = Header::new(pages.header.page_size, pages.header.n_page, txid, txid, now_ms);
    header.wal_offset = WAL_HEADER_SIZE as i64;
    header.node_id = db.node_id();
    shipped::remember_attempt(&db.vfs_dir(), &header, db.owner)?;
    capture.follow_from(&pages.header, txid, txid.next())?;
    if let Origin::Closed(mark) = pages.origin()
        && let Err(e) = capture.set_clean(Some(mark))
    {
        // It holds in memory even when its record cannot be written.
        let _ = capture.declare_gap(Gap::SnapshotInterrupted);
        return Err(e);
    }
    // Before the state is let go: nobody may see it without its TXID.
    let mut ship = lock(&db.ship);
    ship.sealed_txid = txid;
    ship.snapshot_since_ms = now_ms.max(1) as u64;
    ship.changed = true;
    drop(ship);
    drop(guard);
    Ok(Followed::From(Box::new((pages, header, reason))))
}

/// Whether the header of the database file says WAL; where it cannot be read
/// (encrypted), whether the last connection that used the file had a WAL.
pub(crate) fn in_wal_mode(db: &Db) -> Result<bool> {
    let mut head = [0u8; 100];
    let got = db.host.open_unlocked()?.read_at(&mut head, 0)?;
    if page_size_of(&head[..got]).is_none() {
        return Ok(got == head.len() && db.wal_was_open());
    }
    Ok(got == head.len() && head[18] == 2 && head[19] == 2)
}

/// A snapshot pending in the position but unknown to storage.
pub(crate) fn pending(db: &Db) -> Txid {
    db.peek().position().snapshot_pending
}
