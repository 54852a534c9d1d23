"""PRAGMA page_size and VACUUM: a chain keeps its page size, a new one begins beside it."""

import shutil
import unittest

from base import HostCase
from lab import paths
from lab.replica import FileReplica, dump, restore

CREATE = """
    db = connect(PATH, **PARAMS)
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
    for n in range(100):
        db.execute("INSERT INTO t(v) VALUES(randomblob(500))")
    sync(db)
    db.close()
"""

RESIZE = """
    db = connect(PATH, wal=False, **PARAMS)
    db.execute("PRAGMA journal_mode=DELETE")
    db.execute(f"PRAGMA page_size={SIZE}")
    db.execute("VACUUM")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("INSERT INTO t(v) VALUES('resized')")
    error = host_error(sync, db, 10000)
    say(error=error, status=status(db), size=scalar(db, "PRAGMA page_size"))
    db.close()
"""

WRITE = """
    db = connect(PATH, wal=False, **{**PARAMS, **MORE})
    db.execute("INSERT INTO t(v) VALUES('later')")
    sync(db, 10000)
    say(status=status(db))
    db.close()
"""


class PageSize(HostCase):
    """From 4096 bytes a page to another size, with WAL mode before and after."""

    def setUp(self):
        super().setUp()
        self.host(CREATE)
        self.before = dump(self.db)

    def beside(self, size):
        return FileReplica(self.dir / f"replica-page{size}")

    def old_chain_is_untouched(self):
        """It ends with what was committed in pages of its size: the change of the journal mode."""
        for low, high in self.replica.names():
            header = self.replica.file(low, high).read_bytes()[:100]
            self.assertEqual(int.from_bytes(header[8:12], "big"), 4096)
        self.assertEqual(dump(self.restored()), self.before)

    def resize(self, size):
        said = self.host(RESIZE, SIZE=size)
        self.assertEqual(said["size"], size)
        self.assertEqual(said["status"]["state"], "conflict")
        for word in (str(size), "4096", "adopt=1", self.beside(size).url, str(self.db)):
            self.assertIn(word, said["error"])
            self.assertIn(word, said["status"]["conflict"])

    def test_a_new_size_ends_the_chain_until_it_is_adopted(self):
        self.resize(8192)
        self.old_chain_is_untouched()
        said = self.host("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("INSERT INTO t(v) VALUES('not adopted')")
            say(error=host_error(sync, db, 10000), status=status(db))
            db.close()
        """)
        self.assertEqual(said["status"]["state"], "conflict")
        self.assertIn("adopt=1", said["error"])
        self.old_chain_is_untouched()

    def test_adopted_it_goes_on_beside_the_old_chain(self):
        log = self.dir / "log"
        for size in (512, 65536):
            with self.subTest(size=size):
                self.resize_and_adopt(size, log)

    def resize_and_adopt(self, size, log):
        said = self.host(RESIZE, SIZE=size)
        self.assertEqual(said["status"]["state"], "conflict")
        said = self.host(WRITE, MORE={"adopt": "1"}, env={"LITESTREAM_LOG_FILE": log})
        self.assertEqual(said["status"]["state"], "ok")
        self.assertEqual(said["status"]["replica"], self.beside(size).url)
        self.assertIn(self.beside(size).url, log.read_text())
        self.old_chain_is_untouched()
        self.oracle(replica=self.beside(size))
        said = self.host(WRITE, MORE={})
        self.assertEqual(said["status"]["replica"], self.beside(size).url)
        self.assertEqual((said["status"]["snapshots"], said["status"]["gaps"]), ({}, {}))
        self.old_chain_is_untouched()
        self.oracle(replica=self.beside(size))

    def test_a_url_of_its_own_works_as_well(self):
        self.resize(1024)
        other = FileReplica(self.dir / "other")
        self.host(WRITE, PARAMS=other.uri_parameters(), MORE={})
        self.oracle(replica=other)
        self.old_chain_is_untouched()

    def test_a_backup_of_another_page_size_over_it(self):
        """In rollback mode the backup API takes the source's page size along."""
        said = self.host("""
            source = sqlite3.connect(PATH + "-source", isolation_level=None)
            source.execute("PRAGMA page_size=16384")
            source.execute("CREATE TABLE u(v)")
            source.execute("INSERT INTO u VALUES(zeroblob(100000))")
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("PRAGMA journal_mode=DELETE")
            source.backup(db)
            say(error=host_error(sync, db, 10000), state=status(db)["state"])
            db.close()
        """)
        self.assertEqual(said["state"], "conflict")
        self.assertEqual(self.rows(self.db, "PRAGMA page_size"), [(16384,)])
        self.assertIn(self.beside(16384).url, said["error"])
        self.old_chain_is_untouched()
        self.host(WRITE.replace("t(v)", "u(v)"), MORE={"adopt": "1"})
        self.oracle(replica=self.beside(16384))

    def test_the_old_size_again_goes_on_in_the_old_chain(self):
        self.resize(8192)
        self.host("""
            import sqlite3 as plain
            db = plain.connect(PATH, isolation_level=None)
            db.execute("PRAGMA journal_mode=DELETE")
            db.execute("PRAGMA page_size=4096")
            db.execute("VACUUM")
            db.execute("PRAGMA journal_mode=WAL")
            db.close()
        """)
        said = self.host(WRITE, MORE={})
        self.assertEqual(said["status"]["state"], "ok")
        self.assertEqual(said["status"]["replica"], self.replica.url)
        self.oracle()

    def test_without_local_state_the_open_names_the_way_out(self):
        self.resize(8192)
        shutil.rmtree(self.dir / ".app.db-litestream")
        said = self.host("""
            host_error(connect, PATH, **PARAMS)
            say(last=last_error())
        """)
        for word in ("8192", "4096", "adopt=1", self.beside(8192).url):
            self.assertIn(word, said["last"])
        self.host(WRITE, MORE={"adopt": "1"})
        self.host(WRITE, MORE={})
        self.oracle(replica=self.beside(8192))
        shutil.rmtree(self.dir / ".app.db-litestream")
        said = self.host(WRITE, MORE={"adopt": "1"})
        self.assertEqual(said["status"]["snapshots"], {})
        self.oracle(replica=self.beside(8192))
        self.old_chain_is_untouched()

    def test_a_database_restored_from_the_new_chain_goes_on_there(self):
        self.resize(8192)
        self.host(WRITE, MORE={"adopt": "1"})
        copy = restore(self.beside(8192).url, self.dir / "copy.db", paths.OURS)
        self.assertEqual(dump(copy), dump(self.db))
        self.host(WRITE, PATH=copy, PARAMS=self.beside(8192).uri_parameters(), MORE={})
        self.oracle(database=copy, replica=self.beside(8192))


if __name__ == "__main__":
    unittest.main()
