"""Alternating runs of commitbench, on the host VFS alone and through the extension."""

import json
import pathlib
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from lab import paths  # noqa: E402
from lab.replica import FileReplica, restore  # noqa: E402


def compile_program(name, libraries=("-lsqlite3", "-lpthread")):
    """A C program of this directory, with names kept for tools that tell functions apart."""
    out = paths.CACHE / "bench" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    words = ["gcc", "-O2", "-g", "-fno-inline-functions", "-o", out, ROOT / f"benches/{name}.c", *libraries]
    subprocess.run(words, check=True)
    return out


class Run:
    """One run in a directory of its own: `arguments` are those of commitbench after the extension."""

    def __init__(self, bench, extension, arguments=(), writers=1, parent=None):
        self.bench, self.extension, self.writers = bench, extension, writers
        self.arguments = [str(word) for word in arguments]
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="litestream-bench-", dir=parent))
        self.db = self.dir / "bench.db"
        self.replica = FileReplica(self.dir / "replica")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.dir)

    def command(self, seconds):
        uri, extension = f"file:{self.db}", "-"
        if self.extension:
            uri += f"?vfs=litestream&replica_url={self.replica.url}"
            extension = str(paths.EXTENSION)
        return [str(self.bench), uri, str(seconds), str(self.writers), extension, *self.arguments]

    def start(self, seconds, before=()):
        return subprocess.Popen([*before, *self.command(seconds)], env=paths.environment(), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.dir)

    @staticmethod
    def finish(process):
        out, err = process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"commitbench ended with {process.returncode}: {err}")
        return json.loads(out.splitlines()[-1])

    def measure(self, seconds, before=()):
        return self.finish(self.start(seconds, before))

    def check_caught_up(self, commits):
        """The replica holds every commit of the run."""
        copy = restore(self.replica.url, self.dir / "copy.db")
        connection = sqlite3.connect(copy)
        rows = connection.execute("SELECT count(*) FROM t").fetchone()[0]
        connection.close()
        if rows != commits:
            raise SystemExit(f"the replica has {rows} of {commits} commits")


def alternate(count, measure, labels):
    """{False: [figures], True: [figures]} of `measure(extension)`; labels: {text: key} to print."""
    results = {False: [], True: []}
    for number in range(count):
        for extension in (False, True) if number % 2 == 0 else (True, False):
            figures = measure(extension)
            results[extension].append(figures)
            name = "extension" if extension else "host     "
            shown = "  ".join(f"{label} {figures[key]:g}" for label, key in labels.items())
            print(f"  {number + 1} {name} {shown}", flush=True)
    return results


def report(results, limits):
    """Prints medians beside their limits; (whether all hold, {label: medians}).

    limits: {label: (key, whether host and extension medians are good, how that reads)}.
    """
    print(f"{'median':22} {'host':>10} {'extension':>10} {'ratio':>7}")
    good, summary = True, {}
    for label, (key, holds, text) in limits.items():
        host = statistics.median(run[key] for run in results[False])
        extension = statistics.median(run[key] for run in results[True])
        fine = holds is None or bool(holds(host, extension))
        verdict = "" if holds is None else ("ok" if fine else "MISSED") + f", {text}"
        ratio = f"{extension / host:7.3f}" if host else "       "
        print(f"{label:22} {host:10.2f} {extension:10.2f} {ratio}  {verdict}", flush=True)
        good &= fine
        summary[label] = {"host": host, "extension": extension}
    return good, summary
