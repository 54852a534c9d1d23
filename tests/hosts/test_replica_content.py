"""What a replica shows is what its restore contains, whoever wrote it."""

import hashlib
import json
import sqlite3
import subprocess
import unittest

from base import HostCase, S3Case
from lab import child, paths
from lab.replica import dump, integrity, replicate_once, restore

INTEROP = paths.ROOT / "tests/data/interop"

DUMP = child.Part("""
    import hashlib
    def digest(db):
        sha = hashlib.sha256()
        for line in db.iterdump():
            sha.update(line.encode("utf-8", "surrogateescape") + b"\\n")
        return sha.hexdigest()
""")

READ = DUMP + """
    db = replica(**PARAMS)
    say(dump=digest(db), check=scalar(db, "PRAGMA integrity_check"),
        pages=scalar(db, "PRAGMA page_count"), page_size=scalar(db, "PRAGMA page_size"),
        mode=scalar(db, "PRAGMA journal_mode"), status=status(db))
    db.close()
"""


class Interop(HostCase):
    """Replicas written by other releases, and by Litestream after us."""

    def test_replicas_of_litestream(self):
        manifest = json.loads((INTEROP / "manifest.json").read_text())
        for entry in manifest:
            if not entry["litestream"].startswith("0.5"):
                continue
            with self.subTest(entry["name"]):
                url = f"file://{INTEROP / entry['name']}"
                said = self.host(READ, PARAMS={"replica_url": url})
                self.assertEqual(said["dump"], entry["dump_sha256"])
                self.assertEqual((said["check"], said["mode"]), ("ok", "delete"))
                self.assertEqual(said["page_size"], entry["page_size"])
                copy = restore(url, self.dir / f"{entry['name']}.db", paths.GO_17)
                size = copy.stat().st_size
                self.assertEqual(hashlib.sha256(copy.read_bytes()).hexdigest(),
                                 entry["restored_file_sha256"])
                self.assertEqual(said["pages"] * said["page_size"], size)

    def test_a_chain_of_ours_that_the_daemon_continues(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
            db.executemany("INSERT INTO t(v) VALUES(?)", [(f"ours {n}",) for n in range(2000)])
            db.close()
        """)
        for word in ("one", "two"):
            plain = sqlite3.connect(self.db)
            plain.execute("UPDATE t SET v = ? WHERE id % 5 = 0", (word,))
            plain.commit()
            plain.close()
            replicate_once(self.db, self.replica.url)
            said = self.host(READ)
            self.assertEqual(said["dump"], dump(self.db))
            self.assertEqual(said["check"], "ok")


class Shapes(HostCase):
    """Page sizes, sizes of databases, and what shrinks."""

    def test_every_page_size(self):
        for size in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536):
            with self.subTest(size):
                params = {"replica_url": f"file://{self.dir}/replica-{size}"}
                said = self.host(DUMP + """
                    db = connect(PATH, wal=False, **PARAMS)
                    db.execute(f"PRAGMA page_size={SIZE}")
                    db.execute("PRAGMA journal_mode=WAL")
                    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
                    db.executemany("INSERT INTO t(v) VALUES(?)",
                                   [(os.urandom(n * 37 % 3000),) for n in range(400)])
                    db.execute("INSERT INTO t(v) VALUES(randomblob(300000))")
                    sync(db)
                    r = replica(**PARAMS)
                    say(page_size=scalar(r, "PRAGMA page_size"), same=digest(db) == digest(r),
                        check=scalar(r, "PRAGMA integrity_check"))
                """, PATH=self.dir / f"{size}.db", PARAMS=params, SIZE=size)
                self.assertEqual(said, {"page_size": size, "same": True, "check": "ok"})

    def test_a_temporary_store_is_local(self):
        said = self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
            db.executemany("INSERT INTO t(v) VALUES(?)", [(f"{n * 7919 % 20000:06}" * 20,) for n in range(20000)])
            sync(db)
            r = replica(**PARAMS)
            r.execute("PRAGMA temp_store=FILE")
            r.execute("PRAGMA cache_size=50")
            sql = "SELECT id FROM t ORDER BY v DESC, id"
            r.execute("CREATE TEMP TABLE mine AS SELECT * FROM t WHERE id % 2")
            r.execute("CREATE INDEX temp.by_v ON mine(v)")
            say(same=db.execute(sql).fetchall() == r.execute(sql).fetchall(),
                mine=scalar(r, "SELECT count(*) FROM mine"))
        """)
        self.assertEqual(said, {"same": True, "mine": 10000})

    def test_r_09_a_shrink_under_an_open_reader(self):
        """Litestream's reader loses all pages that the shrink did not rewrite."""
        said = self.host(DUMP + """
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("PRAGMA auto_vacuum=FULL")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            db.executemany("INSERT INTO t(v) VALUES(?)", [(os.urandom(900),) for _ in range(3000)])
            sync(db)
            late, held = replica(**PARAMS), replica(**PARAMS)
            held.execute("BEGIN")
            before = held.execute("SELECT count(*), sum(id), max(length(v)) FROM t").fetchone()
            say(pages_before=scalar(late, "PRAGMA page_count"))
            db.execute("DELETE FROM t WHERE id > 500")
            goal = sync(db)
            scalar(late, "SELECT litestream_wait(?, 20000)", goal)
            say(pages=scalar(late, "PRAGMA page_count"), wanted=scalar(db, "PRAGMA page_count"),
                same=digest(late) == digest(db), check=scalar(late, "PRAGMA integrity_check"),
                held=before == held.execute("SELECT count(*), sum(id), max(length(v)) FROM t").fetchone(),
                held_pages=scalar(held, "PRAGMA page_count"))
            held.execute("COMMIT")
            scalar(held, "SELECT litestream_wait(?, 20000)", goal)
            say(after=digest(held) == digest(db))
            db.executemany("INSERT INTO t(v) VALUES(?)", [(os.urandom(900),) for _ in range(4000)])
            scalar(late, "SELECT litestream_wait(?, 20000)", sync(db))
            say(grown=digest(late) == digest(db), grown_check=scalar(late, "PRAGMA integrity_check"))
        """)
        self.assertEqual(said["pages"], said["wanted"])
        self.assertLess(said["pages"], said["pages_before"])
        self.assertEqual(said["held_pages"], said["pages_before"])
        for key in ("same", "held", "after", "grown"):
            self.assertTrue(said[key], (key, said))
        self.assertEqual((said["check"], said["grown_check"]), ("ok", "ok"))

    def test_a_vacuum_of_the_primary(self):
        said = self.host(DUMP + """
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            db.executemany("INSERT INTO t(v) VALUES(?)", [(os.urandom(700),) for _ in range(2000)])
            sync(db)
            r = replica(**PARAMS)
            scalar(r, "SELECT count(*) FROM t")
            db.execute("DELETE FROM t WHERE id % 3")
            db.execute("VACUUM")
            scalar(r, "SELECT litestream_wait(?, 20000)", sync(db))
            say(same=digest(r) == digest(db), check=scalar(r, "PRAGMA integrity_check"),
                pages=scalar(r, "PRAGMA page_count") == scalar(db, "PRAGMA page_count"))
        """)
        self.assertEqual(said, {"same": True, "check": "ok", "pages": True})

    def test_vacuum_into_copies_a_replica(self):
        copy = self.dir / "copy.db"
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(v)")
            db.executemany("INSERT INTO t VALUES(?)", [(n,) for n in range(1000)])
            db.close()
            replica(**PARAMS).execute("VACUUM INTO ?", (COPY,))
        """, COPY=copy)
        self.assertEqual(self.rows(copy, "SELECT count(*), sum(v) FROM t"), [(1000, 499500)])
        self.assertEqual(integrity(copy), ["ok"])

    def test_backups_blobs_and_virtual_tables(self):
        copy = self.dir / "copy.db"
        said = self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE VIRTUAL TABLE f USING fts5(x)")
            db.executemany("INSERT INTO f VALUES(?)", [(f"hello {n}",) for n in range(500)])
            db.execute("CREATE TABLE b(x BLOB)")
            db.execute("INSERT INTO b VALUES(randomblob(500000))")
            db.close()
            r = replica(**PARAMS)
            with r.blobopen("b", "x", 1, readonly=True) as blob:
                bytes_ = len(blob.read())
            with sqlite3.connect(COPY) as target:
                r.backup(target)
            say(found=scalar(r, "SELECT count(*) FROM f WHERE f MATCH 'hello'"), bytes=bytes_)
        """, COPY=copy)
        self.assertEqual(said, {"found": 500, "bytes": 500000})
        self.assertEqual(integrity(copy), ["ok"])
        self.assertEqual(dump(copy), dump(self.db))

    def test_transactions_over_local_databases_beside_a_main_replica(self):
        """SQLite would name their super-journal after the replica."""
        said = self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(v)")
            db.close()
            r = replica(**PARAMS)
            def both():
                r.execute("BEGIN")
                for name in "xy":
                    r.execute(f"INSERT INTO {name}.u VALUES(1)")
                r.execute("COMMIT")
            for name in "xy":
                r.execute(f"ATTACH '{DIR}/{name}.db' AS {name}")
                r.execute(f"CREATE TABLE {name}.u(v)")
            say(error=host_error(both), last=last_error())
            for name in "xy":
                r.execute(f"PRAGMA {name}.journal_mode=WAL")
            both()
            say(counts=[scalar(r, f"SELECT count(*) FROM {name}.u") for name in "xy"])
        """, DIR=self.dir)
        self.assertEqual(said["counts"], [1, 1])
        self.assertIn("open one of them as the main database", said["last"])

    def test_a_primary_outside_wal_mode(self):
        said = self.host(DUMP + """
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("CREATE TABLE t(v)")
            db.executemany("INSERT INTO t VALUES(?)", [(n,) for n in range(100)])
            r = replica(**PARAMS) if sync(db) else None
            say(first=digest(r) == digest(db))
            db.execute("UPDATE t SET v = v + 1")
            scalar(r, "SELECT litestream_wait(?, 20000)", sync(db))
            say(second=digest(r) == digest(db))
        """)
        self.assertEqual(said, {"first": True, "second": True})


class Buckets(S3Case):
    """The same from an S3 server."""

    def test_what_is_read_is_what_is_restored(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            for part in range(5):
                db.executemany("INSERT INTO t(v) VALUES(?)", [(os.urandom(500),) for _ in range(500)])
                sync(db)
            db.close()
        """)
        said = self.host(READ)
        self.assertEqual(said["dump"], dump(self.db))
        self.assertEqual((said["check"], said["mode"]), ("ok", "delete"))
        self.assertEqual(said["dump"], dump(self.restored()))


class OtherHosts(HostCase):
    """The sqlite3 shell and Node's better-sqlite3 read while a Python host writes."""

    WRITER = """
        db = connect(PATH, **PARAMS, sync_interval="50ms")
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
        db.execute("CREATE TABLE total(n)")
        db.execute("INSERT INTO total VALUES(0)")
        sync(db)
        say(ready=True)
        n = 0
        while os.path.exists(FLAG):
            db.execute("BEGIN")
            db.executemany("INSERT INTO t(v) VALUES(?)", [("x" * 300,)] * 7)
            db.execute("UPDATE total SET n = n + 7")
            db.execute("COMMIT")
            n += 1
            time.sleep(0.005)
        say(txid=sync(db), rows=7 * n)
        db.close()
    """

    def setUp(self):
        super().setUp()
        self.flag = self.dir / "go on"
        self.flag.touch()
        self.writer = self.start(self.WRITER, FLAG=self.flag)
        child.hear(self.writer)

    def stop(self):
        self.flag.unlink()
        return child.hear(self.writer)

    def test_the_shell_sees_whole_commits(self):
        uri = f"file:{self.replica.url}?vfs=litestream&mode=ro&poll_interval=20ms"
        looks = "SELECT (SELECT count(*) FROM t) - (SELECT n FROM total);\n.shell sleep 0.1\n"
        script = f".load {paths.EXTENSION.with_suffix('')}\n.open {uri}\n" + looks * 20
        done = subprocess.run(["sqlite3", "-batch", "-bail", ":memory:"], input=script,
                              env=paths.environment(), text=True, timeout=60,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(done.stdout.split(), ["0"] * 20)
        self.stop()

    @unittest.skipUnless(paths.NODE_MODULES.is_dir(), "better-sqlite3 is not installed")
    def test_node_sees_whole_commits_and_the_last_one(self):
        script = self.dir / "host.js"
        script.write_text("""
            const Database = require('better-sqlite3');
            const loader = new Database(':memory:');
            loader.loadExtension(process.env.LAB_EXTENSION);
            loader.prepare('SELECT litestream_default_vfs(1)').get();
            const db = new Database('file:' + process.env.LAB_URL + '?poll_interval=20ms');
            const torn = db.prepare('SELECT (SELECT count(*) FROM t) - (SELECT n FROM total)').pluck();
            for (let i = 0; i < 50; i++) {
              if (torn.get() !== 0) throw new Error('torn');
              Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
            }
            console.log('looked');
            require('readline').createInterface({ input: process.stdin }).once('line', txid => {
              db.prepare('SELECT litestream_wait(?, 20000)').get(txid);
              console.log(db.prepare('SELECT count(*) FROM t').pluck().get());
              process.exit(0);
            });
        """)
        env = paths.environment(NODE_PATH=paths.NODE_MODULES, LAB_EXTENSION=paths.EXTENSION,
                                LAB_URL=self.replica.url)
        node = subprocess.Popen(["node", script], env=env, text=True, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(self._end, node)
        line = node.stdout.readline()
        self.assertEqual(line, "looked\n", line or node.stderr.read())
        said = self.stop()
        out, err = node.communicate(said["txid"] + "\n", timeout=60)
        self.assertEqual(int(out), said["rows"], err)


if __name__ == "__main__":
    unittest.main()
