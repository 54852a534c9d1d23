//! One database of one process, with a host that is a file and a WAL on disk.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::capture::test_wal::{PAGE, Wal};
use crate::capture::{Capture, Gap, Outcome, Published};
use crate::config::DbConfig;
use crate::db::hold::SHIPPER_FILE;
use crate::db::{Db, History, Pending, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{DatabaseFile, Host, PinnedReader, WalIndexHeader};
use crate::log::{Level, Log};
use crate::ltx::{Encoder, Header, Txid};
use crate::node::Node;
use crate::os::disk as os;
use crate::pages::Pages;
use crate::replica::conflict;
use crate::replica_client::FileId;
use crate::shipped::{self, Shipped};
use crate::store::{OpenRequest, Store};
use crate::{history, snapshot, tasks};

#[path = "trouble_tests.rs"]
mod trouble_tests;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Silent;

impl Log for Silent {
    fn log(&self, _: Level, _: &str) {}
}

/// The host: the wal-index is what the test says.
struct Disk {
    path: PathBuf,
    index: Arc<Mutex<WalIndexHeader>>,
}

struct Reader(os::File, WalIndexHeader);

impl DatabaseFile for Reader {
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn size(&mut self) -> Result<u64> {
        self.0.len()
    }

    fn is_reserved(&mut self) -> Result<bool> {
        Ok(false)
    }
}

impl PinnedReader for Reader {
    fn header(&self) -> WalIndexHeader {
        self.1
    }
}

impl Host for Disk {
    fn pin(&self) -> Result<Box<dyn PinnedReader>> {
        if lock(&self.index).page_size == 0 {
            return Err(Error::new(ErrorKind::Unsupported, "there is no wal-index"));
        }
        Ok(Box::new(Reader(os::File::open(&self.path)?, *lock(&self.index))))
    }

    fn open_unlocked(&self) -> Result<Box<dyn DatabaseFile>> {
        Ok(Box::new(Reader(os::File::open(&self.path)?, WalIndexHeader::default())))
    }

    fn threadsafe(&self) -> bool {
        true
    }

    fn sqlite_version(&self) -> String {
        "3.53.1".to_owned()
    }

    fn wal_reset(&self) -> (&'static str, u64) {
        ("fixed", 0)
    }
}

/// A database in WAL mode with one connection.
struct Bench {
    _dir: tempfile::TempDir,
    db: Arc<Db>,
    wal: Wal,
    index: Arc<Mutex<WalIndexHeader>>,
    store: Arc<Store>,
}

fn new_database(path: &Path) {
    let mut pages = vec![0u8; 3 * PAGE];
    pages[..16].copy_from_slice(b"SQLite format 3\0");
    pages[16..18].copy_from_slice(&(PAGE as u16).to_be_bytes());
    pages[18..20].fill(2);
    std::fs::write(path, pages).unwrap();
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        new_database(&path);
        let wal = Wal::new([7, 1]);
        wal.write(&path.with_extension("db-wal"));
        let header = WalIndexHeader { n_page: 3, page_size: PAGE as u32, ..Default::default() };
        let index = Arc::new(Mutex::new(WalIndexHeader { salts: [7, 1], ..header }));
        let replica = dir.path().join("replica");
        let mut config = DbConfig::new(format!("file://{}", replica.display()));
        config.sync_interval = Duration::from_millis(10);
        let store = Store::new(Arc::new(Silent));
        let host = Arc::new(Disk { path: path.clone(), index: Arc::clone(&index) });
        let wal_path = path.with_extension("db-wal");
        let request = OpenRequest { path, wal_path, config, read_only: false, host };
        let db = store.open(request).unwrap();
        db.wal_opened();
        let header = *lock(&index);
        db.first_read(db.noted(), &header);
        Bench { _dir: dir, db, wal, index, store }
    }

    /// The application commits page `pgno`.
    fn commit(&mut self, pgno: u32, fill: u8) {
        self.wal.commit(pgno, fill).write(&self.db.wal_path);
        let header = {
            let mut index = lock(&self.index);
            index.mx_frame += 1;
            *index
        };
        self.db.note_published(&header);
    }

    fn until(&self, what: &str, done: impl Fn(&Db) -> bool) {
        let end = tasks::now() + PATIENCE;
        while !done(&self.db) {
            assert!(tasks::now() < end, "{what}");
            tasks::sleep_blocking(Duration::from_millis(5));
        }
    }

    fn shipper_file(&self) -> Vec<u8> {
        std::fs::read(self.db.vfs_dir().join(SHIPPER_FILE)).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.db.connection_closed();
    }
}

fn kind<T>(found: Result<T>) -> Option<ErrorKind> {
    found.err().map(|e: Error| e.kind())
}

impl Bench {
    /// An attempt at a repair with page 2 as `fill`, which is given up.
    fn attempt(&self, fill: u8) -> (Header, Vec<u8>) {
        self.until("the first snapshot is under way", |db| {
            shipped::attempts(&db.vfs_dir()).unwrap().is_empty()
        });
        let txid = lock(&self.db.ship).acked.next();
        let header = Header { node_id: 1, ..Header::new(PAGE as u32, 3, txid, txid, 77) };
        shipped::remember_attempt(&self.db.vfs_dir(), &header, None).unwrap();
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, header, self.db.config.page_form).unwrap();
        encoder.encode_page(2, &[fill; PAGE]).unwrap();
        encoder.finish().unwrap();
        (header, file)
    }

    /// As a repair that is given up leaves it.
    fn gap(&self) {
        let declare = |c: &mut Capture| c.declare_gap(Gap::SnapshotInterrupted);
        self.db.capture().as_mut().map(declare).unwrap().unwrap();
        self.db.kick();
    }

    /// It had come to storage.
    fn arrives(&self, header: &Header, file: &[u8]) {
        let id = FileId { level: 0, min: header.min_txid, max: header.max_txid };
        let dir = self._dir.path().join("replica/ltx/0");
        std::fs::write(dir.join(id.file_name()), file).unwrap();
    }
}

/// A repair was given up although storage had it, and the application took its
/// change back: that nothing differs from the file before was taken for the end of it.
#[test]
fn what_was_given_up_is_not_forgotten_when_nothing_differs() {
    let mut bench = Bench::new();
    bench.commit(2, 2);
    let first = bench.db.sync(PATIENCE).unwrap();
    let (header, file) = bench.attempt(9);
    bench.arrives(&header, &file);
    bench.gap();
    assert_eq!(bench.db.sync(PATIENCE).unwrap(), Txid(first.0 + 2));
    // It never came there: a file in its place makes sure of it.
    bench.attempt(9);
    bench.gap();
    assert_eq!(bench.db.sync(PATIENCE).unwrap(), Txid(first.0 + 3));
}

/// Storage had an attempt that was given up, and nothing was under way when that
/// came out: what was captured since was laid over it.
#[test]
fn what_is_captured_is_not_laid_over_an_attempt_that_was_given_up() {
    let mut bench = Bench::new();
    bench.commit(2, 2);
    let first = bench.db.sync(PATIENCE).unwrap();
    let (header, file) = bench.attempt(9);
    bench.arrives(&header, &file);
    bench.until("the shipper does not rest", |db| !lock(&db.ship).running);
    lock(&bench.db.ship).history = History::Unknown;
    bench.db.kick();
    bench.until("storage is not asked", |db| lock(&db.ship).history == History::Agreed);
    bench.until("no repair", |db| db.peek().gap().is_none());
    assert_eq!(bench.db.sync(PATIENCE).unwrap(), Txid(first.0 + 2));
}

/// Whoever ships had recorded the end of a chain that somebody else extended, and a
/// process beside it took its commit, which no file had, for stored.
#[test]
fn what_others_stored_under_a_txid_is_not_what_was_captured_here() {
    let mut bench = Bench::new();
    bench.commit(2, 2);
    let first = bench.db.sync(PATIENCE).unwrap();
    bench.until("the shipper does not rest", |db| !db.ships());
    let (dir, index) = (bench.db.vfs_dir(), *lock(&bench.index));
    let (_, ours) = Shipped::load(&dir).unwrap().unwrap();
    let ours = Header::decode(&ours).unwrap();
    let stored = |txid: u64, node_id: u64| {
        let header = Header { node_id, max_txid: Txid(txid), min_txid: Txid(txid), ..ours };
        Shipped::new(&header).save(&dir, None).unwrap();
    };
    let waits = |what: &str, change: &dyn Fn(&mut Capture)| {
        let mut guard = bench.db.capture();
        let capture = guard.as_mut().unwrap();
        change(capture);
        let left = bench.db.left_to_others(capture).is_some();
        assert_eq!(left, !bench.db.is_of_record(capture).unwrap(), "{what}");
        left
    };
    assert!(!waits("as it was", &|_| ()));
    assert_eq!(bench.db.txid(), Some(first));
    // The order in which whoever ships makes this known.
    let declare = |c: &mut Capture| c.declare_gap(Gap::Unproven).unwrap();
    assert!(waits("a gap", &declare));
    stored(9, 5);
    assert!(waits("stored by others", &|_| ()));
    assert_eq!(bench.db.txid(), None);
    assert!(waits("its TXID is known", &|c| c.rebase(Txid(10)).unwrap()));
    let follow = |c: &mut Capture| c.follow_from(&index, Txid(10), Txid(11)).unwrap();
    assert!(waits("a repair is under way", &follow));
    // A repair that is gathered is sealed as any segment.
    assert!(waits("a repair is sealed", &|c| c.snapshot_done().unwrap()));
    stored(10, ours.node_id);
    assert!(!waits("a repair is stored", &|_| ()));
    assert_eq!(bench.db.txid(), Some(Txid(10)));
}

/// What was found out while the database closed was recorded over what another
/// process, which ships by now, had recorded.
#[test]
fn whoever_gave_the_shipper_lock_away_records_nothing() {
    let mut bench = Bench::new();
    bench.commit(2, 2);
    let first = bench.db.sync(PATIENCE).unwrap();
    bench.until("the shipper does not rest", |db| !db.ships());
    let dir = bench.db.vfs_dir();
    let (_, header) = Shipped::load(&dir).unwrap().unwrap();
    let header = Header::decode(&header).unwrap();
    let older = Header { min_txid: Txid(0), max_txid: Txid(0), ..header };
    assert_eq!(kind(history::save_newest(&bench.db, &older)), Some(ErrorKind::Transient));
    assert_eq!(Shipped::load(&dir).unwrap().unwrap().0, first);
    let next = bench.db.peek().open_txid();
    assert_eq!(kind(history::agree(&bench.db, Txid(7), None)), Some(ErrorKind::Transient));
    assert_eq!(bench.db.peek().open_txid(), next);
}

/// The first session after a boot agreed with storage and could not record that:
/// no process beside it ever heard that something was stored.
#[test]
fn a_boot_that_could_not_be_recorded_is_recorded_later() {
    let mut bench = Bench::new();
    bench.commit(2, 2);
    bench.db.sync(PATIENCE).unwrap();
    bench.until("the shipper does not rest", |db| !db.ships());
    let dir = bench.db.vfs_dir();
    let record = std::fs::read_to_string(dir.join("node.json")).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
    record["boot"] = format!("{:032x}", 5).into();
    std::fs::write(dir.join("node.json"), record.to_string()).unwrap();
    std::fs::create_dir(dir.join("node.tmp")).unwrap();
    lock(&bench.db.ship).history = History::Unknown;
    bench.db.kick();
    bench.until("no failure", |db| {
        let ship = lock(&db.ship);
        ship.history == History::Agreed && ship.failing
    });
    assert!(!Node::is_settled(&dir).unwrap());
    std::fs::remove_dir(dir.join("node.tmp")).unwrap();
    bench.until("never again", |_| Node::is_settled(&dir).unwrap());
}

/// A repair that met another history, and could not be taken back, made the
/// process ask storage again.
#[test]
fn a_conflict_is_not_forgotten() {
    let mut bench = Bench::new();
    bench.commit(2, 2);
    bench.db.sync(PATIENCE).unwrap();
    conflict(&bench.db, "a test".to_owned());
    bench.db.ended.store(true, Ordering::Release);
    snapshot::abandon(&bench.db);
    assert!(bench.db.is_in_conflict());
}

/// A process that had faulted kept the shipper lock for as long as it lived, and
/// nobody else could ship.
#[test]
fn a_fault_lets_others_ship() {
    let mut bench = Bench::new();
    bench.commit(2, 2);
    bench.db.sync(PATIENCE).unwrap();
    assert!(bench.db.ships());
    bench.db.fault("a test");
    bench.commit(2, 3);
    bench.until("the lock is kept", |db| {
        !db.ships() && db.hold_shipper().is_none() && !lock(&db.ship).running
    });
    // As if it had died: others look after what it committed.
    assert_ne!(bench.shipper_file(), b"");
    assert!(!bench.db.take_shipper().unwrap());
    assert_eq!(bench.db.txid(), None);
    assert_eq!(kind(bench.db.sync(PATIENCE)), Some(ErrorKind::Internal));
}

/// A process in conflict declared a gap in everybody's record with each of its
/// commits, and kept the shipper lock while it had sealed segments.
#[test]
fn a_conflict_is_nobody_elses() {
    let mut bench = Bench::new();
    bench.commit(2, 2);
    bench.db.sync(PATIENCE).unwrap();
    let sealed = {
        let mut guard = bench.db.capture();
        let capture = guard.as_mut().unwrap();
        // The shipper had seen no conflict, and waits for what is captured.
        bench.db.kick();
        tasks::sleep_blocking(Duration::from_millis(50));
        bench.wal.commit(3, 3).write(&bench.db.wal_path);
        lock(&bench.index).mx_frame += 1;
        let end = Published { salt1: 7, mx_frame: 2 };
        assert_eq!(capture.capture_to(end).unwrap(), Outcome::UpToDate);
        // As if it had been sealed while storage answered.
        conflict(&bench.db, "a test".to_owned());
        capture.seal(1).unwrap().unwrap()
    };
    let (path, since_ms) = (sealed.path().to_owned(), 1);
    lock(&bench.db.ship).pending.push_back(Arc::new(Pending { segment: sealed, since_ms }));
    bench.commit(2, 4);
    bench.until("the lock is kept", |db| {
        !db.ships() && db.hold_shipper().is_none() && !lock(&db.ship).running
    });
    assert_eq!(kind(bench.db.sync(PATIENCE)), Some(ErrorKind::Conflict));
    assert!(!bench.db.take_shipper().unwrap());
    assert_ne!(bench.shipper_file(), b"");
    // What waits for storage is there for others, who compare once.
    assert!(path.exists());
    assert!(lock(&bench.db.ship).pending.is_empty());
    assert!(bench.db.lag_seconds() > 0.0);
    let header = *lock(&bench.index);
    let follow = |capture: &mut Capture| {
        assert_eq!(capture.gap(), Some(Gap::Unproven));
        capture.follow_from(&header, Txid(0), Txid(9)).unwrap();
    };
    bench.db.capture().as_mut().map(follow).unwrap();
    bench.commit(2, 5);
    // It waits for nobody, not even to note that nothing is captured.
    assert!(bench.db.before_wal_restart(false) && !bench.db.is_caught_up());
    bench.db.capture_only();
    let mut guard = bench.db.capture();
    let capture = guard.as_mut().unwrap();
    assert_eq!((capture.gap(), capture.position().wal.frame), (None, header.mx_frame));
}

/// An open failed when another process made the database, and shipped it, between
/// the look at the file and the answer of storage.
#[test]
fn a_database_that_was_made_meanwhile_is_opened() {
    let mut bench = Bench::new();
    bench.commit(2, 2);
    bench.db.sync(PATIENCE).unwrap();
    let path = bench.db.path.clone();
    bench.store.before_open(&path, &bench.db.config, true).unwrap();
    std::fs::rename(&path, path.with_extension("away")).unwrap();
    let refused = bench.store.before_open(&path, &bench.db.config, true);
    assert_eq!(kind(refused), Some(ErrorKind::AlreadyExists));
    std::fs::rename(path.with_extension("away"), &path).unwrap();
}

/// The whole WAL was read under the lock that commits wait for when it goes away.
#[test]
fn a_read_transaction_begins_without_reading_the_wal() {
    let mut bench = Bench::new();
    for fill in 1..4 {
        bench.commit(2, fill);
    }
    std::fs::rename(&bench.db.wal_path, bench.db.wal_path.with_extension("away")).unwrap();
    let mut pages = Pages::pin(&bench.db).unwrap();
    let mut page = Vec::new();
    assert_eq!(kind(pages.page(2, &mut page)), Some(ErrorKind::NotFound));
    std::fs::rename(bench.db.wal_path.with_extension("away"), &bench.db.wal_path).unwrap();
    pages.page(2, &mut page).unwrap();
    assert_eq!(page, [3; PAGE]);
    // Whoever wants the file for himself ends it before anything was read, too.
    let mut pages = Pages::pin(&bench.db).unwrap();
    bench.db.before_exclusive();
    assert_eq!(kind(pages.page(2, &mut page)), Some(ErrorKind::Transient));
}

/// Every path whose open had failed was kept for the life of the process.
#[test]
fn an_open_that_fails_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(Arc::new(Silent));
    let config = DbConfig::new(format!("file://{}", dir.path().join("replica").display()));
    for n in 0..3 {
        let path = dir.path().join(format!("{n}.db"));
        store.before_open(&path, &config, true).unwrap();
        assert_eq!(store.kept(), 1);
        store.given_up(&path);
        assert_eq!(store.kept(), 0);
    }
    // What is open is kept as long as that.
    let bench = Bench::new();
    bench.store.given_up(bench.db.path());
    assert_eq!(bench.store.kept(), 1);
}
