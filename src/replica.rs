//! The shipper of one database: one task while there is something to ship,
//! none when idle.
//!
//! Files are written in the order of their TXIDs, each created only if absent
//! and acknowledged before the next one is written: a crash leaves a chain
//! without holes. The next file is encoded while the present one travels.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::capture::Gap;
use crate::capture::segment::Segment;
use crate::db::{Db, History, Pending, SEALED_MAX, Ship, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::log::Level;
use crate::ltx::{Encoder, HEADER_SIZE, Header, PageForm, Txid};
use crate::replica_client::{Body, FileId, ReplicaClient, WriteMode, holds};
use crate::shipped::{self, Shipped};
use crate::stream::ChunkWriter;
use crate::{bookkeeping, growth, history, sibling, snapshot, tasks};

/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// Longest pause between repairs while the database is being closed: nobody knows
/// yet whether a gap that comes again at once ever ends.
const CLOSE_PAUSE: Duration = Duration::from_millis(250);
/// How long the connection to storage is kept after the last upload.
const LINGER: Duration = Duration::from_secs(2);
/// How often the commits that other processes captured are looked for at most.
const LOOK_MIN: Duration = Duration::from_millis(50);
/// Segments up to this many bytes are encoded in memory; larger ones are streamed.
const IN_MEMORY_BYTES_MAX: u64 = 8 << 20;
/// Status is written at most this often while something is shipped.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

enum Step {
    Progress,
    /// A repair is due after this long.
    Wait(Duration),
    Idle,
}

/// Ships until there is nothing to ship.
pub(crate) async fn run(db: Arc<Db>) {
    let mut failures = 0u32;
    let mut status_at: Option<Instant> = None;
    while !db.has_retired() {
        let pause = match step(&db).await {
            Ok(Step::Progress) => {
                failures = 0;
                succeeded(&db);
                if status_at.is_none_or(|at| tasks::now() - at >= STATUS_INTERVAL) {
                    status_at = Some(tasks::now());
                    write_status(&db).await;
                }
                continue;
            }
            Ok(done) => {
                failures = 0;
                if let Step::Wait(pause) = done { pause } else { LINGER }
            }
            Err(e) => {
                failed(&db, &e, failures);
                failures = failures.saturating_add(1);
                if is_closing(&db) || db.has_retired() {
                    break;
                }
                backoff(failures, db.random.unit())
            }
        };
        if is_closing(&db) {
            break;
        }
        if failures > 0 {
            // Not even somebody who waits makes failures come faster.
            tasks::sleep(pause.min(BACKOFF.0)).await;
        }
        let woken = linger(&db, pause).await;
        if failures == 0 && !woken && finish(&db).await {
            return;
        }
    }
    if db.has_retired() {
        retire(&db).await;
    }
    db.client.release_idle();
    settle_books(&db).await;
    {
        let mut ship = lock(&db.ship);
        (ship.running, ship.failing) = (false, false);
    }
    db.ship_signal.notify_all();
    if db.has_retired() && db.ships() {
        db.retire_soon();
    }
}

async fn retire(db: &Arc<Db>) {
    let db = Arc::clone(db);
    // What fails here is done by the worker once this task has ended.
    let _ = tasks::spawn_blocking(move || db.retire_now()).await;
}

/// Waits for something to do. Meanwhile other processes may capture: whoever
/// ships looks after that as often as it seals.
async fn linger(db: &Arc<Db>, pause: Duration) -> bool {
    let end = tasks::now() + pause;
    let slice = db.config.sync_interval.clamp(LOOK_MIN, LINGER);
    loop {
        let left = end.saturating_duration_since(tasks::now());
        if tasks::timeout(left.min(slice), db.ship_notify.notified()).await.is_some() {
            return true;
        }
        if others_captured(db).await {
            seal_more(db).await;
            return true;
        }
        if left <= slice {
            return false;
        }
    }
}

async fn others_captured(db: &Arc<Db>) -> bool {
    let db = Arc::clone(db);
    let look = tasks::spawn_blocking(move || db.ships() && db.others_captured());
    look.await.unwrap_or(false)
}

/// Ends the task unless something came in meanwhile. An idle database keeps no
/// connection and no timer.
async fn finish(db: &Arc<Db>) -> bool {
    keep_books(db).await;
    write_status(db).await;
    db.client.release_idle();
    let ready = has_work(db);
    {
        let mut ship = lock(&db.ship);
        // Storage is asked by the process that ships.
        let asks = ship.history == History::Unknown && db.ships() && !db.is_faulted();
        if ready || !ship.pending.is_empty() || asks {
            return false;
        }
        ship.running = false;
    }
    let for_rest = Arc::clone(db);
    // A panic there is reported by nobody else.
    if tasks::spawn_blocking(move || {
        if for_rest.has_retired() {
            return for_rest.retire();
        }
        for_rest.look_before_rest();
        for_rest.rest();
    })
    .await
    .is_err()
    {
        db.fault("going to rest panicked");
    }
    db.ship_signal.notify_all();
    // Work that came between the look and the mark finds `running` unset, or is seen here.
    if has_work(db) {
        db.kick();
    }
    true
}

fn is_closing(db: &Db) -> bool {
    lock(&db.ship).closing
}

fn has_work(db: &Db) -> bool {
    if db.has_retired() {
        return false;
    }
    let gap = db.peek().gap().is_some();
    let ship = lock(&db.ship);
    !ship.pending.is_empty()
        || (gap && db.ships() && ship.history == History::Agreed && !snapshot::is_pointless(db))
}

fn backoff(failures: u32, unit: f64) -> Duration {
    let base = BACKOFF.0.saturating_mul(1 << failures.min(8)).min(BACKOFF.1);
    base.mul_f64(0.5 + unit / 2.0)
}

fn succeeded(db: &Db) {
    let mut ship = lock(&db.ship);
    ship.failing = false;
    ship.last_error = None;
    drop(ship);
    db.ship_signal.notify_all();
}

fn failed(db: &Db, e: &Error, failures: u32) {
    db.counters.upload_failed();
    if failures == 0 {
        db.log(Level::Warn, &format!("{e}; trying again"));
    }
    lock(&db.ship).failing = true;
    db.set_error(e.to_string());
}

/// Before a rest: the page ledger catches up and is made durable.
async fn keep_books(db: &Arc<Db>) {
    if !db.ships() {
        return;
    }
    let acked = lock(&db.ship).acked;
    if bookkeeping::trails(db, acked) {
        // Reported where it fails; a ledger that stays behind costs pages, not data.
        drop(bookkeeping::at(db, acked).await);
    }
    settle_books(db).await;
}

async fn settle_books(db: &Arc<Db>) {
    let db = Arc::clone(db);
    // As above.
    let settle = move || db.hold_shipper().is_some().then(|| bookkeeping::settle(&db));
    let _ = tasks::spawn_blocking(settle).await;
}

async fn write_status(db: &Arc<Db>) {
    let db = Arc::clone(db);
    // The status is a courtesy to people outside; its failure is logged there.
    let _ = tasks::spawn_blocking(move || db.write_status()).await;
}

async fn step(db: &Arc<Db>) -> Result<Step> {
    let for_lock = Arc::clone(db);
    let ships = tasks::spawn_blocking(move || for_lock.take_shipper()).await;
    if !ships.map_err(|e| {
        Error::new(ErrorKind::Internal, "taking the shipper lock failed").with_source(e)
    })?? {
        return Ok(Step::Idle);
    }
    if lock(&db.ship).history == History::Unknown {
        history::reconcile(db).await?;
        seal_more(db).await;
        return Ok(Step::Progress);
    }
    if lock(&db.ship).history != History::Agreed {
        return Ok(Step::Idle);
    }
    history::settle(db).await?;
    // The gap first: while there is one nothing is sealed, so that no segment
    // can come to have the TXID that the snapshot gets.
    let gap = db.peek().gap();
    let front = {
        let ship = lock(&db.ship);
        if ship.history != History::Agreed {
            // Another thread saw that the database was moved.
            return Ok(Step::Idle);
        }
        ship.pending.front().map(Arc::clone)
    };
    if let Some(front) = front {
        ship_segments(db, front).await?;
        seal_more(db).await;
        return Ok(Step::Progress);
    }
    if let Some(gap) = gap {
        let now = tasks::now();
        let closing = db.closing.load(Ordering::Acquire);
        let pause = lock(&db.pace).wait(now, if closing { CLOSE_PAUSE } else { Duration::MAX });
        if gap.is_repair() && !pause.is_zero() {
            return Ok(Step::Wait(pause));
        }
        return Ok(if snapshot::take(db).await? {
            seal_more(db).await;
            Step::Progress
        } else {
            Step::Idle
        });
    }
    Ok(Step::Idle)
}

/// Room was made or the chain was joined: what the open segment holds is due.
async fn seal_more(db: &Arc<Db>) {
    let zero = db.config.sync_interval.is_zero();
    let waits = db.peek().has_open();
    if !waits && (!zero || db.is_caught_up()) {
        return;
    }
    let due =
        zero || lock(&db.last_seal).is_none_or(|at| tasks::now() - at >= db.config.sync_interval);
    if due {
        let db = Arc::clone(db);
        let sealed = tasks::spawn_blocking(move || db.capture_and_seal()).await;
        if let Ok(Err(_)) | Err(_) = sealed {
            // Reported by `capture_locked`; the worker tries again.
        }
    } else {
        db.arm();
    }
}

/// A file ready to be written.
struct Prepared {
    pending: Arc<Pending>,
    header: Header,
    body: Option<Bytes>,
}

async fn prepare(db: Arc<Db>, pending: Arc<Pending>) -> Result<Prepared> {
    tasks::spawn_blocking(move || {
        let header = Header { node_id: db.node_id(), ..header_of(&pending.segment)? };
        let bytes = pending.segment.page_count() as u64 * u64::from(header.page_size);
        let body = if bytes <= IN_MEMORY_BYTES_MAX {
            let mut out = Vec::with_capacity(bytes as usize / 2 + 1024);
            encode(&pending.segment, header, db.config.page_form, &mut out)?;
            Some(Bytes::from(out))
        } else {
            None
        };
        Ok(Prepared { pending, header, body })
    })
    .await
    .map_err(|e| Error::new(ErrorKind::Internal, "encoding an LTX file failed").with_source(e))?
}

/// The header of the L0 file that a sealed segment becomes.
fn header_of(segment: &Segment) -> Result<Header> {
    let seal = segment.sealed().ok_or_else(|| {
        Error::new(ErrorKind::Internal, format!("{} is not sealed", segment.path().display()))
    })?;
    let txid = segment.txid();
    let mut header = Header::new(segment.page_size(), seal.commit, txid, txid, seal.timestamp_ms);
    header.wal_offset = seal.wal_offset;
    header.wal_size = seal.wal_size;
    header.wal_salt1 = seal.wal_salts[0];
    header.wal_salt2 = seal.wal_salts[1];
    Ok(header)
}

fn encode(
    segment: &Segment,
    header: Header,
    form: PageForm,
    out: &mut impl std::io::Write,
) -> Result<()> {
    let mut encoder = Encoder::new(out, header, form)?;
    segment.for_each_page(|pgno, page| {
        if pgno <= header.commit { encoder.encode_page(pgno, page) } else { Ok(()) }
    })?;
    encoder.finish().map(drop)
}

/// What waits for storage after `txid`; nothing once there is a conflict.
fn next_of(ship: &Ship, txid: Txid) -> Option<Arc<Pending>> {
    let next = || ship.pending.iter().find(|p| p.segment.txid() == txid.next());
    (ship.history == History::Agreed).then(next).flatten().map(Arc::clone)
}

async fn ship_segments(db: &Arc<Db>, front: Arc<Pending>) -> Result<()> {
    let mut ready = prepare(Arc::clone(db), front).await?;
    loop {
        if !growth::continues(db, ready.header, &ready.pending).await? {
            return Ok(());
        }
        let txid = ready.header.min_txid;
        let next = next_of(&lock(&db.ship), txid);
        let (done, prepared) = tokio::join!(write_segment(db, &ready), async {
            match next {
                Some(next) => Some(prepare(Arc::clone(db), next).await),
                None => None,
            }
        });
        done?;
        acknowledge(db, ready.header, Some(&ready.pending)).await?;
        match prepared {
            Some(next) => ready = next?,
            None => return Ok(()),
        }
    }
}

async fn write_segment(db: &Arc<Db>, ready: &Prepared) -> Result<()> {
    let h = &ready.header;
    sibling::refuse_other(db, h.page_size)?;
    let id = FileId { level: 0, min: h.min_txid, max: h.max_txid };
    let body = match &ready.body {
        Some(bytes) => Body::Bytes(bytes.clone()),
        None => {
            let (form, header) = (db.config.page_form, *h);
            let pending = Arc::clone(&ready.pending);
            Body::Stream(ChunkWriter::stream(move |out| {
                encode(&pending.segment, header, form, out)
            }))
        }
    };
    match db.client.write(&id, h.timestamp_ms, body, WriteMode::Create).await {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            if stored_is_ours(db, &id, ready).await? {
                Ok(())
            } else if let Some(earlier) = stored_attempt(db, &id).await? {
                give_way(db, earlier).await
            } else {
                Err(conflict(
                    db,
                    format!(
                        "{id} at {} was written by somebody else: another program replicates to this \
                     URL. Nothing is shipped until it stops and this database is opened with \
                     adopt=1, or gets a URL of its own",
                        db.client.url()
                    ),
                ))
            }
        }
        Err(e) => Err(e),
    }
}

/// The snapshot of ours that is stored under this name, if its answer was lost.
pub(crate) async fn stored_attempt(db: &Db, id: &FileId) -> Result<Option<Header>> {
    let attempts = shipped::attempts(&db.vfs_dir())?;
    for earlier in &attempts {
        if stored_header_is(db, id, earlier).await? {
            return Header::decode(earlier).map(Some);
        }
    }
    history::forgotten_attempt(db, id, &attempts).await
}

/// A snapshot that was given up has come to storage late, under the TXID of a
/// segment: it stands, and a repair takes the place of what was sealed after it.
async fn give_way(db: &Arc<Db>, earlier: Header) -> Result<()> {
    let txid = earlier.max_txid;
    // First: a crash after the record would leave a segment that seems shipped.
    let for_drop = Arc::clone(db);
    tasks::spawn_blocking(move || growth::take_back(&for_drop, txid, Gap::SnapshotInterrupted))
        .await
        .map_err(|e| {
            Error::new(ErrorKind::Internal, "taking segments back failed").with_source(e)
        })??;
    acknowledge(db, earlier, None).await?;
    Err(Error::new(
        ErrorKind::Transient,
        format!("an earlier snapshot is in storage as TXID {txid}; a repair follows"),
    ))
}

async fn stored_is_ours(db: &Arc<Db>, id: &FileId, ready: &Prepared) -> Result<bool> {
    match &ready.body {
        Some(bytes) if holds(&*db.client.client, id, bytes).await? => Ok(true),
        // Its pages may have been packed in another form, by other settings or
        // by another version of this library.
        _ => stored_header_is(db, id, &ready.header.encode()).await,
    }
}

/// The header of a pending file when the stored one of its name has the same bytes.
pub(crate) async fn prepared_equals(db: &Arc<Db>, pending: Arc<Pending>) -> Result<Option<Header>> {
    let ready = prepare(Arc::clone(db), pending).await?;
    let txid = ready.header.min_txid;
    let id = FileId { level: 0, min: txid, max: txid };
    match stored_is_ours(db, &id, &ready).await {
        Ok(same) => Ok(same.then_some(ready.header)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether the stored file begins with this header: TXID, time, WAL range and
/// salts together are not met by accident.
pub(crate) async fn stored_header_is(
    db: &Db,
    id: &FileId,
    header: &[u8; HEADER_SIZE],
) -> Result<bool> {
    let found = db.client.read(id, 0, Some(HEADER_SIZE as u64)).await?;
    Ok(found[..] == header[..])
}

/// Stops shipping because the replica holds another history.
pub(crate) fn conflict(db: &Db, why: String) -> Error {
    let mut ship = lock(&db.ship);
    ship.history = History::Conflict(why.clone());
    ship.changed = true;
    drop(ship);
    db.log(Level::Error, &why);
    db.ship_signal.notify_all();
    db.retire_soon();
    Error::new(ErrorKind::Conflict, why)
}

/// Storage has the file: everything up to it is safe.
pub(crate) async fn acknowledge(
    db: &Arc<Db>,
    header: Header,
    pending: Option<&Arc<Pending>>,
) -> Result<()> {
    let for_record = Arc::clone(db);
    let for_ledger = pending.map(Arc::clone);
    let segment = pending.map(|p| p.segment.path().to_owned());
    tasks::spawn_blocking(move || {
        let db = for_record;
        let held = db.hold_shipper();
        if held.is_some() {
            // Before the record: a segment that is recorded as shipped is removed.
            bookkeeping::acknowledged(&db, &header, for_ledger.as_deref().map(|p| &p.segment));
        } else {
            // Whoever has the lock now may have recorded more already.
            return Err(Error::new(
                ErrorKind::Transient,
                format!("{} was closed or taken over before storage answered", db.path.display()),
            ));
        }
        Shipped::new(&header).save(&db.vfs_dir(), db.owner)?;
        drop(held);
        match segment {
            Some(path) => crate::os::disk::remove_file(&path),
            None => Ok(()),
        }
    })
    .await
    .map_err(|e| Error::new(ErrorKind::Internal, "recording an upload failed").with_source(e))??;
    let full = {
        let mut ship = lock(&db.ship);
        if let Some(p) = pending {
            ship.pending.retain(|q| !Arc::ptr_eq(p, q));
        }
        ship.acked = header.max_txid;
        ship.page_size = header.page_size;
        ship.sealed_txid = ship.sealed_txid.max(header.max_txid);
        ship.acked_at_ms = db.clock.now_ms();
        ship.changed = true;
        ship.pending.len() + 1 >= SEALED_MAX
    };
    db.counters.shipped(&header);
    db.ship_signal.notify_all();
    if full || db.config.sync_interval.is_zero() {
        seal_more(db).await;
    }
    Ok(())
}

/// At the last close: captures, seals and ships what there is, for at most
/// `timeout`; the rest is shipped at the next open.
pub(crate) fn flush(db: &Arc<Db>, timeout: Duration) {
    let deadline = tasks::now() + timeout;
    let mut asked = false;
    loop {
        if let Err(e) = db.capture_and_seal() {
            db.log(Level::Error, &e.to_string());
            break;
        }
        let bystander = !db.ships() && !db.has_retired();
        if bystander && !std::mem::replace(&mut asked, true) && !db.is_safe_elsewhere() {
            db.ask_for_haste();
        }
        let done = if db.ships() {
            // Asked before: `capture` is locked before `ship`, never under it.
            let more = has_more(db);
            let ship = lock(&db.ship);
            let nothing = ship.pending.is_empty();
            match &ship.history {
                History::Agreed => nothing && !more,
                History::Conflict(_) => true,
                History::Unknown => nothing && (!db.was_used() || !more),
            }
        } else {
            // What another process ships is watched for as long as it may take.
            db.has_retired() || db.is_safe_elsewhere()
        };
        if done {
            break;
        }
        if db.ships() {
            db.hurry();
        }
        let ship = lock(&db.ship);
        let left = deadline.saturating_duration_since(tasks::now());
        if left.is_zero() {
            drop(ship);
            db.log(
                Level::Warn,
                "closed before storage had everything; the rest is shipped at the next open",
            );
            break;
        }
        // Every acknowledgement and failure signals; the slice bounds a missed one.
        drop(db.ship_signal.wait_for(&db.ship, ship, left.min(Duration::from_millis(100))));
    }
    end_shipper(db, deadline);
    db.write_status();
}

fn has_more(db: &Db) -> bool {
    let c = db.peek();
    // A snapshot under way may yet be interrupted and have to be taken again.
    let snapshot = c.position().snapshot_pending != Txid(0);
    c.has_open() || snapshot || (c.gap().is_some() && !snapshot::is_pointless(db))
}

fn end_shipper(db: &Arc<Db>, deadline: Instant) {
    let mut ship = lock(&db.ship);
    ship.closing = true;
    db.ship_notify.notify_one();
    let grace = deadline.max(tasks::now() + Duration::from_millis(500));
    while ship.running {
        let left = grace.saturating_duration_since(tasks::now());
        if left.is_zero() {
            // The runtime's end cuts the task off; nothing it has not acknowledged is forgotten.
            return;
        }
        ship = db.ship_signal.wait_for(&db.ship, ship, left);
    }
}
