"""Journal modes other than WAL: every commit reaches the replica, byte for byte."""

import random
import shutil
import sqlite3
import textwrap
import time
import unittest

from base import HostCase
from lab import paths
from lab.child import finish, hear, kill
from lab.replica import FileReplica, file_hash, integrity

MODES = ("DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF")

# Random transactions; `pages()` is the database file as the host sees it.
WORK = """
    import hashlib, pathlib, random

    def commit(db, rng, rows=300):
        db.execute("BEGIN IMMEDIATE")
        for _ in range(rng.randrange(1, 12)):
            kind = rng.random()
            if kind < 0.6:
                db.execute("INSERT OR REPLACE INTO t VALUES(?, randomblob(?))",
                           (rng.randrange(rows), rng.randrange(9000)))
            elif kind < 0.8:
                db.execute("DELETE FROM t WHERE id > ?", (rng.randrange(rows),))
            else:
                db.execute("UPDATE t SET v = randomblob(900) WHERE id % 7 = ?", (rng.randrange(7),))
        db.execute("COMMIT")

    def whole(path):
        return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
"""


def work(script):
    return textwrap.dedent(WORK) + textwrap.dedent(script)


class Rollback(HostCase):
    """One process, one journal mode or several."""

    def states(self, states):
        """Every state that the host noted after a sync is restored from its TXID."""
        for txid, expected in states.items():
            copy = self.restored(paths.OURS, "-txid", txid)
            self.assertEqual(file_hash(copy), expected, f"at {txid}")
        txid, expected = list(states.items())[-1]
        self.assertEqual(file_hash(self.restored(paths.GO_17, "-txid", txid)), expected)

    def test_commits_in_every_journal_mode(self):
        for mode in MODES:
            with self.subTest(mode=mode):
                self.setUp()
                said = self.host(work("""
                    db = connect(PATH, wal=False, **PARAMS, sync_interval="10ms")
                    db.execute(f"PRAGMA journal_mode={MODE}")
                    db.execute("PRAGMA synchronous=OFF")
                    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
                    rng, states = random.Random(MODE), {}
                    for n in range(40):
                        commit(db, rng)
                        if n % 5 == 0:
                            states[sync(db)] = whole(PATH)
                    say(states=states, status=status(db))
                    db.close()
                """), MODE=mode)
                self.assertEqual(said["status"]["state"], "ok")
                self.assertEqual(said["status"]["gaps"], {})
                self.assertEqual(sum(said["status"]["snapshots"].values()), 1)
                self.states(said["states"])
                self.oracle()

    def test_rolled_back_transactions_that_spilled(self):
        said = self.host(work("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("PRAGMA cache_size=10")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            rng = random.Random(7)
            [commit(db, rng) for _ in range(5)]
            sync(db)
            for n in range(20):
                db.execute("BEGIN IMMEDIATE")
                for i in range(200):
                    db.execute("INSERT OR REPLACE INTO t VALUES(?, randomblob(3000))", (i,))
                db.execute("SAVEPOINT s")
                db.execute("DELETE FROM t WHERE id < 150")
                if n % 2:
                    db.execute("ROLLBACK TO s")
                db.execute("COMMIT" if n % 3 == 0 else "ROLLBACK")
            sync(db)
            say(status=status(db))
            db.close()
        """))
        self.assertEqual(said["status"]["gaps"], {})
        self.oracle()

    def test_shrinking_and_growing(self):
        said = self.host(work("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            rng, states = random.Random(8), {}
            for n in range(12):
                for i in range(3):
                    commit(db, rng)
                db.execute("DELETE FROM t WHERE id > ?", (rng.randrange(200),))
                if n % 3 == 1:
                    db.execute("PRAGMA incremental_vacuum(20)").fetchall()
                elif n % 3 == 2:
                    db.execute("VACUUM")
                states[sync(db)] = whole(PATH)
            say(status=status(db), states=states)
            db.close()
        """))
        self.assertEqual(said["status"]["gaps"], {})
        self.states(said["states"])
        self.oracle()

    def test_pages_that_a_growth_never_wrote(self):
        said = self.host("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("PRAGMA cache_size=10")
            db.execute("CREATE TABLE t(v)")
            sync(db)
            db.execute("BEGIN")
            for n in range(300):
                db.execute("INSERT INTO t VALUES(zeroblob(5000))")
            db.execute("DELETE FROM t WHERE rowid % 5")
            db.execute("COMMIT")
            sync(db)
            say(status=status(db))
            db.close()
        """)
        self.assertEqual(said["status"]["gaps"], {})
        self.oracle()

    def test_switching_between_all_modes(self):
        said = self.host(work("""
            db = connect(PATH, wal=False, **PARAMS, sync_interval="5ms")
            other = connect(PATH, wal=False, **PARAMS)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            rng, modes = random.Random(9), ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF", "WAL"]
            for n in range(60):
                mode = rng.choice(modes)
                try:
                    db.execute(f"PRAGMA journal_mode={mode}").fetchall()
                except sqlite3.OperationalError:
                    pass
                for _ in range(3):
                    commit(rng.choice([db, other]), rng)
                if n % 10 == 9:
                    sync(db)
            sync(db)
            say(status=status(db))
            other.close()
            db.close()
        """))
        self.assertEqual(said["status"]["gaps"], {})
        self.oracle()

    def test_transactions_over_attached_databases(self):
        second = self.dir / "second.db"
        for mode in ("DELETE", "WAL"):
            with self.subTest(mode=mode):
                self.host("""
                    db = connect(PATH, wal=False, **PARAMS)
                    db.execute("ATTACH ? AS b", (uri(SECOND, replica_url=f"file://{DIR}/second"),))
                    for name in ("main", "b"):
                        db.execute(f"PRAGMA {name}.journal_mode={MODE}")
                        db.execute(f"CREATE TABLE IF NOT EXISTS {name}.t(v)")
                    for n in range(50):
                        db.execute("BEGIN")
                        db.execute("INSERT INTO main.t VALUES(randomblob(3000))")
                        db.execute("INSERT INTO b.t VALUES(randomblob(3000))")
                        db.execute("COMMIT" if n % 5 else "ROLLBACK")
                    db.close()
                """, SECOND=second, DIR=self.dir, MODE=mode)
                self.oracle()
                self.oracle(second, FileReplica(self.dir / "second"))

    def test_an_existing_database_gets_its_first_snapshot_while_it_is_written(self):
        plain = sqlite3.connect(self.db)
        plain.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        plain.executemany("INSERT INTO t VALUES(?, randomblob(3000))", ((n,) for n in range(3000)))
        plain.commit()
        plain.close()
        said = self.host(work("""
            db = connect(PATH, wal=False, **PARAMS, sync_interval="10ms")
            db.execute("PRAGMA synchronous=OFF")
            rng = random.Random(10)
            first = None
            for n in range(2000):
                commit(db, rng, 3000)
                if first is None and status(db)["state"] == "ok":
                    first = n
                    break
            sync(db)
            state = whole(PATH)
            say(first=first, status=status(db))
            db.close()
        """))
        self.assertIsNotNone(said["first"])
        self.assertEqual(said["status"]["gaps"], {})
        self.oracle()

    def test_a_database_larger_than_the_spool_waits_for_its_close(self):
        plain = sqlite3.connect(self.db)
        plain.execute("CREATE TABLE t(v)")
        plain.executemany("INSERT INTO t VALUES(randomblob(?))", ((3000,) for _ in range(1000)))
        plain.commit()
        plain.close()
        said = self.host("""
            db = connect(PATH, wal=False, **PARAMS, spool_bytes_max="1MB")
            db.execute("INSERT INTO t VALUES('x')")
            host_error(sync, db, 1500)
            say(status=status(db))
            db.close()
        """)
        self.assertIn("spool_bytes_max", said["status"]["last_error"])
        self.oracle()

    def test_clean_reopens_are_no_gaps(self):
        for mode in MODES:
            with self.subTest(mode=mode):
                self.setUp()
                for n in range(4):
                    said = self.host("""
                        db = connect(PATH, wal=False, **PARAMS)
                        db.execute(f"PRAGMA journal_mode={MODE}")
                        db.execute("CREATE TABLE IF NOT EXISTS t(v)")
                        for n in range(5):
                            db.execute("INSERT INTO t VALUES(randomblob(2000))")
                        sync(db)
                        say(status=status(db))
                        db.close()
                    """, MODE=mode)
                    expected = {"first": 1} if n == 0 else {}
                    self.assertEqual(said["status"]["snapshots"], expected)
                    self.assertEqual(said["status"]["gaps"], {})
                self.oracle()


class Restored(HostCase):
    """A database without local state beside its own chain."""

    def prepare(self, mode):
        self.host("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute(f"PRAGMA journal_mode={MODE}")
            db.execute("CREATE TABLE t(v)")
            for n in range(50):
                db.execute("INSERT INTO t VALUES(randomblob(3000))")
            db.close()
        """, MODE=mode)
        copy = self.restored(paths.OURS)
        shutil.rmtree(self.dir / ".app.db-litestream")
        shutil.move(copy, self.db)

    def test_it_goes_on_with_the_chain_though_it_writes_at_once(self):
        for mode in ("DELETE", "PERSIST"):
            with self.subTest(mode=mode):
                self.setUp()
                self.prepare(mode)
                said = self.host("""
                    db = connect(PATH, wal=False, **PARAMS)
                    db.execute("DELETE FROM t WHERE rowid > 20")
                    db.execute("INSERT INTO t VALUES('after')")
                    sync(db)
                    say(status=status(db))
                    db.close()
                """)
                self.assertEqual(said["status"]["state"], "ok")
                self.assertEqual((said["status"]["snapshots"], said["status"]["gaps"]), ({}, {}))
                self.oracle()

    def test_another_database_at_the_url_is_a_conflict(self):
        self.prepare("DELETE")
        plain = sqlite3.connect(self.db)
        plain.execute("UPDATE t SET v = 'other' WHERE rowid = 5")
        plain.commit()
        plain.close()
        said = self.host("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("INSERT INTO t VALUES('after')")
            said = host_error(sync, db)
            say(status=status(db), said=said)
            db.close()
        """)
        self.assertEqual(said["status"]["state"], "conflict")


class Foreign(HostCase):
    """Writers without the library, and crashes, are gaps that get repaired."""

    def test_a_foreign_commit_between_two_of_ours(self):
        for size in ("small", "same"):
            said = self.host("""
                import subprocess
                db = connect(PATH, wal=False, **PARAMS)
                db.execute("CREATE TABLE IF NOT EXISTS t(v)")
                db.execute("INSERT INTO t VALUES(1)")
                sync(db)
                subprocess.run(["sqlite3", PATH, "UPDATE t SET v = v + 1"], check=True)
                db.execute("INSERT INTO t VALUES(2)")
                sync(db)
                say(status=status(db))
                db.close()
            """)
            self.assertEqual(sum(said["status"]["gaps"].values()), 1)
            self.oracle()

    def test_a_process_killed_inside_a_transaction(self):
        for mode in MODES:
            with self.subTest(mode=mode):
                self.setUp()
                process = self.start(work("""
                    db = connect(PATH, wal=False, **PARAMS)
                    db.execute(f"PRAGMA journal_mode={MODE}")
                    db.execute("PRAGMA cache_size=10")
                    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
                    for n in range(100):
                        db.execute("INSERT INTO t VALUES(?, randomblob(3000))", (n,))
                    sync(db)
                    db.execute("BEGIN IMMEDIATE")
                    db.execute("UPDATE t SET v = randomblob(3000)")
                    say(ready=True)
                    time.sleep(60)
                """), MODE=mode)
                hear(process)
                kill(process)
                said = self.host("""
                    db = connect(PATH, wal=False, **PARAMS)
                    scalar(db, "SELECT count(*) FROM sqlite_master")
                    sync(db)
                    say(status=status(db))
                    db.close()
                """)
                self.assertEqual(sum(said["status"]["gaps"].values()), 1, said["status"])
                if integrity(self.db) == ["ok"]:
                    self.oracle()
                else:
                    self.assertEqual(file_hash(self.restored(paths.OURS, "-integrity-check", "none")), file_hash(self.db))


WRITER = work("""
    db = connect(PATH, wal=False, **PARAMS, sync_interval="20ms")
    db.execute("PRAGMA synchronous=OFF")
    say(ready=True)
    rng = random.Random(SEED)
    end = time.monotonic() + SECONDS
    n = 0
    while time.monotonic() < end:
        if rng.random() < SWITCH:
            db.execute("PRAGMA busy_timeout=100")
            try:
                db.execute(f"PRAGMA journal_mode={rng.choice(MODES)}").fetchall()
            except sqlite3.OperationalError:
                pass
            db.execute("PRAGMA busy_timeout=20000")
        commit(db, rng)
        n += 1
    say(commits=n, status=status(db))
    db.close()
""")


class Several(HostCase):
    """Several processes on one database at once."""

    def create(self, mode):
        self.host(f"""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("PRAGMA journal_mode={mode}")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            db.close()
        """)

    def writers(self, count, seconds, switch=0.0, seed=0):
        started = [
            self.start(WRITER, SEED=seed * 100 + n, SECONDS=seconds, SWITCH=switch,
                       MODES=["DELETE", "TRUNCATE", "PERSIST", "WAL"])
            for n in range(count)
        ]
        for process in started:
            hear(process)
        return started

    def test_four_writers(self):
        for mode in ("DELETE", "PERSIST"):
            with self.subTest(mode=mode):
                self.setUp()
                self.create(mode)
                said = [finish(p) for p in self.writers(4, 3)]
                self.assertTrue(all(s["commits"] for s in said))
                self.assertEqual([s["status"]["gaps"] for s in said], [{}] * 4)
                self.oracle()

    def test_a_transaction_without_a_journal_file_is_in_no_snapshot(self):
        self.create("DELETE")
        self.host("""
            db = connect(PATH, wal=False, **PARAMS)
            db.executemany("INSERT INTO t(v) VALUES(randomblob(?))", ((3000,) for _ in range(300)))
            db.close()
        """)
        writer = self.start("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("PRAGMA journal_mode=MEMORY").fetchall()
            db.execute("PRAGMA cache_size=4")
            db.execute("BEGIN")
            db.execute("UPDATE t SET v = NULL WHERE id < 200")
            say(done="spilled")
            sys.stdin.readline()
            db.execute("ROLLBACK")
            db.close()
            say(done="closed")
        """)
        # A gap for whoever comes: the file's times are not those that were recorded.
        self.db.touch()
        hear(writer)
        self.host("connect(PATH, wal=False, **PARAMS, close_timeout='3s').close()")
        copy = self.restored(paths.OURS)
        self.assertEqual(self.rows(copy, "SELECT count(v) FROM t"), [(300,)])
        writer.stdin.write("go\n")
        writer.stdin.flush()
        finish(writer)
        self.host("connect(PATH, wal=False, **PARAMS).close()")
        self.oracle()

    def test_writers_that_switch_the_journal_mode(self):
        self.create("DELETE")
        said = [finish(p) for p in self.writers(3, 5, switch=0.1)]
        self.assertEqual([s["status"]["gaps"] for s in said], [{}] * 3)
        self.oracle()

    def test_writers_that_are_killed(self):
        self.create("DELETE")
        rng = random.Random(5)
        for number in range(6):
            writers = self.writers(3, 60, switch=0.05, seed=number)
            time.sleep(rng.uniform(0.2, 1.5))
            kill(writers.pop(rng.randrange(3)))
            time.sleep(rng.uniform(0.0, 1.0))
            [kill(w) for w in writers]
        self.host("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("INSERT OR REPLACE INTO t VALUES(1, 'last')")
            sync(db, 30000)
            db.close()
        """)
        self.oracle()


if __name__ == "__main__":
    unittest.main()
