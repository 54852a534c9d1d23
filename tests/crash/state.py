"""A database that can prove which commit it shows.

Table t holds the data. Every commit appends one row to log: its number n, the
number of rows of t, the sum of their digests modulo 2^128, and a hash chained
over all commits. A database whose t agrees with the last row of log is exactly
the state after commit n.
"""

import hashlib
import sqlite3

MODULUS = 1 << 128
SCHEMA = """
CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB);
CREATE TABLE log(n INTEGER PRIMARY KEY, rows INT, sum TEXT, h TEXT);
"""


class Broken(Exception):
    """A database that is no committed state."""


def digest(row_id, value):
    """The contribution of one row to the sum."""
    data = hashlib.sha256(row_id.to_bytes(8, "big") + bytes(value)).digest()
    return int.from_bytes(data[:16], "big")


def chain(previous, n, rows, total):
    return hashlib.sha256(f"{previous}|{n}|{rows}|{total:032x}".encode()).hexdigest()


def verify(path):
    """The number of the commit that a closed database shows; 0 without the schema."""
    connection = sqlite3.connect(path)
    try:
        return _verify(connection)
    except sqlite3.DatabaseError as error:
        raise Broken(f"{path}: {error}") from error
    finally:
        connection.close()


def _verify(connection):
    found = connection.execute("PRAGMA integrity_check").fetchall()
    if found != [("ok",)]:
        raise Broken(f"integrity_check: {found[:3]}")
    tables = {name for name, in connection.execute("SELECT name FROM sqlite_master")}
    if not {"t", "log"} <= tables:
        return 0
    last, previous, row = 0, "", None
    for row in connection.execute("SELECT n, rows, sum, h FROM log ORDER BY n"):
        n, rows, total, h = row
        if n != last + 1 or h != chain(previous, n, rows, int(total, 16)):
            raise Broken(f"log breaks at commit {n} after {last}")
        last, previous = n, h
    rows, total = 0, 0
    for row_id, value in connection.execute("SELECT id, v FROM t"):
        rows, total = rows + 1, (total + digest(row_id, value)) % MODULUS
    if row is None:
        if rows:
            raise Broken(f"{rows} rows without a commit")
    elif (rows, total) != (row[1], int(row[2], 16)):
        raise Broken(f"commit {last} has {row[1]} rows, the table {rows}, or other content")
    return last
