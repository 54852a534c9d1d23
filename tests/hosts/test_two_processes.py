"""Several processes with the library on one database: one captures, the others stand by."""

import fcntl
import json
import random
import time

from base import HostCase
from lab import child

SCHEMA = "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, who TEXT, v BLOB)"

# A host that does what it is told on stdin, one word a line, and reports each.
OBEDIENT = """
    db = connect(PATH, wal=WAL, **PARAMS)
    say(done="open")
    for line in sys.stdin:
        word = line.strip()
        if word == "insert":
            db.execute("INSERT INTO t(who, v) VALUES(?, randomblob(300))", (WHO,))
        elif word == "sync":
            sync(db)
        elif word == "checkpoint":
            db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        elif word == "close":
            db.close()
        say(done=word, status=status(db) if word == "status" else None)
        if word == "close":
            break
"""

# A host that commits as fast as it can until it is told to stop.
BUSY = """
    db = connect(PATH, wal=False, **PARAMS)
    db.execute("PRAGMA busy_timeout=20000")
    say(done="open")
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    n = 0
    while not stop.is_set():
        n += 1
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO t(who, v) VALUES(?, randomblob(?))", (WHO, 50 + n * 37 % 3000))
        if n % 7 == 0:
            db.execute("DELETE FROM t WHERE id % 11 = ? AND who = ?", (n % 11, WHO))
        db.execute("COMMIT")
        if n % 200 == 0:
            time.sleep(0.05)
    final = status(db)
    db.close()
    say(commits=n, status=final)
"""


class TwoProcesses(HostCase):
    """Whatever one process commits is in storage when both are gone."""

    def setUp(self):
        super().setUp()
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute(SCHEMA)
            db.close()
        """, SCHEMA=SCHEMA)

    def obedient(self, who, wal=True):
        process = self.start(OBEDIENT, WHO=who, WAL=wal)
        child.hear(process)
        return process

    def tell(self, process, *words):
        for word in words:
            process.stdin.write(word + "\n")
            process.stdin.flush()
            said = child.hear(process)
            self.assertEqual(said["done"], word)
        if words[-1] == "close":
            child.finish(process)
        return said

    def snapshots(self, status):
        self.assertNotIn(status["state"], ("conflict", "faulted"), status)
        return sum(status["snapshots"].values())

    def test_the_last_close_captures_what_a_bystander_committed(self):
        first, second = self.obedient("a"), self.obedient("b")
        self.tell(first, "insert")
        self.tell(second, "insert", "close")
        self.tell(first, "close")
        self.oracle()

    def test_a_killed_bystanders_commit_is_captured_at_the_last_close(self):
        first, second = self.obedient("a"), self.obedient("b")
        self.tell(first, "insert")
        self.tell(second, "insert")
        child.kill(second)
        self.tell(first, "close")
        self.oracle()

    def test_a_connection_that_never_reads_keeps_nobody_from_capturing(self):
        idle = self.obedient("a", wal=False)
        second = self.obedient("b")
        started = time.monotonic()
        self.tell(second, "insert", "sync")
        self.assertLess(time.monotonic() - started, 8)
        status = self.tell(second, "status")["status"]
        self.assertEqual(self.snapshots(status), 0, status)
        self.tell(second, "close")
        self.tell(idle, "close")
        self.oracle()

    def test_taking_turns_needs_no_snapshot(self):
        first, second = self.obedient("a"), self.obedient("b")
        for _ in range(3):
            self.tell(first, "insert")
            time.sleep(3.5)
            self.tell(second, "insert")
            time.sleep(3.5)
        for process in (first, second):
            status = self.tell(process, "status")["status"]
            self.assertEqual((self.snapshots(status), status["gaps"]), (0, {}), status)
        self.tell(second, "close")
        self.tell(first, "close")
        self.oracle()

    def test_a_stale_end_of_the_wal_is_no_rewind(self):
        first, second = self.obedient("a"), self.obedient("b")
        self.tell(second, "insert")
        self.tell(first, "insert", "sync", "insert", "sync", "close")
        time.sleep(3.5)
        status = self.tell(second, "status")["status"]
        self.assertEqual((self.snapshots(status), status["gaps"]), (0, {}), status)
        self.tell(second, "close")
        self.oracle()

    def test_a_repair_while_no_read_lock_can_be_had_has_what_others_committed(self):
        ours = self.start("""
            db = connect(PATH, **PARAMS, sync_interval="60s")
            rows = 0
            insert = lambda: db.execute("INSERT INTO t(who, v) VALUES('a', randomblob(300))")
            for line in sys.stdin:
                if line.strip() == "insert":
                    insert()
                    sync(db, 30000)
                    insert()
                    rows += 2
                else:
                    sync(db, 30000)
                say(rows=rows)
        """)
        tell = lambda word: (ours.stdin.write(word + "\n"), ours.stdin.flush())
        vfs = self.dir / ".app.db-litestream/vfs"
        # It ships, and keeps its last commit back; at times it was at rest before that.
        shipper, deadline = "", time.monotonic() + 60
        while shipper != str(ours.pid):
            self.assertLess(time.monotonic(), deadline)
            tell("insert")
            rows = child.hear(ours)["rows"]
            time.sleep(0.3)
            shipper = (vfs / "shipper").read_text().strip()
        other = self.obedient("b")
        for _ in range(30):
            self.tell(other, "insert")
        while not (found := list(vfs.glob("*.segment"))):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        time.sleep(0.5)
        # What one process captured last is lost, and nobody gets a read mark.
        with open(f"{self.db}-shm", "r+b") as index:
            fcntl.lockf(index, fcntl.LOCK_EX | fcntl.LOCK_NB, 4, 124)
            for path in found:
                path.unlink()
            tell("sync")
            time.sleep(2)
            fcntl.lockf(index, fcntl.LOCK_UN, 4, 124)
        child.hear(ours)
        copy = self.restored()
        self.assertEqual(self.rows(copy, "SELECT who, count(*) FROM t GROUP BY who"),
                         [("a", rows), ("b", 30)])

    def test_both_commit_at_once_and_one_is_killed_now_and_then(self):
        rng = random.Random(20)
        steady = self.start(BUSY, WHO="a")
        child.hear(steady)
        kills, end = 0, time.monotonic() + 15
        while time.monotonic() < end:
            other = self.start(BUSY, WHO=f"b{kills}")
            child.hear(other)
            time.sleep(rng.uniform(0.3, 2.5))
            if kills % 3 == 2:
                steady, other = other, steady
            child.kill(other)
            kills += 1
        other = self.start(BUSY, WHO="c")
        child.hear(other)
        time.sleep(1)
        said = []
        for process in (other, steady):
            process.stdin.write("stop\n")
            process.stdin.flush()
            said.append(child.finish(process))
        for one in said:
            snapshots = self.snapshots(one["status"])
            self.assertLessEqual(snapshots, 8, json.dumps(one["status"]))
        # What the close_timeout left over is shipped at the next open.
        end_state = self.host("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("SELECT count(*) FROM t").fetchall()
            sync(db, 30000)
            say(status=status(db))
            db.close()
        """)
        self.snapshots(end_state["status"])
        self.assertGreater(kills, 4)
        self.oracle()
