"""Local copies of replicas: filled, served, kept current, continued."""

import shutil
import subprocess
import unittest

from base import HostCase
from lab import child, paths
from lab.replica import dump, integrity

FILL = child.Part("""
    db = connect(PATH, **PARAMS)
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
    db.executemany("INSERT INTO t(v) VALUES(?)", [(os.urandom(900),) for _ in range(3000)])
    sync(db)
""")

TOOLS = child.Part("""
    def pragma(r, name):
        return scalar(r, f"PRAGMA litestream_hydration_{name}")

    def hydrated(r):
        end = time.monotonic() + 60
        while pragma(r, "progress") != "100.0" and time.monotonic() < end:
            time.sleep(0.02)
        return pragma(r, "progress")

    def gets(r):
        return status(r)["requests"]["get"]

    def total(r):
        return r.execute("SELECT count(*), sum(length(v)), max(hex(v)) FROM t").fetchone()

    SMALL = dict(cache_size="64KiB", poll_interval="20ms")
""")


class Hydration(HostCase):
    """One process writes and reads."""

    def setUp(self):
        super().setUp()
        self.copy = self.dir / "copies" / "copy.db"
        self.meta = self.copy.with_name("copy.db.meta")

    def test_a_named_copy_serves_all_reads_once_it_is_complete(self):
        said = self.host(FILL + TOOLS + """
            r = replica(**PARAMS, **SMALL, hydration_enabled="true", hydration_path=COPY)
            r.execute("PRAGMA cache_size=0")
            first = total(r)
            say(progress=hydrated(r), file=pragma(r, "file"), same=first == total(db))
            before = gets(r)
            for _ in range(3):
                total(r)
            say(more=gets(r) - before)
            # Once the copy is complete storage is not needed to read it.
            os.rename(f"{STORED}/ltx", f"{STORED}/away")
            say(without=total(r) == first)
            os.rename(f"{STORED}/away", f"{STORED}/ltx")
            r.close()
        """, COPY=self.copy, STORED=self.replica.directory)
        self.assertEqual((said["progress"], said["file"]), ("100.0", str(self.copy)))
        self.assertTrue(said["same"] and said["without"])
        # Polls that found nothing may have been sent meanwhile.
        self.assertLess(said["more"], 60)
        self.assertEqual(self.copy.stat().st_mode & 0o777, 0o600)
        self.assertEqual(int(self.meta.read_text().split()[0]), self.replica.last())
        plain = self.dir / "plain.db"
        shutil.copy(self.copy, plain)
        self.assertEqual(integrity(plain), ["ok"])
        self.assertEqual(dump(plain), dump(self.db))

    def test_a_copy_follows_and_transactions_keep_their_state(self):
        said = self.host(FILL + TOOLS + """
            r, held = (replica(**PARAMS, **SMALL, hydration_enabled="1") for _ in range(2))
            for reader in (r, held):
                reader.execute("PRAGMA cache_size=0")
            hydrated(r)
            held.execute("BEGIN")
            before = total(held)
            for part in range(5):
                db.execute("UPDATE t SET v = randomblob(900) WHERE id % 7 = ?", (part,))
                db.execute("DELETE FROM t WHERE id % 50 = ?", (part,))
                goal = sync(db)
            scalar(r, "SELECT litestream_wait(?, 20000)", goal)
            say(new=total(r) == total(db), old=total(held) == before, check=scalar(r, "PRAGMA integrity_check"))
            held.execute("COMMIT")
            say(then=total(held) == total(db), progress=hydrated(r), file=pragma(r, "file"),
                checked=scalar(r, "PRAGMA integrity_check"))
        """)
        self.assertEqual(said, {"new": True, "old": True, "check": "ok", "then": True,
                                "progress": "100.0", "file": "", "checked": "ok"})

    def test_a_named_copy_is_continued(self):
        script = TOOLS + """
            r = replica(**PARAMS, **SMALL, hydration_enabled="true", hydration_path=COPY)
            progress, rows = hydrated(r), total(r)
            say(progress=progress, bytes=status(r)["requests"]["bytes_down"], rows=rows)
            r.close()
        """
        self.host(FILL + "db.close()")
        first = self.host(script, COPY=self.copy)
        modified = self.copy.stat().st_mtime_ns
        again = self.host(script, COPY=self.copy)
        self.assertEqual((again["progress"], again["rows"]), ("100.0", first["rows"]))
        self.assertLess(again["bytes"], first["bytes"] / 2)
        self.assertEqual(self.copy.stat().st_mtime_ns, modified)
        # Without its record, or changed by somebody else, it is nothing.
        self.meta.unlink()
        anew = self.host(script, COPY=self.copy)
        self.assertGreater(anew["bytes"], first["bytes"] / 2)
        damaged = bytearray(self.copy.read_bytes())
        damaged[8192:12288] = bytes(4096)
        self.copy.write_bytes(damaged)
        anew = self.host(script, COPY=self.copy)
        self.assertEqual(anew["rows"], first["rows"])
        self.assertGreater(anew["bytes"], first["bytes"] / 2)

    def test_a_copy_is_used_again_after_time_travel(self):
        said = self.host(FILL + TOOLS + """
            early, before = scalar(db, "SELECT litestream_txid()"), total(db)
            time.sleep(0.05)
            moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() // 1000000 % 1000:03}Z"
            time.sleep(0.05)
            db.execute("DELETE FROM t WHERE id > 100")
            sync(db)
            r = replica(**PARAMS, **SMALL, hydration_enabled="true")
            r.execute("PRAGMA cache_size=0")
            hydrated(r)
            r.execute("SELECT litestream_set_time(?)", (moment,)).fetchall()
            back = total(r) == before
            r.execute("SELECT litestream_set_time('latest')").fetchall()
            say(back=back, now=total(r) == total(db), progress=pragma(r, "progress"))
        """)
        self.assertEqual(said, {"back": True, "now": True, "progress": "100.0"})

    def test_without_it_there_is_no_file(self):
        said = self.host(FILL + TOOLS + """
            r = replica(**PARAMS, hydration_path=COPY)
            say(rows=total(r)[0], progress=pragma(r, "progress"), file=pragma(r, "file"),
                hydration=status(r)["hydration"])
        """, COPY=self.copy)
        self.assertEqual(said, {"rows": 3000, "progress": "0", "file": "", "hydration": None})
        self.assertFalse(self.copy.parent.exists())

    def test_a_copy_that_cannot_be_had_disables_only_itself(self):
        said = self.host(FILL + TOOLS + """
            r = replica(**PARAMS, hydration_enabled="true", hydration_path="/proc/none/copy.db")
            say(rows=total(r)[0], why=status(r)["hydration"]["error"])
            one = replica(**PARAMS, hydration_enabled="true", hydration_path=COPY)
            two = replica(**PARAMS, hydration_enabled="true", hydration_path=COPY, poll_interval="9s")
            say(two=total(two)[0], busy=status(two)["hydration"]["error"], one=hydrated(one))
        """, COPY=self.copy)
        self.assertEqual((said["rows"], said["two"], said["one"]), (3000, 3000, "100.0"))
        self.assertIn("/proc/none", said["why"])
        self.assertIn("hydration_path", said["busy"])

    def test_the_shell(self):
        self.host(FILL + "db.close()")
        uri = f"file:{self.replica.url}?vfs=litestream&hydration_enabled=true&hydration_path={self.copy}"
        script = f".load {paths.EXTENSION.with_suffix('')}\n.open {uri}\n"
        script += "SELECT count(*) FROM t;\n.shell sleep 0.2\nSELECT count(*) FROM t;\n" * 5
        done = subprocess.run(["sqlite3", "-batch", "-bail", ":memory:"], input=script,
                              env=paths.environment(), text=True, timeout=60,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.stdout.split(), ["3000"] * 10, done.stdout)
        self.assertTrue(self.copy.exists())


if __name__ == "__main__":
    unittest.main()
