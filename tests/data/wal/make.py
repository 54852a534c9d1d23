#!/usr/bin/python3
"""Rewrite the files beside this one: a database, its WAL with commits, a shrink and an
uncommitted tail, the wal-index header, and the database after a checkpoint."""

import pathlib
import shutil
import sqlite3
import tempfile

HERE = pathlib.Path(__file__).resolve().parent

with tempfile.TemporaryDirectory() as tmp:
    path = pathlib.Path(tmp) / "small.db"
    c = sqlite3.connect(path, isolation_level=None)
    for pragma in ("page_size=512", "auto_vacuum=incremental", "journal_mode=wal",
                   "wal_autocheckpoint=0"):
        c.execute("pragma " + pragma)
    c.execute("create table t(id integer primary key, v text)")
    c.execute("pragma wal_checkpoint(truncate)")
    for i in range(12):
        c.execute("insert into t(v) values(?)", (f"row {i} " * 12,))
    c.execute("begin")
    for i in range(20):
        c.execute("insert into t(v) values(?)", (f"bulk {i} " * 9,))
    c.execute("commit")
    c.execute("update t set v='short' where id%3=0")
    c.execute("delete from t where id>15")
    c.execute("pragma incremental_vacuum").fetchall()
    c.execute("insert into t(v) values('after shrink')")
    c.execute("pragma cache_size=2")
    c.execute("begin")
    for i in range(60):
        c.execute("insert into t(v) values(?)", (f"never {i} " * 12,))
    for name in ("small.db", "small.db-wal"):
        shutil.copy(path.with_name(name), HERE / name)
    shm = path.with_name("small.db-shm").read_bytes()
    (HERE / "small.db-shm").write_bytes(shm[:136])
    c.execute("rollback")
    c.execute("pragma wal_checkpoint(truncate)")
    shutil.copy(path, HERE / "checkpointed.db")
