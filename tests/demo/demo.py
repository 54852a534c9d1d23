#!/usr/bin/python3
"""The story in one command: a program writes, is killed, its machine is lost, one command
brings its database back. Once with a folder and once with an S3 server as the storage."""

import json
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from lab import paths  # noqa: E402
from lab.host import uri as database_uri  # noqa: E402
from lab.replica import FileReplica, S3Replica, dump, restore  # noqa: E402
from lab.s3 import S3Server  # noqa: E402

SHOP = ROOT / "tests/demo/shop.py"
SECONDS = 4


def tell(text):
    print(text, flush=True)


def query(path, sql):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchone()
    finally:
        connection.close()


def shop(database, replica):
    uri = database_uri(database, **replica.uri_parameters())
    tell(f"  the shop opens  {uri}")
    words = [paths.PYTHON, SHOP, paths.EXTENSION, uri]
    return subprocess.Popen([str(word) for word in words], env=paths.environment(), text=True,
                            stdout=subprocess.PIPE)


def orders_until(process, seconds):
    """Let the shop work, then SIGKILL it; returns the last order and the last one known safe."""
    end, last, safe = time.monotonic() + seconds, 0, 0
    for line in process.stdout:
        last, caught_up = map(int, line.split())
        safe = last if caught_up else safe
        if time.monotonic() > end:
            break
    process.kill()
    process.wait()
    return last, safe


def integrity(path):
    if query(path, "PRAGMA integrity_check") != ("ok",):
        raise SystemExit(f"{path} is damaged")
    bad = query(path, "SELECT count(*) FROM orders o WHERE cents <> "
                      "(SELECT sum(quantity * cents) FROM lines WHERE order_id = o.id)")
    if bad != (0,):
        raise SystemExit(f"{path} holds half an order")


def lost_machine(directory, replica):
    """Kill the shop, throw its disk away, restore from storage alone."""
    home = directory / "machine"
    home.mkdir()
    database = home / "shop.db"
    last, safe = orders_until(shop(database, replica), SECONDS)
    tell(f"  kill -9         {last} orders were placed, {safe} of them known to be on storage")
    kept = directory / "kept"
    shutil.copytree(home, kept)
    shutil.rmtree(home)
    tell("  machine lost    database, WAL and everything beside them deleted")
    start = time.monotonic()
    restore(replica.url, database)
    found = query(database, "SELECT count(*), sum(cents) FROM orders")
    integrity(database)
    tell(f"  restored        {found[0]} orders worth {found[1] / 100:.2f} in "
         f"{time.monotonic() - start:.2f} s; integrity ok, no half order")
    if not safe <= found[0] <= last:
        raise SystemExit(f"{safe} orders were on storage, {found[0]} came back")
    shutil.rmtree(home)
    return kept / "shop.db"


def same_machine(database, replica, directory):
    """The process died but the disk survived: reopening ships the rest."""
    shutil.move(database.parent, directory / "machine")
    database = directory / "machine/shop.db"
    last, _ = orders_until(shop(database, replica), 1)
    script = ("import sys; sys.path.insert(0, sys.argv[1])\n"
              "from lab.host import connect\nimport json\n"
              "connect(sys.argv[2], **json.loads(sys.argv[3])).close()")
    env = paths.environment(LAB_EXTENSION=paths.EXTENSION)
    subprocess.run([paths.PYTHON, "-c", script, str(ROOT / "tests"), str(database),
                    json.dumps(replica.uri_parameters())], env=env, check=True)
    tell(f"  disk survived   reopened, wrote on to order {last}, closed cleanly")
    for name, command in (("ours", paths.OURS), ("Litestream 0.5.17", paths.GO_17)):
        copy = directory / "copy.db"
        copy.unlink(missing_ok=True)
        restore(replica.url, copy, command)
        if dump(copy) != dump(database):
            raise SystemExit(f"restored by {name}: differs from the live database")
        tell(f"  compared        restored by {name}: equal to the live database")


def story(title, directory, replica):
    tell(title)
    directory.mkdir()
    survivor = lost_machine(directory, replica)
    same_machine(survivor, replica, directory)


def main():
    with tempfile.TemporaryDirectory(prefix="litestream-demo-") as name:
        top = pathlib.Path(name)
        story("storage: a folder", top / "folder", FileReplica(top / "replica"))
        with S3Server() as server:
            story(f"storage: an S3 server at {server.endpoint}", top / "s3", S3Replica(server, "shop"))
    tell("done: killed four times, nothing that storage had acknowledged was lost")


if __name__ == "__main__":
    main()
