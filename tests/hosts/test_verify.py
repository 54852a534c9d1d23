"""litestream verify: a replica against its database, at rest and in use."""

import json
import shutil
import subprocess
import time

from base import HostCase
from lab import child, paths

SETUP = """
    db = connect(PATH, **PARAMS)
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
    db.execute("BEGIN")
    for n in range(1500):
        db.execute("INSERT INTO t VALUES(?, randomblob(1500))", (n,))
    db.execute("COMMIT")
    db.execute("DELETE FROM t WHERE id > 1400")
    db.execute("UPDATE t SET v = randomblob(1400) WHERE id % 50 = 0")
    sync(db)
"""


class Verify(HostCase):

    def verify(self, *flags, database=None, code=0):
        words = [paths.OURS, "verify", "-json", "-timeout", "5s", *flags, database or self.db,
                 self.replica.url]
        done = subprocess.run([str(w) for w in words], env=paths.environment(), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
        self.assertEqual((done.returncode, done.stderr), (code, ""), done.stdout)
        return json.loads(done.stdout)

    def flip(self, page, path=None):
        with open(path or self.db, "r+b") as file:
            file.seek((page - 1) * 4096 + 100)
            byte = file.read(1)[0]
            file.seek((page - 1) * 4096 + 100)
            file.write(bytes([byte ^ 1]))

    def test_a_database_at_rest(self):
        self.host(SETUP + "    db.close()\n")
        before = sorted(path.name for path in self.dir.iterdir())
        found = self.verify()
        self.assertEqual((found["result"], found["local_state"]), ("equal", True))
        self.assertEqual(found["pages_compared"], found["db_pages"])
        self.assertEqual(sorted(path.name for path in self.dir.iterdir()), before)
        self.flip(7)
        self.flip(300)
        found = self.verify(code=2)
        self.assertEqual((found["result"], found["pages"]), ("differs", [7, 300]))
        self.flip(7)
        self.flip(300)
        self.assertEqual(self.verify()["result"], "equal")

    def test_a_restored_copy_has_no_local_state(self):
        self.host(SETUP + "    db.close()\n")
        copy = self.restored(paths.OURS)
        found = self.verify(database=copy)
        self.assertEqual((found["result"], found["local_state"]), ("equal", False))
        self.flip(1, copy)
        self.assertEqual(self.verify(database=copy, code=2)["pages"], [1])

    def test_sizes_that_differ(self):
        self.host(SETUP + "    db.close()\n")
        longer, shorter = self.dir / "longer.db", self.dir / "shorter.db"
        data = self.db.read_bytes()
        longer.write_bytes(data + b"x" * 8192)
        shorter.write_bytes(data[:-4096])
        pages = len(data) // 4096
        found = self.verify(database=longer, code=2)
        self.assertEqual(found["pages"], [pages + 1, pages + 2])
        found = self.verify(database=shorter, code=2)
        self.assertEqual((found["db_pages"], found["replica_pages"]), (pages - 1, pages))

    def test_an_open_database_with_a_wal(self):
        process = self.start(SETUP + """
            say(ready=True)
            sys.stdin.readline()
            db.close()
        """.replace("\n        ", "\n"))
        child.hear(process)
        self.assertGreater((self.dir / "app.db-wal").stat().st_size, 100_000)
        found = self.verify()
        self.assertEqual((found["result"], found["pages_busy"]), ("equal", 0))
        process.stdin.write("\n")
        process.stdin.flush()
        process.communicate(timeout=60)

    def busy(self, sync_interval="100ms"):
        process = self.start(SETUP.replace("**PARAMS", "**PARAMS, sync_interval=INTERVAL") + """
            say(ready=True)
            end = time.monotonic() + 60
            n = 0
            while time.monotonic() < end:
                n += 1
                db.execute("UPDATE t SET v = randomblob(1400) WHERE id = ?", (n * 37 % 200,))
                if n % 400 == 0:
                    db.execute("INSERT INTO t SELECT max(id) + 1, randomblob(3000) FROM t")
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                time.sleep(0.001)
        """.replace("\n        ", "\n"), INTERVAL=sync_interval)
        child.hear(process)
        return process

    def test_a_busy_database_is_equal_but_for_what_is_written(self):
        process = self.busy()
        time.sleep(1)
        found = self.verify()
        self.assertEqual(found["result"], "equal", found)
        self.assertLess(found["pages_busy"], 250, found)
        self.assertGreater(found["pages_compared"], 300, found)
        child.kill(process)

    def test_a_damaged_page_of_a_busy_database_is_named(self):
        # With the longer interval next to no moment finds everything captured.
        for interval in ("100ms", "1s"):
            with self.subTest(interval=interval):
                self.setUp()
                process = self.busy(interval)
                time.sleep(1)
                self.flip(400)
                found = self.verify(code=2)
                self.assertEqual(found["pages"], [400], found)
                child.kill(process)

    def test_commits_that_wait_for_storage_are_no_difference(self):
        process = self.start(SETUP + """
            say(ready=True)
            for n in range(40):
                db.execute("UPDATE t SET v = randomblob(1400) WHERE id = ?", (n,))
            os.kill(os.getpid(), 9)
        """.replace("\n        ", "\n"))
        child.hear(process)
        process.communicate(timeout=60)
        found = self.verify(code=3)
        self.assertEqual(found["result"], "behind", found)
        self.host("connect(PATH, **PARAMS).close()")
        self.assertEqual(self.verify()["result"], "equal")

    def test_a_rollback_journal_database_in_use(self):
        process = self.start("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            for n in range(200):
                db.execute("INSERT INTO t VALUES(?, randomblob(3000))", (n,))
            sync(db, 30000)
            say(ready=True)
            sys.stdin.readline()
        """)
        child.hear(process)
        self.assertEqual(self.verify()["result"], "equal")
        self.flip(50)
        self.assertEqual(self.verify(code=2)["pages"], [50])
        child.kill(process)

    def test_damage_in_the_replica_is_an_error_not_a_difference(self):
        self.host(SETUP + "    db.close()\n")
        shutil.copytree(self.dir / "replica", self.dir / "kept")
        last = self.replica.last()
        file = self.replica.file(last, last)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        words = [str(paths.OURS), "verify", str(self.db), self.replica.url]
        done = subprocess.run(words, env=paths.environment(), text=True, timeout=60,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        self.assertIn("Error: ", done.stderr)
