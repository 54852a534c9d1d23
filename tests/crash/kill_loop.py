#!/usr/bin/python3
"""Kill a replicating writer again and again, and check what storage holds.

usage: kill_loop.py ROUNDS [--replica file|s3|both] [--seed N] [--peer-every N] [--keep]

Each round: start a writer, SIGKILL it at a random moment, then
  1. restore from storage: sound, some committed state, nothing acknowledged missing;
  2. reopen, commit once, close: nothing that was committed locally is missing;
  3. restore again, every Nth time also by Litestream 0.5.17: byte for byte the database.
"""

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/crash")]

from lab import paths  # noqa: E402
from lab.replica import CommandFailed, FileReplica, S3Replica, file_hash, restore  # noqa: E402
from lab.s3 import S3Server  # noqa: E402
from state import Broken, verify  # noqa: E402

ROUNDS_PER_DATABASE = 10
# A kill inside a transaction without a journal on disk leaves a torn database
# behind with any VFS, so MEMORY and OFF are not here.
ON_DISK = ["DELETE", "TRUNCATE", "PERSIST"]
JOURNAL_MODES = [["WAL"], ["WAL"], ["DELETE"], ON_DISK, [*ON_DISK, "WAL"], [*ON_DISK, "WAL"]]


class Failure(Exception):
    """A promise that did not hold."""


class Database:
    """One database with its replica and journal, used for a number of rounds."""

    def __init__(self, directory, replica, rng):
        self.dir, self.replica = pathlib.Path(directory), replica
        self.path, self.journal = self.dir / "app.db", self.dir / "journal"
        self.settings = {
            "path": str(self.path),
            "journal": str(self.journal),
            "page_size": rng.choice([512, 1024, 4096, 4096, 65536]),
            "auto_vacuum": rng.choice(["NONE", "FULL", "INCREMENTAL", "INCREMENTAL"]),
            "locking_modes": rng.choice([["NORMAL"], ["EXCLUSIVE"], ["NORMAL", "EXCLUSIVE"]]),
            "journal_modes": rng.choice(JOURNAL_MODES),
            "synchronous": rng.choice(["NORMAL", "NORMAL", "OFF", "FULL"]),
            "wal_autocheckpoint": rng.choice([10, 100, 1000, 1000]),
            "parameters": {
                **replica.uri_parameters(),
                "sync_interval": rng.choice(["0", "20ms", "100ms", "1s"]),
                "page_format": rng.choice(["block", "block", "frame"]),
            },
        }

    def describe(self):
        kept = {k: v for k, v in self.settings.items() if k not in ("path", "journal")}
        return json.dumps(kept)

    def marks(self):
        """Highest commit number begun, committed and acknowledged: {"b": n, "c": n, "a": n}."""
        highest = {"b": 0, "c": 0, "a": 0}
        if self.journal.exists():
            for line in self.journal.read_text().splitlines():
                kind, n = line.split()
                highest[kind] = max(highest[kind], int(n))
        return highest

    def writer(self, seed, seconds):
        settings = {**self.settings, "seed": seed, "seconds": seconds}
        env = paths.environment(
            PYTHONPATH=f"{ROOT}/tests:{ROOT}/tests/crash", PYTHONDONTWRITEBYTECODE="1",
            LAB_EXTENSION=paths.EXTENSION, LITESTREAM_LOG_FILE=self.dir / "log",
            LITESTREAM_LOG_LEVEL="debug",
        )
        return subprocess.Popen(
            [paths.PYTHON, ROOT / "tests/crash/writer.py", json.dumps(settings)], env=env,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )

    def copy(self, name, command=paths.OURS):
        output = self.dir / f"{name}.db"
        for suffix in ("", "-wal", "-shm"):
            output.with_name(output.name + suffix).unlink(missing_ok=True)
        return restore(self.replica.url, output, command)


def kill_at_random(process, rng):
    """Kill the writer while it opens (one in six) or while it writes."""
    if rng.random() < 1 / 6:
        time.sleep(rng.uniform(0.03, 0.25))
    else:
        line = process.stdout.readline()
        if line != "ready\n":
            raise Failure(f"writer did not start: {process.communicate()[1]}")
        time.sleep(rng.uniform(0.01, 0.9))
    process.kill()
    _, errors = process.communicate()
    if errors:
        raise Failure(f"writer said: {errors}")


def check_storage(database):
    """What is on storage right after the kill; returns its commit number."""
    marks = database.marks()
    if database.replica.last() == 0:
        if marks["a"]:
            raise Failure(f"storage is empty, commit {marks['a']} was acknowledged")
        return 0
    shown = verify(database.copy("killed"))
    if not marks["a"] <= shown <= marks["b"]:
        raise Failure(f"storage shows commit {shown}, journal says {marks}")
    return shown


def check_reopened(database, seed, peer):
    """Recovery, a clean close, and restores that equal the database."""
    marks = database.marks()
    process = database.writer(seed, 0.05)
    _, errors = process.communicate(timeout=60)
    if process.returncode != 0:
        raise Failure(f"reopening failed: {errors}")
    shown = verify(database.path)
    if shown < marks["c"]:
        raise Failure(f"the database shows commit {shown}, {marks['c']} was committed")
    for command in [paths.OURS] + [paths.GO_17] * peer:
        copy = database.copy("closed", command)
        if file_hash(copy) != file_hash(database.path):
            raise Failure(f"{command} restores commit {verify(copy)}, the database shows {shown}")


class Loop:
    """All rounds on one kind of replica."""

    def __init__(self, options, replica_kind, server):
        self.options, self.kind, self.server = options, replica_kind, server
        self.rng = random.Random(f"{options.seed}-{replica_kind}")
        self.behind = 0

    def database(self, number):
        directory = pathlib.Path(tempfile.mkdtemp(prefix=f"litestream-kill-{self.kind}-"))
        if self.kind == "file":
            replica = FileReplica(directory / "replica")
        else:
            replica = S3Replica(self.server, f"kill/{directory.name}-{number}")
        return Database(directory, replica, self.rng)

    def round(self, database, number):
        process = database.writer(self.rng.getrandbits(32), 10)
        try:
            kill_at_random(process, self.rng)
        finally:
            process.kill()
            process.wait()
        self.behind += database.marks()["c"] - check_storage(database)
        check_reopened(database, self.rng.getrandbits(32), number % self.options.peer_every == 0)

    def run(self):
        database, commits = None, 0
        for number in range(self.options.rounds):
            if number % ROUNDS_PER_DATABASE == 0:
                commits += self.finish(database)
                database = self.database(number)
            try:
                self.round(database, number)
            except (Failure, Broken, CommandFailed, subprocess.TimeoutExpired) as error:
                print(f"{self.kind}: round {number}: {error}\n  settings {database.describe()}\n"
                      f"  kept in {database.dir}", flush=True)
                return False
        commits += self.finish(database)
        print(f"kill loop, {self.kind}: {self.options.rounds} kills, {commits} commits, "
              f"{self.behind} not yet shipped when killed, all sound", flush=True)
        return True

    def finish(self, database):
        if database is None:
            return 0
        commits = database.marks()["c"]
        if not self.options.keep:
            shutil.rmtree(database.dir)
        return commits


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int)
    parser.add_argument("--replica", choices=["file", "s3", "both"], default="both")
    parser.add_argument("--seed", default=str(time.time_ns()))
    parser.add_argument("--peer-every", type=int, default=5)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    print(f"kill loop: seed {options.seed}", flush=True)
    start, good = time.monotonic(), True
    for kind in ("file", "s3") if options.replica == "both" else (options.replica,):
        if kind == "s3":
            with S3Server() as server:
                good &= Loop(options, kind, server).run()
        else:
            good &= Loop(options, kind, None).run()
    print(f"kill loop: {time.monotonic() - start:.0f} s", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
