"""Replicas of encrypted databases, read by the hosts that encrypt."""

import json
import unittest
from textwrap import dedent

from base import HostCase
from lab import child, paths
from lab.replica import run

KEYED = '''
def key(db):
    db.execute("PRAGMA key='correct horse'")
    return db
'''

SCRIPT = """
    db = key(connect(PATH, wal=False, **PARAMS))
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
    for n in range(120):
        db.execute("INSERT INTO t(v) VALUES(randomblob(?))", (n * 37,))
    sync(db)
    r = key(replica(**PARAMS, poll_interval="1h"))
    rows = lambda c: c.execute("SELECT id, hex(v) FROM t").fetchall()
    first = rows(r) == rows(db)
    db.execute("DELETE FROM t WHERE id % 5 = 0")
    scalar(r, "SELECT litestream_wait(?, 20000)", sync(db))
    say(first=first, second=rows(r) == rows(db), check=scalar(r, "PRAGMA integrity_check"))
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("INSERT INTO t(v) VALUES('wal')")
    scalar(r, "SELECT litestream_wait(?, 20000)", sync(db))
    say(wal=host_error(rows, r))
    db.execute("PRAGMA journal_mode=DELETE")
    scalar(r, "SELECT litestream_wait(?, 20000)", sync(db))
    say(back=rows(r) == rows(db))
"""


class FromSqlcipher(HostCase):
    """SQLCipher, whose pager decrypts what the replica gives."""

    @unittest.skipUnless(paths.SQLCIPHER_PYTHON.exists(), "sqlcipher3 is not installed")
    def test_outside_wal_mode_a_replica_is_read_with_its_key(self):
        said = child.host(KEYED + dedent(SCRIPT), {"LAB_DBAPI": "sqlcipher3.dbapi2"},
                          python=paths.SQLCIPHER_PYTHON, PATH=self.db,
                          PARAMS=self.replica.uri_parameters())
        self.assertTrue(said["first"] and said["second"] and said["back"], said)
        self.assertEqual(said["check"], "ok")
        self.assertIn("unable to open", said["wal"])


CIPHERS = """
import apsw, json, os
loader = apsw.Connection(":memory:")
loader.enable_load_extension(True)
loader.load_extension(os.environ["LAB_EXTENSION"])

def keyed(name, **parameters):
    query = "&".join(f"{k}={v}" for k, v in {"vfs": "multipleciphers-litestream", **parameters}.items())
    flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    db = apsw.Connection(f"file:{name}?{query}", flags=flags)
    db.execute(f"PRAGMA cipher='{CIPHER}'").fetchall()
    db.execute("PRAGMA key='correct horse'").fetchall()
    return db

one = lambda db, sql, *args: db.execute(sql, args).fetchone()[0]
rows = lambda db: db.execute("SELECT id, hex(v) FROM t").fetchall()
db = keyed(PATH, replica_url=URL)
db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
for n in range(120):
    db.execute("INSERT INTO t(v) VALUES(randomblob(?))", (n * 37,))
one(db, "SELECT litestream_sync(10000)")
r = keyed(URL, poll_interval="1h")
first = rows(r) == rows(db)
db.execute("DELETE FROM t WHERE id % 5 = 0")
one(r, "SELECT litestream_wait(?, 20000)", one(db, "SELECT litestream_sync(10000)"))
print(json.dumps(dict(first=first, second=rows(r) == rows(db),
                      check=one(r, "PRAGMA integrity_check"))))
"""


class FromMultipleCiphers(HostCase):
    """SQLite3 Multiple Ciphers, whose VFS above ours decrypts."""

    @unittest.skipUnless(paths.CIPHERS_PYTHON.exists(), "apsw-sqlite3mc is not installed")
    def test_a_replica_is_read_through_the_vfs_that_encrypts(self):
        for cipher in ("aes256cbc", "chacha20", "sqlcipher"):
            with self.subTest(cipher):
                known = f"CIPHER, PATH = {cipher!r}, {str(self.dir / cipher)!r}\n"
                known += f"URL = 'file://{self.dir}/replica-{cipher}'\n"
                out = run([paths.CIPHERS_PYTHON, "-c", known + CIPHERS],
                          env=paths.environment(LAB_EXTENSION=paths.EXTENSION))
                self.assertEqual(json.loads(out), {"first": True, "second": True, "check": "ok"})


if __name__ == "__main__":
    unittest.main()
