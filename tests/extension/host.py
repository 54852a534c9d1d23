"""What the extension's tests have in common: a host with the library loaded."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import unittest
import urllib.parse

SO = None


def library():
    """Path of the library under test, without its suffix, as SQLite takes it."""
    return SO[:-3] if SO.endswith(".so") else SO


def main():
    """Runs the calling module's tests: `test_X.py PATH_TO_SO [unittest options]`."""
    global SO
    if len(sys.argv) < 2 or not os.path.exists(sys.argv[1]):
        sys.exit("usage: %s PATH_TO_SO" % sys.argv[0])
    sys.modules.setdefault("host", sys.modules[__name__])
    SO = os.path.abspath(sys.argv.pop(1))
    unittest.main(module="__main__", verbosity=1)


def load(path=":memory:"):
    """A connection, opened without the VFS, that has loaded the library."""
    db = sqlite3.connect(path, isolation_level=None)
    db.enable_load_extension(True)
    db.load_extension(library())
    db.enable_load_extension(False)
    return db


def uri(path, replica=None, **parameters):
    """A URI of the database `path` through our VFS."""
    if replica is not None:
        parameters["replica_url"] = "file://" + replica
    query = {"vfs": "litestream"}
    query.update(parameters)
    return "file:%s?%s" % (urllib.parse.quote(path), urllib.parse.urlencode(query))


def connect(name, **options):
    """Opens a URI."""
    return sqlite3.connect(name, uri=True, isolation_level=None, **options)


def shell(script, environment=None):
    """Runs the sqlite3 shell; returns its output, both streams together."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("LITESTREAM_")}
    env.update(environment or {})
    done = subprocess.run(
        ["sqlite3", "-batch"], input=script, env=env, text=True, timeout=120,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout


class Case(unittest.TestCase):
    """A test with a directory of its own and the library loaded."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="litestream-")
        self.addCleanup(shutil.rmtree, self.dir, True)
        self.loader = load()
        self.addCleanup(self.loader.close)

    def path(self, name):
        """A path in the test's directory."""
        return os.path.join(self.dir, name)

    def connect(self, name, **options):
        """Opens a URI; closed at the end of the test."""
        db = connect(name, **options)
        self.addCleanup(db.close)
        return db

    def last_error(self):
        """Why the last open on this thread failed."""
        return self.loader.execute("SELECT litestream_last_error()").fetchone()[0]

    def refused(self, name):
        """Opens a URI that must fail; returns why."""
        with self.assertRaises(sqlite3.OperationalError):
            # SQLite may open files only when it first reads them.
            self.connect(name).execute("SELECT count(*) FROM sqlite_master")
        return self.last_error()
