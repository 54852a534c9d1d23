"""Several databases in one connection, and databases that are copied whole."""

import subprocess
import unittest

from base import HostCase
from lab import paths
from lab.replica import FileReplica, dump, restore

# As deep as the scripts that it begins.
FILL = """
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            for n in range(200):
                db.execute("INSERT INTO t(v) VALUES(randomblob(?))", (n * 13,))
            sync(db)
"""


class Attached(HostCase):
    """ATTACH: each database has its own replica."""

    def setUp(self):
        super().setUp()
        self.other = self.dir / "other.db"
        self.beside = FileReplica(self.dir / "other-replica")

    def test_transactions_over_two_replicated_databases(self):
        said = self.host("""
            db = connect(PATH, **PARAMS, sync_interval="20ms")
            db.execute("ATTACH ? AS other", (uri(OTHER, replica_url=URL, sync_interval="20ms"),))
            db.execute("PRAGMA other.journal_mode=WAL")
            db.execute("CREATE TABLE main.t(id INTEGER PRIMARY KEY, v BLOB)")
            db.execute("CREATE TABLE other.t(id INTEGER PRIMARY KEY, v BLOB)")
            for n in range(150):
                db.execute("BEGIN")
                db.execute("INSERT INTO main.t(v) VALUES(randomblob(400))")
                db.execute("INSERT INTO other.t(v) VALUES(randomblob(?))", (n * 20,))
                db.execute("ROLLBACK" if n % 10 == 9 else "COMMIT")
                if n % 40 == 0:
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            both = [scalar(db, "SELECT litestream_sync(10000, ?)", s) for s in ("main", "other")]
            names = [json.loads(scalar(db, "SELECT litestream_status(?)", s))["replica"]
                     for s in ("main", "other")]
            gaps = [json.loads(scalar(db, "SELECT litestream_status(?)", s))["gaps"]
                    for s in ("main", "other")]
            say(names=names, gaps=gaps, both=both)
            db.close()
        """, OTHER=self.other, URL=self.beside.url)
        self.assertEqual(said["names"], [self.replica.url, self.beside.url])
        self.assertEqual(said["gaps"], [{}, {}])
        self.oracle()
        self.oracle(database=self.other, replica=self.beside)
        self.assertEqual(self.rows(self.restored(), "SELECT count(*) FROM t"), [(135,)])

    def test_detached_it_is_flushed_and_goes_on_alone(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(v)")
            for n in range(5):
                db.execute("ATTACH ? AS other", (uri(OTHER, replica_url=URL, sync_interval="1h"),))
                db.execute("PRAGMA other.journal_mode=WAL")
                db.execute("CREATE TABLE IF NOT EXISTS other.t(v)")
                db.execute("INSERT INTO other.t VALUES(?)", (n,))
                db.execute("DETACH other")
                db.execute("INSERT INTO t VALUES(?)", (n,))
            db.close()
        """, OTHER=self.other, URL=self.beside.url)
        self.oracle()
        self.oracle(database=self.other, replica=self.beside)
        copy = restore(self.beside.url, self.dir / "copy.db")
        self.assertEqual(self.rows(copy, "SELECT v FROM t"), [(n,) for n in range(5)])

    def test_plain_and_temporary_databases_beside_a_replicated_one(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("ATTACH ? AS plain", (OTHER,))
            db.execute("ATTACH ':memory:' AS memory")
            for schema in ("main", "plain", "memory", "temp"):
                db.execute(f"CREATE TABLE {schema}.t_{schema}(v)")
            for n in range(50):
                db.execute("BEGIN IMMEDIATE")
                for schema in ("main", "plain", "memory", "temp"):
                    db.execute(f"INSERT INTO t_{schema} VALUES(randomblob(300))")
                db.execute("COMMIT")
            db.close()
        """, OTHER=self.other)
        self.oracle()
        self.assertFalse((self.dir / ".other.db-litestream").exists())


class Copied(HostCase):
    """The backup API, VACUUM INTO, serialize and the shell's commands."""

    def setUp(self):
        super().setUp()
        self.other = self.dir / "other.db"
        self.beside = FileReplica(self.dir / "other-replica")

    def test_backup_from_a_replicated_database_that_is_written(self):
        self.host(FILL + """
            writer = connect(PATH, **PARAMS)
            target = sqlite3.connect(OTHER)
            def step(status, remaining, total):
                if remaining % 20 == 0:
                    writer.execute("UPDATE t SET v = randomblob(100) WHERE id = 7")
            db.backup(target, pages=10, progress=step, sleep=0.001)
            target.close()
            writer.execute("INSERT INTO t(v) VALUES('after')")
            [c.close() for c in (writer, db)]
        """, OTHER=self.other)
        self.oracle()
        self.assertEqual(self.rows(self.other, "SELECT count(*) FROM t"), [(200,)])

    def test_backup_over_a_replicated_database(self):
        said = self.host(FILL + """
            source = sqlite3.connect(OTHER)
            source.execute("CREATE TABLE u(id INTEGER PRIMARY KEY, w TEXT)")
            source.executemany("INSERT INTO u(w) VALUES(?)", [("a row" * 9,)] * 3000)
            source.commit()
            source.backup(db)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("INSERT INTO u(w) VALUES('after')")
            sync(db)
            say(status=status(db), names=[n for n, in db.execute("SELECT name FROM sqlite_master")])
            db.close()
        """, OTHER=self.other)
        self.assertEqual(said["names"], ["u"])
        self.assertEqual(said["status"]["state"], "ok")
        self.oracle()
        self.assertEqual(self.replica.names(), [(n, n) for n in range(1, self.replica.last() + 1)])

    def test_backup_over_a_replicated_database_in_steps(self):
        """The target's write lock is held meanwhile, as without us."""
        self.host(FILL + """
            source = sqlite3.connect(OTHER, isolation_level=None)
            source.execute("CREATE TABLE u(id INTEGER PRIMARY KEY, w BLOB)")
            source.execute("INSERT INTO u(w) VALUES(zeroblob(3000000))")
            seen = []
            source.backup(db, pages=50, progress=lambda s, r, t: seen.append(status(db)["state"]))
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("INSERT INTO u(w) VALUES('after')")
            db.close()
            say(seen=len(seen))
        """, OTHER=self.other)
        self.oracle()

    def test_vacuum_into_a_plain_file(self):
        self.host(FILL + """
            db.execute("VACUUM INTO ?", (OTHER,))
            db.execute("INSERT INTO t(v) VALUES('after')")
            say(gaps=status(db)["gaps"])
            db.close()
        """, OTHER=self.other)
        self.oracle()
        self.assertEqual(self.rows(self.other, "SELECT count(*) FROM t"), [(200,)])

    def test_vacuum_into_a_replicated_name(self):
        self.host(FILL + """
            db.execute("VACUUM INTO ?", (uri(OTHER, replica_url=URL),))
            db.close()
            copy = connect(OTHER, replica_url=URL)
            assert scalar(copy, "SELECT count(*) FROM t") == 200
            sync(copy)
            copy.execute("INSERT INTO t(v) VALUES('after')")
            copy.close()
        """, OTHER=self.other, URL=self.beside.url)
        self.oracle()
        self.oracle(database=self.other, replica=self.beside)

    def test_serialize_and_deserialize(self):
        self.host(FILL + """
            image = bytearray(db.serialize())
            # In memory there is no WAL: SQLite wants the header to say so.
            image[18:20] = b"\1\1"
            image = bytes(image)
            db.execute("INSERT INTO t(v) VALUES('after')")
            before = scalar(db, "SELECT count(*) FROM t")
            memory = connect(PATH, wal=False, **PARAMS)
            memory.deserialize(image)
            memory.execute("DELETE FROM t")
            say(image=len(image))
            assert scalar(db, "SELECT count(*) FROM t") == before == 201
            memory.close()
            db.close()
        """)
        self.oracle()

    def shell(self, *lines, database=":memory:"):
        uri = f"file:{self.db}?vfs=litestream&replica_url={self.replica.url}"
        script = "\n".join([f".load {paths.EXTENSION.with_suffix('')}", f".open {uri}", *lines, ""])
        done = subprocess.run(
            ["sqlite3", "-batch", "-bail", database], input=script, env=paths.environment(),
            text=True, timeout=60, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def test_the_shells_own_commands(self):
        copies = {name: self.dir / f"{name}.db" for name in ("backup", "clone", "dumped")}
        self.host(FILL + "            db.close()")
        said = self.shell(
            f".backup {copies['backup']}", f".clone {copies['clone']}",
            "DELETE FROM t WHERE id > 150;", ".dump",
        )
        self.assertEqual(self.rows(copies["backup"], "SELECT count(*) FROM t"), [(200,)])
        self.assertEqual(self.rows(copies["clone"], "SELECT count(*) FROM t"), [(200,)])
        self.assertIn("COMMIT;", said)
        self.oracle()
        self.assertEqual(self.rows(self.restored(), "SELECT count(*) FROM t"), [(150,)])

    def test_the_shells_restore_goes_on_in_the_chain(self):
        self.host(FILL + "            db.close()")
        saved = self.dir / "saved.db"
        self.shell(f".backup {saved}", "DELETE FROM t WHERE id > 10;")
        self.shell(f".restore {saved}", "PRAGMA journal_mode=WAL;", "INSERT INTO t(v) VALUES('x');")
        self.oracle()
        self.assertEqual(self.rows(self.restored(), "SELECT count(*) FROM t"), [(201,)])
        self.assertNotEqual(dump(saved), dump(self.db))


if __name__ == "__main__":
    unittest.main()
