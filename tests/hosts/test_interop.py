"""Histories that are shared with Litestream's own commands, in both directions."""

import shutil
import sqlite3
import unittest

from base import HostCase, S3Case
from lab import paths
from lab.replica import dump, replicate_once, restore

WRITE = """
    db = connect(PATH, **PARAMS)
    db.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v TEXT)")
    for n in range(COUNT):
        db.execute("INSERT INTO t(v) VALUES(?)", (f"{WORD} {n}",))
    sync(db)
    say(status=status(db), txid=scalar(db, "SELECT litestream_txid()"))
    db.close()
"""


class Interop(HostCase):
    """One chain, several programs that write it one after another."""

    def write(self, word, count=20, **more):
        params = {**self.replica.uri_parameters(), **more}
        return self.host(WRITE, WORD=word, COUNT=count, PARAMS=params)

    def plain(self, sql, path=None):
        connection = sqlite3.connect(path or self.db, isolation_level=None)
        connection.executescript(sql)
        connection.close()

    def words(self, path):
        rows = self.rows(path, "SELECT DISTINCT substr(v, 1, instr(v, ' ') - 1) FROM t ORDER BY 1")
        return [row[0] for row in rows]

    def test_every_l0_is_named_by_one_txid_without_gaps(self):
        self.host("""
            db = connect(PATH, **PARAMS, sync_interval="10ms")
            db.execute("CREATE TABLE t(v)")
            for n in range(40):
                db.execute("INSERT INTO t VALUES(?)", (n,))
                time.sleep(0.01)
            db.close()
        """)
        names = self.replica.names()
        self.assertEqual(names, [(n, n) for n in range(1, len(names) + 1)])
        self.assertGreater(len(names), 3)

    def test_r_50_files_carry_no_page_checksums_and_the_daemon_restores_them(self):
        self.write("ours")
        header = self.replica.file(1, 1).read_bytes()[:100]
        self.assertEqual(int.from_bytes(header[4:8], "big"), 2, "flags")
        self.assertEqual(header[40:48], bytes(8), "pre-apply checksum")
        self.oracle()

    def test_the_daemon_goes_on_from_our_chain_after_a_clean_stop(self):
        self.write("ours")
        before = self.replica.last()
        self.plain("PRAGMA journal_mode=WAL; INSERT INTO t(v) VALUES('daemon 1')")
        replicate_once(self.db, self.replica.url)
        self.assertGreater(self.replica.last(), before)
        for command in (paths.GO_17, paths.OURS):
            copy = self.restored(command)
            self.assertEqual(self.words(copy), ["daemon", "ours"])
            self.assertEqual(self.rows(copy, "PRAGMA integrity_check"), [("ok",)])

    def test_the_daemon_goes_on_in_the_same_wal_generation(self):
        process = self.start("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
            db.execute("INSERT INTO t(v) VALUES('ours 1')")
            sync(db)
            say(ready=True)
            sys.stdin.readline()
            os._exit(0)
        """)
        process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        process.wait()
        before = self.replica.last()
        connection = sqlite3.connect(self.db, isolation_level=None)
        connection.execute("INSERT INTO t(v) VALUES('daemon 1')")
        replicate_once(self.db, self.replica.url)
        connection.close()
        self.assertEqual(self.replica.names()[-1], (self.replica.last(),) * 2)
        self.assertGreater(self.replica.last(), before)
        self.assertEqual(self.words(self.restored()), ["daemon", "ours"])

    def test_r_51_frame_pages_are_restored_by_0_5_15(self):
        self.write("frame", page_format="frame")
        self.oracle(commands=(paths.GO_15, paths.GO_17, paths.OURS))

    def test_block_pages_are_what_is_written_by_default(self):
        self.write("block")
        self.oracle()
        with self.assertRaises(Exception):
            self.restored(paths.GO_15)

    def test_r_20_the_chain_goes_on_after_a_restore_by_the_daemon(self):
        self.write("first")
        last = self.replica.last()
        copy = self.restored(paths.GO_17)
        self.lose_everything()
        shutil.move(copy, self.db)
        self.write("second")
        self.assertGreater(self.replica.last(), last)
        self.assertEqual(self.words(self.restored()), ["first", "second"])
        self.oracle()

    def test_r_20_the_chain_goes_on_after_our_restore(self):
        self.write("first")
        last = self.replica.last()
        copy = self.restored(paths.OURS)
        self.lose_everything()
        shutil.move(copy, self.db)
        said = self.write("second")
        self.assertEqual(int(said["txid"], 16), self.replica.last())
        self.assertIn((last + 1, last + 1), self.replica.names())
        self.assertEqual(self.words(self.restored()), ["first", "second"])
        self.oracle()

    def lose_everything(self):
        for path in self.dir.glob("app.db*"):
            path.unlink()
        shutil.rmtree(self.dir / ".app.db-litestream")

    def test_a_chain_of_the_daemon_with_its_database_is_adopted(self):
        self.plain("""PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);
                      INSERT INTO t(v) VALUES('daemon 1');""")
        replicate_once(self.db, self.replica.url)
        last = self.replica.last()
        self.write("ours")
        self.assertGreater(self.replica.last(), last)
        self.assertEqual(self.words(self.restored()), ["daemon", "ours"])
        self.oracle()

    def test_another_database_at_the_url_is_a_conflict(self):
        self.write("theirs")
        names = self.replica.names()
        other = self.dir / "other.db"
        self.plain("PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);", other)
        said = self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("INSERT INTO t(v) VALUES('local 1')")
            end = time.monotonic() + 10
            while time.monotonic() < end and status(db)["state"] != "conflict":
                time.sleep(0.05)
            db.execute("INSERT INTO t(v) VALUES('local 2')")
            say(status=status(db), rows=scalar(db, "SELECT count(*) FROM t"))
            db.close()
        """, PATH=other)
        self.assertEqual(said["status"]["state"], "conflict", said["status"])
        self.assertEqual(said["rows"], 2)
        self.assertEqual(self.replica.names(), names)
        self.assertEqual(self.words(self.restored()), ["theirs"])

    def test_adopt_makes_the_local_database_the_next_state(self):
        self.write("theirs")
        last = self.replica.last()
        other = self.dir / "other.db"
        self.plain("PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);", other)
        params = {**self.replica.uri_parameters(), "adopt": "1"}
        self.host(WRITE, PATH=other, WORD="local", COUNT=5, PARAMS=params)
        self.assertGreater(self.replica.last(), last)
        self.assertEqual(self.words(self.restored()), ["local"])
        self.oracle(other)

    def test_a_chain_with_another_page_size_fails_the_open(self):
        self.write("theirs")
        other = self.dir / "other.db"
        self.plain("PRAGMA page_size=8192; PRAGMA journal_mode=WAL; CREATE TABLE u(x)", other)
        said = self.host("""
            host_error(connect, PATH, **PARAMS)
            say(last=last_error())
        """, PATH=other)
        self.assertIn("8192", said["last"])
        self.assertIn("4096", said["last"])

    def test_a_foreign_writer_between_two_sessions_is_noticed(self):
        self.write("ours")
        self.plain("INSERT INTO t(v) VALUES('foreign 1'); PRAGMA wal_checkpoint(TRUNCATE)")
        self.write("again")
        self.assertEqual(self.words(self.restored()), ["again", "foreign", "ours"])
        self.oracle()

    def test_r_05_writes_and_a_checkpoint_after_a_crash_are_noticed(self):
        self.write("ours")
        process = self.start("""
            db = connect(PATH, **PARAMS)
            db.execute("INSERT INTO t(v) VALUES('crashed 1')")
            say(ready=True)
            time.sleep(60)
        """)
        process.stdout.readline()
        process.kill()
        process.wait()
        self.plain("INSERT INTO t(v) VALUES('foreign 1'); PRAGMA wal_checkpoint(FULL)")
        self.write("again")
        self.assertEqual(self.words(self.restored()), ["again", "crashed", "foreign", "ours"])
        self.oracle()

    def test_a_foreign_writer_beside_us_is_noticed(self):
        process = self.start("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
            db.execute("INSERT INTO t(v) VALUES('ours 1')")
            sync(db)
            say(ready=True)
            sys.stdin.readline()
            db.execute("INSERT INTO t(v) VALUES('ours 2')")
            sync(db)
            db.close()
            say(done=True)
        """)
        process.stdout.readline()
        connection = sqlite3.connect(self.db, isolation_level=None, timeout=10)
        for _ in range(5):
            connection.execute("INSERT INTO t(v) VALUES('foreign 1')")
        connection.close()
        process.stdin.write("\n")
        process.stdin.flush()
        self.assertEqual(process.wait(30), 0)
        self.assertEqual(self.words(self.restored()), ["foreign", "ours"])
        self.oracle()


class InteropS3(S3Case):
    """The same chain on an S3 server."""

    def test_the_daemon_goes_on_from_our_chain_in_a_bucket(self):
        self.host(WRITE, WORD="ours", COUNT=10)
        connection = sqlite3.connect(self.db, isolation_level=None)
        connection.execute("INSERT INTO t(v) VALUES('daemon 1')")
        connection.close()
        replicate_once(self.db, self.replica.url)
        copy = self.restored()
        self.assertEqual(dump(copy), dump(self.db))

    def test_we_go_on_after_the_daemon_when_our_files_are_gone(self):
        self.host(WRITE, WORD="ours", COUNT=10)
        connection = sqlite3.connect(self.db, isolation_level=None)
        connection.execute("INSERT INTO t(v) VALUES('daemon 1')")
        connection.close()
        replicate_once(self.db, self.replica.url)
        shutil.rmtree(self.dir / ".app.db-litestream")
        self.host(WRITE, WORD="again", COUNT=10)
        self.assertEqual(self.rows(self.restored(), "SELECT count(*) FROM t"), [(21,)])
        self.oracle()

    def test_we_go_on_after_the_daemon_with_our_own_files(self):
        self.host(WRITE, WORD="ours", COUNT=10)
        connection = sqlite3.connect(self.db, isolation_level=None)
        connection.execute("INSERT INTO t(v) VALUES('daemon 1')")
        connection.close()
        replicate_once(self.db, self.replica.url)
        said = self.host(WRITE, WORD="again", COUNT=10)
        self.assertIsNone(said["status"]["conflict"])
        self.assertEqual(self.rows(self.restored(), "SELECT count(*) FROM t"), [(21,)])
        self.oracle()

    def test_r_71_one_put_for_a_small_file(self):
        said = self.host(WRITE, WORD="ours", COUNT=10)
        requests = said["status"]["requests"]
        files = len(self.replica.names()) + len(self.replica.names(9))
        self.assertLessEqual(requests["put"], files + 1, requests)


if __name__ == "__main__":
    unittest.main()
