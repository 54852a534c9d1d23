"""Builds and runs tests/wal_reset: checkpoints that meet restarts of the WAL."""

import json
import os
import pathlib
import subprocess
import tempfile

from . import paths

SOURCES = paths.ROOT / "tests/wal_reset"


def is_vulnerable(version):
    """Whether a version of SQLite, such as "3.40.1", has the fault."""
    number = tuple(int(part) for part in version.split("."))
    backported = number[:2] in ((3, 44), (3, 50)) and number >= {44: (3, 44, 6), 50: (3, 50, 7)}[number[1]]
    return number < (3, 51, 3) and not backported


def program(name):
    """The compiled program `name` of tests/wal_reset."""
    out = paths.CACHE / "wal_reset" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    sources = [SOURCES / source for source in (f"{name}.c", "window.c", "common.c")]
    if out.exists() and all(s.stat().st_mtime < out.stat().st_mtime for s in SOURCES.glob("*.[ch]")):
        return out
    fresh = out.with_suffix(f".{os.getpid()}")
    words = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", fresh, *sources, "-lsqlite3", "-lpthread"]
    subprocess.run(words, check=True)
    fresh.rename(out)
    return out


def _run(name, words, directory, shimmed, timeout, per_database=""):
    words = [str(word) for word in (program(name), *words)]
    if shimmed:
        words += [str(paths.EXTENSION), f"vfs=litestream&replica_url=file://{directory}/replica{per_database}"]
    done = subprocess.run(words, env=paths.environment(), timeout=timeout, text=True, check=True,
                          stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def interleave(scenario, shimmed):
    """What a scenario of interleave.c said, on the host VFS alone or through the extension."""
    with tempfile.TemporaryDirectory(prefix="litestream-wal-reset-") as directory:
        database = pathlib.Path(directory) / "a.db"
        return _run("interleave", [scenario, database], directory, shimmed, 120)


def race(tries, mode, actors, shimmed, seed=1):
    """What race.c counted."""
    with tempfile.TemporaryDirectory(prefix="litestream-wal-reset-") as directory:
        return _run("race", [tries, mode, actors, seed, directory], directory, shimmed, 600 + tries, "-%d")
