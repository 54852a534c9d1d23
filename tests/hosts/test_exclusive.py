"""locking_mode=EXCLUSIVE: nothing waits until the connection lets go."""

import sqlite3
import unittest

from base import HostCase
from lab import child

BEFORE = 'db.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()'


class Exclusive(HostCase):
    """WAL with a private and with a shared wal-index, and rollback journals."""

    def run_mode(self, mode, when, rows=300):
        return self.host("""
            db = connect(PATH, wal=False, **PARAMS, sync_interval="10ms")
            exclusive = lambda: db.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
            if WHEN == "before":
                exclusive()
            db.execute(f"PRAGMA journal_mode={MODE}").fetchall()
            db.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v BLOB)")
            if WHEN == "after":
                exclusive()
            for n in range(ROWS):
                db.execute("INSERT INTO t(v) VALUES(randomblob(3000))")
            sync(db, 30000)
            held = status(db)
            for n in range(20):
                db.execute("UPDATE t SET v = randomblob(2500) WHERE id % 20 = ?", (n,))
            sync(db, 30000)
            db.execute("PRAGMA locking_mode=NORMAL").fetchall()
            db.execute("SELECT count(*) FROM t").fetchall()
            db.execute("INSERT INTO t(v) VALUES('normal again')")
            sync(db, 30000)
            say(held=held, status=status(db))
            db.close()
        """, MODE=mode, WHEN=when, ROWS=rows)

    def test_snapshots_are_taken_while_the_database_is_held(self):
        for mode in ("WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY"):
            for when in ("before", "after"):
                with self.subTest(mode=mode, when=when):
                    self.setUp()
                    said = self.run_mode(mode, when)
                    self.assertEqual(said["held"]["state"], "ok", said["held"])
                    self.assertEqual(said["status"]["state"], "ok", said["status"])
                    self.assertEqual(said["status"]["gaps"], {})
                    self.oracle()

    def test_an_existing_database_held_from_the_start(self):
        for mode in ("wal", "delete"):
            with self.subTest(mode=mode):
                self.setUp()
                plain = sqlite3.connect(self.db)
                plain.execute(f"PRAGMA journal_mode={mode}").fetchall()
                plain.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
                plain.executemany("INSERT INTO t(v) VALUES(randomblob(?))",
                                  ((3000,) for _ in range(2000)))
                plain.commit()
                plain.close()
                said = self.run_mode(mode, "before", 50)
                self.assertEqual(said["held"]["state"], "ok", said["held"])
                self.assertEqual(said["status"]["gaps"], {})
                self.oracle()

    def test_a_lock_that_is_kept_from_wal_mode_on_is_a_writers(self):
        for mode in ("DELETE", "TRUNCATE", "PERSIST", "MEMORY"):
            for when in ("before", "after", "idle"):
                with self.subTest(mode=mode, when=when):
                    self.setUp()
                    said = self.host("""
                        db = connect(PATH, wal=False, **PARAMS, sync_interval="10ms")
                        exclusive = lambda: db.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
                        if WHEN == "before":
                            exclusive()
                        db.execute("PRAGMA journal_mode=WAL").fetchall()
                        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
                        sync(db, 30000)
                        if WHEN != "before":
                            exclusive()
                        if WHEN != "idle":
                            db.execute("INSERT INTO t(v) VALUES(randomblob(9000))")
                        for mode in (MODE, "WAL", MODE):
                            db.execute(f"PRAGMA journal_mode={mode}").fetchall()
                            for n in range(5):
                                db.execute("INSERT INTO t(v) VALUES(randomblob(3000))")
                            sync(db, 30000)
                        say(status=status(db))
                        db.close()
                    """, MODE=mode, WHEN=when)["status"]
                    self.assertEqual((said["state"], said["gaps"]), ("ok", {}), said)
                    self.oracle()

    def test_a_lock_that_is_kept_since_a_playback(self):
        killed = self.start("""
            db = connect(PATH, wal=False, **PARAMS, sync_interval="10ms")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            sync(db, 30000)
            db.execute("PRAGMA cache_size=4")
            db.execute("BEGIN")
            for n in range(200):
                db.execute("INSERT INTO t(v) VALUES(randomblob(3000))")
            say(done="spilled")
            time.sleep(60)
        """)
        child.hear(killed)
        child.kill(killed)
        said = self.host("""
            db = connect(PATH, wal=False, **PARAMS, sync_interval="10ms")
            db.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
            for n in range(20):
                db.execute("INSERT INTO t(v) VALUES(randomblob(3000))")
                if n % 5 == 0:
                    sync(db, 30000)
            say(status=status(db))
            db.close()
        """)["status"]
        self.assertEqual((said["state"], said["gaps"]), ("ok", {"interrupted": 1}), said)
        self.oracle()


if __name__ == "__main__":
    unittest.main()
