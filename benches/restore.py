#!/usr/bin/python3
"""Restore from a local S3 server, ours beside Litestream 0.5.17.

usage: benches/restore.py [--mb 112] [--rounds 5] [--rtt 0,30] [--check none]

Litestream 0.5.17 replicates a database of the given size, then both restore it
in alternation, without latency and through a proxy that adds a round-trip time
(milliseconds). Prints medians, their ratio and the peak memory of each.
"""

import argparse
import contextlib
import hashlib
import os
import pathlib
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from lab import paths, s3  # noqa: E402

# 187,245 rows of about 500 bytes, half text and half noise, are 112 MB.
ROWS_PER_MB = 187_245 / 112
WORDS = [f"w{n:04d}" for n in range(1, 2000)]


def make_database(path, megabytes):
    rng = random.Random(7)

    def rows():
        for n in range(int(megabytes * ROWS_PER_MB)):
            text = " ".join(rng.choices(WORDS, k=42)).encode()
            yield n, rng.randrange(1 << 31), text + rng.randbytes(250)

    db = sqlite3.connect(path)
    db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, k INT, v BLOB)")
    with db:
        db.executemany("INSERT INTO t VALUES (?, ?, ?)", rows())
    db.executescript("CREATE INDEX tk ON t(k); PRAGMA wal_checkpoint(TRUNCATE);")
    db.close()


@contextlib.contextmanager
def latency(port, rtt_ms):
    """The port at which the server is that far away."""
    if not rtt_ms:
        yield port
        return
    near = s3.free_port()
    words = [paths.PYTHON, ROOT / "benches/latproxy.py", near, port, rtt_ms]
    proxy = subprocess.Popen([str(w) for w in words], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    try:
        yield near
    finally:
        proxy.terminate()
        proxy.wait()


def peak_kb(pid):
    """VmHWM of a process, or 0 when it is gone."""
    try:
        for line in open(f"/proc/{pid}/status"):
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def measure(words, env):
    """Seconds and peak kilobytes of one run."""
    start = time.monotonic()
    child = subprocess.Popen([str(w) for w in words], env=env, stdout=subprocess.DEVNULL)
    peak = 0
    while child.poll() is None:
        peak = max(peak, peak_kb(child.pid))
        time.sleep(0.005)
    if child.returncode != 0:
        raise SystemExit(f"{words[0]}: exit code {child.returncode}")
    return time.monotonic() - start, peak


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compare(rtt_ms, url, directory, args):
    """Alternates the two programs; returns {name: [(seconds, peak kilobytes)]}."""
    env = paths.environment()
    programs = {
        "ours": [paths.OURS, "restore", "-integrity-check", args.check],
        "0.5.17": [paths.GO_17, "restore", "-integrity-check", args.check],
    }
    runs, digests = {name: [] for name in programs}, set()
    for number in range(args.rounds + 1):
        for name, words in programs.items():
            out = directory / "restored.db"
            out.unlink(missing_ok=True)
            run = measure([*words, "-o", out, url], env)
            # The first round warms the server and the page cache.
            if number > 0:
                runs[name].append(run)
            else:
                digests.add(digest(out))
    if len(digests) != 1:
        raise SystemExit("the two restores differ")
    report(rtt_ms, runs)


def report(rtt_ms, runs):
    medians = {name: statistics.median(s for s, _ in rows) for name, rows in runs.items()}
    for name, rows in runs.items():
        peak = max(kb for _, kb in rows) / 1024
        times = " ".join(f"{s:.2f}" for s, _ in rows)
        print(f"{rtt_ms:>4} ms  {name:>7}  {medians[name]:6.2f} s  {peak:6.1f} MiB  ({times})")
    print(f"{rtt_ms:>4} ms  times as fast: {medians['0.5.17'] / medians['ours']:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=float, default=112)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rtt", default="0,30")
    parser.add_argument("--check", default="none", choices=["none", "quick", "full"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="litestream-bench-") as name, s3.S3Server(persist=False) as server:
        directory = pathlib.Path(name)
        database = directory / "app.db"
        make_database(database, args.mb)
        print(f"database {os.path.getsize(database) / 1e6:.0f} MB", flush=True)
        url = server.url("app")
        words = [paths.GO_17, "replicate", "-once", database, url]
        subprocess.run([str(w) for w in words], env=paths.environment(), check=True,
                       stdout=subprocess.DEVNULL)
        for rtt in args.rtt.split(","):
            with latency(server.port, float(rtt)) as port:
                near = url.replace(str(server.port), str(port))
                compare(rtt, near, directory, args)


main()
