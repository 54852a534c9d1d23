#!/usr/bin/python3
"""Let programs without the library change a replicated database, and look at the repair.

usage: foreign.py [--pages N] [--rounds N] [--seed N] [--keep]

Between two runs of ours, and in the midst of one, the plain sqlite3 shell writes,
checkpoints and vacuums, and an older copy is put over the file. After each: status names
the gap, the chain restores to the database byte for byte (by our command and by
Litestream 0.5.17), and the pages shipped are compared with the pages that changed. Then
come rounds of random mixtures of the same.
"""

import argparse
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/crash")]

from lab import child, paths  # noqa: E402
from lab.replica import FileReplica, dump, integrity, ltx_pages, restore, run  # noqa: E402
from pages import differing_pages  # noqa: E402

SHELL = "/usr/bin/sqlite3"
# Our own commit, page 1, and what a b-tree moves beside the rows.
SLACK = 16

OPEN = """
    db = connect(PATH, **PARAMETERS)
    db.execute("CREATE TABLE IF NOT EXISTS ours(n INTEGER PRIMARY KEY)")
    db.execute("INSERT INTO ours DEFAULT VALUES")
    sync(db, 30000)
"""
CLOSE = """
    db.execute("INSERT INTO ours DEFAULT VALUES")
    sync(db, 30000)
    found = status(db)
    db.close()
    say(status=found)
"""
WAIT = "    say(ready=True)\n    sys.stdin.readline()\n"

# Updates spread over the table; each touches about one page.
UPDATE = "UPDATE t SET v = randomblob(1500) WHERE id % 97 = {salt};"


class Failure(Exception):
    """A promise that did not hold."""


class Lab:
    """One database, its replica, and what was seen of them."""

    def __init__(self, directory, pages):
        self.dir = directory
        self.path, self.replica = directory / "app.db", FileReplica(directory / "replica")
        self.rng = random.Random(7)
        self.total, self.copies, self.old = pages, 0, None
        self.values = {"PATH": self.path, "PARAMETERS": self.replica.uri_parameters()}
        self.env = {"LITESTREAM_LOG_FILE": directory / "log"}

    def shell(self, *statements):
        done = subprocess.run(
            [SHELL, "-batch", "-bail", self.path], input="\n".join(statements), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
        )
        if done.returncode:
            raise Failure(f"sqlite3: {done.stdout}")

    def update(self):
        return UPDATE.format(salt=self.rng.randrange(97))

    def create(self):
        self.shell("PRAGMA journal_mode=WAL;", "CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB);",
                   "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < "
                   f"{self.total * 2}) INSERT INTO t SELECT i, randomblob(1500) FROM n;")

    # What strangers do.

    def nothing(self):
        self.shell("SELECT count(*) FROM t;")

    def writes(self):
        self.shell(self.update())

    def truncates(self):
        self.shell(self.update(), "PRAGMA wal_checkpoint(TRUNCATE);", self.update(),
                   "PRAGMA wal_checkpoint(TRUNCATE);")

    def dies(self):
        """A program that is killed leaves its commits in the WAL."""
        script = (f"import sqlite3, sys; db = sqlite3.connect({str(self.path)!r}); "
                  f"db.execute({self.update()!r}); db.commit(); print(1, flush=True); "
                  "sys.stdin.read()")
        process = subprocess.Popen([paths.PYTHON, "-c", script], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()

    def keep(self):
        """Not a change: remembers a copy for later."""
        self.old = self.dir / "old.db"
        shutil.copy2(self.path, self.old)

    def puts_older_copy(self):
        for suffix in ("-wal", "-shm"):
            pathlib.Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        shutil.copyfile(self.old, self.path)

    def renames_older_copy(self):
        """As backup programs do: another file takes the name."""
        copy = self.dir / "copy.db"
        shutil.copyfile(self.old, copy)
        for suffix in ("-wal", "-shm"):
            pathlib.Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        copy.rename(self.path)

    def rolls(self):
        self.shell("PRAGMA journal_mode=DELETE;", self.update())

    def rolls_and_returns(self):
        self.shell("PRAGMA journal_mode=DELETE;", self.update(), "PRAGMA journal_mode=WAL;")

    def restarts(self):
        """So many commits that the WAL begins anew more than once."""
        self.shell("PRAGMA wal_autocheckpoint=5;", *[self.update() for _ in range(6)])

    def shrinks(self):
        self.shell("DELETE FROM t WHERE id > (SELECT max(id) * 3 / 4 FROM t);", "VACUUM;")

    # What ours makes of it.

    def run_after(self):
        return child.host(OPEN + CLOSE, self.env, **self.values)["status"]

    def run_replaced(self):
        """Another file has the name: a conflict, which adopt=1 ends."""
        status = child.host("""
            db = connect(PATH, **PARAMETERS)
            end = time.monotonic() + 30
            while status(db)["state"] == "connecting" and time.monotonic() < end:
                time.sleep(0.05)
            say(status=status(db))
            db.close()
        """, self.env, **self.values)["status"]
        if status["state"] != "conflict":
            raise Failure(f"another file has the name, and state is {status['state']}")
        adopting = {**self.values["PARAMETERS"], "adopt": "1"}
        return child.host(OPEN + CLOSE, self.env, **{**self.values, "PARAMETERS": adopting})["status"]

    def run_around(self, work):
        process = child.start(OPEN + WAIT + CLOSE, self.env, **self.values)
        try:
            if not child.hear(process).get("ready"):
                raise Failure("the host did not start")
            work()
            process.stdin.write("\n")
            process.stdin.flush()
            return child.finish(process)["status"]
        finally:
            process.kill()

    def image(self):
        """The database's pages now, WAL included."""
        self.copies += 1
        copy = self.dir / f"image-{self.copies}.db"
        for suffix in ("", "-wal"):
            if pathlib.Path(f"{self.path}{suffix}").exists():
                shutil.copyfile(f"{self.path}{suffix}", f"{copy}{suffix}")
        integrity(copy)
        return copy

    @staticmethod
    def repairs(status, since_ms):
        """What status tells of each gap that was repaired since then."""
        told = [r for r in status["repairs"]["last"] if r["at_ms"] >= since_ms]
        return [f"{r['reason']}: " + ("full" if r["full"] else
                f"{r['pages_shipped']} of {r['pages_compared']}") for r in told]

    def files(self):
        return {path for path in self.replica.directory.rglob("*.ltx")}

    def check(self, before, known):
        """(pages changed, pages shipped, full snapshots) of a step whose restores are right."""
        if integrity(self.path) != ["ok"]:
            raise Failure(f"integrity_check: {integrity(self.path)[:3]}")
        for command in (paths.OURS, paths.GO_17):
            self.copies += 1
            copy = restore(self.replica.url, self.dir / f"copy-{self.copies}.db", command)
            if pages := differing_pages(copy, self.path):
                raise Failure(f"{command}: pages {pages[:10]} of {len(pages)} differ")
            if dump(copy) != dump(self.path):
                raise Failure(f"{command}: the SQL dump differs")
            copy.unlink()
        if "verify" in run([paths.OURS, "help"]):
            run([paths.OURS, "verify", self.path, self.replica.url])
        new = self.files() - known
        shipped = sum(len(ltx_pages(path)[1]) for path in new)
        full = sum(path.parent.name == "9" for path in new)
        return len(differing_pages(before, self.path)), shipped, full


# What is done, how ours runs, and whether it must be a gap: what still is in the
# WAL may be captured instead.
STEPS = [
    ("nothing but a look", Lab.nothing, "after", False),
    ("writes and closes", Lab.writes, "after", True),
    ("checkpoints with TRUNCATE", Lab.truncates, "after", True),
    ("writes and is killed", Lab.dies, "after", False),
    ("(a copy is made)", Lab.keep, "after", False),
    ("rollback journal", Lab.rolls, "after", True),
    ("rollback journal and back to WAL", Lab.rolls_and_returns, "after", True),
    ("an older copy over the file", Lab.puts_older_copy, "after", True),
    ("writes and closes again", Lab.writes, "after", True),
    ("an older file takes the name", Lab.renames_older_copy, "replaced", True),
    ("writes while ours has it open", Lab.writes, "around", False),
    ("TRUNCATE while ours has it open", Lab.truncates, "around", False),
    ("restarts while ours has it open", Lab.restarts, "around", False),
    ("deletes a quarter and vacuums", Lab.shrinks, "after", True),
]


# What random rounds are made of.
MIXTURE = [Lab.nothing, Lab.writes, Lab.writes, Lab.truncates, Lab.dies, Lab.restarts]


def mixture(lab, rng, number):
    """A random round, as a step."""
    works = rng.choices(MIXTURE, k=rng.randrange(1, 4))
    how = rng.choice(["after", "around"])
    names = "+".join(work.__name__ for work in works)
    return f"{number} {how}: {names}", lambda lab: [work(lab) for work in works], how, False


def step(lab, name, work, how, must_be_gap):
    """Runs one step; returns the words of its line, or raises."""
    before, known, since_ms = lab.image(), lab.files(), time.time_ns() // 1_000_000
    if how == "around":
        status = lab.run_around(lambda: work(lab))
    else:
        work(lab)
        status = lab.run_replaced() if how == "replaced" else lab.run_after()
    if status["state"] != "ok":
        raise Failure(f"state {status['state']}: {json.dumps(status)}")
    changed, shipped, full = lab.check(before, known)
    before.unlink()
    repairs = lab.repairs(status, since_ms)
    if must_be_gap and not repairs:
        raise Failure(f"status names no gap: {json.dumps(status)}")
    pages = lab.path.stat().st_size // 4096
    print(f"{name:40} changed {changed:5} shipped {shipped:5} of {pages:5} pages, {full} full; "
          f"status: {', '.join(repairs) or 'no gap'}", flush=True)
    # Whose chain it adopts is not known to be equal in any page.
    return how == "replaced" or shipped <= 3 * changed + SLACK


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", default=str(time.time_ns()))
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="litestream-foreign-"))
    lab, wasteful = Lab(directory, options.pages), []
    lab.create()
    lab.run_after()
    rng = random.Random(options.seed)
    print(f"foreign: seed {options.seed}", flush=True)
    rounds = [mixture(lab, rng, n + 1) for n in range(options.rounds)]
    for name, work, how, must_be_gap in STEPS + rounds:
        try:
            if not step(lab, name, work, how, must_be_gap):
                wasteful.append(name)
        except (Failure, child.HostFailed) as error:
            print(f"foreign: FAILED: {name}: {error}\n  kept in {directory}", flush=True)
            return 1
    if wasteful:
        print(f"foreign: FAILED: much more shipped than changed: {', '.join(wasteful)}\n"
              f"  kept in {directory}", flush=True)
        return 1
    print(f"foreign: {len(STEPS) + len(rounds)} steps, all restores equal by both commands", flush=True)
    if not options.keep:
        shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
