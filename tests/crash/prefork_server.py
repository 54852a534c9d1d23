"""A server in the manner of gunicorn: usage: prefork_server.py serve|cron JSON.

`serve`: the master loads the extension, and in some generations opens the database
too; then it forks workers, which each open it and write, and replaces those that die.
Workers whose master is gone end by themselves. `cron`: a few commits beside it.

Every process announces itself by a file with its number in the directory `pids`.
"""

import json
import os
import pathlib
import random
import signal
import sqlite3
import sys
import time

from lab.host import connect, load
from session import Journal, Session, create


# How long writers wait for each other.
PATIENCE = 30


class Told:
    """A connection whose errors tell the statement and how long it waited."""

    def __init__(self, db):
        self.db, self.close = db, db.close

    def execute(self, sql, *args):
        began = time.monotonic()
        try:
            return self.db.execute(sql, *args)
        except sqlite3.Error as error:
            error.add_note(f"{getattr(error, 'sqlite_errorname', '')} by {sql!r}"
                           f" after {time.monotonic() - began:.1f} s")
            raise


def is_wal(path):
    """Whether the database is in WAL mode for good."""
    try:
        with open(path, "rb") as file:
            return file.read(20)[18:] == b"\2\2" and not os.path.exists(f"{path}-journal")
    except FileNotFoundError:
        return False


def turn_to_wal(db, path):
    """Two that turn a database to WAL mode at once both read it and both want to write:
    SQLite refuses one of them without asking the busy handler, which would not help."""
    end = time.monotonic() + PATIENCE
    while True:
        done = is_wal(path)
        try:
            return db.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            late = time.monotonic() > end
            if done or late or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
        time.sleep(0.01)


class Process:
    """What every process of the server is."""

    def __init__(self, settings):
        self.settings = settings
        self.journal = Journal(settings["journal"])
        self.random = random.Random(f"{settings['seed']}-{os.getpid()}-{time.monotonic_ns()}")
        self.ending = False
        self.master = os.getppid()
        signal.signal(signal.SIGTERM, self.end)

    def end(self, *_):
        self.ending = True

    def announce(self):
        (pathlib.Path(self.settings["pids"]) / str(os.getpid())).touch()

    def leave(self):
        (pathlib.Path(self.settings["pids"]) / str(os.getpid())).unlink(missing_ok=True)

    def open(self):
        path = self.settings["path"]
        db = Told(connect(path, wal=False, **self.settings["parameters"]))
        db.execute(f"PRAGMA busy_timeout={PATIENCE * 1000}")
        turn_to_wal(db, path)
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(f"PRAGMA wal_autocheckpoint={self.settings['wal_autocheckpoint']}")
        create(db)
        return Session(db, self.journal, self.random)

    def guarded(self, work):
        """Run `work`; what goes wrong fails the whole run by a line in the journal."""
        try:
            work()
            return 0
        except Exception as error:  # noqa: BLE001
            told = ", ".join(getattr(error, "__notes__", []))
            self.journal.error(f"{os.getpid()} {type(error).__name__}: {error} ({told})")
            return 1


class Worker(Process):
    """Writes until it is told to end, or its master is gone."""

    def run(self):
        self.announce()
        session = self.open()
        while not self.ending and os.getppid() == self.master:
            session.step()
            time.sleep(self.random.expovariate(1 / self.settings["pause"]))
        if self.random.random() < 0.8:
            session.db.close()
        self.leave()


class Cron(Process):
    """A few commits of a program of its own."""

    def run(self):
        self.announce()
        session = self.open()
        for _ in range(self.random.randrange(1, 6)):
            session.transaction()
        if self.random.random() < 0.5:
            session.acknowledge()
        session.db.close()
        self.leave()


class Master(Process):
    """Loads the library, forks workers and replaces them."""

    def run(self):
        self.announce()
        load()
        kind = self.random.choice(["loaded", "migrated", "open"])
        session = self.open() if kind != "loaded" else None
        if session:
            session.transaction()
        if kind == "migrated":
            session.db.close()
            session = None
        workers = {self.fork() for _ in range(self.settings["workers"])}
        while not self.ending:
            self.reap(workers)
            if session and self.random.random() < 0.1:
                session.transaction()
            time.sleep(0.02)
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        for pid in workers:
            os.waitpid(pid, 0)
        if session:
            session.db.close()
        self.leave()

    def reap(self, workers):
        for pid in list(workers):
            if os.waitpid(pid, os.WNOHANG)[0]:
                workers.remove(pid)
                workers.add(self.fork())

    def fork(self):
        pid = os.fork()
        if pid:
            return pid
        worker = Worker(self.settings)
        # The interpreter's end would close what belongs to the master.
        os._exit(worker.guarded(worker.run))


def main():
    kind, settings = {"serve": Master, "cron": Cron}[sys.argv[1]], json.loads(sys.argv[2])
    process = kind(settings)
    code = process.guarded(process.run)
    if code:
        sys.stderr.write("failed, see the journal\n")
    return code


if __name__ == "__main__":
    sqlite3.enable_callback_tracebacks(True)
    sys.exit(main())
