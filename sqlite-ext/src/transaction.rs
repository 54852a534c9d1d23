//! One connection's present transaction outside WAL mode: what it did to the
//! database file, and when the engine hears of it.

use std::cell::{Cell, RefCell};

use litestream::capture::writes::Writes;
use litestream::db::Db;
use litestream::host::OwnFile;

use crate::ffi::abi::{SQLITE_LOCK_EXCLUSIVE, SQLITE_LOCK_RESERVED};

/// Kept with the connection's file, whose calls never overlap.
#[derive(Default)]
pub(crate) struct Transaction {
    writes: RefCell<Writes>,
    /// The connection holds RESERVED or more as a writer; who plays back a hot
    /// journal takes EXCLUSIVE without it.
    reserved: Cell<bool>,
    /// The connection holds EXCLUSIVE, as whatever.
    alone: Cell<bool>,
}

impl Transaction {
    /// The host VFS granted lock `level`.
    pub(crate) fn locked(&self, db: &Db, level: i32) {
        if level == SQLITE_LOCK_RESERVED {
            self.may_write(db);
        }
        if level == SQLITE_LOCK_EXCLUSIVE && !self.alone.replace(true) {
            db.holder_came();
        }
    }

    /// The connection is a writer: with RESERVED, or with an EXCLUSIVE lock that
    /// it kept since WAL mode or since a commit. For those it asks no RESERVED.
    pub(crate) fn may_write(&self, db: &Db) {
        if !self.reserved.replace(true) {
            db.writer_came();
        }
    }

    /// The file is about to be written.
    pub(crate) fn write(&self, db: &Db, at: u64, len: u32, file: &dyn OwnFile) {
        let mut writes = self.begun(db, at == 0, file);
        writes.write(at, len);
    }

    /// The file is about to be cut to or grown to `size` bytes.
    pub(crate) fn truncate(&self, db: &Db, size: u64, file: &dyn OwnFile) {
        let mut writes = self.begun(db, false, file);
        writes.truncate(size);
    }

    /// `commits`: page 1 is written.
    fn begun(&self, db: &Db, commits: bool, file: &dyn OwnFile) -> std::cell::RefMut<'_, Writes> {
        let writes = self.writes.borrow_mut();
        if writes.is_empty() {
            db.rollback_begin(self.reserved.get(), commits, file);
        }
        writes
    }

    /// `SQLITE_FCNTL_SYNC`: everything is written that a commit or a rollback writes.
    pub(crate) fn synced(&self) {
        self.writes.borrow_mut().synced();
    }

    /// `SQLITE_FCNTL_COMMIT_PHASETWO`.
    pub(crate) fn committed(&self, db: &Db, file: &dyn OwnFile) {
        let mut writes = self.writes.borrow_mut();
        if !writes.is_empty() {
            db.rollback_commit(&mut writes, file);
            writes.clear();
            self.may_write(db);
        }
    }

    /// The connection is about to lower its lock to `level`.
    pub(crate) fn before_unlock(&self, db: &Db, level: i32, file: &dyn OwnFile) {
        if level < SQLITE_LOCK_EXCLUSIVE && self.alone.replace(false) {
            db.holder_went();
        }
        if level >= SQLITE_LOCK_RESERVED {
            return;
        }
        let mut writes = self.writes.borrow_mut();
        if !writes.is_empty() {
            db.rollback_undone(&mut writes, file);
            writes.clear();
        }
        if self.reserved.replace(false) {
            db.writer_went();
        }
    }

    /// The connection closed the file, with or without an unlock before.
    pub(crate) fn closed(&self, db: &Db) {
        if !self.writes.borrow().is_empty() {
            db.rollback_lost();
        }
        if self.alone.replace(false) {
            db.holder_went();
        }
        if self.reserved.replace(false) {
            db.writer_went();
        }
    }
}
