"""Whatever SQLite does to a database, the copy is the database, byte for byte."""

import sqlite3
import unittest

from base import HostCase
from lab import paths
from lab.replica import ltx_pages, restore


class Content(HostCase):
    """Kinds of transactions, page sizes, shapes of growth and shrinking."""

    def plain(self, path, script, page_size=4096):
        """A database written without the extension."""
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(f"PRAGMA page_size={page_size}")
        connection.executescript(script)
        connection.close()

    def page_size(self, size):
        self.host("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute(f"PRAGMA page_size={SIZE}")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            for n in range(60):
                db.execute("INSERT INTO t(v) VALUES(randomblob(?))", (n * 700,))
            db.execute("DELETE FROM t WHERE id % 2")
            db.close()
        """, SIZE=size)
        self.assertEqual(self.rows(self.db, "PRAGMA page_size"), [(size,)])
        self.oracle()

    def test_page_size_512(self):
        self.page_size(512)

    def test_page_size_1024(self):
        self.page_size(1024)

    def test_page_size_65536(self):
        self.page_size(65536)

    def test_spilled_transactions_savepoints_and_rollbacks(self):
        self.host("""
            db = connect(PATH, **PARAMS, sync_interval="20ms")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            db.execute("PRAGMA cache_size=10")
            for n in range(12):
                db.execute("BEGIN")
                db.executemany("INSERT INTO t(v) VALUES(?)", [(os.urandom(1500),)] * 200)
                db.execute("SAVEPOINT inner")
                db.execute("UPDATE t SET v = randomblob(900) WHERE id % 3 = 0")
                db.execute("ROLLBACK TO inner" if n % 2 else "RELEASE inner")
                db.execute("ROLLBACK" if n % 4 == 3 else "COMMIT")
            db.close()
        """)
        self.oracle()

    def test_frames_that_sqlite_published_without_salts(self):
        """SQLite 3.40.1 leaves salts of committed frames zero after such a rollback."""
        said = self.host("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("PRAGMA page_size=1024")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA cache_size=20")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            sync(db)
            db.execute("BEGIN")
            db.executemany("INSERT INTO t(v) VALUES(?)", [(os.urandom(900),)] * 100)
            db.execute("SAVEPOINT inner")
            db.executemany("INSERT INTO t(v) VALUES(?)", [(os.urandom(900),)] * 200)
            db.execute("ROLLBACK TO inner")
            db.execute("COMMIT")
            sync(db)
            db.execute("INSERT INTO t(v) VALUES('after')")
            sync(db)
            say(gaps=status(db)["gaps"])
            db.close()
        """)
        self.assertEqual(said["gaps"], {})
        self.oracle()

    def test_r_09_vacuum_and_incremental_vacuum_shrink_the_copy(self):
        said = self.host("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            db.executemany("INSERT INTO t(v) VALUES(?)", [(os.urandom(3000),)] * 600)
            sync(db)
            before = scalar(db, "PRAGMA page_count")
            db.execute("DELETE FROM t WHERE id > 100")
            db.executescript("PRAGMA incremental_vacuum")
            sync(db)
            middle = scalar(db, "PRAGMA page_count")
            db.execute("DELETE FROM t WHERE id > 20")
            db.execute("VACUUM")
            sync(db)
            db.execute("INSERT INTO t(v) VALUES(randomblob(100))")
            say(before=before, middle=middle, after=scalar(db, "PRAGMA page_count"))
            db.close()
        """)
        self.assertLess(said["middle"], said["before"] // 2)
        self.assertLess(said["after"], said["middle"])
        self.oracle()

    def test_r_07_checkpoints_of_four_kinds_cause_no_snapshot(self):
        said = self.host("""
            db = connect(PATH, **PARAMS, sync_interval="20ms")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            sync(db)
            first = status(db)["snapshots"]
            for n in range(80):
                db.execute("INSERT INTO t(v) VALUES(randomblob(5000))")
                kind = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")[n % 4]
                db.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
                if n % 10 == 0:
                    time.sleep(0.03)
            sync(db)
            say(first=first, last=status(db)["snapshots"])
            db.close()
        """)
        self.assertEqual(said["first"], said["last"])
        self.oracle()

    def test_r_14_every_page_of_a_growth_is_in_the_file_that_announces_it(self):
        self.host("""
            db = connect(PATH, **PARAMS, sync_interval="10ms")
            db.execute("PRAGMA cache_size=10")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            for n in range(40):
                db.execute("INSERT INTO t(v) VALUES(zeroblob(?))", (n * 7000 % 90000,))
                if n % 5 == 4:
                    db.execute("DELETE FROM t WHERE id % 3 = 0")
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                if n % 13 == 12:
                    db.execute("VACUUM")
                time.sleep(0.02)
            db.close()
        """)
        before, grown = 0, 0
        for low, high in self.replica.names():
            commit, pages = ltx_pages(self.replica.file(low, high))
            self.assertEqual(pages, sorted(set(pages)))
            self.assertLessEqual(set(range(before + 1, commit + 1)), set(pages), f"TXID {low}")
            grown += commit > before
            before = commit
        self.assertGreater(grown, 5)
        self.oracle()

    def test_r_06_a_wal_reused_without_growing_is_noticed(self):
        said = self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v INT)")
            db.execute("INSERT INTO t(v) VALUES(0)")
            sync(db)
            seen = []
            for n in range(6):
                db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
                db.execute("UPDATE t SET v = v + 1")
                sync(db)
                seen.append(scalar(db, "SELECT litestream_txid()"))
            say(seen=seen, size=os.path.getsize(str(PATH) + "-wal"))
            db.close()
        """)
        self.assertEqual(len(set(said["seen"])), 6)
        self.oracle()

    def test_a_tight_loop_with_autocheckpoint_loses_nothing(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("PRAGMA wal_autocheckpoint=50")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            for n in range(8000):
                db.execute("INSERT INTO t(v) VALUES(randomblob(300))")
            db.close()
        """)
        self.oracle()

    def test_r_02_writers_and_checkpointers_race(self):
        self.host("""
            db = connect(PATH, **PARAMS, sync_interval="10ms")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, w INT, v BLOB)")
            end = time.monotonic() + 3
            def write(w):
                own = connect(PATH, **PARAMS, sync_interval="10ms")
                own.execute("PRAGMA busy_timeout=20000")
                while time.monotonic() < end:
                    own.execute("INSERT INTO t(w, v) VALUES(?, randomblob(800))", (w,))
                own.close()
            def checkpoint():
                own = connect(PATH, **PARAMS, sync_interval="10ms")
                kinds = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")
                n = 0
                while time.monotonic() < end:
                    n += 1
                    try:
                        own.execute(f"PRAGMA wal_checkpoint({kinds[n % 4]})").fetchall()
                    except sqlite3.OperationalError:
                        pass
                    time.sleep(0.004)
                own.close()
            threads = [threading.Thread(target=write, args=(w,)) for w in range(3)]
            threads.append(threading.Thread(target=checkpoint))
            [t.start() for t in threads]
            [t.join() for t in threads]
            db.close()
        """)
        self.oracle()

    def test_r_21_an_existing_database_is_copied_whole(self):
        self.plain(self.db, """
            PRAGMA journal_mode=WAL;
            CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB);
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
              INSERT INTO t(v) SELECT randomblob(900) FROM n;
        """)
        self.assertGreater(self.db.stat().st_size, 8 << 20)
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("INSERT INTO t(v) VALUES('after')")
            db.execute("UPDATE t SET v = 'changed' WHERE id % 1000 = 0")
            db.close()
        """)
        self.oracle()

    def test_an_existing_database_in_rollback_mode_turns_to_wal(self):
        self.plain(self.db, """
            CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB);
            INSERT INTO t(v) VALUES(randomblob(30000));
        """)
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("INSERT INTO t(v) VALUES('after')")
            db.close()
        """)
        self.oracle()

    def test_a_database_of_tables_without_rows(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(x)")
            db.close()
        """)
        self.oracle()

    def test_r_28_a_deleted_and_recreated_database_is_not_appended(self):
        work = """
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v TEXT)")
            db.execute("INSERT INTO t(v) VALUES(?)", (WORD,))
            db.close()
        """
        self.host(work, WORD="old")
        for suffix in ("", "-wal", "-shm"):
            self.db.with_name(self.db.name + suffix).unlink(missing_ok=True)
        said = self.host("""
            error = host_error(connect, PATH, **PARAMS)
            say(error=error, last=last_error())
        """)
        self.assertIn("restore", said["last"])
        self.assertFalse(self.db.exists())
        copy = self.restored()
        self.assertEqual(self.rows(copy, "SELECT v FROM t"), [("old",)])

    def test_r_28_a_database_replaced_by_another_is_told_apart(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(v TEXT)")
            db.execute("INSERT INTO t VALUES('old')")
            db.close()
        """)
        self.db.unlink()
        self.plain(self.db, "PRAGMA journal_mode=WAL; CREATE TABLE u(w); INSERT INTO u VALUES(1);")
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("INSERT INTO u VALUES(2)")
            db.close()
        """)
        copy = self.restored()
        now = self.rows(self.db, "SELECT name FROM sqlite_master")
        self.assertIn(self.rows(copy, "SELECT name FROM sqlite_master"), ([("t",)], now))
        self.assertEqual(self.rows(copy, "PRAGMA integrity_check"), [("ok",)])

    def test_attached_databases_each_have_their_replica(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            other = uri(OTHER, replica_url=OTHER_URL)
            db.execute("ATTACH ? AS other", (other,))
            db.execute("PRAGMA other.journal_mode=WAL")
            db.execute("CREATE TABLE main.t(x)")
            db.execute("CREATE TABLE other.u(x)")
            for n in range(20):
                db.execute("BEGIN")
                db.execute("INSERT INTO main.t VALUES(?)", (n,))
                db.execute("INSERT INTO other.u VALUES(?)", (n,))
                db.execute("COMMIT")
            db.close()
        """, OTHER=self.dir / "other.db", OTHER_URL=f"file://{self.dir}/replica-other")
        self.oracle()
        copy = self.dir / "other-copy.db"
        restore(f"file://{self.dir}/replica-other", copy, paths.GO_17)
        self.assertEqual(self.rows(copy, "SELECT count(*) FROM u"), [(20,)])


if __name__ == "__main__":
    unittest.main()
