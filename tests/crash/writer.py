"""Write load of the kill loop: usage: writer.py JSON, with the keys of Writer.

Journal lines, written with write(2) and therefore kept across SIGKILL:
  b N   commit N is about to be made        c N   commit N was made
  a N   storage has acknowledged commit N
"""

import json
import os
import random
import sys
import time

from lab.host import connect, scalar
from state import MODULUS, SCHEMA, chain, digest

ROWS_MAX = 4000
CHECKPOINTS = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")


class Writer:
    """Random transactions on one database until killed or out of time."""

    def __init__(self, settings):
        self.random = random.Random(settings["seed"])
        self.end = time.monotonic() + settings["seconds"]
        self.journal = os.open(settings["journal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.path, self.parameters = settings["path"], settings["parameters"]
        self.reader = None
        self.db = self.open(settings)
        self.load()

    def open(self, settings):
        db = connect(self.path, wal=False, **self.parameters)
        self.locking_modes = settings["locking_modes"]
        self.journal_modes = settings["journal_modes"]
        self.switches = len(self.locking_modes) + len(self.journal_modes) > 2
        for pragma in ("page_size", "auto_vacuum"):
            db.execute(f"PRAGMA {pragma}={settings[pragma]}").fetchall()
        locking = self.random.choice(self.locking_modes)
        db.execute(f"PRAGMA locking_mode={locking}").fetchall()
        journal = self.random.choice(self.journal_modes)
        db.execute(f"PRAGMA journal_mode={journal}").fetchall()
        db.execute(f"PRAGMA synchronous={settings['synchronous']}")
        db.execute(f"PRAGMA wal_autocheckpoint={settings['wal_autocheckpoint']}")
        db.execute("PRAGMA cache_size=20")
        self.exclusive = locking == "EXCLUSIVE"
        if not scalar(db, "SELECT count(*) FROM sqlite_master"):
            db.execute("BEGIN")
            for statement in filter(str.strip, SCHEMA.split(";")):
                db.execute(statement)
            db.execute("COMMIT")
        return db

    def load(self):
        """Rebuild the model from the database."""
        self.rows = {i: digest(i, v) for i, v in self.db.execute("SELECT id, v FROM t")}
        self.total = sum(self.rows.values()) % MODULUS
        last = self.db.execute("SELECT n, h FROM log ORDER BY n DESC LIMIT 1").fetchone()
        self.n, self.hash = last or (0, "")

    def note(self, kind, n):
        os.write(self.journal, f"{kind} {n}\n".encode())

    def set(self, row_id, value):
        self.total = (self.total - self.rows.get(row_id, 0)) % MODULUS
        if value is None:
            self.rows.pop(row_id, None)
            self.db.execute("DELETE FROM t WHERE id=?", (row_id,))
            return
        self.rows[row_id] = digest(row_id, value)
        self.total = (self.total + self.rows[row_id]) % MODULUS
        self.db.execute("INSERT OR REPLACE INTO t VALUES(?, ?)", (row_id, value))

    def value(self, most):
        size = self.random.randrange(most)
        return self.random.randbytes(size // 2) + b"x" * (size - size // 2)

    def insert(self, count, most):
        first = max(self.rows, default=0) + 1
        for row_id in range(first, first + count):
            self.set(row_id, self.value(most))

    def change(self, count):
        if len(self.rows) > ROWS_MAX:
            count = len(self.rows) // 2
        for row_id in self.random.sample(sorted(self.rows), min(count, len(self.rows))):
            delete = len(self.rows) > ROWS_MAX // 2 or self.random.random() < 0.3
            self.set(row_id, None if delete else self.value(1500))

    def fill(self):
        """The statements of one transaction."""
        kind = self.random.random()
        if kind < 0.70:
            self.insert(self.random.randrange(1, 5), 800)
        elif kind < 0.90:
            self.change(self.random.randrange(1, 30))
        elif kind < 0.95:
            self.insert(1, 200_000)
        else:
            self.insert(self.random.randrange(100, 500), 900)

    def begin(self):
        self.db.execute("BEGIN IMMEDIATE")
        self.saved = (dict(self.rows), self.total)

    def restore_model(self):
        self.rows, self.total = self.saved

    def commit(self):
        n = self.n + 1
        h = chain(self.hash, n, len(self.rows), self.total)
        row = (n, len(self.rows), f"{self.total:032x}", h)
        self.db.execute("INSERT INTO log VALUES(?, ?, ?, ?)", row)
        self.note("b", n)
        self.db.execute("COMMIT")
        self.note("c", n)
        self.n, self.hash = n, h

    def transaction(self):
        self.begin()
        self.fill()
        self.commit()

    def rollback(self):
        self.begin()
        self.fill()
        self.fill()
        self.db.execute("ROLLBACK")
        self.restore_model()

    def savepoint(self):
        """Spills before the savepoint only. SQLite 3.40.1 can lose commits at a kill, with any
        VFS, once a transaction rolled back a savepoint in which it rewrote spilled pages: it
        leaves the salts of committed frames zero, and recovery ends before them."""
        self.begin()
        self.fill()
        kept = (dict(self.rows), self.total)
        self.db.execute("PRAGMA cache_size=20000")
        self.db.execute("SAVEPOINT inner")
        self.insert(self.random.randrange(1, 300), 900)
        self.db.execute("ROLLBACK TO inner")
        self.rows, self.total = kept
        self.commit()
        self.db.execute("PRAGMA cache_size=20")

    def maintain(self):
        kind = self.random.random()
        if kind < 0.2:
            self.close_reader()
            self.db.execute("VACUUM")
        elif kind < 0.5:
            self.db.executescript(f"PRAGMA incremental_vacuum({self.random.randrange(1, 500)})")
        else:
            self.db.execute("PRAGMA busy_timeout=50")
            kind = self.random.choice(CHECKPOINTS)
            self.db.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
            self.db.execute("PRAGMA busy_timeout=20000")

    def switch(self):
        """Another journal mode, or another locking mode."""
        self.close_reader()
        if self.random.random() < 0.7:
            mode = self.random.choice(self.journal_modes)
            self.db.execute(f"PRAGMA journal_mode={mode}").fetchall()
            return
        locking = self.random.choice(self.locking_modes)
        got = scalar(self.db, f"PRAGMA locking_mode={locking}")
        self.exclusive = got == "exclusive"
        # The lock is given back by the next read.
        self.db.execute("SELECT count(*) FROM log").fetchall()

    def acknowledge(self):
        n = self.n
        scalar(self.db, "SELECT litestream_sync(5000)")
        self.note("a", n)

    def toggle_reader(self):
        """A second connection that pins an old state of the WAL for a while."""
        if self.exclusive or scalar(self.db, "PRAGMA journal_mode") != "wal":
            return
        if self.reader:
            self.close_reader()
            return
        self.reader = connect(self.path, wal=False, **self.parameters)
        self.reader.execute("BEGIN")
        self.reader.execute("SELECT count(*) FROM t").fetchall()

    def close_reader(self):
        if self.reader:
            self.reader.close()
            self.reader = None

    def run(self):
        steps = [self.transaction, self.rollback, self.savepoint, self.maintain,
                 self.toggle_reader, self.acknowledge, self.switch]
        weights = [80, 4, 5, 6, 3, 2, 2 if self.switches else 0]
        while time.monotonic() < self.end:
            self.random.choices(steps, weights)[0]()
        self.close_reader()
        self.db.close()


if __name__ == "__main__":
    program = Writer(json.loads(sys.argv[1]))
    print("ready", flush=True)
    program.run()
