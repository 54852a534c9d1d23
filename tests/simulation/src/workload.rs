//! What simulated applications do to the database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use crate::rng::Rng;
use crate::run::Plan;
use crate::world::{World, locked};

/// A database that is attached and not replicated.
const SIDE: &str = "/data/side.db";

/// What an application process is told, and tells.
#[derive(Default)]
pub struct Control {
    /// It should close its connections and exit.
    pub stop: AtomicBool,
    /// Transactions that committed.
    pub commits: AtomicU64,
}

/// One connection's life.
pub struct Session {
    world: Arc<World>,
    plan: Plan,
    control: Arc<Control>,
    rng: Rng,
    /// Uses the library.
    with_library: bool,
    /// Faults of the host's disk before the present action.
    host_faults: u64,
}

/// How an action ended.
enum Outcome {
    Done,
    /// Another one was in the way.
    Busy,
    /// The host's disk is in trouble, which is no fault of the library.
    Trouble,
    /// The process was killed.
    Dead,
}

impl Session {
    /// A session whose choices follow `seed`.
    pub fn new(
        world: &Arc<World>,
        plan: Plan,
        control: &Arc<Control>,
        seed: u64,
        with_library: bool,
    ) -> Session {
        Session {
            world: Arc::clone(world),
            plan,
            control: Arc::clone(control),
            rng: Rng::new(seed),
            with_library,
            host_faults: 0,
        }
    }

    /// Another action begins.
    fn begin(&mut self) {
        self.host_faults = locked(&self.world.disk).host_faults_hit;
    }

    /// Opens, works and closes until it is told to stop.
    pub fn run(mut self) {
        while !self.stopping() {
            let db = match self.open() {
                Ok(db) => db,
                Err(e) => {
                    if let Outcome::Dead = self.judge("open", &e) {
                        return;
                    }
                    self.world.sleep(Duration::from_millis(self.rng.range(1, 200)));
                    continue;
                }
            };
            let actions = self.rng.range(1, self.plan.actions_per_session.max(2));
            for _ in 0..actions {
                if self.stopping() {
                    break;
                }
                if let Outcome::Dead = self.act(&db) {
                    return;
                }
                if self.rng.chance(1, 3) {
                    let us = self.rng.range(0, self.plan.think_us_max.max(1));
                    self.world.sleep(Duration::from_micros(us));
                }
            }
            drop(db);
            self.world.tell("closed");
        }
    }

    fn stopping(&self) -> bool {
        self.control.stop.load(Ordering::SeqCst) || self.world.failure().is_some()
    }

    fn open(&mut self) -> rusqlite::Result<Connection> {
        self.begin();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let uri = if self.with_library { self.plan.uri() } else { self.plan.plain_uri() };
        let db = Connection::open_with_flags(uri, flags)?;
        db.busy_timeout(Duration::from_secs(20))?;
        // What a rolled back transaction outside WAL mode spilled changes free pages.
        let cache = if self.plan.journals { 2000 } else { self.rng.pick(&[5, 10, 50, 2000]) };
        let checkpoint = self.rng.pick(&[0, 1, 10, 100, 1000, 1000]);
        let synchronous = self.rng.pick(self.plan.synchronous);
        db.execute_batch(&format!(
            "PRAGMA cache_size={cache}; PRAGMA synchronous={synchronous}; \
             PRAGMA page_size={}; PRAGMA auto_vacuum={};",
            self.plan.page_size, self.plan.auto_vacuum
        ))?;
        if !self.plan.journals || self.rng.chance(1, 2) {
            db.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
        }
        db.query_row(&format!("PRAGMA wal_autocheckpoint={checkpoint}"), [], |_| Ok(()))?;
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, k INTEGER, v BLOB); \
             CREATE INDEX IF NOT EXISTS i ON t(k);",
        )?;
        if self.plan.attached {
            db.execute_batch(&format!(
                "ATTACH 'file:{SIDE}?vfs=host' AS side; \
                 CREATE TABLE IF NOT EXISTS side.s(id INTEGER PRIMARY KEY, v BLOB);"
            ))?;
        }
        self.world.tell(&format!(
            "opened, cache {cache}, autocheckpoint {checkpoint}, synchronous {synchronous}"
        ));
        Ok(db)
    }

    /// Says what an error means; one that should not be is reported.
    fn judge(&self, what: &str, e: &rusqlite::Error) -> Outcome {
        if self.world.is_dead() {
            return Outcome::Dead;
        }
        let code = e.sqlite_error_code();
        // SQLite ends the transaction of a change to WAL mode late when there is
        // an attached database.
        let late = what == "checkpoint" && self.plan.attached;
        let busy =
            matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::FileLockingProtocolFailed))
                || (late && code == Some(ErrorCode::DatabaseLocked));
        let met = locked(&self.world.disk).host_faults_hit > self.host_faults;
        let trouble = met
            && matches!(
                code,
                Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen)
            );
        if busy {
            self.world.tell(&format!("{what}: busy ({e})"));
            return Outcome::Busy;
        }
        if trouble {
            self.world.tell(&format!("{what}: {e}"));
            return Outcome::Trouble;
        }
        self.world.fail(&format!("{what} failed: {e} ({:?})", e.sqlite_error()));
        Outcome::Trouble
    }

    fn act(&mut self, db: &Connection) -> Outcome {
        self.begin();
        let kind = self.rng.range(0, 100);
        let (what, result) = match kind {
            0..70 => ("transaction", self.transaction(db)),
            70..75 => ("rollback", self.rollback(db)),
            75..80 => ("read", self.read(db)),
            80..90 => ("checkpoint", self.checkpoint(db)),
            90..92 => ("vacuum", self.vacuum(db)),
            92..95 if self.with_library => return self.sync(db),
            97..99 => ("flag", self.flag(db)),
            95..97 if self.plan.journals => ("journal mode", self.journal_mode(db)),
            _ => ("small", self.small(db)),
        };
        match result {
            Ok(()) => Outcome::Done,
            Err(e) => {
                let outcome = self.judge(what, &e);
                if !db.is_autocommit() {
                    let _ = db.execute_batch("ROLLBACK");
                }
                outcome
            }
        }
    }

    fn blob(&mut self) -> Vec<u8> {
        let most = self.rng.pick(&[20, 100, 100, 400, self.plan.page_size as u64 * 3]);
        let mut blob = vec![0; self.rng.range(1, most) as usize];
        self.rng.fill(&mut blob);
        blob
    }

    fn change(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let rows: i64 = db.query_row("SELECT coalesce(max(id), 0) FROM t", [], |r| r.get(0))?;
        let id = self.rng.range(0, rows as u64 + 2) as i64;
        let grow = rows < self.plan.rows;
        match self.rng.range(0, 10) {
            0..4 if grow => {
                let (k, v) = (self.rng.range(0, 1000) as i64, self.blob());
                db.execute("INSERT INTO t(k, v) VALUES(?, ?)", params![k, v])?;
            }
            0..7 => {
                let v = self.blob();
                db.execute("UPDATE t SET v = ?, k = k + 1 WHERE id = ?", params![v, id])?;
            }
            7 => {
                let n = self.rng.range(1, 6) as i64;
                db.execute("DELETE FROM t WHERE id BETWEEN ? AND ?", params![id, id + n])?;
            }
            8 => {
                let v = self.blob();
                db.execute(
                    "INSERT OR REPLACE INTO t(id, k, v) VALUES(?, ?, ?)",
                    params![id, id, v],
                )?;
            }
            _ => {
                db.execute("UPDATE t SET k = k + 1 WHERE k % 7 = ?", params![id % 7])?;
            }
        }
        Ok(())
    }

    fn committed(&self) {
        self.control.commits.fetch_add(1, Ordering::SeqCst);
    }

    fn small(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let v = self.blob();
        let id = self.rng.range(1, 40) as i64;
        db.execute("INSERT OR REPLACE INTO t(id, k, v) VALUES(?, ?, ?)", params![id, id, v])?;
        self.committed();
        Ok(())
    }

    /// A row that goes back to what it was: but for page 1 outside WAL mode, the
    /// pages are then byte for byte those of before.
    fn flag(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let set = "UPDATE t SET k = ? WHERE id = (SELECT min(id) FROM t)";
        let was: Option<i64> = db
            .query_row("SELECT k FROM t WHERE id = (SELECT min(id) FROM t)", [], |r| r.get(0))
            .optional()?
            .flatten();
        for k in [Some(-1), was] {
            db.execute(set, params![k])?;
            self.committed();
            let us = self.rng.range(0, self.plan.think_us_max.max(1) * 8);
            self.world.sleep(Duration::from_micros(us));
        }
        Ok(())
    }

    fn transaction(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let begin = self.rng.pick(&["BEGIN IMMEDIATE", "BEGIN IMMEDIATE", "BEGIN"]);
        db.execute_batch(begin)?;
        let changes = self.rng.pick(&[1, 1, 2, 5, 5, 30, 80]);
        for _ in 0..changes {
            if self.rng.chance(1, 20) {
                db.execute_batch("SAVEPOINT s")?;
                for _ in 0..self.rng.range(1, 20) {
                    self.change(db)?;
                }
                let end =
                    self.rng.pick(&["ROLLBACK TO s; RELEASE s", "RELEASE s", "ROLLBACK TO s"]);
                db.execute_batch(end)?;
            } else {
                self.change(db)?;
            }
        }
        if self.plan.attached && self.rng.chance(1, 3) {
            let (id, v) = (self.rng.range(1, 20) as i64, self.blob());
            db.execute("INSERT OR REPLACE INTO side.s(id, v) VALUES(?, ?)", params![id, v])?;
        }
        db.execute_batch("COMMIT")?;
        self.committed();
        Ok(())
    }

    fn rollback(&mut self, db: &Connection) -> rusqlite::Result<()> {
        db.execute_batch("BEGIN IMMEDIATE")?;
        for _ in 0..self.rng.pick(&[1, 10, 60]) {
            self.change(db)?;
        }
        db.execute_batch("ROLLBACK")
    }

    fn read(&mut self, db: &Connection) -> rusqlite::Result<()> {
        db.execute_batch("BEGIN")?;
        let _: i64 = db.query_row("SELECT count(*) FROM t", [], |r| r.get(0))?;
        let us = self.rng.range(0, self.plan.think_us_max.max(1) * 4);
        self.world.sleep(Duration::from_micros(us));
        let _: i64 = db.query_row("SELECT coalesce(sum(length(v)), 0) FROM t", [], |r| r.get(0))?;
        db.execute_batch("COMMIT")
    }

    fn checkpoint(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let mode = self.rng.pick(&["PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
        let (busy, frames): (i64, i64) =
            db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |r| {
                Ok((r.get(0)?, r.get(1)?))
            })?;
        self.world.tell(&format!("checkpoint {mode}: busy {busy}, {frames} frames"));
        Ok(())
    }

    fn journal_mode(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let mode = self.rng.pick(&["WAL", "WAL", "DELETE", "TRUNCATE", "PERSIST"]);
        let now: String =
            db.query_row(&format!("PRAGMA main.journal_mode={mode}"), [], |r| r.get(0))?;
        self.world.tell(&format!("journal mode {mode}: {now}"));
        Ok(())
    }

    fn vacuum(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if self.plan.auto_vacuum == 2 && self.rng.chance(1, 2) {
            return db.execute_batch("PRAGMA incremental_vacuum");
        }
        if self.rng.chance(1, 2) {
            db.execute("DELETE FROM t WHERE id % 3 = 0", [])?;
            self.committed();
        }
        db.execute_batch("VACUUM")?;
        self.committed();
        Ok(())
    }

    /// What `litestream_sync` answers for must be in storage.
    fn sync(&mut self, db: &Connection) -> Outcome {
        let process = self.world.process();
        let before = locked(&self.world.oracle).newest_of(process);
        let timeout = self.rng.pick(&[100i64, 2_000, 60_000]);
        let answer: rusqlite::Result<String> =
            db.query_row("SELECT litestream_sync(?)", params![timeout], |r| r.get(0));
        if self.world.is_dead() {
            return Outcome::Dead;
        }
        match answer {
            Ok(txid) => {
                let stored = locked(&self.world.storage).acknowledged();
                let txid = u64::from_str_radix(&txid, 16).unwrap_or(0);
                self.world.tell(&format!("litestream_sync: TXID {txid}"));
                let enough = stored.is_some_and(|l| {
                    let place = locked(&self.world.oracle).last_place(&l.digest);
                    l.txid >= txid && place.is_some_and(|p| p + 1 >= before)
                });
                if !enough {
                    self.world.fail(&format!(
                        "litestream_sync answered TXID {txid} for {before} commits, storage has {stored:?}"
                    ));
                }
                Outcome::Done
            }
            Err(e) => {
                self.world.tell(&format!("litestream_sync: {e}"));
                Outcome::Done
            }
        }
    }
}

impl Session {
    /// Opens the database once more, writes, and closes when storage has everything.
    pub fn settle(mut self) {
        let db = match self.open() {
            Ok(db) => db,
            Err(e) => {
                self.judge("open", &e);
                return;
            }
        };
        if let Err(e) = self.small(&db) {
            self.judge("small", &e);
        }
        let sync = |db: &Connection| -> rusqlite::Result<String> {
            db.query_row("SELECT litestream_sync(500000)", [], |r| r.get(0))
        };
        let answer = sync(&db);
        if let Err(e) = answer {
            self.world.fail(&format!("the chain does not converge: {e}"));
        }
        let status: rusqlite::Result<String> =
            db.query_row("SELECT litestream_status()", [], |r| r.get(0));
        self.world.tell(&format!("status: {}", status.unwrap_or_default()));
    }
}
