"""What every host test has: a scratch directory, replicas, and the oracle."""

import pathlib
import sqlite3
import tempfile
import unittest

from lab import child, paths
from lab.replica import FileReplica, S3Replica, dump, file_hash, integrity, restore
from lab.s3 import S3Server


class HostCase(unittest.TestCase):
    """A test with a directory of its own that is removed afterwards."""

    maxDiff = 2000

    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="litestream-test-")
        self.addCleanup(directory.cleanup)
        self.dir = pathlib.Path(directory.name)
        self.db = self.dir / "app.db"
        self.replica = FileReplica(self.dir / "replica")
        self.counter = 0

    def host(self, script, env=None, timeout=120, **values):
        """Run a Python host with PATH, PARAMS (the replica's URI parameters) and `values` set."""
        known = {"PATH": self.db, "PARAMS": self.replica.uri_parameters()}
        return child.host(script, env, timeout, **{**known, **values})

    def start(self, script, env=None, **values):
        """Start a Python host with the same variables; killed when the test ends."""
        known = {"PATH": self.db, "PARAMS": self.replica.uri_parameters()}
        process = child.start(script, env, **{**known, **values})
        self.addCleanup(self._end, process)
        return process

    @staticmethod
    def _end(process):
        if process.poll() is None:
            process.kill()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe and not pipe.closed:
                pipe.close()
        process.wait()

    def restored(self, command=paths.GO_17, *flags, replica=None):
        """A fresh restore of the replica by a command."""
        self.counter += 1
        output = self.dir / f"restored-{self.counter}.db"
        return restore((replica or self.replica).url, output, command, *flags)

    def oracle(self, database=None, replica=None, commands=(paths.GO_17, paths.OURS)):
        """The closed database and every command's restore agree byte for byte."""
        database = database or self.db
        wal = pathlib.Path(f"{database}-wal")
        self.assertFalse(wal.exists() and wal.stat().st_size, f"{database} was not closed cleanly")
        self.assertEqual(integrity(database), ["ok"])
        for command in commands:
            copy = self.restored(command, replica=replica)
            self.assertEqual(dump(copy), dump(database), f"SQL dump after {command}")
            self.assertEqual(file_hash(copy), file_hash(database), f"bytes after {command}")

    def rows(self, path, sql):
        connection = sqlite3.connect(path)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()


class S3Case(HostCase):
    """A host test whose replica is on an S3 server of its own."""

    @classmethod
    def setUpClass(cls):
        cls.server = S3Server()
        cls.enterClassContext(cls.server)

    def setUp(self):
        super().setUp()
        self.replica = S3Replica(self.server, f"tests/{self.id().rsplit('.', 1)[-1]}")
