"""Processes that die, are stopped, fork or share a directory with another version."""

import os
import signal
import sqlite3
import time

from base import HostCase
from lab import child
from test_two_processes import BUSY, OBEDIENT, SCHEMA

# Far longer than any test: what is shipped earlier was not shipped by this clock.
LONG = "120s"

FORKED = """
    import pathlib, multiprocessing

    def ours():
        found = {}
        for fd in os.listdir("/proc/self/fd"):
            try:
                name = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                continue
            if "/vfs/" in name:
                found[fd] = name
        return found

    def work(who):
        had = ours()
        db = connect(PATH, wal=False, **PARAMS)
        kept = set(had.items()) & set(ours().items())
        for n in range(60):
            db.execute("INSERT INTO t(who, v) VALUES(?, randomblob(900))", (who,))
        sync(db, 20000)
        found = status(db)
        db.close()
        return {"had": len(had), "kept": sorted(kept), "gaps": found["gaps"]}
"""


class Takeover(HostCase):
    """Whoever is left does what the dead one left."""

    def setUp(self):
        super().setUp()
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute(SCHEMA)
            db.close()
        """, SCHEMA=SCHEMA)

    def obedient(self, who, **more):
        parameters = {**self.replica.uri_parameters(), **more}
        process = self.start(OBEDIENT, WHO=who, WAL=True, PARAMS=parameters)
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
        return said.get("status")

    def files(self):
        return sorted(p.name for p in (self.dir / "replica").rglob("*.ltx"))

    def until(self, condition, what, seconds=20):
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end, what)
            time.sleep(0.02)

    def test_an_idle_process_ships_what_a_killed_one_captured_and_committed(self):
        idle = self.obedient("a", sync_interval=LONG)
        self.tell(idle, "insert", "sync")
        busy = self.obedient("b", sync_interval=LONG)
        time.sleep(3)
        for _ in range(3):
            self.tell(busy, "insert", "sync", "insert")
            known = self.files()
            child.kill(busy)
            self.until(lambda: self.files() != known, "nobody took over")
            busy = self.obedient("b", sync_interval=LONG)
        status = self.tell(idle, "status")
        self.assertEqual((status["gaps"], sum(status["snapshots"].values())), ({}, 0), status)
        self.tell(busy, "close")
        self.tell(idle, "close")
        self.oracle()

    def test_a_waiter_does_not_wait_for_the_clock_of_the_one_that_ships(self):
        first, second = self.obedient("a", sync_interval=LONG), self.obedient("b", sync_interval=LONG)
        for _ in range(5):
            self.tell(first, "insert", "sync")
            self.tell(second, "insert", "sync", "insert", "sync")
        for process in (first, second):
            self.assertEqual(self.tell(process, "status")["gaps"], {})
        self.tell(second, "close")
        self.tell(first, "close")
        self.oracle()

    def test_a_stopped_process_holds_nobody_up(self):
        first, second = self.obedient("a"), self.obedient("b")
        self.tell(first, "insert", "sync", "insert")
        first.send_signal(signal.SIGSTOP)
        self.tell(second, *["insert"] * 20, "checkpoint", *["insert"] * 20)
        first.send_signal(signal.SIGCONT)
        self.tell(second, "sync")
        self.tell(second, "close")
        self.tell(first, "close")
        self.oracle()

    def test_a_stranger_restarts_the_wal_that_ours_has_open(self):
        ours = self.obedient("a")
        self.tell(ours, "insert", "sync")
        for mode in ("RESTART", "TRUNCATE", "RESTART"):
            plain = sqlite3.connect(self.db, isolation_level=None)
            plain.execute("INSERT INTO t(who, v) VALUES('stranger', randomblob(5000))")
            self.assertEqual(plain.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0], 0)
            plain.close()
            self.tell(ours, "insert", "sync")
        status = self.tell(ours, "status")
        # A restart lets the next writer begin anew, which is ours and mostly still
        # captures what was there; a truncation leaves nothing to capture.
        self.assertIn("wal_replaced", status["gaps"], status)
        self.assertLessEqual(sum(status["gaps"].values()), 3, status)
        self.tell(ours, "close")
        self.oracle()

    def test_what_a_stranger_left_in_the_first_wal_is_captured(self):
        for _ in range(2):
            script = f"""
import os, sqlite3
db = sqlite3.connect({str(self.db)!r}, isolation_level=None)
db.execute("INSERT INTO t(who, v) VALUES('stranger', randomblob(5000))")
os._exit(0)
"""
            self.assertEqual(os.spawnlp(os.P_WAIT, "python3", "python3", "-c", script), 0)
            status = self.host("""
                db = connect(PATH, **PARAMS)
                db.execute("INSERT INTO t(who) VALUES('ours')")
                sync(db)
                say(status=status(db))
                db.close()
            """)["status"]
            self.assertEqual(status["gaps"], {}, status)
            self.oracle()

    def test_a_newer_format_is_refused_with_a_message(self):
        record = self.dir / ".app.db-litestream" / "vfs" / "position"
        content = bytearray(record.read_bytes())
        content[8] = 9
        record.write_bytes(content)
        said = self.host("""
            load()
            error = host_error(connect, PATH, **PARAMS)
            say(error=error, why=last_error())
        """)
        self.assertIn("format 9", said["why"])
        self.assertIn("newer library", said["why"])
        self.assertEqual(record.read_bytes(), content)

    def test_a_child_opens_what_its_parent_has_open(self):
        said = self.host(FORKED + """
    db = connect(PATH, **PARAMS)
    children = []
    for n in range(3):
        db.execute("INSERT INTO t(who) VALUES('parent')")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                say(**{f"child{n}": work(f"child {n}")})
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
        for _ in range(60):
            db.execute("INSERT INTO t(who, v) VALUES('parent', randomblob(900))")
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    sync(db, 20000)
    say(codes=codes, status=status(db))
    db.close()
        """)
        self.assertEqual(said["codes"], [0, 0, 0])
        self.assertEqual(said["status"]["gaps"], {}, said)
        for n in range(3):
            found = said[f"child{n}"]
            self.assertEqual((found["kept"], found["gaps"]), ([], {}), said)
        self.assertGreater(sum(said[f"child{n}"]["had"] for n in range(3)), 0)
        self.assertEqual(self.rows(self.db, "SELECT count(*) FROM t"), [(3 + 60 * 6,)])
        self.oracle()

    def test_multiprocessing(self):
        said = self.host(FORKED + """
    load()
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.map(work, ["a", "b", "c", "d", "e", "f", "g", "h"], chunksize=1)
        pool.close()
        pool.join()
    db = connect(PATH, **PARAMS)
    sync(db, 20000)
    db.close()
    say(found=found)
        """)
        for one in said["found"]:
            self.assertEqual(one["gaps"], {}, said)
        self.oracle()

    def test_four_processes_commit_and_are_killed(self):
        import random
        rng = random.Random(41)
        running = [self.start(BUSY, WHO=f"p{n}") for n in range(4)]
        for process in running:
            child.hear(process)
        end, kills = time.monotonic() + 20, 0
        while time.monotonic() < end:
            time.sleep(rng.uniform(0.1, 1.2))
            victim = rng.randrange(4)
            child.kill(running[victim])
            kills += 1
            running[victim] = self.start(BUSY, WHO=f"k{kills}")
            child.hear(running[victim])
        said = []
        for process in running:
            process.stdin.write("stop\n")
            process.stdin.flush()
        for process in running:
            said.append(child.finish(process)["status"])
        for status in said:
            self.assertNotIn(status["state"], ("conflict", "faulted"), status)
        self.host("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("SELECT count(*) FROM t").fetchall()
            sync(db, 30000)
            db.close()
        """)
        self.assertGreater(kills, 8)
        self.oracle()
