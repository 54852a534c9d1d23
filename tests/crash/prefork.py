#!/usr/bin/python3
"""Kill the workers and the master of a pre-fork server at random, and check what is left.

usage: prefork.py SECONDS [--workers N] [--replica file|s3] [--seed N] [--rush] [--keep]

Workers are killed every few hundred milliseconds, the master now and then; a cron job
writes beside them; sometimes everything is killed at once, storage is looked at, and now
and then the server goes on elsewhere from what it has (with --rush without a quiet
first open there).
At the end:
  - the live database is sound, and has every commit that a writer saw succeed;
  - after one last open and close storage has all of it: restored by our command and by
    Litestream 0.5.17 it equals the database byte for byte, `verify` agrees;
  - the chain has every number once, and restores at numbers within it are commits, in order;
  - no commit failed, and no status or log speaks of a conflict.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/crash")]

from lab import paths  # noqa: E402
from lab.child import host  # noqa: E402
from lab.replica import CommandFailed, FileReplica, S3Replica, dump, integrity, restore, run  # noqa: E402
from lab.s3 import S3Server  # noqa: E402
from pages import differing_pages  # noqa: E402
from session import Journal  # noqa: E402
from state import Broken, verify  # noqa: E402

SERVER = ROOT / "tests/crash/prefork_server.py"
# Numbers of the chain that are restored beside the last one.
STATES = 12
# How often the machine is lost when everything is killed.
MOVED = 0.4
GAP = re.compile(r" WARN .*gap[^(:]*(?:\((\w+)\)|: (\w+))")
SNAPSHOT = re.compile(r"snapshot [0-9a-f]{16}.* stored")
CONFLICT = re.compile(r"conflict|another (process|writer)|shipped twice|panick|fault", re.I)


class Failure(Exception):
    """A promise that did not hold."""


class Server:
    """The database, its processes, and what happened to them."""

    def __init__(self, directory, replica, rng, options):
        self.dir, self.replica, self.rng, self.rush = directory, replica, rng, options.rush
        workers = options.workers
        self.path, self.pids, self.log = directory / "app.db", directory / "pids", directory / "log"
        self.pids.mkdir()
        self.journal = Journal(directory / "journal")
        self.events = collections.Counter()
        self.copies = 0
        self.settings = {
            "path": str(self.path), "journal": str(self.journal.path), "pids": str(self.pids),
            "seed": rng.getrandbits(32), "workers": workers, "pause": rng.choice([0.002, 0.01, 0.03]),
            "wal_autocheckpoint": rng.choice([50, 200, 1000]),
            "parameters": {**replica.uri_parameters(),
                           "sync_interval": rng.choice(["20ms", "100ms", "1s"])},
        }
        self.children = []

    def start(self, kind):
        env = paths.environment(
            PYTHONPATH=f"{ROOT}/tests:{ROOT}/tests/crash", PYTHONDONTWRITEBYTECODE="1",
            LAB_EXTENSION=paths.EXTENSION, LITESTREAM_LOG_FILE=self.log,
            LITESTREAM_LOG_LEVEL="debug",
        )
        # A file, not a pipe: orphaned workers hold it longer than their master lives.
        with open(self.dir / "stderr", "ab") as errors:
            child = subprocess.Popen(
                [paths.PYTHON, SERVER, kind, json.dumps(self.settings)], env=env,
                stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
            )
        self.children.append(child)
        self.events[kind] += 1
        return child

    def living(self):
        """The processes that announced themselves and are still ours."""
        found = []
        for entry in self.pids.iterdir():
            try:
                words = pathlib.Path(f"/proc/{entry.name}/cmdline").read_bytes()
                state = pathlib.Path(f"/proc/{entry.name}/stat").read_text().rsplit(")", 1)[1]
            except OSError:
                words, state = b"", " Z"
            if str(self.pids).encode() in words and state.split()[0] != "Z":
                found.append(int(entry.name))
            else:
                entry.unlink(missing_ok=True)
        return found

    def send(self, pid, number):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    def kill_all(self):
        """Kill everything, also what is forked meanwhile."""
        for child in self.children:
            child.kill()
        while living := self.living():
            for pid in living:
                self.send(pid, signal.SIGKILL)
            time.sleep(0.01)
        for child in self.children:
            child.wait()
        self.children = []

    def wait_until_gone(self, seconds=60):
        end = time.monotonic() + seconds
        while self.living():
            if time.monotonic() > end:
                raise Failure(f"processes {self.living()} do not end")
            time.sleep(0.02)
        for child in self.children:
            child.wait()
        self.children = []

    def restored(self, command=paths.OURS, *flags):
        self.copies += 1
        return restore(self.replica.url, self.dir / f"copy-{self.copies}.db", command, *flags)

    def rmcopy(self, copy):
        for suffix in ("", "-wal", "-shm"):
            pathlib.Path(f"{copy}{suffix}").unlink(missing_ok=True)

    # What happens to a running server.

    def run(self, seconds):
        end = time.monotonic() + seconds
        self.master = self.start("serve")
        while time.monotonic() < end:
            time.sleep(self.rng.uniform(0.05, 0.6))
            self.children = [c for c in self.children if c.poll() is None or c is self.master]
            if self.master.poll() is not None:
                raise Failure(f"the master ended with {self.master.returncode}: {self.complaints()}")
            event = self.rng.choices(
                [self.kill_worker, self.end_worker, self.cron, self.kill_cron, self.kill_master,
                 self.crash], [50, 8, 20, 6, 12, 4])[0]
            event()

    def workers(self):
        return [pid for pid in self.living() if pid not in [c.pid for c in self.children]]

    def kill_worker(self, number=signal.SIGKILL, name="worker killed"):
        if workers := self.workers():
            self.send(self.rng.choice(workers), number)
            self.events[name] += 1

    def end_worker(self):
        self.kill_worker(signal.SIGTERM, "worker ended")

    def cron(self):
        self.start("cron")

    def kill_cron(self):
        child = self.start("cron")
        time.sleep(self.rng.uniform(0.05, 0.5))
        self.send(child.pid, signal.SIGKILL)
        self.events["cron killed"] += 1

    def kill_master(self):
        self.master.kill()
        self.master.wait()
        self.events["master killed"] += 1
        self.master = self.start("serve")

    def crash(self):
        """Everything is killed: storage has what was acknowledged, and a committed state."""
        self.kill_all()
        self.events["all killed"] += 1
        marks, _ = self.journal.read()
        if self.replica.last():
            copy = self.restored()
            shown = verify(copy)
            if not marks["a"] <= shown <= marks["b"]:
                raise Failure(f"storage shows commit {shown}, the journal says {marks}")
            if self.rng.random() < MOVED:
                self.move(copy, shown)
            self.rmcopy(copy)
        elif marks["a"]:
            raise Failure(f"storage is empty, commit {marks['a']} was acknowledged")
        self.master = self.start("serve")

    def move(self, copy, shown):
        """The machine is lost: another one goes on from what was restored."""
        shutil.rmtree(self.path.with_name(f".{self.path.name}-litestream"), ignore_errors=True)
        for suffix in ("-wal", "-shm"):
            pathlib.Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        copy.replace(self.path)
        self.journal.restart(shown)
        self.events["machine lost"] += 1
        if not self.rush:
            # Killed before it was compared with the chain, it would be a conflict.
            self.last_open()

    def stop(self):
        self.master.terminate()
        self.wait_until_gone()

    # What must hold at the end.

    def complaints(self):
        text = (self.dir / "stderr").read_text()[-2000:]
        _, errors = self.journal.read()
        return "; ".join(errors[:5] + ([text] if text else []))

    def check(self):
        marks, errors = self.journal.read()
        if errors:
            raise Failure(f"{len(errors)} errors of writers: {'; '.join(errors[:5])}")
        if integrity(self.path) != ["ok"]:
            raise Failure(f"integrity_check: {integrity(self.path)[:3]}")
        self.last_open()
        shown = verify(self.path)
        if not marks["c"] <= shown <= marks["b"]:
            raise Failure(f"the database shows commit {shown}, the journal says {marks}")
        self.check_log()
        self.check_copies()
        self.check_verify()
        self.check_chain()
        return shown

    def last_open(self):
        said = host("""
            db = connect(PATH, **PARAMETERS)
            sync(db, 60000)
            before = status(db)
            db.close()
            say(status=before)
        """, env={"LITESTREAM_LOG_FILE": self.log, "LITESTREAM_LOG_LEVEL": "debug"},
            PATH=self.path, PARAMETERS=self.settings["parameters"])
        wal = pathlib.Path(f"{self.path}-wal")
        if wal.exists() and wal.stat().st_size:
            raise Failure("the last close left a WAL")
        if said["status"]["state"] != "ok":
            raise Failure(f"the last status: {json.dumps(said['status'])}")

    def check_log(self):
        bad = [line for line in self.log.read_text().splitlines()
               if " ERROR " in line or CONFLICT.search(line)]
        if bad:
            raise Failure(f"{len(bad)} lines in the log: {bad[:5]}")

    def told(self):
        """What the processes logged: gaps by reason, and full snapshots."""
        gaps, snapshots = collections.Counter(), 0
        for line in self.log.read_text().splitlines():
            if found := GAP.search(line):
                gaps[found[1] or found[2]] += 1
            snapshots += bool(SNAPSHOT.search(line))
        return f"gaps {dict(gaps)}, {snapshots} full snapshots"

    def check_copies(self):
        for command in (paths.OURS, paths.GO_17):
            copy = self.restored(command)
            pages = differing_pages(copy, self.path)
            if pages:
                raise Failure(f"{command}: pages {pages[:10]} of {len(pages)} differ")
            if dump(copy) != dump(self.path):
                raise Failure(f"{command}: the SQL dump differs")
            self.rmcopy(copy)

    def check_verify(self):
        """`litestream verify`, which compares without writing a copy."""
        if "verify" not in run([paths.OURS, "help"]):
            return
        run([paths.OURS, "verify", self.path, self.replica.url])
        self.events["verified"] += 1

    def check_chain(self):
        """Every number once, and every number a committed state, in order."""
        names = self.replica.names()
        numbers = [low for low, high in names if low == high]
        if len(numbers) != len(names) or numbers != list(range(1, len(numbers) + 1)):
            raise Failure(f"the chain of {len(names)} files is not 1, 2, 3, ...")
        self.events["files"] = len(numbers)
        before = 0
        for txid in sorted(self.rng.sample(numbers, min(STATES, len(numbers)))):
            copy = self.restored(paths.OURS, "-txid", f"{txid:016x}")
            shown = verify(copy)
            self.rmcopy(copy)
            if shown < before:
                raise Failure(f"number {txid} shows commit {shown}, an earlier one {before}")
            before = shown


def storm(options, replica_of):
    """One run; returns whether everything held."""
    rng = random.Random(options.seed)
    directory = pathlib.Path(tempfile.mkdtemp(prefix="litestream-prefork-"))
    server = Server(directory, replica_of(directory), rng, options)
    try:
        server.run(options.seconds)
        server.stop()
        shown = server.check()
    except (Failure, Broken, CommandFailed, AssertionError) as error:
        print(f"prefork: FAILED: {error}\n  settings {json.dumps(server.settings)}\n"
              f"  events {dict(server.events)}\n  kept in {directory}", flush=True)
        return False
    finally:
        server.kill_all()
    marks, _ = server.journal.read()
    size = server.path.stat().st_size
    events = ", ".join(f"{count} {name}" for name, count in sorted(server.events.items()))
    print(f"prefork, {server.replica.kind}: {shown} commits, {marks['a']} the last acknowledged by "
          f"sync; {events}; {server.told()}; {size} bytes: all sound", flush=True)
    if not options.keep:
        shutil.rmtree(directory)
    return True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=float)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--replica", choices=["file", "s3"], default="file")
    parser.add_argument("--seed", default=str(time.time_ns()))
    parser.add_argument("--rush", action="store_true")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    print(f"prefork: seed {options.seed}", flush=True)
    if options.replica == "s3":
        with S3Server() as server:
            good = storm(options, lambda d: S3Replica(server, f"prefork/{d.name}"))
    else:
        good = storm(options, lambda d: FileReplica(d / "replica"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
