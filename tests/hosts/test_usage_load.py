"""Slow disks, long outages, checkpoints and readers under load."""

import json
import pathlib
import subprocess
import unittest

from base import HostCase
from lab import child, paths
from lab.replica import FileReplica, integrity, restore, run

# Writes that keep a promise: whatever state is copied, `a`, `b` and `c` agree.
PROMISE = """
            db.execute("CREATE TABLE IF NOT EXISTS a(id INTEGER PRIMARY KEY, v INT, pad BLOB)")
            db.execute("CREATE TABLE IF NOT EXISTS b(id INTEGER PRIMARY KEY, v INT)")
            db.execute("CREATE TABLE IF NOT EXISTS c(n INT, sum INT)")
            if scalar(db, "SELECT count(*) FROM c") == 0:
                db.execute("INSERT INTO c VALUES(0, 0)")
            def promise(c, n, pad=600):
                c.execute("BEGIN IMMEDIATE")
                c.execute("INSERT INTO a(v, pad) VALUES(?, randomblob(?))", (n, pad))
                c.execute("INSERT INTO b(v) VALUES(?)", (n,))
                c.execute("UPDATE c SET n = n + 1, sum = sum + ?", (n,))
                if n % 9 == 0:
                    c.execute("UPDATE a SET pad = randomblob(100) WHERE id % 97 = ?", (n % 97,))
                c.execute("COMMIT")
"""
KEPT = """
    SELECT (SELECT count(*) FROM a) = n AND (SELECT count(*) FROM b) = n
       AND (SELECT sum(v) FROM a) IS (SELECT sum(v) FROM b) AND (SELECT sum(v) FROM b) IS sum
    FROM c
"""


class Load(HostCase):
    """What the copies keep whatever happens meanwhile."""

    def kept(self, copy):
        self.assertEqual(integrity(copy), ["ok"])
        self.assertEqual(self.rows(copy, KEPT), [(1,)])

    def fill(self, megabytes):
        """A plain database of that size that keeps the promise."""
        self.host("""
            db = sqlite3.connect(PATH, isolation_level=None)
            db.execute("PRAGMA synchronous=OFF")
            db.execute("PRAGMA journal_mode=WAL")
        """ + PROMISE + """
            db.execute("CREATE TABLE filler(v BLOB)")
            db.execute("BEGIN")
            for n in range(MEGABYTES * 4):
                db.execute("INSERT INTO filler VALUES(randomblob(256000))")
            db.execute("COMMIT")
            db.close()
        """, MEGABYTES=megabytes)


class Snapshots(Load):
    """First snapshots and repairs beside writers and checkpointers."""

    def test_r_03_snapshots_beside_checkpoints_of_every_kind(self):
        foreign = self.start("""
            import random
            db = sqlite3.connect(PATH, isolation_level=None, timeout=20)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=OFF")
        """ + PROMISE + """
            say(ready=True)
            end = time.monotonic() + 60
            n = 0
            while time.monotonic() < end and os.getppid() != 1:
                n += 1
                promise(db, n, random.choice((30, 900, 9000)))
                if n % 7 == 0:
                    kind = random.choice(("PASSIVE", "FULL", "RESTART", "TRUNCATE"))
                    db.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
        """)
        child.hear(foreign)
        replicas = [FileReplica(self.dir / f"replica-{n}") for n in range(10)]
        self.host("""
            for url in URLS:
                db = connect(PATH, wal=False, replica_url=url, sync_interval="20ms")
                end = time.monotonic() + 30
                while int(status(db)["replicated_txid"], 16) == 0 and time.monotonic() < end:
                    scalar(db, "SELECT n FROM c")
                    time.sleep(0.02)
                db.close()
        """, URLS=[r.url for r in replicas])
        child.kill(foreign)
        for n, replica in enumerate(replicas):
            self.kept(restore(replica.url, self.dir / f"copy-{n}.db", paths.OURS))
        self.kept(restore(replicas[-1].url, self.dir / "copy-go.db", paths.GO_17))

    def slow(self, script, **values):
        library = self.dir / "slowvfs.so"
        source = pathlib.Path(__file__).with_name("slow_vfs.c")
        run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, source])
        return self.host("""
            first = sqlite3.connect(":memory:")
            first.enable_load_extension(True)
            first.load_extension(SLOW)
        """ + script, env={"SLOW_BYTES_PER_SECOND": "6e6"}, SLOW=library.with_suffix(""), **values)

    def test_r_04_a_first_snapshot_on_a_slow_disk_under_writes(self):
        self.fill(20)
        said = self.slow("""
            db = connect(PATH, wal=False, **PARAMS, sync_interval="100ms")
            assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        """ + PROMISE + """
            during, n = 0, 0
            end = time.monotonic() + 60
            while not status(db)["snapshots"] and time.monotonic() < end:
                n += 1
                promise(db, n)
                during += 1
                if n % 40 == 0:
                    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                time.sleep(0.002)
            for n in range(n, n + 50):
                promise(db, n)
            sync(db, 30000)
            say(during=during, status=status(db))
            db.close()
        """)
        self.assertEqual((said["status"]["snapshots"], said["status"]["gaps"]), ({"first": 1}, {}))
        self.assertGreater(said["during"], 50, "commits while the disk was read")
        self.oracle()
        self.kept(self.restored())

    def test_r_11_writers_go_on_while_a_repair_reads_a_slow_disk(self):
        self.fill(12)
        self.host("""
            db = connect(PATH, wal=False, **PARAMS)
            scalar(db, "SELECT n FROM c")
            sync(db, 30000)
            db.close()
            plain = sqlite3.connect(PATH, isolation_level=None)
            plain.execute("UPDATE filler SET v = randomblob(100000) WHERE rowid = 3")
            plain.close()
        """)
        said = self.slow("""
            db = connect(PATH, wal=False, **PARAMS, sync_interval="100ms")
        """ + PROMISE + """
            during, busy, n = 0, [], 0
            end = time.monotonic() + 60
            while not status(db)["repairs"]["last"] and time.monotonic() < end:
                n += 1
                promise(db, n)
                during += 1
                time.sleep(0.002)
            sync(db, 30000)
            say(during=during, status=status(db))
            db.close()
        """)
        self.assertEqual(list(said["status"]["gaps"]), ["unproven"])
        self.assertGreater(said["during"], 50, "commits while the disk was read")
        self.oracle()

    def test_r_11_truncate_with_a_long_reader_answers_as_without_us(self):
        script = """
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("PRAGMA journal_mode=WAL")
        """ + PROMISE + """
            if PARAMS:
                sync(db)
            other = connect(PATH, wal=False, **PARAMS)
            other.execute("PRAGMA busy_timeout=10")
            answers = []
            for n in range(30):
                promise(db, n)
                if n % 10 == 3:
                    reader = connect(PATH, wal=False, **PARAMS)
                    reader.execute("BEGIN")
                    scalar(reader, "SELECT count(*) FROM a")
                    promise(db, 1000 + n)
                answers.append(other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
                if n % 10 == 6:
                    reader.close()
            say(answers=answers)
            [c.close() for c in (other, db)]
        """
        plain = self.host(script, PATH=self.dir / "plain.db", PARAMS={})
        self.assertEqual(self.host(script), plain)
        self.assertEqual(set(plain["answers"]), {0, 1})
        self.oracle()

    def test_r_08_a_snapshot_of_any_prefix_of_a_wal(self):
        """The WAL is laid over the file up to the last commit, for every length and page size."""
        said = self.host("""
            import pathlib, random
            random.seed(8)
            load()
            made = []
            for n in range(24):
                path = f"{PATH}-{n}"
                plain = sqlite3.connect(path, isolation_level=None)
                plain.execute(f"PRAGMA page_size={(512, 1024, 4096, 65536)[n % 4]}")
                plain.execute("PRAGMA journal_mode=WAL")
                plain.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
                for i in range(random.randrange(40)):
                    plain.execute("INSERT INTO t(v) VALUES(randomblob(?))", (random.randrange(3000),))
                    if random.random() < 0.1:
                        plain.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                    if random.random() < 0.1:
                        plain.execute("DELETE FROM t WHERE id % 3 = 0")
                    if random.random() < 0.03:
                        plain.execute("VACUUM")
                url = f"file://{path}-replica"
                db = connect(path, wal=False, replica_url=url)
                rows = scalar(db, "SELECT count(*) FROM t")
                sync(db)
                assert status(db)["snapshots"] == {"first": 1}, status(db)
                dump = "\\n".join(plain.iterdump())
                made.append([path, url, rows, hash(dump) and dump])
                db.close()
                plain.close()
            say(made=made)
        """)
        for path, url, rows, text in said["made"]:
            copy = restore(url, f"{path}-copy", paths.OURS)
            self.assertEqual(integrity(copy), ["ok"])
            self.assertEqual(self.rows(copy, "SELECT count(*) FROM t"), [(rows,)])
            self.assertEqual("\n".join(self.dumped(copy)), text)

    def dumped(self, path):
        import sqlite3
        connection = sqlite3.connect(path)
        try:
            return list(connection.iterdump())
        finally:
            connection.close()


class Outage(Load):
    """Storage is away while much is written."""

    AWAY = """
            def away():
                os.rename(LEVEL, LEVEL + "-away")
                open(LEVEL, "w").close()
            def back():
                os.remove(LEVEL)
                os.rename(LEVEL + "-away", LEVEL)
            def spool():
                return sum(e.stat().st_size for e in os.scandir(META) if e.is_file())
    """

    def outage(self, script):
        level = self.replica.directory / "ltx/0"
        said = self.host("""
            db = connect(PATH, **PARAMS, sync_interval="20ms", spool_bytes_max="3MiB")
        """ + PROMISE + self.AWAY + script, LEVEL=level, META=self.dir / ".app.db-litestream/vfs")
        self.oracle()
        self.kept(self.restored())
        return said

    def test_r_12_a_backlog_is_drained_in_order(self):
        said = self.outage("""
            sync(db)
            before = int(status(db)["replicated_txid"], 16)
            away()
            for n in range(300):
                promise(db, n)
                time.sleep(0.003)
            waiting = status(db)["spool"]["sealed_files"]
            back()
            sync(db, 30000)
            say(before=before, waiting=waiting, status=status(db))
            db.close()
        """)
        self.assertGreater(said["waiting"], 1)
        self.assertEqual((said["status"]["gaps"], said["status"]["snapshots"]), ({}, {"first": 1}))
        names = self.replica.names()
        self.assertEqual(names, [(n, n) for n in range(1, len(names) + 1)])

    def test_r_12_the_spool_is_bounded_and_one_repair_follows(self):
        """Hours of load in a minute: what counts is the volume."""
        said = self.outage("""
            sync(db)
            away()
            most = 0
            for n in range(6000):
                promise(db, n, 3000)
                if n % 50 == 0:
                    most = max(most, spool())
            during = status(db)
            back()
            sync(db, 60000)
            after = status(db)
            promise(db, 1)
            sync(db)
            say(most=most, during=during, after=after, size=os.path.getsize(PATH))
            db.close()
        """)
        self.assertEqual(said["during"]["gaps"], {"spool_full": 1})
        repairs = said["after"]["repairs"]["last"]
        self.assertEqual([r["reason"] for r in repairs], ["first", "spool_full"])
        self.assertGreater(said["size"], 15 << 20)
        # The bound, what one capture may add before it is looked at, and small files.
        self.assertLess(said["most"], (3 << 20) + (6 << 20))
        self.assertEqual(said["after"]["gaps"], {"spool_full": 1})
        self.assertEqual(said["after"]["spool"]["sealed_files"], 0)


class Checkpoints(Load):
    """The WAL stays as small, and is checkpointed as often, as without us."""

    def measured(self, **values):
        counts = self.dir / "counts"
        script = """
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
        """ + PROMISE + """
            if PARAMS:
                sync(db)
            largest = 0
            for n in range(6000):
                promise(db, n)
                if n % 200 == 0:
                    largest = max(largest, os.path.getsize(PATH + "-wal"))
            if PARAMS:
                sync(db, 30000)
            say(largest=largest, gaps=status(db)["gaps"] if PARAMS else {})
            db.close()
        """
        known = {"PATH": self.db, "PARAMS": self.replica.uri_parameters(), **values}
        program = child._program(script, {k: child.plain(v) for k, v in known.items()})
        done = subprocess.run(
            ["strace", "-f", "--seccomp-bpf", "-y", "-o", counts, "-e", "trace=fsync,fdatasync",
             paths.PYTHON, "-c", program], env=child._environment({}), text=True, timeout=120,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        said = json.loads(done.stdout)
        # Of the database alone: a folder as the replica is synced as well.
        said["syncs"] = counts.read_text().count(f"<{known['PATH']}>")
        return said

    def test_r_13_the_wal_is_bounded_and_no_checkpoint_is_in_vain(self):
        plain = self.measured(PATH=self.dir / "plain.db", PARAMS={})
        ours = self.measured()
        self.assertEqual(ours["gaps"], {})
        self.assertGreater(plain["syncs"], 10)
        # A writer that would restart the WAL too early hears BUSY once: one commit and one
        # checkpoint more.
        self.assertLess(ours["largest"], 2 * plain["largest"])
        self.assertLess(ours["syncs"], 2 * plain["syncs"] + 5)
        self.oracle()


if __name__ == "__main__":
    unittest.main()
