//! Open connections on replicated databases, to find the one that a WAL
//! belongs to. Asked when files are opened, closed and deleted, never in a
//! transaction.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use litestream::db::Db;

use crate::primary_vfs::Connection;

/// One open connection.
pub(crate) struct Entry {
    /// Where SQLite keeps the database's name while it is open.
    pub name_address: usize,
    /// The name.
    pub path: Vec<u8>,
    /// What it shares with its WAL.
    pub connection: Arc<Connection>,
}

static ENTRIES: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

fn entries() -> MutexGuard<'static, Vec<Entry>> {
    ENTRIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of the WAL of the database `path`.
pub(crate) fn wal_name(path: &[u8]) -> Vec<u8> {
    [path, b"-wal"].concat()
}

/// Adds a connection.
pub(crate) fn add(entry: Entry) {
    entries().push(entry);
}

/// Removes a connection.
pub(crate) fn remove(connection: &Arc<Connection>) {
    entries().retain(|e| !Arc::ptr_eq(&e.connection, connection));
}

/// The connection whose name lies at `name_address`, else the newest one on
/// `path` or on the database of `wal`.
pub(crate) fn find(name_address: usize, path: &[u8], wal: &[u8]) -> Option<Arc<Connection>> {
    let entries = entries();
    let mut mine = entries.iter().filter(|e| e.connection.db().is_some());
    let exact = mine.clone().find(|e| e.name_address == name_address && e.path == path);
    let named = || mine.rfind(|e| e.path == path || wal == wal_name(&e.path));
    exact.or_else(named).map(|e| Arc::clone(&e.connection))
}

/// The databases whose WAL is `name`.
pub(crate) fn by_wal(name: &[u8]) -> Vec<Arc<Db>> {
    let Some(path) = name.strip_suffix(b"-wal") else { return Vec::new() };
    distinct(|e| e.path == path)
}

/// Every database.
pub(crate) fn all() -> Vec<Arc<Db>> {
    distinct(|_| true)
}

fn distinct(wanted: impl Fn(&Entry) -> bool) -> Vec<Arc<Db>> {
    let mut found: Vec<Arc<Db>> = Vec::new();
    for entry in entries().iter().filter(|e| wanted(e)) {
        // None: the parent's, in a forked child.
        if let Some(db) = entry.connection.db()
            && !found.iter().any(|known| Arc::ptr_eq(known, db))
        {
            found.push(Arc::clone(db));
        }
    }
    found
}

/// Forgets the connections of a simulated process that has ended.
#[cfg(feature = "simulation")]
pub(crate) fn forget(process: u32) {
    let gone: Vec<Entry> = {
        let mut entries = entries();
        let (gone, kept) =
            std::mem::take(&mut *entries).into_iter().partition(|e| e.connection.is_of(process));
        *entries = kept;
        gone
    };
    drop(gone);
}
