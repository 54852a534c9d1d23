"""Damaged, cut, replaced and missing files: an error with its reason, never a wrong row."""

import json
import shutil
import unittest

from base import HostCase
from lab import child, paths

FILL = child.Part("""
    db = connect(PATH, **PARAMS)
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
    db.executemany("INSERT INTO t(v) VALUES(?)", [(f"{n:06}" * 150,) for n in range(3000)])
    sync(db)
    db.execute("CREATE TABLE small(x)")
    db.execute("INSERT INTO small VALUES(7)")
    sync(db)
    db.close()
""")

# Reads everything without a cache and says whether every row is the right one.
LOOK = child.Part("""
    def rows(r):
        return r.execute("SELECT count(*), sum(v = printf('%06d', id - 1) || substr(v, 7)) FROM t").fetchone()

    def look(r):
        try:
            return dict(rows=rows(r), error=None)
        except sqlite3.Error as error:
            return dict(rows=None, error=str(error), last=scalar(r, "SELECT litestream_last_error()"))
""")

WHOLE = [3000, 3000]


class Damage(HostCase):
    """What happens to a folder while a connection is open."""

    def setUp(self):
        super().setUp()
        self.host(FILL)
        files = [self.replica.file(*name, level) for level in (0, 9)
                 for name in self.replica.names(level)]
        self.big = max(files, key=lambda path: path.stat().st_size)
        self.good = self.big.read_bytes()

    def open_reader(self):
        """A connection that has seen the schema and none of the rows."""
        process = self.start(LOOK + """
            r = replica(**PARAMS, poll_interval="50ms", cache_size="64KiB", timeout=0.2)
            r.execute("PRAGMA cache_size=0")
            say(first=scalar(r, "SELECT x FROM small"))
            for line in sys.stdin:
                say(**look(r))
        """)
        self.assertEqual(child.hear(process), {"first": 7})
        return process

    @staticmethod
    def look(process):
        process.stdin.write("look\n")
        process.stdin.flush()
        return child.hear(process)

    def wrong(self, said):
        """An error that names the replica; never other rows."""
        self.assertIsNone(said["rows"], said)
        self.assertIn(str(self.replica.directory), said["last"] or "", said)

    def settle(self, reader):
        """Looks until the rows are back."""
        for _ in range(200):
            said = self.look(reader)
            if said["error"] is None:
                self.assertEqual(said["rows"], WHOLE)
                return
            self.wrong(said)
        self.fail(f"never recovered: {said}")

    def test_bytes_that_change_in_place(self):
        reader = self.open_reader()
        bad = bytearray(self.good)
        bad[len(bad) // 3:len(bad) // 2] = bytes(len(bad) // 2 - len(bad) // 3)
        with open(self.big, "r+b") as file:
            file.write(bad)
        self.wrong(self.look(reader))
        with open(self.big, "r+b") as file:
            file.write(self.good)
        self.settle(reader)

    def test_a_file_cut_short(self):
        reader = self.open_reader()
        with open(self.big, "r+b") as file:
            file.truncate(len(self.good) // 2)
        self.wrong(self.look(reader))
        self.big.write_bytes(self.good)
        self.settle(reader)

    def test_files_that_are_gone_and_come_back(self):
        reader = self.open_reader()
        here, away = self.replica.directory / "ltx", self.dir / "away"
        here.rename(away)
        said = self.look(reader)
        self.assertIsNone(said["rows"], said)
        self.assertIsNotNone(said["last"])
        away.rename(here)
        self.settle(reader)

    def test_a_damaged_file_fails_the_open(self):
        for damage in (b"", self.good[:50], self.good[:-1], self.good[:100] + bytes(200)):
            with self.subTest(len(damage)):
                self.big.write_bytes(damage)
                said = self.host("""
                    error = host_error(lambda: scalar(replica(**PARAMS), "SELECT count(*) FROM t"))
                    say(error=error, last=last_error())
                """)
                self.assertIn(str(self.replica.directory), said["last"])
        self.big.write_bytes(self.good)
        said = self.host(LOOK + "say(**look(replica(**PARAMS)))")
        self.assertEqual(said["rows"], WHOLE)

    def test_r_42_a_damaged_page_index_fails_and_never_crashes(self):
        said = None
        for at in range(9, 200, 13):
            bad = bytearray(self.good)
            bad[-at] ^= 0xFF
            self.big.write_bytes(bad)
            said = self.host(LOOK + """
                try:
                    r = replica(**PARAMS)
                except sqlite3.Error:
                    say(rows=None, last=last_error())
                else:
                    say(**look(r))
            """)
            if said["rows"] is not None:
                self.assertEqual(said["rows"], WHOLE)
        self.assertIsNotNone(said)


class Retention(HostCase):
    """Litestream's levels, of which retention takes the lower ones away."""

    def test_r_32_files_that_retention_deletes_under_a_reader_are_replaced_by_others(self):
        source = paths.ROOT / "tests/data/interop/v0.5.17-levels"
        shutil.copytree(source, self.replica.directory)
        manifest = json.loads((source.parent / "manifest.json").read_text())
        wanted = next(e["dump_sha256"] for e in manifest if e["name"] == source.name)
        reader = self.start("""
            import hashlib
            r = replica(**PARAMS, poll_interval="1h", cache_size="64KiB")
            r.execute("PRAGMA cache_size=0")
            say(txid=scalar(r, "SELECT litestream_txid()"))
            sys.stdin.readline()
            sha = hashlib.sha256()
            for line in r.iterdump():
                sha.update(line.encode("utf-8", "surrogateescape") + b"\\n")
            say(dump=sha.hexdigest(), txid=scalar(r, "SELECT litestream_txid()"))
        """)
        txid = child.hear(reader)["txid"]
        gone = 0
        for level in range(3):
            higher = [n for l in range(level + 1, 9) for n in self.replica.names(l)]
            for low, high in self.replica.names(level):
                if any(a <= low and high <= b for a, b in higher):
                    self.replica.file(low, high, level).unlink()
                    gone += 1
        self.assertGreater(gone, 0)
        self.assertEqual(Damage.look(reader), {"dump": wanted, "txid": txid})


if __name__ == "__main__":
    unittest.main()
