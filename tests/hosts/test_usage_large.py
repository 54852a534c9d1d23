"""Databases over 1 GiB: SQLite's lock page lies in the middle of them."""

import os
import pathlib
import sqlite3
import subprocess
import unittest

from base import HostCase
from lab import paths
from lab.replica import ltx_pages

GIB = 1 << 30


def almost_a_gib(path, page_size, short):
    """A sparse database that ends `short` pages before its lock page.

    Its pages but the first ones are in no table and no list, which SQLite does
    not mind (its integrity check does): the file takes next to no room.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA page_size={page_size}")
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
    connection.close()
    pages = GIB // page_size - short
    with open(path, "r+b") as file:
        file.seek(24)
        change_counter = file.read(4)
        file.seek(28)
        file.write(pages.to_bytes(4, "big"))
        file.seek(92)
        file.write(change_counter)
        file.truncate(pages * page_size)


class Large(HostCase):
    """The first snapshot, growth over the lock page, and what is restored of it."""

    def setUp(self):
        super().setUp()
        free = os.statvfs(self.dir)
        if free.f_bavail * free.f_frsize < 4 * GIB:
            self.skipTest("too little room for copies of a large database")

    def grown(self, page_size, commands):
        almost_a_gib(self.db, page_size, 12)
        lock_page = GIB // page_size + 1
        said = self.host("""
            db = connect(PATH, **PARAMS, sync_interval="50ms", close_timeout="120s")
            scalar(db, "SELECT count(*) FROM t")
            sync(db, 200000)
            first = status(db)
            for n in range(40):
                db.execute("INSERT INTO t(v) VALUES(randomblob(?))", (SIZE * 3 // 4,))
            sync(db, 200000)
            db.execute("DELETE FROM t WHERE id % 4 = 0")
            say(first=first["snapshots"], status=status(db), pages=scalar(db, "PRAGMA page_count"))
            db.close()
        """, SIZE=page_size, timeout=300)
        self.assertEqual(said["first"], {"first": 1})
        self.assertEqual(said["status"]["gaps"], {})
        self.assertGreater(said["pages"], lock_page)
        written = set()
        for low, high in self.replica.names():
            commit, pages = ltx_pages(self.replica.file(low, high))
            self.assertNotIn(lock_page, pages)
            written.update(pages)
        everything = set(range(1, said["pages"] + 1)) - {lock_page}
        self.assertEqual(written & everything, everything)
        for command in commands:
            copy = self.restored(command, *(["-integrity-check", "none"] if command == paths.OURS else []))
            same = subprocess.run(["cmp", copy, self.db], stdout=subprocess.PIPE, text=True)
            self.assertEqual((same.returncode, same.stdout), (0, ""), command)
            pathlib.Path(copy).unlink()

    def test_growth_over_the_lock_page_with_pages_of_65536_bytes(self):
        self.grown(65536, (paths.GO_17, paths.OURS))

    def test_growth_over_the_lock_page_with_pages_of_4096_bytes(self):
        self.grown(4096, (paths.OURS,))

    @unittest.skipUnless(os.environ.get("SLOW_TESTS"), "over two million pages: SLOW_TESTS=1")
    def test_growth_over_the_lock_page_with_pages_of_512_bytes(self):
        self.grown(512, (paths.GO_17, paths.OURS))


if __name__ == "__main__":
    unittest.main()
