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
        db = connect(self.settings["path"], **self.settings["parameters"])
        db.execute("PRAGMA busy_timeout=30000")
        db.execute(f"PRAGMA wal_autocheckpoint={self.settings['wal_autocheckpoint']}")
        create(db)
        return Session(db, self.journal, self.random)

    def guarded(self, work):
        """Run `work`; what goes wrong fails the whole run by a line in the journal."""
        try:
            work()
            return 0
        except Exception as error:  # noqa: BLE001
            self.journal.error(f"{os.getpid()} {type(error).__name__}: {error}")
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
