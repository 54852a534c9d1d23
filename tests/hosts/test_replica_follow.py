"""Replicas that follow: transactions, freshness, page cache, many connections, forks."""

import unittest

from base import HostCase, S3Case
from lab import child

BASE = child.Part("""
    db = connect(PATH, **PARAMS, sync_interval="20ms")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    db.executemany("INSERT INTO t(v) VALUES(?)", [(n,) for n in range(2000)])
    count = lambda r: scalar(r, "SELECT count(*) FROM t")
    def add(word="more"):
        db.execute("INSERT INTO t(v) VALUES(?)", (word,))
        return sync(db)
    sync(db)
""")


class Following(HostCase):
    """One process writes and reads."""

    def test_a_commit_arrives_by_polling(self):
        said = self.host(BASE + """
            r = replica(**PARAMS, poll_interval="20ms")
            first, goal = count(r), add()
            end = time.monotonic() + 20
            while count(r) == first and time.monotonic() < end:
                time.sleep(0.01)
            say(first=first, then=count(r), txid=scalar(r, "SELECT litestream_txid()") == goal)
        """)
        self.assertEqual(said, {"first": 2000, "then": 2001, "txid": True})

    def test_refresh_and_wait_read_ones_own_writes(self):
        said = self.host(BASE + """
            r = replica(**PARAMS, poll_interval="1h")
            first, goal = count(r), add()
            unmoved = count(r)
            refreshed = scalar(r, "SELECT litestream_refresh()")
            second = count(r)
            waited = scalar(r, "SELECT litestream_wait(?, 20000)", add())
            late = host_error(r.execute, "SELECT litestream_wait('00000000ffffffff', 50)")
            say(counts=[first, unmoved, second, count(r)], same=refreshed == goal, late=late,
                wrong=host_error(r.execute, "SELECT litestream_wait('soon', 50)"),
                null=host_error(r.execute, "SELECT litestream_wait(NULL)"))
        """)
        self.assertEqual(said["counts"], [2000, 2000, 2001, 2002])
        self.assertTrue(said["same"])
        self.assertIn("00000000ffffffff", said["late"])
        self.assertIn("litestream_wait", said["wrong"])
        self.assertIn("NULL", said["null"])

    def test_a_transaction_sees_one_state(self):
        said = self.host(BASE + """
            r, other = replica(**PARAMS, poll_interval="20ms"), replica(**PARAMS, poll_interval="20ms")
            r.execute("BEGIN")
            first, txid = count(r), scalar(r, "SELECT litestream_txid()")
            for n in range(20):
                goal = add()
                db.execute("UPDATE t SET v = v || 'x'")
            goal = sync(db)
            scalar(other, "SELECT litestream_wait(?, 20000)", goal)
            say(other=count(other), held=[count(r), scalar(r, "SELECT sum(v) FROM t")],
                txid=txid == scalar(r, "SELECT litestream_txid()"),
                travel=host_error(r.execute, "SELECT litestream_set_time('latest')"))
            r.execute("COMMIT")
            say(after=count(r), now=scalar(r, "SELECT litestream_txid()") == goal, first=first)
        """)
        self.assertEqual((said["first"], said["other"], said["after"]), (2000, 2020, 2020))
        self.assertEqual(said["held"], [2000, 1999000])
        self.assertTrue(said["txid"] and said["now"])
        self.assertIn("in a transaction", said["travel"])

    def test_sqlites_page_cache_outlives_a_transaction_until_the_view_moves(self):
        said = self.host(BASE + """
            import ctypes, ctypes.util
            r = replica(**PARAMS, poll_interval="1h")
            # SQLITE_DBSTATUS_CACHE_MISS, through the connection inside Python's object.
            sqlite = ctypes.CDLL(ctypes.util.find_library("sqlite3"))
            handle = ctypes.c_void_p.from_address(id(r) + object.__basicsize__)
            def misses():
                now, high = ctypes.c_int(), ctypes.c_int()
                sqlite.sqlite3_db_status(handle, 8, ctypes.byref(now), ctypes.byref(high), 1)
                return now.value
            count(r)
            misses()
            count(r)
            kept = misses()
            add()
            scalar(r, "SELECT litestream_refresh()")
            count(r)
            say(kept=kept, moved=misses())
        """)
        self.assertEqual(said["kept"], 0)
        self.assertGreater(said["moved"], 0)

    def test_immutable_and_nolock_stay_where_they_were_opened(self):
        said = self.host(BASE + """
            fixed = [replica(**PARAMS, poll_interval="20ms", **{key: 1}) for key in ("immutable", "nolock")]
            goal = add()
            moving = replica(**PARAMS, poll_interval="20ms")
            scalar(moving, "SELECT litestream_wait(?, 20000)", goal)
            say(fixed=[count(r) for r in fixed], moving=count(moving),
                travel=host_error(fixed[0].execute, "SELECT litestream_set_time('latest')"))
        """)
        self.assertEqual((said["fixed"], said["moving"]), ([2000, 2000], 2001))
        self.assertIn("stays where it is", said["travel"])

    def test_a_thousand_connections(self):
        said = self.host(BASE + """
            readers = [replica(**PARAMS, poll_interval="50ms") for _ in range(1000)]
            first = {count(r) for r in readers}
            goal = add()
            scalar(readers[0], "SELECT litestream_wait(?, 20000)", goal)
            then = {count(r) for r in readers}
            threads = len(os.listdir("/proc/self/task"))
            requests = status(readers[0])["requests"]
            for r in readers:
                r.close()
            say(first=list(first), then=list(then), threads=threads, requests=requests)
        """)
        self.assertEqual((said["first"], said["then"]), ([2000], [2001]))
        self.assertLess(said["threads"], 64)
        self.assertLess(said["requests"]["list"], 100, said["requests"])

    def test_nothing_is_left_of_closed_replicas(self):
        self.host(BASE + "db.close()")
        said = self.host("""
            def held():
                return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
            load()
            before = held()
            for _ in range(30):
                readers = [replica(**PARAMS, poll_interval="5ms"),
                           replica(**PARAMS, txid="0000000000000001"),
                           replica(**PARAMS, hydration_enabled="true")]
                for r in readers:
                    scalar(r, "SELECT count(*) FROM sqlite_master")
                for r in readers:
                    r.close()
            end = time.monotonic() + 20
            while held() != before and time.monotonic() < end:
                time.sleep(0.05)
            say(before=before, after=held())
        """)
        self.assertEqual(said["after"], said["before"])

    def test_many_threads_beside_a_writer(self):
        said = self.host(BASE + """
            db.execute("CREATE TABLE total(n)")
            db.execute("INSERT INTO total SELECT count(*) FROM t")
            sync(db)
            wrong, looks, stop = [], [0] * 8, threading.Event()
            def reader(n):
                r = replica(**PARAMS, poll_interval="10ms", cache_size="64KiB")
                last = 0
                while not stop.is_set():
                    rows, total = r.execute(
                        "SELECT (SELECT count(*) FROM t), (SELECT n FROM total)").fetchone()
                    if rows != total or rows < last:
                        wrong.append((rows, total, last))
                    last, looks[n] = rows, looks[n] + 1
                r.close()
            threads = [threading.Thread(target=reader, args=(n,)) for n in range(8)]
            for thread in threads:
                thread.start()
            for round in range(150):
                db.execute("BEGIN")
                db.execute("INSERT INTO t(v) VALUES(?)", ("x" * (round % 50 * 40),))
                db.execute("UPDATE total SET n = n + 1")
                db.execute("COMMIT")
                time.sleep(0.01)
            goal = sync(db)
            stop.set()
            for thread in threads:
                thread.join()
            r = replica(**PARAMS)
            say(wrong=wrong, looked=min(looks), rows=count(r))
        """)
        self.assertEqual(said["wrong"], [])
        self.assertGreater(said["looked"], 0)
        self.assertEqual(said["rows"], 2150)

    def test_a_shared_cache(self):
        said = self.host(BASE + """
            readers = [replica(**PARAMS, poll_interval="10ms", cache="shared") for _ in range(4)]
            add()
            scalar(readers[0], "SELECT litestream_refresh()")
            say(counts=[count(r) for r in readers])
        """)
        self.assertEqual(said["counts"], [2001] * 4)

    def test_a_forked_child_needs_a_connection_of_its_own(self):
        said = self.host(BASE + """
            r = replica(**PARAMS, poll_interval="20ms")
            first = count(r)
            r.execute("PRAGMA cache_size=0")
            here, there = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    inherited = host_error(r.execute, "SELECT sum(v) FROM t")
                    why = scalar(r, "SELECT litestream_last_error()")
                    own = replica(**PARAMS)
                    lines = dict(inherited=inherited, why=why, own=count(own))
                    own.close()
                    r.close()
                    os.write(there, json.dumps(lines).encode())
                finally:
                    os._exit(0)
            os.close(there)
            lines = json.loads(os.read(here, 65536))
            os.waitpid(child, 0)
            goal = add()
            scalar(r, "SELECT litestream_wait(?, 20000)", goal)
            say(first=first, parent=count(r), **lines)
        """)
        self.assertEqual((said["first"], said["own"], said["parent"]), (2000, 2000, 2001))
        self.assertIn("forked", said["why"])

    def test_a_gap_shows_the_last_whole_state_and_says_so(self):
        self.host(BASE + """
            for n in range(6):
                add()
            db.close()
        """)
        names = self.replica.names()
        victim = names[-3]
        self.replica.file(*victim).unlink()
        said = self.host("""
            r = replica(**PARAMS)
            say(count=scalar(r, "SELECT count(*) FROM t"), txid=scalar(r, "SELECT litestream_txid()"),
                status=status(r))
        """)
        self.assertEqual(int(said["txid"], 16), victim[0] - 1)
        self.assertEqual(said["count"], 2003)
        self.assertIsNotNone(said["status"]["gap"])


class Faults(S3Case):
    """Storage that goes away and comes back."""

    def test_storage_that_goes_away_and_comes_back(self):
        reader = self.start(BASE + """
            r = replica(**PARAMS, poll_interval="50ms", max_staleness="2s", timeout=0.1)
            r.execute("PRAGMA cache_size=0")
            say(first=count(r))
            for line in sys.stdin:
                if line.strip() == "end":
                    break
                try:
                    say(count=count(r), error=None)
                except sqlite3.Error as error:
                    say(error=str(error), last=scalar(r, "SELECT litestream_last_error()"))
            scalar(r, "SELECT litestream_wait(?, 20000)", add())
            say(last=count(r), error=scalar(r, "SELECT litestream_last_error()"))
        """)
        self.assertEqual(child.hear(reader), {"first": 2000})
        self.server.stop()
        said = {"error": None}
        while said["error"] is None:
            said = self.ask(reader, "look")
        self.assertIn(self.replica.prefix, said["last"])
        self.server.start()
        while said["error"] is not None:
            said = self.ask(reader, "look")
        self.assertEqual(said["count"], 2000)
        last = self.ask(reader, "end")
        self.assertEqual((last["last"], last["error"]), (2001, None))

    def test_closing_does_not_wait_for_storage(self):
        reader = self.start(BASE + """
            db.close()
            readers = [replica(**PARAMS, poll_interval="5ms"),
                       replica(**PARAMS, poll_interval="5ms", hydration_enabled="true")]
            say(first=[count(r) for r in readers])
            sys.stdin.readline()
            time.sleep(0.1)
            for r in readers:
                r.close()
            say(closed=True, threads=len(os.listdir("/proc/self/task")))
        """)
        self.assertEqual(child.hear(reader), {"first": [2000, 2000]})
        self.server.hang()
        try:
            said = self.ask(reader, "close")
        finally:
            self.server.resume()
        self.assertEqual(said, {"closed": True, "threads": 1})

    def test_a_read_that_storage_does_not_answer_ends_with_an_error(self):
        reader = self.start(BASE + """
            db.execute("CREATE TABLE big(v)")
            db.executemany("INSERT INTO big VALUES(?)", [(os.urandom(900),) for _ in range(5000)])
            sync(db)
            db.close()
            r = replica(**PARAMS, poll_interval="1h", cache_size="64KiB", timeout=0.1)
            r.execute("PRAGMA cache_size=0")
            say(tables=scalar(r, "SELECT count(*) FROM sqlite_master"))
            sys.stdin.readline()
            error = host_error(lambda: scalar(r, "SELECT sum(length(v)) FROM big"))
            say(error=error, last=scalar(r, "SELECT litestream_last_error()"))
            sys.stdin.readline()
            say(sum=scalar(r, "SELECT sum(length(v)) FROM big"))
        """)
        self.assertEqual(child.hear(reader), {"tables": 2})
        self.server.stop()
        try:
            said = self.ask(reader, "read")
        finally:
            self.server.start()
        self.assertIn(self.replica.prefix, said["last"])
        self.assertEqual(self.ask(reader, "read"), {"sum": 4500000})

    @staticmethod
    def ask(process, word):
        process.stdin.write(word + "\n")
        process.stdin.flush()
        return child.hear(process)


if __name__ == "__main__":
    unittest.main()
