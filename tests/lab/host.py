"""Preamble of a Python host program: loads the extension and opens databases.

Runs inside the child process that plays the host, under Debian's Python. The
test hands it its variables as JSON in the environment (see child.py).
"""

import importlib
import json
import os
import sys
import urllib.parse

# A module that speaks Python's database API over another SQLite may take its place.
sqlite3 = importlib.import_module(os.environ.get("LAB_DBAPI", "sqlite3"))

EXTENSION = os.environ.get("LAB_EXTENSION")
_loader = None


def load():
    """Load the extension once; it stays for the life of the process."""
    global _loader
    if _loader is None:
        _loader = sqlite3.connect(":memory:")
        _loader.enable_load_extension(True)
        _loader.load_extension(EXTENSION)
    return _loader


def uri(path, **parameters):
    pairs = {"vfs": "litestream", **{k: v for k, v in parameters.items() if v is not None}}
    query = "&".join(f"{k}={urllib.parse.quote(str(v), safe=':/')}" for k, v in pairs.items())
    return f"file:{urllib.parse.quote(str(path))}?{query}"


def connect(path, wal=True, **parameters):
    """Open through the extension, autocommit, in WAL mode unless told otherwise."""
    load()
    db = sqlite3.connect(uri(path, **parameters), uri=True, isolation_level=None, timeout=20,
                         check_same_thread=False)
    if wal:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
    return db


def replica_uri(replica_url, **parameters):
    """The URI of a replica by its URL; options of the URL are parameters like others."""
    pairs = {"vfs": "litestream", "mode": "ro", **parameters}
    query = "&".join(f"{k}={urllib.parse.quote(str(v), safe=':/')}" for k, v in pairs.items()
                     if v is not None)
    return f"file:{urllib.parse.quote(replica_url, safe=':/')}?{query}"


def replica(replica_url, timeout=20, **parameters):
    """Open a replica by its URL; the keywords are those of `connect`."""
    load()
    return sqlite3.connect(replica_uri(replica_url, **parameters), uri=True, isolation_level=None,
                           timeout=timeout, check_same_thread=False)


def scalar(db, sql, *args):
    return db.execute(sql, args).fetchone()[0]


def status(db):
    return json.loads(scalar(db, "SELECT litestream_status()"))


def sync(db, timeout_ms=10000):
    """Wait until storage has what is committed."""
    return scalar(db, "SELECT litestream_sync(?)", timeout_ms)


def last_error():
    return scalar(load(), "SELECT litestream_last_error()")


def say(**values):
    """Report to the test: one JSON line."""
    print(json.dumps(values), flush=True)


def host_error(call, *args, **kwargs):
    """The text of the SQLite error that a call ends with; fails when there is none."""
    try:
        call(*args, **kwargs)
    except sqlite3.Error as error:
        return str(error)
    sys.exit("expected an error")
