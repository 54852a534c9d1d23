"""Transactions of many writers on one database of state.py.

The last row of log is read inside each transaction, so that writers in any number
of processes continue one chain. Journal lines as in writer.py, all writers' in
one file: write(2) of a line to a file opened for appending is atomic.
"""

import os
import sqlite3

from state import MODULUS, SCHEMA, chain, digest

ROWS_MAX = 1500
CHECKPOINTS = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")


class Journal:
    """What writers began, committed and know to be acknowledged."""

    def __init__(self, path):
        self.path = path
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, kind, n):
        os.write(self.file, f"{kind} {n}\n".encode())

    def error(self, text):
        os.write(self.file, f"! {text!r}\n".encode())

    def restart(self, n):
        """Only the commits up to `n` exist any more, and those are stored."""
        _, errors = self.read()
        os.ftruncate(self.file, 0)
        for kind in "bca":
            self.note(kind, n)
        for text in errors:
            os.write(self.file, f"! {text}\n".encode())

    def read(self):
        """({"b": highest, "c": highest, "a": highest}, errors)."""
        highest, errors = {"b": 0, "c": 0, "a": 0}, []
        with open(self.path) as lines:
            for line in lines:
                kind, _, rest = line.rstrip("\n").partition(" ")
                if kind == "!":
                    errors.append(rest)
                else:
                    highest[kind] = max(highest[kind], int(rest))
        return highest, errors


def create(db):
    """Make the tables, unless somebody did."""
    db.execute("BEGIN IMMEDIATE")
    if not db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'log'").fetchone()[0]:
        for statement in filter(str.strip, SCHEMA.split(";")):
            db.execute(statement)
    db.execute("COMMIT")


class Session:
    """One connection's transactions."""

    def __init__(self, db, journal, random):
        self.db, self.journal, self.random = db, journal, random
        self.rows = self.total = self.last = 0

    def value(self, most):
        size = self.random.randrange(most)
        return self.random.randbytes(size // 2) + b"x" * (size - size // 2)

    def set(self, row_id, value):
        """Put a row, or with None delete it, and keep count and sum."""
        old = self.db.execute("SELECT v FROM t WHERE id = ?", (row_id,)).fetchone()
        if old is not None:
            self.rows -= 1
            self.total -= digest(row_id, old[0])
        if value is None:
            self.db.execute("DELETE FROM t WHERE id = ?", (row_id,))
        else:
            self.db.execute("INSERT OR REPLACE INTO t VALUES(?, ?)", (row_id, value))
            self.rows += 1
            self.total += digest(row_id, value)

    def fill(self):
        """The changes of one transaction."""
        kind = self.random.random()
        most = self.db.execute("SELECT coalesce(max(id), 0) FROM t").fetchone()[0]
        if self.rows > ROWS_MAX:
            for row_id, in self.db.execute("SELECT id FROM t LIMIT ?", (ROWS_MAX // 3,)).fetchall():
                self.set(row_id, None)
        elif kind < 0.6:
            for row_id in range(most + 1, most + self.random.randrange(2, 6)):
                self.set(row_id, self.value(800))
        elif kind < 0.92:
            for _ in range(self.random.randrange(1, 12)):
                row_id = self.random.randrange(1, most + 2)
                self.set(row_id, None if self.random.random() < 0.3 else self.value(1500))
        elif kind < 0.97:
            self.set(most + 1, self.value(120_000))
        else:
            for row_id in range(most + 1, most + self.random.randrange(40, 120)):
                self.set(row_id, self.value(900))

    def transaction(self, keep=True):
        """One commit, or one rollback; returns the commit's number."""
        self.db.execute("BEGIN IMMEDIATE")
        row = self.db.execute("SELECT n, rows, sum, h FROM log ORDER BY n DESC LIMIT 1").fetchone()
        n, self.rows, total, before = row or (0, 0, "0", "")
        self.total = int(total, 16)
        self.fill()
        if not keep:
            self.db.execute("ROLLBACK")
            return None
        n, total = n + 1, self.total % MODULUS
        h = chain(before, n, self.rows, total)
        self.db.execute("INSERT INTO log VALUES(?, ?, ?, ?)", (n, self.rows, f"{total:032x}", h))
        self.journal.note("b", n)
        self.db.execute("COMMIT")
        self.journal.note("c", n)
        self.last = n
        return n

    def acknowledge(self, timeout_ms=20000):
        """Wait until storage has this connection's last commit."""
        n = self.last
        self.db.execute("SELECT litestream_sync(?)", (timeout_ms,)).fetchone()
        self.journal.note("a", n)

    def maintain(self):
        """A checkpoint or VACUUM; others may hold what it needs."""
        self.db.execute("PRAGMA busy_timeout=50")
        try:
            if self.random.random() < 0.2:
                self.db.execute("VACUUM")
            else:
                kind = self.random.choice(CHECKPOINTS)
                self.db.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
        finally:
            self.db.execute("PRAGMA busy_timeout=30000")

    def step(self):
        """One of everything that a worker does."""
        kind = self.random.random()
        if kind < 0.88:
            self.transaction()
        elif kind < 0.93:
            self.transaction(keep=False)
        elif kind < 0.96:
            self.maintain()
        elif self.last:
            self.acknowledge()
