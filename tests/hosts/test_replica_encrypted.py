"""Replicas of encrypted databases, read by the hosts that encrypt."""

import unittest
from textwrap import dedent

from base import HostCase
from lab import child, paths

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


if __name__ == "__main__":
    unittest.main()
