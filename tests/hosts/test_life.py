"""Processes that die, fork or share; storage that goes away; disks that fill."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import threading
import time
import unittest

from base import HostCase, S3Case
from lab import child
from lab.replica import FileReplica, dump, restore

COUNT = "SELECT count(*) FROM t"
NOBODY = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "hunter2"}


class Processes(HostCase):
    """How a host ends, and what is on storage afterwards."""

    def test_kill_9_then_reopen_ships_what_was_pending(self):
        process = self.start("""
            db = connect(PATH, **PARAMS, sync_interval="1h")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            sync(db)
            for n in range(500):
                db.execute("INSERT INTO t(v) VALUES(randomblob(400))")
            say(ready=True)
            time.sleep(60)
        """)
        child.hear(process)
        child.kill(process)
        self.host("connect(PATH, **PARAMS).close()")
        self.assertEqual(self.rows(self.db, COUNT), [(500,)])
        self.oracle()

    def test_r_64_close_flushes_what_is_pending(self):
        self.host("""
            db = connect(PATH, **PARAMS, sync_interval="1h")
            db.execute("CREATE TABLE t(v)")
            db.execute("INSERT INTO t VALUES(1)")
            db.close()
        """)
        self.assertEqual(self.rows(self.restored(), COUNT), [(1,)])

    def test_a_database_that_lives_for_a_moment_is_stored(self):
        self.host("""
            import pathlib
            for n in range(60):
                base = pathlib.Path(PATH).with_name(f"brief-{n}")
                db = connect(base, replica_url=f"file://{base}-replica")
                time.sleep(n % 10 * 0.0007)
                db.execute("CREATE TABLE t(v)")
                db.close()
        """)
        stored = [n for n in range(60) if FileReplica(self.dir / f"brief-{n}-replica").last()]
        self.assertEqual(stored, list(range(60)))

    def test_a_snapshot_that_cannot_be_recorded_is_taken_again(self):
        self.host("""
            in_the_way = PATH + "-meta/vfs/shipped.tmp"
            os.makedirs(in_the_way)
            db = connect(PATH, **PARAMS, meta_path=PATH + "-meta")
            db.execute("CREATE TABLE t(v)")
            host_error(sync, db, 1500)
            db.execute("INSERT INTO t VALUES(1)")
            os.rmdir(in_the_way)
            sync(db, 20000)
            db.close()
        """)
        self.oracle()

    def test_a_wait_for_storage_never_ends_before_the_first_file_is_there(self):
        said = self.host("""
            import pathlib
            early = []
            for n in range(60):
                base = pathlib.Path(PATH).with_name(f"brief-{n}")
                db = connect(base, replica_url=f"file://{base}-replica")
                time.sleep(n % 10 * 0.0007)
                db.execute("CREATE TABLE t(v)")
                sync(db)
                if not list(pathlib.Path(f"{base}-replica").rglob("*.ltx")):
                    early.append(n)
                db.close()
            say(early=early)
        """)
        self.assertEqual(said["early"], [])

    def test_closing_the_last_database_does_no_harm_to_one_that_opens(self):
        said = self.host("""
            load()
            seen, end = [], time.monotonic() + 4
            def live(name):
                n = 0
                while time.monotonic() < end:
                    n += 1
                    base = f"{PATH}-{name}-{n}"
                    db = connect(base, wal=False, replica_url=f"file://{base}-replica")
                    seen.append(status(db)["state"])
                    db.close()
            threads = [threading.Thread(target=live, args=(name,)) for name in "ab"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            end = time.monotonic() + 5
            while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < end:
                time.sleep(0.02)
            say(opened=len(seen), faulted=seen.count("faulted"),
                tasks=len(os.listdir("/proc/self/task")))
        """)
        self.assertGreater(said["opened"], 20)
        self.assertEqual((said["faulted"], said["tasks"]), (0, 1))

    def test_commits_do_not_hurry_a_failing_upload(self):
        said = self.host("""
            db = connect(PATH, **PARAMS, sync_interval="0")
            db.execute("CREATE TABLE t(v)")
            sync(db)
            os.rename(LEVEL, LEVEL + "-away")
            open(LEVEL, "w").close()
            end = time.monotonic() + 4
            while time.monotonic() < end:
                db.execute("INSERT INTO t VALUES(randomblob(100))")
                time.sleep(0.005)
            errors = status(db)["upload_errors"]
            os.remove(LEVEL)
            os.rename(LEVEL + "-away", LEVEL)
            started = time.monotonic()
            sync(db, 20000)
            say(errors=errors, after=time.monotonic() - started)
            db.close()
        """, LEVEL=self.replica.directory / "ltx/0")
        self.assertGreater(said["errors"], 1)
        self.assertLess(said["errors"], 9)
        self.assertLess(said["after"], 5)
        self.oracle()

    def test_r_64_exit_without_close_flushes_what_is_pending(self):
        self.host("""
            db = connect(PATH, **PARAMS, sync_interval="1h")
            db.execute("CREATE TABLE t(v)")
            db.execute("INSERT INTO t VALUES(1)")
            globals()["keep"] = db
            sys.exit(0)
        """)
        self.assertEqual(self.rows(self.restored(), COUNT), [(1,)])

    def test_no_thread_is_left_after_the_last_close(self):
        said = self.host("""
            def tasks():
                return len(os.listdir("/proc/self/task"))
            load()
            loaded = tasks()
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(v)")
            sync(db)
            opened = tasks()
            db.close()
            end = time.monotonic() + 5
            while tasks() > loaded and time.monotonic() < end:
                time.sleep(0.02)
            say(loaded=loaded, opened=opened, closed=tasks())
        """)
        self.assertEqual(said["loaded"], 1, "loading starts a thread")
        self.assertGreater(said["opened"], 1)
        self.assertEqual(said["closed"], 1)

    def test_an_idle_database_costs_at_most_one_descriptor(self):
        work = """
            def descriptors():
                return len(os.listdir("/proc/self/fd"))
            load()
            before = descriptors()
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE IF NOT EXISTS t(v)")
            db.execute("INSERT INTO t VALUES(1)")
            if PARAMS:
                sync(db)
            end = time.monotonic() + 5
            while len(os.listdir("/proc/self/task")) > 2 and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(0.2)
            say(used=descriptors() - before)
            db.close()
        """
        self.host(work)
        host = self.host(work, PATH=self.dir / "plain.db", PARAMS={})["used"]
        self.assertEqual(host, 3, "database, WAL and wal-index")
        self.assertLessEqual(self.host(work)["used"], host + 1)

    def test_a_forked_child_replicates_on_its_own(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(v TEXT)")
            db.execute("INSERT INTO t VALUES('parent')")
            db.close()
            pid = os.fork()
            if pid == 0:
                db = connect(PATH, **PARAMS)
                db.execute("INSERT INTO t VALUES('child')")
                sync(db)
                db.close()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            db = connect(PATH, **PARAMS)
            db.execute("INSERT INTO t VALUES('parent')")
            db.close()
        """)
        self.assertEqual(self.rows(self.restored(), COUNT), [(3,)])
        self.oracle()

    def test_a_child_forked_with_the_database_open_does_no_harm(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(v TEXT)")
            sync(db)
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            db.execute("INSERT INTO t VALUES('parent')")
            sync(db)
            db.close()
        """)
        self.oracle()

    def test_pre_fork_workers_write_one_database(self):
        self.host("""
            load()
            pids = []
            first = connect(PATH, **PARAMS)
            first.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, w INT)")
            first.close()
            for w in range(3):
                pid = os.fork()
                if pid == 0:
                    db = connect(PATH, **PARAMS, sync_interval="50ms")
                    for n in range(100):
                        db.execute("INSERT INTO t(w) VALUES(?)", (w,))
                    db.close()
                    os._exit(0)
                pids.append(pid)
            assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
            db = connect(PATH, **PARAMS)
            say(rows=scalar(db, "SELECT count(*) FROM t"))
            db.close()
        """)
        self.oracle()
        self.assertEqual(self.rows(self.restored(), COUNT), [(300,)])

    def test_many_threads_and_connections(self):
        self.host("""
            first = connect(PATH, **PARAMS, sync_interval="50ms")
            first.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, w INT, v BLOB)")
            errors = []
            def work(w):
                try:
                    for _ in range(3):
                        db = connect(PATH, **PARAMS, sync_interval="50ms")
                        for n in range(20):
                            db.execute("INSERT INTO t(w, v) VALUES(?, randomblob(200))", (w,))
                            db.execute("SELECT count(*) FROM t").fetchall()
                        db.close()
                except Exception as error:
                    errors.append(repr(error))
            threads = [threading.Thread(target=work, args=(w,)) for w in range(12)]
            [t.start() for t in threads]
            [t.join() for t in threads]
            say(errors=errors, rows=scalar(first, "SELECT count(*) FROM t"))
            first.close()
        """)
        self.oracle()
        self.assertEqual(self.rows(self.restored(), COUNT), [(720,)])

    def test_many_databases_in_one_process(self):
        self.host("""
            opened = []
            for n in range(20):
                db = connect(f"{DIR}/many-{n}.db", replica_url=f"file://{DIR}/many/{n}")
                db.execute("CREATE TABLE t(v)")
                opened.append(db)
            for n, db in enumerate(opened * 3):
                db.execute("INSERT INTO t VALUES(?)", (n,))
            [db.close() for db in opened]
        """, DIR=self.dir)
        for n in range(20):
            copy = restore(f"file://{self.dir}/many/{n}", self.dir / f"copy-{n}.db")
            self.assertEqual(dump(copy), dump(self.dir / f"many-{n}.db"))

    def test_exclusive_locking_mode_is_captured(self):
        self.host("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            for n in range(300):
                db.execute("INSERT INTO t(v) VALUES(randomblob(3000))")
            db.close()
        """)
        self.oracle()

    def test_journal_mode_switched_back_and_forth(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(v)")
            for mode in ("DELETE", "WAL", "TRUNCATE", "WAL"):
                db.execute(f"PRAGMA journal_mode={mode}")
                db.execute("INSERT INTO t VALUES(?)", (mode,))
            sync(db)
            db.close()
        """)
        self.oracle()


class Output(HostCase):
    """The library never writes to stdout or stderr."""

    def test_errors_go_to_the_log_file_only(self):
        log = self.dir / "log.txt"
        said = self.host("""
            host_error(connect, PATH, **dict(PARAMS, nonsense="1"))
            db = connect(PATH, replica_url="s3://bkt/x", endpoint="http://127.0.0.1:9",
                         region="us-east-1", close_timeout="200ms")
            db.execute("CREATE TABLE t(v)")
            time.sleep(0.5)
            db.close()
            say(ok=True)
        """, env={"LITESTREAM_LOG_FILE": log, "LITESTREAM_LOG_LEVEL": "info"})
        self.assertEqual(said, {"ok": True})
        self.assertGreater(log.stat().st_size, 0)


class SlowUploads:
    """A way to a server of this machine that takes so many bytes a second."""

    def __init__(self, port, rate):
        self.port, self.rate = port, rate
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.turn = threading.Lock()

    def __enter__(self):
        threading.Thread(target=self._serve, daemon=True).start()
        return self.listener.getsockname()[1]

    def __exit__(self, *_):
        self.listener.close()

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.port))
            threading.Thread(target=self._both, args=(client, server), daemon=True).start()

    def _both(self, client, server):
        with client, server:
            answers = threading.Thread(target=self._pump, args=(server, client, None), daemon=True)
            answers.start()
            self._pump(client, server, self.rate)
            answers.join()

    def _pump(self, source, sink, rate):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if rate:
                    with self.turn:
                        time.sleep(len(data) / rate)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


class Storage(S3Case):
    """A server that goes away, hangs, refuses and comes back."""

    def test_storage_away_for_a_while_then_back(self):
        process = self.start("""
            db = connect(PATH, **PARAMS, sync_interval="50ms", close_timeout="30s")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            sync(db)
            say(ready=True)
            sys.stdin.readline()
            for n in range(300):
                db.execute("INSERT INTO t(v) VALUES(randomblob(700))")
                time.sleep(0.004)
            time.sleep(0.5)
            say(status=status(db), lag=scalar(db, "SELECT litestream_lag()"))
            sys.stdin.readline()
            sync(db, 30000)
            say(after=status(db), lag_after=scalar(db, "SELECT litestream_lag()"))
            db.close()
        """)
        child.hear(process)
        self.server.stop()
        self.nudge(process)
        away = child.hear(process)
        self.assertGreater(away["lag"], 0.5)
        self.assertIn("127.0.0.1", str(away["status"]))
        self.server.start()
        self.nudge(process)
        self.assertEqual(child.hear(process)["lag_after"], 0)
        self.assertEqual(process.wait(60), 0)
        self.oracle()

    def test_a_hanging_server_does_not_hold_commits_up(self):
        process = self.start("""
            db = connect(PATH, **PARAMS, sync_interval="50ms", close_timeout="1s")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            sync(db)
            say(ready=True)
            sys.stdin.readline()
            worst = 0
            for n in range(400):
                start = time.monotonic()
                db.execute("INSERT INTO t(v) VALUES(randomblob(700))")
                worst = max(worst, time.monotonic() - start)
                time.sleep(0.003)
            start = time.monotonic()
            db.close()
            say(worst=worst, close=time.monotonic() - start)
        """)
        child.hear(process)
        self.server.hang()
        try:
            self.nudge(process)
            said = child.hear(process)
        finally:
            self.server.resume()
        self.assertLess(said["worst"], 0.3)
        self.assertLess(said["close"], 4)
        self.assertEqual(process.wait(30), 0)
        self.host("connect(PATH, **PARAMS).close()")
        self.oracle()

    def test_r_13_the_wal_stays_bounded_while_a_snapshot_is_sent(self):
        plain = sqlite3.connect(self.db)
        plain.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        plain.executemany("INSERT INTO t VALUES(?, randomblob(1000000))", ((n,) for n in range(48)))
        plain.commit()
        plain.close()
        with SlowUploads(self.server.port, 2 << 20) as port:
            said = self.host("""
                db = connect(PATH, **PARAMS, sync_interval="50ms", close_timeout="60s")
                db.execute("SELECT count(*) FROM t").fetchall()
                time.sleep(1)
                worst = 0
                for n in range(150):
                    db.execute("UPDATE t SET v = randomblob(1000000) WHERE id = ?", (n % 3,))
                    worst = max(worst, os.path.getsize(f"{PATH}-wal"))
                    time.sleep(0.03)
                found = status(db)
                sync(db, 120000)
                say(worst=worst, found=found)
                db.close()
            """, PARAMS={**self.replica.uri_parameters(), "endpoint": f"http://127.0.0.1:{port}"})
        self.assertLess(said["worst"], 80 << 20, said)
        self.oracle()

    def test_refused_credentials_fail_the_first_open(self):
        said = self.host("""
            host_error(connect, PATH, **PARAMS)
            say(last=last_error(), exists=os.path.exists(PATH))
        """, env=NOBODY)
        self.assertRegex(said["last"], "403|denied|Denied|credential")
        self.assertIn(f"s3://bkt/{self.replica.prefix}", said["last"])
        self.assertNotIn("hunter2", said["last"])
        self.assertFalse(said["exists"])

    def test_credentials_refused_later_are_named_and_hurt_nothing(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(v)")
            db.close()
        """)
        said = self.host("""
            db = connect(PATH, **PARAMS, close_timeout="300ms")
            db.execute("INSERT INTO t VALUES(1)")
            end = time.monotonic() + 10
            while time.monotonic() < end and not status(db)["last_error"]:
                time.sleep(0.05)
            db.execute("INSERT INTO t VALUES(2)")
            say(last=status(db)["last_error"])
            db.close()
        """, env=NOBODY)
        self.assertRegex(said["last"], "403|denied|Denied|credential")
        self.assertNotIn("hunter2", said["last"])
        self.assertEqual(self.rows(self.db, COUNT), [(2,)])
        self.host("connect(PATH, **PARAMS).close()")
        self.oracle()

    @staticmethod
    def nudge(process):
        process.stdin.write("\n")
        process.stdin.flush()


class FullDisk(HostCase):
    """The meta directory on a file system of sixteen megabytes."""

    def setUp(self):
        super().setUp()
        self.meta = self.dir / "meta"
        self.meta.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "none", str(self.meta)]
        if subprocess.run(words, stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("cannot mount a small file system here")
        self.addCleanup(subprocess.run, ["umount", "-l", str(self.meta)], check=True)

    def test_a_full_disk_stops_replication_not_the_database_and_heals(self):
        ballast = self.meta / "ballast"
        process = self.start("""
            db = connect(PATH, **PARAMS, meta_path=META, sync_interval="100ms")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            sync(db)
            say(ready=True)
            sys.stdin.readline()
            for n in range(600):
                db.execute("INSERT INTO t(v) VALUES(randomblob(9000))")
            time.sleep(1)
            say(status=status(db), rows=scalar(db, "SELECT count(*) FROM t"))
            sys.stdin.readline()
            db.execute("INSERT INTO t(v) VALUES('last')")
            sync(db, 30000)
            say(after=status(db))
            db.close()
        """, META=self.meta)
        child.hear(process)
        free = os.statvfs(self.meta)
        ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 4096)))
        Storage.nudge(process)
        full = child.hear(process)
        self.assertEqual(full["rows"], 600)
        ballast.unlink()
        Storage.nudge(process)
        child.hear(process)
        self.assertEqual(process.wait(60), 0)
        self.oracle()

    def test_a_disk_that_is_full_at_open_keeps_nobody_out(self):
        ballast = self.meta / "ballast"
        free = os.statvfs(self.meta)
        with open(ballast, "wb") as out, contextlib.suppress(OSError):
            for _ in range(free.f_blocks):
                out.write(bytes(free.f_frsize))
        process = self.start("""
            db = connect(PATH, **PARAMS, meta_path=META, sync_interval="100ms")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            for n in range(50):
                db.execute("INSERT INTO t(v) VALUES(randomblob(900))")
            say(status=status(db), rows=scalar(db, "SELECT count(*) FROM t"))
            sys.stdin.readline()
            db.execute("INSERT INTO t(v) VALUES('last')")
            sync(db, 30000)
            db.close()
        """, META=self.meta)
        full = child.hear(process)
        self.assertEqual(full["rows"], 50)
        self.assertIn("space", full["status"]["last_error"])
        ballast.unlink()
        Storage.nudge(process)
        self.assertEqual(process.wait(60), 0)
        self.oracle()


if __name__ == "__main__":
    unittest.main()
