//! Building a [`Db`]: its files, its capture state, its standing against storage.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};

use crate::capture::recover::{self, Place, Recovered};
use crate::capture::{Capture, Gap};
use crate::clock::{Clock, Random};
use crate::config::DbConfig;
use crate::db::status::Counters;
use crate::db::{Client, Db, Pending, Ship, lock};
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

impl Db {
    pub(crate) fn open(o: Opened) -> Result<Arc<Db>> {
        let meta = meta_dir(&o.path, &o.config)?;
        let identity = (o.stat.dev, o.stat.ino);
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
            note: Default::default(),
            captured: Default::default(),
            armed: Default::default(),
            hidden_wal: Default::default(),
            armed_at_ms: Default::default(),
            page_size: Default::default(),
            in_wal: Default::default(),
            writers: Default::default(),
            started: Default::default(),
            faulted: Default::default(),
            connections: Default::default(),
            closing: Default::default(),
            capture: Mutex::new(None),
            captured_signal: Default::default(),
            ship: Mutex::new(Ship::new(false)),
            ship_signal: Default::default(),
            ship_notify: Default::default(),
            pin: Default::default(),
            baseline: Mutex::new(None),
            last_seal: Mutex::new(None),
            counters: Counters::default(),
            pace: Mutex::default(),
        };
        let db = Arc::new(db);
        let mut guard = lock(&db.capture);
        db.take_over(&mut guard)?;
        // A connection that is never used must not keep other processes from
        // capturing theirs.
        if let Some(capture) = guard.as_mut() {
            capture.release();
        }
        drop(guard);
        Ok(db)
    }

    fn place(&self) -> Result<Place> {
        Ok(Place {
            dir: vfs_dir(&self.meta_dir),
            wal_path: self.wal_path.clone(),
            database: canonical_identity(&self.path)?,
            replica: replica_hash(&self.client),
            owner: self.owner,
        })
    }

    /// Becomes the process that captures and ships, if no other one is.
    pub(crate) fn take_over(&self, slot: &mut Option<Capture>) -> Result<bool> {
        let place = self.place()?;
        if (place.database.dev, place.database.ino) != self.identity {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "{} was replaced while it was open: what is written through the old file is \
                     not replicated; close and open it again",
                    self.path.display()
                ),
            ));
        }
        os::create_private_dir(&self.meta_dir, self.owner)?;
        let Some(Recovered { capture, sealed, trusted, notes }) = recover::open(&place)? else {
            self.counters.bystander.store(true, Ordering::Relaxed);
            return Ok(false);
        };
        self.counters.bystander.store(false, Ordering::Relaxed);
        for note in notes {
            self.log(Level::Warn, &note);
        }
        if let Some(gap) = capture.gap()
            && gap != Gap::First
        {
            self.counters.gap(gap);
            self.log(Level::Warn, &format!("gap found at open: {}", gap.name()));
        }
        if trusted && self.page_size_seen() == 0 {
            self.note_page_size(capture.position().page_size);
        }
        let mut ship = Ship::new(trusted);
        {
            let old = lock(&self.ship);
            (ship.running, ship.closing) = (old.running, old.closing);
        }
        ship.sealed_txid = match sealed.last() {
            Some(last) => last.txid(),
            None => crate::ltx::Txid(capture.open_txid().0.saturating_sub(1)),
        };
        ship.pending =
            sealed.into_iter().map(|s| Arc::new(Pending { segment: s, since_ms: 0 })).collect();
        *lock(&self.ship) = ship;
        *slot = Some(capture);
        Ok(true)
    }
}
