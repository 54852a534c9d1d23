//! Full snapshots: the first file of a chain and the answer to every gap. They
//! stream from the database to storage and are never staged on disk.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::capture::Gap;
use crate::capture::frames::WAL_HEADER_SIZE;
use crate::db::{Db, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::log::Level;
use crate::ltx::{Encoder, Header, Txid};
use crate::os::disk;
use crate::pages::{Pages, page_size_of};
use crate::replica::{acknowledge, conflict, stored_header_is};
use crate::replica_client::{Body, FileId, ReplicaClient, WriteMode};
use crate::sibling::{self, Sibling};
use crate::stream::ChunkWriter;
use crate::{shipped, tasks};

/// A snapshot that is ready to be streamed.
struct Begun {
    pages: Pages,
    header: Header,
    reason: Gap,
}

/// Nothing changed since a snapshot was last found impossible: an empty
/// database, or one that is not in WAL mode.
pub(crate) fn is_pointless(db: &Db) -> bool {
    db.counters.is_pointless()
}

/// Takes a snapshot and stores it under the next TXID. False: there is nothing
/// to take one of.
pub(crate) async fn take(db: &Arc<Db>) -> Result<bool> {
    let changes = db.counters.changes();
    let for_begin = Arc::clone(db);
    let begun = tasks::spawn_blocking(move || begin(&for_begin))
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "beginning a snapshot failed").with_source(e))
        .and_then(|begun| begun)
        .inspect_err(|_| abandon(db))?;
    let Some(Begun { pages, header, reason }) = begun else {
        db.counters.pointless(changes);
        return Ok(false);
    };
    let id = FileId { level: 0, min: header.min_txid, max: header.max_txid };
    let form = db.config.page_form;
    let body = Body::Stream(ChunkWriter::stream(move |out| {
        let mut encoder = Encoder::new(out, header, form)?;
        pages.for_each(|pgno, page| encoder.encode_page(pgno, page))?;
        encoder.finish().map(drop)
    }));
    let stored = match db.client.write(&id, header.timestamp_ms, body, WriteMode::Create).await {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => already_there(db, &id, &header).await,
        Err(e) => Err(e),
    };
    stored.inspect_err(|_| abandon(db))?;
    db.counters.snapshot(reason);
    if reason.is_repair() {
        lock(&db.pace).done(tasks::now());
    }
    acknowledge(db, header, None).await.inspect_err(|_| abandon(db))?;
    if let Some(capture) = db.capture().as_mut() {
        capture.snapshot_done()?;
    }
    shipped::forget_attempts(&db.vfs_dir())?;
    lock(&db.ship).snapshot_since_ms = 0;
    db.log(
        Level::Info,
        &format!(
            "snapshot {} of {} pages stored, reason: {}",
            header.max_txid,
            header.commit,
            reason.name()
        ),
    );
    Ok(true)
}

/// The name was taken: by this very snapshot, by an earlier one of ours whose
/// answer was lost, or by somebody else.
async fn already_there(db: &Arc<Db>, id: &FileId, header: &Header) -> Result<()> {
    if stored_header_is(db, id, &header.encode()).await? {
        return Ok(());
    }
    for earlier in shipped::attempts(&db.vfs_dir())? {
        if stored_header_is(db, id, &earlier).await? {
            acknowledge(db, Header::decode(&earlier)?, None).await?;
            return Err(Error::new(
                ErrorKind::Transient,
                format!("an earlier snapshot is in storage as {id}; another one follows"),
            ));
        }
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

/// A snapshot that storage may not have, or that could not be recorded, is
/// taken again from the state then.
fn abandon(db: &Arc<Db>) {
    let mut guard = db.capture();
    let Some(capture) = guard.as_mut() else { return };
    {
        let mut ship = lock(&db.ship);
        ship.sealed_txid = ship.acked;
    }
    // The gap holds in memory even when its record cannot be written.
    let _ = capture.declare_gap(Gap::SnapshotInterrupted);
}

fn begin(db: &Arc<Db>) -> Result<Option<Begun>> {
    if disk::stat(&db.path)?.is_none_or(|s| s.size == 0) && db.published().mx_frame == 0 {
        return Ok(None);
    }
    if db.published().mx_frame == 0 && !in_wal_mode(db)? {
        db.note_journal_mode();
        return Ok(None);
    }
    db.note_wal_mode();
    let mut guard = db.capture();
    let Some(capture) = guard.as_mut() else { return Ok(None) };
    let Some(reason) = capture.gap() else { return Ok(None) };
    let open_elsewhere = Pages::at_rest(db)?.is_none();
    let pages = if db.connections.load(Ordering::Acquire) > 0 || open_elsewhere {
        Pages::pin(db)?
    } else {
        Pages::closed(db)?
    };
    if pages.header.n_page == 0 {
        return Ok(None);
    }
    sibling::refuse_other(db, pages.header.page_size)?;
    Sibling::settle(&db.vfs_dir(), &db.config.replica_url, db.owner)?;
    let txid = lock(&db.ship).acked.next();
    let now_ms = db.clock.now_ms();
    let mut header = Header::new(pages.header.page_size, pages.header.n_page, txid, txid, now_ms);
    header.wal_offset = WAL_HEADER_SIZE as i64;
    shipped::remember_attempt(&db.vfs_dir(), &header, db.owner)?;
    capture.follow_from(&pages.header, txid, txid.next())?;
    if let crate::pages::Origin::Closed(mark) = pages.origin() {
        capture.set_clean(Some(mark))?;
    }
    {
        // Before the state is let go: nobody may see it without its TXID.
        let mut ship = lock(&db.ship);
        ship.sealed_txid = txid;
        ship.snapshot_since_ms = now_ms.max(1) as u64;
        ship.changed = true;
    }
    drop(guard);
    db.counters.snapshot_bytes_of(pages.header.n_page, pages.header.page_size);
    Ok(Some(Begun { pages, header, reason }))
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
    lock(&db.capture).as_ref().map_or(Txid(0), |c| c.position().snapshot_pending)
}
