"""A place to replicate to, and what the restore commands make of it."""

import hashlib
import pathlib
import re
import shutil
import sqlite3
import subprocess
import urllib.parse

from . import paths

LTX_NAME = re.compile(r"^([0-9a-f]{16})-([0-9a-f]{16})\.ltx$")


class CommandFailed(Exception):
    """A restore or replicate command ended with an error."""


def run(words, timeout=120, env=None):
    done = subprocess.run(
        [str(word) for word in words], env=env or paths.environment(), timeout=timeout, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


class FileReplica:
    """A `file://` replica in a directory."""

    kind = "file"

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)

    @property
    def url(self):
        return f"file://{self.directory}"

    def uri_parameters(self):
        """Parameters of the opened database's URI."""
        return {"replica_url": self.url}

    def names(self, level=0):
        """[(min, max)] of the LTX files of one level."""
        folder = self.directory / "ltx" / str(level)
        if not folder.is_dir():
            return []
        found = (LTX_NAME.match(path.name) for path in folder.iterdir())
        return sorted((int(m[1], 16), int(m[2], 16)) for m in found if m)

    def file(self, low, high, level=0):
        return self.directory / "ltx" / str(level) / f"{low:016x}-{high:016x}.ltx"

    def last(self):
        return max((high for level in range(10) for _, high in self.names(level)), default=0)


class S3Replica:
    """A replica below a prefix of an S3 server's bucket."""

    kind = "s3"

    def __init__(self, server, prefix):
        self.server, self.prefix = server, prefix

    @property
    def url(self):
        return self.server.url(self.prefix)

    def uri_parameters(self):
        bare = f"s3://{paths.BUCKET}/{self.prefix}"
        return {"replica_url": bare, **self.server.parameters()}

    def names(self, level=0):
        folder = f"{self.prefix}/{level:04x}/"
        query = "list-type=2&max-keys=100000&prefix=" + urllib.parse.quote(folder, safe="")
        status, body = self.server.request("GET", f"/{paths.BUCKET}", query)
        if status != 200:
            raise RuntimeError(f"list {folder}: HTTP {status}")
        keys = re.findall(r"<Key>([^<]+)</Key>", body.decode())
        found = (LTX_NAME.match(key.rsplit("/", 1)[-1]) for key in keys)
        return sorted((int(m[1], 16), int(m[2], 16)) for m in found if m)

    def last(self):
        return max((high for level in range(10) for _, high in self.names(level)), default=0)


def ltx_pages(path):
    """(database size in pages, page numbers) of an LTX file, from its header and index."""
    data = pathlib.Path(path).read_bytes()
    commit = int.from_bytes(data[12:16], "big")
    size = int.from_bytes(data[-24:-16], "big")
    index, at, pages = data[-24 - size:-24], 0, []

    def uvarint():
        nonlocal at
        value = shift = 0
        while True:
            byte = index[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while (pgno := uvarint()) != 0:
        uvarint(), uvarint()
        pages.append(pgno)
    return commit, pages


def restore(replica_url, output, command=paths.OURS, *flags):
    """Restore into `output`, which must not exist; returns it as a path."""
    output = pathlib.Path(output)
    run([command, "restore", *flags, "-o", output, replica_url])
    return output


def replicate_once(database, replica_url, command=paths.GO_17):
    """Let a peer's daemon copy what the replica lacks, once."""
    return run([command, "replicate", "-once", database, replica_url])


def dump(path):
    """SHA-256 of the SQL dump; opens the database read-only by a plain SQLite."""
    connection = sqlite3.connect(f"file:{urllib.parse.quote(str(path))}?mode=ro", uri=True)
    try:
        digest = hashlib.sha256()
        for line in connection.iterdump():
            digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()
    finally:
        connection.close()


def integrity(path):
    """The rows of PRAGMA integrity_check, ["ok"] for a sound database."""
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("PRAGMA integrity_check")]
    finally:
        connection.close()


def file_hash(path):
    """SHA-256 of the database file's bytes."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def copy_database(source, target):
    """Copy a database and its WAL, as a file-level backup would."""
    for suffix in ("", "-wal"):
        if pathlib.Path(f"{source}{suffix}").exists():
            shutil.copy2(f"{source}{suffix}", f"{target}{suffix}")
