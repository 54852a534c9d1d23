"""How connections are configured and used: pragmas, locks, readers, memory maps, blobs."""

import unittest

from base import HostCase
from lab import child
from lab.replica import dump

# A table, and two more connections on it.
BASE = """
            db = connect(PATH, **PARAMS, sync_interval="50ms")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
"""


class Modes(HostCase):
    """The copy is the database, whatever the connections ask for."""

    def work(self, script, **values):
        said = self.host(BASE + script, **values)
        self.oracle()
        return said

    def test_a_large_memory_map_with_growth_and_truncation(self):
        said = self.work("""
            other = connect(PATH, wal=False, **PARAMS)
            for c in (db, other):
                c.execute("PRAGMA mmap_size=268435456")
            for n in range(8):
                db.execute("INSERT INTO t(v) VALUES(zeroblob(1500000))")
                db.execute("UPDATE t SET v = randomblob(200000) WHERE id = ?", (n,))
                other.execute("SELECT sum(length(v)) FROM t").fetchall()
                kind = ("PASSIVE", "TRUNCATE", "RESTART", "FULL")[n % 4]
                other.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
            db.execute("DELETE FROM t WHERE id > 2")
            db.execute("VACUUM")
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            db.execute("INSERT INTO t(v) VALUES(randomblob(3000))")
            sync(db)
            say(mapped=scalar(db, "PRAGMA mmap_size"), gaps=status(db)["gaps"])
            [c.close() for c in (other, db)]
        """)
        self.assertEqual(said, {"mapped": 268435456, "gaps": {}})

    def test_a_long_reader_keeps_the_wal_and_nothing_is_lost(self):
        said = self.work("""
            reader = connect(PATH, wal=False, **PARAMS)
            db.execute("INSERT INTO t(v) VALUES('first')")
            reader.execute("BEGIN")
            before = scalar(reader, "SELECT count(*) FROM t")
            for n in range(3000):
                db.execute("INSERT INTO t(v) VALUES(randomblob(900))")
                if n % 500 == 0:
                    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            sync(db)
            grown = os.path.getsize(PATH + "-wal")
            assert scalar(reader, "SELECT count(*) FROM t") == before
            reader.execute("COMMIT")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            db.execute("INSERT INTO t(v) VALUES('last')")
            sync(db)
            say(grown=grown, gaps=status(db)["gaps"], snapshots=status(db)["snapshots"])
            [c.close() for c in (reader, db)]
        """)
        self.assertGreater(said["grown"], 3 << 20)
        self.assertEqual((said["gaps"], said["snapshots"]), ({}, {"first": 1}))

    def test_immediate_exclusive_and_busy_transactions(self):
        said = self.work("""
            errors, done = [], []
            def work(kind):
                try:
                    mine = connect(PATH, wal=False, **PARAMS)
                    mine.execute("PRAGMA busy_timeout=20000")
                    for n in range(60):
                        mine.execute(f"BEGIN {kind}")
                        mine.execute("INSERT INTO t(v) VALUES(?)", (f"{kind} {n}",))
                        mine.execute("ROLLBACK" if n % 6 == 5 else "COMMIT")
                    mine.close()
                    done.append(kind)
                except Exception as error:
                    errors.append(repr(error))
            kinds = ("IMMEDIATE", "EXCLUSIVE", "IMMEDIATE", "EXCLUSIVE")
            threads = [threading.Thread(target=work, args=(kind,)) for kind in kinds]
            [t.start() for t in threads]
            [t.join() for t in threads]
            say(errors=errors, rows=scalar(db, "SELECT count(*) FROM t"), gaps=status(db)["gaps"])
            db.close()
        """)
        self.assertEqual(said, {"errors": [], "rows": 200, "gaps": {}})

    def test_autocheckpoint_of_one_page_and_none(self):
        for pages in (1, 0):
            with self.subTest(pages=pages):
                said = self.host("""
                    db = connect(PATH, **PARAMS, sync_interval="50ms")
                    db.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v BLOB)")
                    db.execute(f"PRAGMA wal_autocheckpoint={PAGES}")
                    for n in range(1500):
                        db.execute("INSERT INTO t(v) VALUES(randomblob(700))")
                    sync(db)
                    say(wal=os.path.getsize(PATH + "-wal"), gaps=status(db)["gaps"])
                    db.close()
                """, PAGES=pages)
                self.assertEqual(said["gaps"], {})
                if pages == 0:
                    self.assertGreater(said["wal"], 4 << 20)
                self.oracle()

    def test_journal_size_limit(self):
        self.work("""
            db.execute("PRAGMA journal_size_limit=20000")
            for n in range(20):
                db.execute("INSERT INTO t(v) VALUES(randomblob(150000))")
                db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
                db.execute("INSERT INTO t(v) VALUES(1)")
            say(gaps=status(db)["gaps"])
            db.close()
        """)

    def test_a_wal_that_stays_after_the_last_close(self):
        """PERSIST_WAL and NO_CKPT_ON_CLOSE: the next open goes on from its end."""
        work = """
            from lab.capi import Connection
            load()
            for n in range(4):
                c = Connection(uri(PATH, **PARAMS))
                c.execute("PRAGMA journal_mode=WAL")
                c.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v BLOB)")
                c.file_control(10, 1)
                if KEEP:
                    c.config(1006, 1)
                for i in range(100):
                    c.execute("INSERT INTO t(v) VALUES(randomblob(500))")
                c.close()
            db = connect(PATH, wal=False, **PARAMS)
            say(wal=os.path.getsize(PATH + "-wal"), rows=scalar(db, "SELECT count(*) FROM t"))
            sync(db)
            say(gaps=status(db)["gaps"], snapshots=status(db)["snapshots"])
            db.close()
        """
        for keep, rows in ((False, 400), (True, 800)):
            with self.subTest(no_checkpoint_on_close=keep):
                said = self.host(work, KEEP=keep)
                self.assertEqual(said["rows"], rows)
                self.assertEqual((said["gaps"], said["snapshots"]), ({}, {}))
                self.oracle()

    def test_auto_vacuum_modes(self):
        for mode in ("FULL", "INCREMENTAL"):
            with self.subTest(mode=mode):
                path = self.dir / f"{mode}.db"
                self.host("""
                    db = connect(PATH, wal=False, **PARAMS, sync_interval="20ms")
                    db.execute(f"PRAGMA auto_vacuum={MODE}")
                    db.execute("PRAGMA journal_mode=WAL")
                    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
                    for n in range(30):
                        db.execute("INSERT INTO t(v) VALUES(randomblob(?))", (n * 3000,))
                        if n % 3 == 0:
                            db.execute("DELETE FROM t WHERE id % 4 = 1")
                            db.execute("PRAGMA incremental_vacuum(7)").fetchall()
                        if n % 8 == 0:
                            sync(db)
                    say(gaps=status(db)["gaps"])
                    db.close()
                """, PATH=path, MODE=mode, PARAMS={"replica_url": f"{self.replica.url}-{mode}"})
                other = type(self.replica)(f"{self.replica.directory}-{mode}")
                self.oracle(database=path, replica=other)

    def test_incremental_blob_writes(self):
        self.work("""
            db.execute("INSERT INTO t(v) VALUES(zeroblob(900000))")
            with db.blobopen("t", "v", 1) as blob:
                for at in range(0, 900000, 70001):
                    blob.seek(at)
                    blob.write(b"litestream")
            with db.blobopen("t", "v", 1) as blob:
                blob[5] = 7
            sync(db)
            say(found=bytes(scalar(db, "SELECT v FROM t")).count(b"litestream"))
            db.close()
        """)

    def test_tables_of_every_kind_and_blobs_larger_than_the_cache(self):
        said = self.work("""
            db.execute("PRAGMA cache_size=20")
            db.executescript('''
                CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
                CREATE VIRTUAL TABLE f USING fts5(body);
                CREATE VIRTUAL TABLE r USING rtree(id, x0, x1);
                CREATE TABLE j(doc TEXT);
                CREATE INDEX ji ON j(json_extract(doc, '$.n'));
                CREATE TABLE s(a INTEGER, b TEXT) STRICT;
                CREATE VIEW vi AS SELECT k FROM w;
                CREATE TRIGGER tr AFTER INSERT ON w BEGIN INSERT INTO s VALUES(1, new.k); END;
            ''')
            for n in range(150):
                db.execute("INSERT INTO w VALUES(?, randomblob(200))", (f"key {n * 7919 % 1000}",))
                db.execute("INSERT INTO f VALUES(?)", (f"the quick brown fox number {n}",))
                db.execute("INSERT INTO r VALUES(?, ?, ?)", (n, n / 2, n))
                db.execute("INSERT INTO j VALUES(json_object('n', ?, 'pad', hex(zeroblob(900))))", (n,))
            db.execute("INSERT INTO f(f) VALUES('optimize')")
            for size in (300_000, 2_000_000):
                db.execute("INSERT INTO t(v) VALUES(randomblob(?))", (size,))
            db.execute("UPDATE t SET v = CAST(v || v AS BLOB)")
            db.execute("DELETE FROM r WHERE id % 2")
            sync(db)
            say(found=scalar(db, "SELECT count(*) FROM f WHERE f MATCH 'fox'"), gaps=status(db)["gaps"])
            db.close()
        """)
        self.assertEqual(said, {"found": 150, "gaps": {}})

    def test_a_shared_cache_is_refused_by_name_and_served_by_flag(self):
        """SQLite tells a VFS only of `cache=shared` in the URI."""
        self.work("""
            error = host_error(sqlite3.connect, uri(PATH, **PARAMS, cache="shared"), uri=True)
            assert "shared cache" in last_error(), last_error()
            db.close()
            from lab.capi import Connection
            one, two = (Connection(uri(PATH, **PARAMS), 0x20000 | 0x40 | 2) for _ in "ab")
            for n in range(100):
                (one, two)[n % 2].execute("INSERT INTO t(v) VALUES(randomblob(300))")
            [c.close() for c in (one, two)]
        """)
        self.assertEqual(self.rows(self.restored(), "SELECT count(*) FROM t"), [(100,)])

    def test_r_66_pragmas_and_busy_timeouts_of_the_host_are_its_own(self):
        """What a connection answers is what it answers without us."""
        script = """
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE IF NOT EXISTS t(v)")
            names = ("busy_timeout", "cache_size", "synchronous", "wal_autocheckpoint",
                     "foreign_keys", "journal_mode", "journal_size_limit", "locking_mode",
                     "mmap_size", "temp_store", "secure_delete", "cache_spill", "auto_vacuum",
                     "automatic_index", "query_only", "page_size", "application_id",
                     "read_uncommitted", "recursive_triggers", "encoding", "user_version")
            read = lambda c: {n: scalar(c, f"PRAGMA {n}") for n in names}
            first = read(db)
            two = connect(PATH, wal=False, **PARAMS)
            two.execute("PRAGMA busy_timeout=321")
            two.execute("PRAGMA synchronous=OFF")
            two.execute("PRAGMA cache_size=77")
            db.execute("INSERT INTO t VALUES(1)")
            if PARAMS:
                sync(db)
            changed = read(two)
            # A held write lock: the other one waits as long as it was told to, then is busy.
            db.execute("BEGIN IMMEDIATE")
            started = time.monotonic()
            busy = host_error(two.execute, "INSERT INTO t VALUES(2)")
            waited = time.monotonic() - started
            db.execute("COMMIT")
            say(first=first, changed=changed, after=read(db), busy=busy, waited=waited)
            [c.close() for c in (two, db)]
        """
        plain = self.host(script, PATH=self.dir / "plain.db", PARAMS={})
        ours = self.host(script)
        for said in (plain, ours):
            self.assertGreater(said.pop("waited"), 0.3)
        self.assertEqual(ours, plain)
        self.assertEqual(ours["changed"]["busy_timeout"], 321)
        self.oracle()


class ReadOnly(HostCase):
    """Opens that write nothing, of a database that another process replicates."""

    def test_readers_of_every_kind_beside_a_writer(self):
        writer = self.start("""
            db = connect(PATH, **PARAMS, sync_interval="50ms")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            db.execute("INSERT INTO t(v) VALUES('one')")
            say(ready=True)
            for line in sys.stdin:
                db.execute("INSERT INTO t(v) VALUES(?)", (line,))
                sync(db)
                say(gaps=status(db)["gaps"], state=status(db)["state"])
            db.close()
        """)
        child.hear(writer)
        said = self.host("""
            load()
            read = sqlite3.connect(uri(PATH, mode="ro", **PARAMS), uri=True)
            one = scalar(read, "SELECT count(*) FROM t")
            refused = host_error(read.execute, "INSERT INTO t(v) VALUES(9)")
            only = connect(PATH, wal=False, **PARAMS)
            only.execute("PRAGMA query_only=1")
            two = scalar(only, "SELECT count(*) FROM t")
            query_only = host_error(only.execute, "INSERT INTO t(v) VALUES(9)")
            fixed = host_error(sqlite3.connect, uri(PATH, immutable="1", **PARAMS), uri=True)
            why = last_error()
            plain = sqlite3.connect(f"file:{PATH}?immutable=1&vfs=litestream", uri=True)
            say(counts=[one, two], refused=refused, query_only=query_only, why=why)
            [c.close() for c in (plain, only, read)]
        """)
        self.assertEqual(said["counts"], [1, 1])
        self.assertIn("readonly", said["refused"])
        self.assertIn("readonly", said["query_only"])
        self.assertIn("immutable=1", said["why"])
        for n in range(2):
            writer.stdin.write(f"{n}\n")
            writer.stdin.flush()
            self.assertEqual(child.hear(writer), {"gaps": {}, "state": "ok"})
        writer.stdin.close()
        self.assertEqual(writer.wait(30), 0)
        self.oracle()

    def locked(self, mode, expected):
        self.host(BASE + """
            db.execute("INSERT INTO t(v) VALUES('kept')")
            db.execute(f"PRAGMA journal_mode={MODE}")
            db.close()
        """, MODE=mode)
        before = dump(self.db)
        locked = self.dir / "locked"
        locked.mkdir()
        moved = self.db.rename(locked / "app.db")
        locked.chmod(0o555)
        moved.chmod(0o444)
        self.dir.chmod(0o755)
        said = self.host("""
            load()
            os.setgid(65534)
            os.setuid(65534)
            results = {}
            for name, parameters in (("plain", {}), ("ours", PARAMS)):
                try:
                    db = sqlite3.connect(uri(PATH, **parameters), uri=True)
                    results[name] = scalar(db, "SELECT count(*) FROM t")
                    db.close()
                except sqlite3.Error as error:
                    results[name] = str(error)
            say(**results)
        """, PATH=moved)
        locked.chmod(0o755)
        self.assertEqual(said["ours"], said["plain"])
        self.assertEqual(said["plain"], expected)
        self.assertEqual(dump(moved), before)

    def test_a_directory_that_cannot_be_written(self):
        """As SQLite itself, which then opens the file read-only."""
        self.locked("WAL", "attempt to write a readonly database")

    def test_a_directory_that_cannot_be_written_with_a_rollback_database(self):
        self.locked("DELETE", 1)


if __name__ == "__main__":
    unittest.main()
