#!/usr/bin/python3
"""What an idle process with an open replicated database does: nothing.

usage: idle.py [--seconds S]

strace counts the system calls of every thread, a counting proxy before the S3 server
counts requests, both after the database has settled.
"""

import argparse
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from lab import child, paths  # noqa: E402
from lab.replica import FileReplica, S3Replica  # noqa: E402
from lab.s3 import S3Server, free_port  # noqa: E402

SETTLE_SECONDS = 5

HOST = """
    db = connect(PATH, **PARAMS)
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
    for n in range(2000):
        db.execute("INSERT INTO t(v) VALUES(randomblob(200))")
    sync(db)
    say(ready=True)
    sys.stdin.readline()
    db.close()
"""


def host(database, parameters):
    process = child.start(HOST, PATH=database, PARAMS=parameters)
    child.hear(process)
    time.sleep(SETTLE_SECONDS)
    return process


def stop(process):
    process.communicate("\n", timeout=30)
    if process.returncode != 0:
        raise SystemExit("the host did not end well")


def system_calls(process, seconds, log):
    """Completed system calls of all threads within `seconds`."""
    words = ["strace", "-f", "-p", str(process.pid), "-o", str(log)]
    tracer = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    tracer.send_signal(signal.SIGINT)
    tracer.wait()
    lines = log.read_text(errors="replace").splitlines()
    # A call that was blocked all the time shows only as "<detached ...>".
    return [line for line in lines if re.search(r"\)\s+= ", line)]


def idle_threads(directory, seconds):
    replica = FileReplica(directory / "replica")
    process = host(directory / "file.db", replica.uri_parameters())
    calls = system_calls(process, seconds, directory / "strace.log")
    stop(process)
    print(f"system calls of an idle process in {seconds} s: {len(calls)}")
    for line in calls[:20]:
        print("  " + line)
    return len(calls)


class CountingProxy:
    """latproxy without delay before a server; counts since the last take()."""

    def __init__(self, server, log):
        self.port, self.log = free_port(), log
        script = ROOT / "benches/latproxy.py"
        words = [paths.PYTHON, script, str(self.port), str(server.port), "0", str(log)]
        self.process = subprocess.Popen([str(w) for w in words])
        time.sleep(0.5)

    def take(self):
        """The request lines since the last call."""
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(0.3)
        return [line for line in self.log.read_text().splitlines()[1:] if line]

    def stop(self):
        self.process.terminate()
        self.process.wait()


def idle_requests(directory, seconds):
    with S3Server() as server:
        proxy = CountingProxy(server, directory / "proxy.log")
        replica = S3Replica(server, "idle")
        parameters = {**replica.uri_parameters(), "endpoint": f"http://127.0.0.1:{proxy.port}"}
        process = host(directory / "s3.db", parameters)
        busy = proxy.take()
        time.sleep(seconds)
        lines = proxy.take()
        stop(process)
        proxy.stop()
    if not busy:
        raise SystemExit("the proxy saw no request at all")
    print(f"requests of 2000 commits and their open: {len(busy)}")
    print(f"requests of an idle process in {seconds} s: {len(lines)}")
    for line in lines[:20]:
        print("  " + line)
    return len(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="litestream-idle-") as name:
        directory = pathlib.Path(name)
        found = idle_threads(directory, options.seconds) + idle_requests(directory, options.seconds)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
