"""Hosts that encrypt: nothing may be read from page 1, and the copy opens with the key."""

import shutil
import subprocess
import unittest
from textwrap import dedent

from base import HostCase
from lab import child, paths
from lab.replica import file_hash, restore, run

# As deep as the scripts that it is put into.
FILL = """
            for n in range(120):
                db.execute("INSERT INTO t(v) VALUES(randomblob(?))", (n * 37,))
            db.execute("DELETE FROM t WHERE id % 5 = 0")
"""


class Encrypted(HostCase):
    """What the encrypting hosts have in common."""

    program = None

    def setUp(self):
        if not self.program.exists():
            self.skipTest(f"{self.program} is not installed")
        super().setUp()

    def readable(self):
        return self.db.read_bytes().startswith(b"SQLite format 3\0")

    def same_bytes(self, commands=(paths.GO_17, paths.OURS)):
        self.assertFalse(self.readable())
        for command in commands:
            self.assertEqual(file_hash(self.restored(command)), file_hash(self.db), command)

    def forget(self):
        """Nothing local knows the database any more."""
        shutil.rmtree(self.dir / ".app.db-litestream")


KEYED = '''
def keyed(path, wal=True, page_size=None, **parameters):
    db = connect(path, wal=False, **parameters)
    db.execute("PRAGMA key='correct horse'")
    if page_size:
        db.execute(f"PRAGMA cipher_page_size={page_size}")
    if wal:
        db.execute("PRAGMA journal_mode=WAL")
    return db
'''


class FromSqlcipher(Encrypted):
    """SQLCipher, whose pager encrypts: the VFS never sees a plain page."""

    program = paths.SQLCIPHER_PYTHON

    def host(self, script, **values):
        values = {"PATH": self.db, "PARAMS": self.replica.uri_parameters(), **values}
        return child.host(KEYED + dedent(script), {"LAB_DBAPI": "sqlcipher3.dbapi2"},
                          python=self.program, **values)

    def content(self, path, page_size=None):
        """The rows of a database, as SQLCipher reads them."""
        return self.host("""
            db = keyed(PATH, wal=False, page_size=SIZE)
            assert scalar(db, "PRAGMA integrity_check") == "ok"
            say(rows=db.execute("SELECT id, length(v), hex(v) FROM t").fetchall())
        """, PATH=path, PARAMS={}, SIZE=page_size)["rows"]

    def test_from_the_first_commit_on(self):
        self.host("""
            db = keyed(PATH, **PARAMS)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        """ + FILL + """
            sync(db)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        """ + FILL + """
            db.close()
        """)
        self.same_bytes()
        self.assertEqual(self.content(self.restored()), self.content(self.db))

    def page_size(self, size):
        said = self.host("""
            db = keyed(PATH, page_size=SIZE)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        """ + FILL + """
            db.close()
            db = keyed(PATH, wal=False, page_size=SIZE, **PARAMS)
            scalar(db, "SELECT count(*) FROM t")
            sync(db)
            say(first=status(db))
        """ + FILL + """
            db.close()
        """, SIZE=size)
        self.assertEqual(said["first"]["snapshots"], {"first": 1})
        self.assertEqual(said["first"]["captured"]["page_size"], size)
        self.same_bytes()
        self.assertEqual(self.content(self.restored(), size), self.content(self.db, size))

    def test_an_existing_database_that_is_only_read_is_copied(self):
        self.page_size(4096)

    def test_an_existing_database_of_1024_bytes_a_page(self):
        self.page_size(1024)

    def test_an_existing_database_of_16384_bytes_a_page(self):
        self.page_size(16384)

    def test_the_chain_goes_on_without_local_state(self):
        self.test_from_the_first_commit_on()
        self.forget()
        said = self.host("""
            db = keyed(PATH, wal=False, **PARAMS)
            db.execute("INSERT INTO t(v) VALUES('after')")
            sync(db)
            say(status=status(db))
            db.close()
        """)
        self.assertEqual((said["status"]["state"], said["status"]["snapshots"]), ("ok", {}))
        self.same_bytes()

    def test_another_database_at_the_url_is_a_conflict(self):
        self.test_from_the_first_commit_on()
        self.forget()
        self.db.unlink()
        names = self.replica.names()
        said = self.host("""
            db = keyed(PATH)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        """ + FILL + """
            db.close()
            db = keyed(PATH, wal=False, **PARAMS)
            db.execute("INSERT INTO t(v) VALUES('after')")
            error = host_error(sync, db)
            say(status=status(db), error=error)
            db.close()
        """)
        self.assertEqual(said["status"]["state"], "conflict")
        self.assertEqual(self.replica.names(), names)

    def test_a_new_key_is_a_transaction_like_any_other(self):
        self.host("""
            db = keyed(PATH, **PARAMS)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        """ + FILL + """
            sync(db)
            db.execute("PRAGMA rekey='battery staple'")
            sync(db)
            db.execute("INSERT INTO t(v) VALUES(1)")
            db.close()
        """)
        self.same_bytes()

    def test_in_rollback_mode_and_back(self):
        said = self.host("""
            db = keyed(PATH, wal=False, **PARAMS)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        """ + FILL + """
            sync(db)
            db.execute("PRAGMA journal_mode=WAL")
        """ + FILL + """
            sync(db)
            db.execute("PRAGMA journal_mode=TRUNCATE")
        """ + FILL + """
            sync(db)
            say(status=status(db))
            db.close()
        """)
        self.assertEqual(said["status"]["gaps"], {})
        self.same_bytes()

    def test_what_a_program_without_the_library_wrote_is_repaired(self):
        self.test_from_the_first_commit_on()
        self.host("""
            db = keyed(PATH)
            db.execute("UPDATE t SET v = zeroblob(50) WHERE id < 5")
            db.close()
        """)
        said = self.host("""
            db = keyed(PATH, wal=False, **PARAMS)
            scalar(db, "SELECT count(*) FROM t")
            sync(db)
            say(status=status(db))
            db.close()
        """)
        self.assertEqual((said["status"]["gaps"], said["status"]["snapshots"]),
                         ({"unproven": 1}, {}))
        self.same_bytes()

    def test_the_restore_says_that_it_cannot_check_it(self):
        self.test_from_the_first_commit_on()
        output = self.dir / "checked.db"
        said = run([paths.OURS, "restore", "-o", output, self.replica.url])
        self.assertIn("without its key", said)


# A host on SQLite3 Multiple Ciphers: its VFS encrypts, above ours.
CIPHERS = '''
import apsw, json, os, sys, time
load_at = apsw.Connection(":memory:")
load_at.enable_load_extension(True)
load_at.load_extension(os.environ["LAB_EXTENSION"])

def keyed(path, vfs="multipleciphers-litestream", cipher="chacha20", wal=True, **parameters):
    query = "&".join(f"{k}={v}" for k, v in {"vfs": vfs, **parameters}.items() if v)
    flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    db = apsw.Connection(f"file:{path}?{query}", flags=flags)
    db.execute(f"PRAGMA cipher='{cipher}'").fetchall()
    db.execute("PRAGMA key='correct horse'").fetchall()
    if wal:
        db.execute("PRAGMA journal_mode=WAL").fetchall()
    return db

def scalar(db, sql, *args):
    return db.execute(sql, args).fetchone()[0]

def status(db):
    return json.loads(scalar(db, "SELECT litestream_status()"))

def sync(db):
    return scalar(db, "SELECT litestream_sync(10000)")

def say(**values):
    print(json.dumps(values), flush=True)
'''


class FromMultipleCiphers(Encrypted):
    """SQLite3 Multiple Ciphers, as in better-sqlite3-multiple-ciphers: a VFS encrypts."""

    program = paths.CIPHERS_PYTHON

    def host(self, script, env=None, **values):
        values = {"PATH": self.db, "PARAMS": self.replica.uri_parameters(), **values}
        known = "".join(f"{k} = {child.plain(v)!r}\n" for k, v in values.items())
        environment = paths.environment(LAB_EXTENSION=paths.EXTENSION, **(env or {}))
        process = subprocess.Popen(
            [self.program, "-c", CIPHERS + known + dedent(script)], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        return child.finish(process)

    def content(self, path, cipher):
        return self.host("""
            db = keyed(PATH, vfs=None, wal=False, cipher=CIPHER)
            assert scalar(db, "PRAGMA integrity_check") == "ok"
            say(rows=db.execute("SELECT id, hex(v) FROM t").fetchall())
        """, PATH=path, CIPHER=cipher)["rows"]

    def write(self, cipher, **more):
        return self.host("""
            db = keyed(PATH, cipher=CIPHER, **PARAMS)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        """ + FILL + """
            sync(db)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        """ + FILL + """
            sync(db)
            say(status=status(db))
            db.close()
        """, CIPHER=cipher, **more)

    def test_pages_are_encrypted_before_they_reach_us(self):
        """aes256cbc derives what it adds from the page number: equal bytes."""
        said = self.write("aes256cbc")
        self.assertEqual((said["status"]["state"], said["status"]["gaps"]), ("ok", {}))
        self.same_bytes()
        self.assertEqual(self.content(self.restored(), "aes256cbc"),
                         self.content(self.db, "aes256cbc"))

    def test_a_cipher_that_encrypts_anew_at_every_checkpoint(self):
        """chacha20 draws a nonce for every write of a page: equal content."""
        self.write("chacha20")
        self.assertFalse(self.readable())
        for command in (paths.GO_17, paths.OURS):
            copy = self.restored(command)
            self.assertFalse(copy.read_bytes().startswith(b"SQLite format 3\0"))
            self.assertEqual(self.content(copy, "chacha20"), self.content(self.db, "chacha20"))

    def test_a_restored_copy_goes_on_in_its_chain(self):
        self.write("chacha20")
        self.forget()
        self.db.unlink()
        restore(self.replica.url, self.db)
        said = self.host("""
            db = keyed(PATH, wal=False, **PARAMS)
            db.execute("INSERT INTO t(v) VALUES('after')")
            sync(db)
            say(status=status(db))
            db.close()
        """)
        self.assertEqual((said["status"]["state"], said["status"]["snapshots"]), ("ok", {}))
        self.assertEqual(self.content(self.restored(), "chacha20"),
                         self.content(self.db, "chacha20"))

    def test_the_default_vfs_mode_encrypts_too(self):
        """As better-sqlite3-multiple-ciphers, which passes no URIs."""
        self.host("""
            scalar(load_at, "SELECT litestream_default_vfs(1)")
            scalar(load_at, "SELECT litestream_configure(?, 'replica_url', ?)", PATH,
                   PARAMS["replica_url"])
            db = apsw.Connection(PATH)
            db.execute("PRAGMA cipher='aes256cbc'").fetchall()
            db.execute("PRAGMA key='correct horse'").fetchall()
            db.execute("PRAGMA journal_mode=WAL").fetchall()
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        """ + FILL + """
            sync(db)
            db.close()
        """)
        self.same_bytes()

    def test_without_a_key_our_own_vfs_serves_plain_databases(self):
        self.host("""
            query = f"vfs=litestream&replica_url={PARAMS['replica_url']}"
            flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
            db = apsw.Connection(f"file:{PATH}?{query}", flags=flags)
            db.execute("PRAGMA journal_mode=WAL").fetchall()
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        """ + FILL + """
            sync(db)
            db.close()
        """)
        self.assertTrue(self.readable())
        self.oracle()


del Encrypted

if __name__ == "__main__":
    unittest.main()
