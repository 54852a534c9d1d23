//! Building a [`Db`]: its files, its capture state, its standing against storage.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crate::capture::Capture;
use crate::capture::recover::Place;
use crate::clock::{Clock, Random};
use crate::config::DbConfig;
use crate::db::status::Counters;
use crate::db::{Client, Db, Ship};
use crate::error::{Error, ErrorKind, Result};
use crate::host::Host;
use crate::log::Level;
use crate::ltx::checksum::crc64;
use crate::os::disk::{self as os, FileStat};
use crate::store::Store;

/// The parts of an open that the store gathers.
pub(crate) struct Opened {
    pub path: PathBuf,
    pub wal_path: PathBuf,
    pub stat: FileStat,
    pub config: DbConfig,
    pub host: Arc<dyn Host>,
    pub client: Arc<Client>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub store: Weak<Store>,
}

/// Device and inode of the database at `path`.
pub(crate) fn canonical_identity(path: &Path) -> Result<FileStat> {
    os::stat(path)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("{} does not exist", path.display()))
    })
}

/// The directory for our files: `.NAME-litestream` beside the database unless configured.
pub(crate) fn meta_dir(path: &Path, config: &DbConfig) -> Result<PathBuf> {
    if let Some(dir) = &config.meta_path {
        return Ok(dir.clone());
    }
    let canonical = os::canonical(path)?;
    let name = canonical.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(canonical.with_file_name(format!(".{name}-litestream")))
}

/// Our part of the meta directory; `ltx` beside it belongs to Litestream's daemon.
pub(crate) fn vfs_dir(meta_dir: &Path) -> PathBuf {
    meta_dir.join("vfs")
}

/// Whether an earlier run left a position for the database at `path`.
pub(crate) fn local_state_exists(path: &Path, config: &DbConfig) -> Result<bool> {
    let file = vfs_dir(&meta_dir(path, config)?).join(crate::capture::POSITION_FILE);
    Ok(os::stat(&file)?.is_some_and(|s| s.size > 0))
}

/// A number that tells replica URLs apart.
pub(crate) fn replica_hash(client: &Client) -> u64 {
    crc64(client.identity().as_bytes())
}

/// `EIO` of every Unix.
const EIO: i32 = 5;

/// The device of our directory is full or broken, which says nothing of the settings.
fn is_disk_trouble(e: &Error) -> bool {
    let source = std::error::Error::source(e).and_then(|s| s.downcast_ref::<std::io::Error>());
    e.kind() == ErrorKind::Full || source.is_some_and(|s| s.raw_os_error() == Some(EIO))
}

/// How long an open waits for another process's batch.
pub(crate) const OPEN_WAIT: Duration = Duration::from_millis(100);

impl Db {
    pub(crate) fn open(o: Opened) -> Result<Arc<Db>> {
        let meta = meta_dir(&o.path, &o.config)?;
        let identity = (o.stat.dev, o.stat.ino);
        let capture = Capture::new(Place {
            dir: vfs_dir(&meta),
            path: o.path.clone(),
            wal_path: o.wal_path.clone(),
            identity,
            replica: replica_hash(&o.client),
            owner: Some(o.stat.owner),
        });
        let db = Db {
            identity,
            meta_dir: meta,
            owner: Some(o.stat.owner),
            config: o.config,
            host: o.host,
            store: o.store,
            client: o.client,
            clock: o.clock,
            random: o.random,
            path: o.path,
            wal_path: o.wal_path,
            handover: Default::default(),
            armed_at_ms: Default::default(),
            page_size: Default::default(),
            in_wal: Default::default(),
            writers: Default::default(),
            holders: Default::default(),
            let_go: Default::default(),
            started: Default::default(),
            faulted: Default::default(),
            connections: Default::default(),
            closing: Default::default(),
            capture: Mutex::new(capture),
            shipper: Mutex::default(),
            ships: Default::default(),
            stuck_until: Mutex::default(),
            refused: Mutex::default(),
            orphaned: Default::default(),
            unopened: Default::default(),
            writing: Default::default(),
            ended: Default::default(),
            captured_signal: Default::default(),
            ship: Mutex::new(Ship::new(false)),
            ship_signal: Default::default(),
            ship_notify: Default::default(),
            pin: Default::default(),
            baseline: Mutex::new(None),
            node: Mutex::new(None),
            last_seal: Mutex::new(None),
            counters: Counters::default(),
            pace: Mutex::default(),
        };
        let db = Arc::new(db);
        let ready = os::create_private_dir(&db.meta_dir, db.owner)
            .and_then(|()| db.open_capture(OPEN_WAIT));
        match ready {
            // The application needs nothing of ours: what the record lacks is proven,
            // or found to be a gap, by the first batch that has room and can read.
            Err(e) if is_disk_trouble(&e) => {
                db.log(Level::Error, &e.to_string());
                db.set_error(format!("{e}; commits stay in the WAL and are captured later"));
                db.unopened.store(true, Ordering::Release);
            }
            other => other?,
        }
        Ok(db)
    }
}
