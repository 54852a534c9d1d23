"""Names of files, and files that are moved under open connections."""

import os
import unittest

from base import HostCase
from lab.replica import FileReplica, dump, restore


class Names(HostCase):
    """Paths that a database can have."""

    def use(self, path, open_as=None, directory=None):
        self.host("""
            if DIRECTORY:
                os.chdir(DIRECTORY)
            db = connect(NAME, **PARAMS)
            if DIRECTORY:
                os.chdir("/")
            db.execute("CREATE TABLE t(v)")
            db.execute("INSERT INTO t VALUES(1)")
            sync(db)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            db.execute("INSERT INTO t VALUES(2)")
            db.close()
        """, NAME=open_as or path, DIRECTORY=directory)
        self.oracle(database=path)

    def test_spaces_percent_signs_and_unicode(self):
        for n, name in enumerate(("with space.db", "100%25 ?#&=.db", "d\u00e9j\u00e0 \u6f22.db", "no_suffix")):
            with self.subTest(name=name):
                self.replica = FileReplica(self.dir / f"replica-{n}")
                self.use(self.dir / name)
                self.assertTrue((self.dir / f".{name}-litestream").is_dir())

    def test_relative_paths(self):
        (self.dir / "sub").mkdir()
        self.use(self.dir / "app.db", "./sub/../app.db", self.dir)

    def test_a_symbolic_link_to_the_file(self):
        (self.dir / "real").mkdir()
        link = self.dir / "link.db"
        link.symlink_to(self.dir / "real" / "app.db")
        self.use(self.dir / "real" / "app.db", link)
        self.assertTrue((self.dir / "real" / ".app.db-litestream").is_dir())
        self.host("""
            one, two = connect(REAL, **PARAMS), connect(LINK, **PARAMS)
            for n in range(20):
                (one, two)[n % 2].execute("INSERT INTO t VALUES(?)", (n,))
            [c.close() for c in (one, two)]
        """, REAL=self.dir / "real" / "app.db", LINK=link)
        self.oracle(database=self.dir / "real" / "app.db")

    def test_a_hard_link_is_refused_while_the_other_name_is_open(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(v)")
            os.link(PATH, PATH + "-hard")
            host_error(connect, PATH + "-hard", **PARAMS)
            why = last_error()
            assert PATH in why and "one name" in why, why
            db.execute("INSERT INTO t VALUES(1)")
            db.close()
        """)
        self.oracle()

    def test_a_database_in_the_root_of_another_file_system_is_found_by_its_path(self):
        shm = "/dev/shm"
        if not os.access(shm, os.W_OK):
            self.skipTest("no second file system")
        import tempfile
        with tempfile.TemporaryDirectory(dir=shm) as directory:
            from pathlib import Path
            self.use(Path(directory) / "app.db")


# Opens, waits to be told that the file was moved, writes on and closes.
MOVED = """
            db = connect(PATH, **PARAMS, sync_interval="50ms")
            db.execute("CREATE TABLE t(v)")
            db.execute("INSERT INTO t VALUES('before')")
            sync(db)
"""
AFTER = """
            db.execute("INSERT INTO t VALUES('after')")
            why = host_error(sync, db, 8000)
            say(why=why, status=status(db), rows=scalar(db, "SELECT count(*) FROM t"))
            db.close()
"""


class Moved(HostCase):
    """The path leads elsewhere while a connection is open: its capture stops, and says so."""

    def moved(self, script, **values):
        said = self.host(MOVED + script + AFTER, **values)
        self.assertEqual(said["rows"], 2)
        self.assertEqual(said["status"]["state"], "conflict")
        for text in (said["why"], said["status"]["conflict"]):
            self.assertIn(str(self.db), text)
            self.assertIn("while it was open", text)
        copy = self.restored()
        self.assertEqual(self.rows(copy, "SELECT v FROM t"), [("before",)])
        return said

    def test_replaced_by_another_file(self):
        self.moved("""
            other = sqlite3.connect(PATH + "-new", isolation_level=None)
            other.execute("CREATE TABLE other(v)")
            other.close()
            os.rename(PATH + "-new", PATH)
            for suffix in ("-wal", "-shm"):
                os.unlink(PATH + suffix)
        """)
        self.assertEqual(self.rows(self.db, "SELECT name FROM sqlite_master"), [("other",)])

    def test_replaced_by_another_file_whose_wal_is_in_use(self):
        self.moved("""
            import subprocess
            other = sqlite3.connect(PATH + "-new", isolation_level=None)
            other.execute("CREATE TABLE other(v)")
            other.close()
            os.rename(PATH + "-new", PATH)
            for suffix in ("-wal", "-shm"):
                os.unlink(PATH + suffix)
            plain = "; ".join([
                "import sqlite3, sys", "db = sqlite3.connect(sys.argv[1], isolation_level=None)",
                "db.execute('PRAGMA journal_mode=WAL')",
                "[db.execute('INSERT INTO other VALUES(randomblob(500))') for n in range(50)]",
                "print('ready', flush=True)", "sys.stdin.readline()",
            ])
            process = subprocess.Popen([sys.executable, "-c", plain, PATH], text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            process.stdout.readline()
            import atexit
            atexit.register(process.communicate, "")
        """)

    def test_replaced_while_a_rollback_journal_is_used(self):
        """SQLite itself then refuses to write; nothing of the new file is shipped."""
        self.host(MOVED + """
            db.execute("PRAGMA journal_mode=DELETE")
            sync(db)
            other = sqlite3.connect(PATH + "-new", isolation_level=None)
            other.execute("CREATE TABLE other(v)")
            other.close()
            os.rename(PATH + "-new", PATH)
            assert "readonly" in host_error(db.execute, "INSERT INTO t VALUES('after')")
            db.close()
        """)
        self.assertEqual(self.rows(self.restored(), "SELECT v FROM t"), [("before",)])

    def test_replaced_while_it_is_held_exclusively(self):
        self.moved("""
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            scalar(db, "SELECT count(*) FROM t")
            other = sqlite3.connect(PATH + "-new", isolation_level=None)
            other.execute("CREATE TABLE other(v)")
            other.close()
            os.rename(PATH + "-new", PATH)
        """)

    def test_renamed(self):
        self.moved("""
            os.rename(PATH, PATH + "-renamed")
        """)

    def test_removed_and_made_anew(self):
        """The new file is another database: told apart from the chain, as at any open."""
        said = self.moved("""
            for suffix in ("", "-wal", "-shm"):
                os.unlink(PATH + suffix)
            new = sqlite3.connect(PATH)
            new.execute("CREATE TABLE t(v)")
            new.close()
            again = connect(PATH, **PARAMS)
            again.execute("INSERT INTO t VALUES('another')")
            say(other=host_error(sync, again, 8000), others=status(again)["state"])
            again.close()
        """)
        self.assertEqual(said["others"], "conflict")
        self.assertIn("not the history", said["other"])

    def test_after_it_is_opened_again_the_new_file_is_compared(self):
        self.moved("""
            os.rename(PATH, PATH + "-renamed")
        """)
        for suffix in ("-wal", "-shm"):
            self.db.with_name(f"app.db{suffix}").unlink(missing_ok=True)
        restore(self.replica.url, self.db)
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("INSERT INTO t VALUES('goes on')")
            sync(db)
            db.close()
        """)
        self.oracle()
        self.assertNotEqual(dump(self.db), None)


if __name__ == "__main__":
    unittest.main()
