"""Gaps are repaired by what differs: what foreign programs do to a database costs what they changed."""

import os
import pathlib
import shutil
import subprocess
import time

from base import HostCase
from lab import child

SETUP = """
    db = connect(PATH, **PARAMS)
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
    db.execute("BEGIN")
    for n in range(3000):
        db.execute("INSERT INTO t VALUES(?, randomblob(1500))", (n,))
    db.execute("COMMIT")
    sync(db)
    db.close()
"""

REOPEN = """
    db = connect(PATH, **PARAMS)
    sync(db)
    found = status(db)
    db.execute("UPDATE t SET v = randomblob(1500) WHERE id = 7")
    sync(db)
    say(found=found)
    db.close()
"""


def pages(path, page_size=4096):
    data = pathlib.Path(path).read_bytes()
    return [data[at:at + page_size] for at in range(0, len(data), page_size)]


class Repairs(HostCase):
    """Each test: a run of ours, something foreign, a run of ours."""

    def setUp(self):
        super().setUp()
        self.host(SETUP)
        self.vfs = self.dir / ".app.db-litestream/vfs"
        self.copy = self.dir / "before.db"
        shutil.copyfile(self.db, self.copy)

    def shell(self, *statements):
        """The sqlite3 shell, which has no extension."""
        done = subprocess.run(["sqlite3", str(self.db), *statements], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout)

    def changed(self):
        """How many pages differ from the state that was replicated before."""
        old, new = pages(self.copy), pages(self.db)
        return sum(1 for n, page in enumerate(new) if n >= len(old) or page != old[n])

    def reopen(self, reason="unproven", changed=None):
        """Opens again; the repair ships about `changed` pages. Returns it."""
        changed = self.changed() if changed is None else changed
        total, before = len(pages(self.db)), self.replica.last()
        found = self.host(REOPEN)["found"]
        self.assertEqual(found["gaps"], {reason: 1}, found)
        self.assertEqual(found["snapshots"], {}, found)
        self.assertEqual(len(found["repairs"]["last"]), 1, found)
        repair = found["repairs"]["last"][0]
        self.assertEqual((repair["reason"], repair["full"]), (reason, False), found)
        self.assertEqual(repair["pages_compared"], total, found)
        # Opening may write page 1 (WAL mode).
        self.assertLessEqual(abs(repair["pages_shipped"] - changed), 1, found)
        # One file for the repair, none when nothing differs, one for the commit after it.
        files = 2 if repair["pages_shipped"] else 1
        self.assertEqual(self.replica.last(), before + files)
        self.oracle()
        return repair

    def test_a_foreign_session_costs_what_it_changed(self):
        self.shell("UPDATE t SET v = randomblob(1500) WHERE id IN (3, 900, 901, 2500)")
        self.assertLess(self.reopen()["pages_shipped"], 12)

    def test_a_foreign_session_that_truncates_the_wal(self):
        self.shell("UPDATE t SET v = randomblob(1500) WHERE id = 5", "PRAGMA wal_checkpoint(TRUNCATE)",
                   "DELETE FROM t WHERE id = 1500", "PRAGMA wal_checkpoint(TRUNCATE)")
        self.assertLess(self.reopen()["pages_shipped"], 12)

    def test_an_older_copy_put_over_the_file(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("UPDATE t SET v = randomblob(1500) WHERE id % 100 = 1")
            db.execute("INSERT INTO t VALUES(9999, randomblob(90000))")
            sync(db)
            db.close()
        """)
        shutil.copyfile(self.db, self.dir / "newer.db")
        shutil.copyfile(self.copy, self.db)
        shutil.copyfile(self.dir / "newer.db", self.copy)
        self.assertLess(self.reopen()["pages_shipped"], 100)

    def test_growth_and_shrinking(self):
        self.shell("INSERT INTO t SELECT id + 10000, randomblob(1500) FROM t WHERE id < 500")
        self.assertGreater(self.reopen()["pages_shipped"], 200)
        shutil.copyfile(self.db, self.copy)
        self.shell("DELETE FROM t WHERE id % 2 = 0 OR id > 5000", "VACUUM")
        self.reopen()

    def test_a_repair_larger_than_what_is_kept_in_memory(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("BEGIN")
            for n in range(20000, 28000):
                db.execute("INSERT INTO t VALUES(?, randomblob(1500))", (n,))
            db.execute("COMMIT")
            sync(db, 60000)
            db.close()
        """)
        shutil.copyfile(self.db, self.copy)
        self.shell("UPDATE t SET v = randomblob(1500) WHERE id > 20000 AND id < 27000")
        self.assertGreater(self.reopen()["pages_shipped"], 2500)

    def test_a_file_of_ours_is_known_when_the_one_before_it_was_removed(self):
        away = self.dir / "away"
        process = self.start("""
            db = connect(PATH, **PARAMS, sync_interval="10ms")
            db.execute("SELECT count(*) FROM t").fetchall()
            sync(db)
            say(done="open")
            sys.stdin.readline()
            db.execute("UPDATE t SET v = randomblob(1500) WHERE id = 7")
            while not status(db)["spool"]["sealed_files"]:
                time.sleep(0.01)
            say(done="sealed")
            time.sleep(60)
        """)
        child.hear(process)
        last = self.replica.last()
        self.replica.directory.rename(away)
        self.replica.directory.touch()
        process.stdin.write("go\n")
        process.stdin.flush()
        child.hear(process)
        child.kill(process)
        self.replica.directory.unlink()
        away.rename(self.replica.directory)
        shutil.copytree(self.vfs, self.dir / "vfs")
        ships = """
            db = connect(PATH, **PARAMS)
            db.execute("SELECT count(*) FROM t").fetchall()
            sync(db)
            say(status=status(db))
            db.close()
        """
        self.host(ships)
        self.assertGreater(self.replica.last(), last)
        # The answer was lost, and meanwhile the file that is known here was removed.
        shutil.rmtree(self.vfs)
        (self.dir / "vfs").rename(self.vfs)
        self.replica.file(last, last).unlink()
        found = self.host(ships)["status"]
        self.assertEqual((found["state"], found["conflict"]), ("ok", None), found)

    def test_no_difference_costs_no_file(self):
        before = self.replica.last()
        # Same content, other times.
        self.db.write_bytes(self.db.read_bytes())
        said = self.host("""
            db = connect(PATH, **PARAMS)
            txid = sync(db)
            found = status(db)
            say(found=found, txid=txid)
            db.close()
        """)
        self.assertEqual(self.replica.last(), before)
        self.assertEqual(int(said["txid"], 16), before)
        self.assertEqual(len(said["found"]["repairs"]["last"]), 1, said)
        repair = said["found"]["repairs"]["last"][0]
        self.assertEqual((repair["pages_shipped"], repair["full"]), (0, False))
        self.assertEqual(said["found"]["differences"], {"unproven": 1})
        self.host(REOPEN)
        self.assertEqual(self.replica.last(), before + 1)
        self.oracle()

    def test_commits_during_a_repair_follow_it(self):
        self.shell("UPDATE t SET v = randomblob(1500) WHERE id < 600")
        self.host("""
            db = connect(PATH, **PARAMS, sync_interval="0")
            for n in range(300):
                db.execute("UPDATE t SET v = randomblob(1500) WHERE id = ?", (n * 7,))
            sync(db)
            say(found=status(db))
            db.close()
        """)
        self.oracle()

    def test_r_63_a_lost_or_damaged_ledger_costs_one_snapshot(self):
        ledger = self.vfs / "ledger"
        good = ledger.read_bytes()
        for bad in (None, b"", good[:100], good[:4097] + b"x" + good[4098:],
                    b"LSVFSLDG" + b"\xff" * 4 + good[12:]):
            ledger.unlink()
            if bad is not None:
                ledger.write_bytes(bad)
            self.shell("UPDATE t SET v = randomblob(1500) WHERE id = 3")
            found = self.host(REOPEN)["found"]
            self.assertEqual(found["snapshots"], {"unproven": 1}, found)
            self.assertEqual(found["upload_errors"], 0, found)
            self.oracle()
        shutil.copyfile(self.db, self.copy)
        self.shell("UPDATE t SET v = randomblob(1500) WHERE id = 4")
        self.reopen()

    def test_a_ledger_that_trails_is_brought_forward(self):
        old = (self.vfs / "ledger").read_bytes()
        for n in range(3):
            self.host(REOPEN.replace("id = 7", f"id = {n + 50}"))
        shutil.copyfile(self.db, self.copy)
        (self.vfs / "ledger").write_bytes(old)
        self.shell("UPDATE t SET v = randomblob(1500) WHERE id = 4")
        self.assertLess(self.reopen()["pages_shipped"], 12)

    def test_the_adopted_state_is_shipped_as_a_difference(self):
        shutil.rmtree(self.dir / ".app.db-litestream")
        self.shell("UPDATE t SET v = randomblob(1500) WHERE id IN (3, 900)")
        said = self.host("""
            db = connect(PATH, **PARAMS, adopt="1")
            sync(db)
            say(found=status(db))
            db.close()
        """)
        repair = said["found"]["repairs"]["last"][-1]
        self.assertEqual((repair["reason"], repair["full"]), ("adopted", False), said)
        self.assertLess(repair["pages_shipped"], 12)
        self.oracle()

    def test_a_joined_chain_has_a_ledger(self):
        shutil.rmtree(self.dir / ".app.db-litestream")
        self.host(REOPEN)
        shutil.copyfile(self.db, self.copy)
        self.shell("UPDATE t SET v = randomblob(1500) WHERE id = 4")
        self.reopen()

    def test_files_that_vanished_from_storage_cost_a_snapshot(self):
        last = self.replica.last()
        self.replica.file(last, last).unlink()
        if last > 1:
            found = self.host(REOPEN)["found"]
            self.assertEqual(found["snapshots"], {"storage_behind": 1}, found)
            self.oracle()

    def test_r_60_a_repair_stages_nothing_on_disk(self):
        self.shell("UPDATE t SET v = randomblob(1500)")
        said = self.host("""
            import glob
            db = connect(PATH, **PARAMS)
            most, done = 0, threading.Event()
            def watch():
                global most
                while not done.is_set():
                    sizes = []
                    for name in glob.glob(VFS + "/*"):
                        try:
                            sizes.append(os.stat(name).st_size)
                        except FileNotFoundError:
                            pass
                    most = max(most, sum(sizes))
            watcher = threading.Thread(target=watch)
            watcher.start()
            sync(db)
            done.set()
            watcher.join()
            say(most=most, found=status(db))
            db.close()
        """, VFS=self.vfs)
        self.assertGreater(said["found"]["repairs"]["pages_shipped"], 1000)
        # Two ledgers of 8 bytes a page and small records.
        self.assertLess(said["most"], 2 * (4096 + 8 * len(pages(self.db))) + 20_000)
        self.oracle()

    def test_killed_processes_leave_a_ledger_to_go_on_with(self):
        for round in range(5):
            process = self.start("""
                db = connect(PATH, **PARAMS, sync_interval="0")
                say(ready=True)
                while True:
                    db.execute("UPDATE t SET v = randomblob(1500) WHERE id = abs(random()) % 3000")
            """)
            child.hear(process)
            time.sleep(0.3 + 0.17 * round)
            child.kill(process)
            if round % 2:
                # Storage had files whose answers the killed process did not see: go on from there.
                self.host("connect(PATH, **PARAMS).close()")
            else:
                self.host(REOPEN)
            shutil.copyfile(self.db, self.copy)
            self.shell("UPDATE t SET v = randomblob(1500) WHERE id = 4")
            self.assertLess(self.reopen()["pages_shipped"], 12)

    def killed_between_answer_and_record(self, script):
        """A process that storage answered, killed before it recorded that."""
        in_the_way, before = self.vfs / "shipped.tmp", self.replica.last()
        in_the_way.mkdir()
        process = self.start(script)
        child.hear(process)
        deadline = time.monotonic() + 30
        while self.replica.last() == before and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        child.kill(process)
        in_the_way.rmdir()
        self.assertGreater(self.replica.last(), before)

    def test_an_acknowledged_batch_that_was_not_recorded(self):
        self.killed_between_answer_and_record("""
            db = connect(PATH, **PARAMS)
            db.execute("UPDATE t SET v = randomblob(1500) WHERE id = 17")
            say(ready=True)
            time.sleep(60)
        """)
        found = self.host(REOPEN)["found"]
        self.assertEqual((found["snapshots"], found["conflict"]), ({}, None), found)
        self.oracle()
        shutil.copyfile(self.db, self.copy)
        self.shell("UPDATE t SET v = randomblob(1500) WHERE id = 4")
        self.assertLess(self.reopen()["pages_shipped"], 12)

    def test_a_repair_that_was_stored_and_not_recorded(self):
        self.shell("UPDATE t SET v = randomblob(1500) WHERE id = 17")
        self.killed_between_answer_and_record("""
            db = connect(PATH, **PARAMS)
            scalar(db, "SELECT count(*) FROM t")
            say(ready=True)
            time.sleep(60)
        """)
        found = self.host(REOPEN)["found"]
        self.assertEqual((found["snapshots"], found["conflict"]), ({}, None), found)
        self.oracle()
        shutil.copyfile(self.db, self.copy)
        self.shell("UPDATE t SET v = randomblob(1500) WHERE id = 4")
        self.assertLess(self.reopen()["pages_shipped"], 12)

    def test_r_03_a_repair_is_one_state_while_checkpoints_run(self):
        self.shell("UPDATE t SET v = randomblob(1500) WHERE id % 3 = 0")
        said = self.host("""
            a = connect(PATH, **PARAMS, sync_interval="50ms")
            b = connect(PATH, **PARAMS, sync_interval="50ms")
            a.execute("PRAGMA wal_autocheckpoint=0")
            end = time.monotonic() + 4
            def checkpoint():
                while time.monotonic() < end:
                    for mode in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
                        b.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
            other = threading.Thread(target=checkpoint)
            other.start()
            n = 0
            while time.monotonic() < end:
                n += 1
                a.execute("UPDATE t SET v = randomblob(1500) WHERE id BETWEEN ? AND ?",
                          (n * 7 % 3000, n * 7 % 3000 + 3))
            other.join()
            sync(a, 20000)
            say(found=status(a))
            a.close()
            b.close()
        """)
        self.assertTrue(said["found"]["repairs"]["last"], said)
        self.oracle()

    def test_r_66_the_library_has_no_connection_that_ignores_settings(self):
        said = self.host("""
            a, b = connect(PATH, **PARAMS), connect(PATH, **PARAMS)
            a.execute("PRAGMA busy_timeout=0")
            b.execute("BEGIN IMMEDIATE")
            at_once = host_error(a.execute, "BEGIN IMMEDIATE")
            a.execute("PRAGMA busy_timeout=20000")
            threading.Timer(0.5, lambda: b.execute("COMMIT")).start()
            a.execute("BEGIN IMMEDIATE")
            a.execute("COMMIT")
            a.execute("PRAGMA synchronous=FULL")
            sync(a)
            say(at_once=at_once, synchronous=scalar(a, "PRAGMA synchronous"),
                other=scalar(b, "PRAGMA synchronous"), timeout=scalar(a, "PRAGMA busy_timeout"))
            a.close()
            b.close()
        """)
        self.assertIn("locked", said["at_once"])
        self.assertEqual((said["synchronous"], said["other"], said["timeout"]), (2, 1, 20000))


class FullDisk(HostCase):
    """The meta directory on a file system of sixteen megabytes."""

    def test_r_60_a_full_disk_delays_a_repair_and_no_more(self):
        meta = self.dir / "meta"
        meta.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "none", str(meta)]
        if subprocess.run(words, stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("cannot mount a small file system here")
        self.addCleanup(subprocess.run, ["umount", "-l", str(meta)], check=True)
        self.host(SETUP.replace("**PARAMS", "**PARAMS, meta_path=META"), META=meta)
        subprocess.run(["sqlite3", str(self.db), "UPDATE t SET v = 'x' WHERE id % 4 = 0"],
                       check=True)
        free = os.statvfs(meta)
        with open(meta / "ballast", "wb") as ballast:
            ballast.write(bytes(free.f_bavail * free.f_frsize))
        said = self.host("""
            db = connect(PATH, **PARAMS, meta_path=META)
            host_error(sync, db, 1500)
            db.execute("UPDATE t SET v = 'y' WHERE id = 5")
            os.unlink(META + "/ballast")
            sync(db, 60000)
            say(found=status(db))
            db.close()
        """, META=meta)
        self.assertEqual(said["found"]["state"], "ok", said)
        self.oracle()


class Checksum(HostCase):
    """litestream_checksum() is what Litestream computes over the restored file."""

    def test_it_is_that_of_the_restored_database(self):
        said = self.host("""
            nothing = scalar(load(), "SELECT litestream_checksum()")
            db = connect(PATH, **PARAMS)
            seen = set()
            for statement in ("CREATE TABLE t(id INTEGER PRIMARY KEY, v)",
                              "rows",
                              "DELETE FROM t WHERE id > 100", "VACUUM",
                              "UPDATE t SET v = 1 WHERE id = 5"):
                if statement == "rows":
                    for n in range(800):
                        db.execute("INSERT INTO t VALUES(?, randomblob(900))", (n,))
                else:
                    db.execute(statement)
                sync(db)
                seen.add(scalar(db, "SELECT litestream_checksum()"))
            last = scalar(db, "SELECT litestream_checksum()")
            say(nothing=nothing, last=last, count=len(seen - {None}),
                pragma=scalar(db, "PRAGMA litestream_checksum"))
            db.close()
        """)
        self.assertIsNone(said["nothing"])
        self.assertEqual((said["count"], said["pragma"]), (5, said["last"]))
        self.assertEqual(said["last"], database_checksum(self.restored()))


def crc64_table():
    # CRC-64/GO-ISO, reflected, polynomial 1b.
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0xD800000000000000 if n & 1 else 0)
        table.append(n)
    return table


def database_checksum(path):
    """The exclusive or of the CRC-64 of every page's number and content, bit 63 set."""
    table, flag, whole = crc64_table(), 1 << 63, 0
    for number, page in enumerate(pages(path), 1):
        crc = (1 << 64) - 1
        for byte in number.to_bytes(4, "big") + page:
            crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
        whole ^= crc ^ (1 << 64) - 1
    return f"{whole | flag:016x}"
