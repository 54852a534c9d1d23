"""Time travel, and the functions and pragmas of replicas."""

import json
import unittest

from base import HostCase
from lab import child

# Three states with a pause between them; `moments` are times between the states.
STATES = child.Part("""
    import datetime
    db = connect(PATH, **PARAMS)
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v INTEGER)")
    now = lambda: datetime.datetime.now(datetime.timezone.utc)
    txids, moments = [], []
    for value in (100, 200, 300):
        db.execute("DELETE FROM t WHERE id = 1")
        db.execute("INSERT INTO t VALUES(1, ?)", (value,))
        db.execute("INSERT INTO t(v) VALUES(?)", (value,))
        txids.append(sync(db))
        time.sleep(0.05)
        moments.append(now().isoformat().replace("+00:00", "Z"))
        time.sleep(0.05)
    value = lambda r, schema="main": scalar(r, f"SELECT v FROM {schema}.t WHERE id = 1")
""")


class TimeTravel(HostCase):
    """Earlier states beside the present one."""

    def test_back_and_forth(self):
        said = self.host(STATES + """
            r = replica(**PARAMS)
            steps = [value(r)]
            for moment in (moments[0], moments[1], "LATEST", moments[2]):
                answer = scalar(r, "SELECT litestream_set_time(?)", moment)
                steps.append((value(r), scalar(r, "SELECT litestream_time()") == moment, answer))
            r.execute("SELECT litestream_set_time('latest')").fetchall()
            shown = scalar(r, "SELECT litestream_time()")
            datetime.datetime.fromisoformat(shown)
            say(steps=steps, shown=shown)
        """)
        self.assertEqual(said["steps"], [
            300, [100, True, None], [200, True, None], [300, False, None], [300, True, None]])

    def test_offsets_and_words(self):
        said = self.host(STATES + """
            r = replica(**PARAMS)
            zone = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
            there = datetime.datetime.fromisoformat(moments[0]).astimezone(zone).isoformat()
            r.execute("SELECT litestream_set_time(?)", (there,)).fetchall()
            say(there=value(r), same=scalar(r, "SELECT litestream_time()") == there)
            r.execute("SELECT litestream_set_time('now')").fetchall()
            say(now=value(r))
            early = host_error(r.execute, "SELECT litestream_set_time('5 minutes ago')")
            say(early=early, still=value(r),
                wrong=host_error(r.execute, "SELECT litestream_set_time('soon')"),
                null=host_error(r.execute, "SELECT litestream_set_time(NULL)"),
                local=host_error(db.execute, "SELECT litestream_set_time('now')"))
        """)
        self.assertEqual((said["there"], said["same"]), (100, True))
        self.assertEqual((said["now"], said["still"]), (300, 300))
        self.assertIn("not available", said["early"])
        self.assertIn("expected RFC3339 or relative time like '5 minutes ago'", said["wrong"])
        self.assertEqual(said["null"], "timestamp required")
        self.assertIn("not a replica", said["local"])

    def test_set_time_is_for_statements_only(self):
        said = self.host(STATES + """
            db.execute("CREATE VIEW sly AS SELECT litestream_set_time('now')")
            sync(db)
            r = replica(**PARAMS)
            say(view=host_error(r.execute, "SELECT * FROM sly"))
        """)
        self.assertIn("unsafe use", said["view"])

    def test_a_moment_of_the_uri_stays(self):
        said = self.host(STATES + """
            past = replica(**PARAMS, time=moments[0], poll_interval="10ms")
            exact = replica(**PARAMS, txid=txids[1], poll_interval="10ms")
            first = [value(past), value(exact)]
            db.execute("UPDATE t SET v = 0")
            sync(db)
            time.sleep(0.1)
            say(first=first, then=[value(past), value(exact)],
                txids=[scalar(r, "SELECT litestream_txid()") for r in (past, exact)] == txids[:2],
                time=scalar(past, "SELECT litestream_time()") == moments[0],
                lag=scalar(past, "SELECT litestream_lag()"))
            past.execute("SELECT litestream_set_time('latest')").fetchall()
            say(latest=value(past))
        """)
        self.assertEqual((said["first"], said["then"], said["latest"]), ([100, 200], [100, 200], 0))
        self.assertTrue(said["txids"] and said["time"], said)

    def test_two_moments_and_the_present_in_one_statement(self):
        said = self.host(STATES + """
            for name, txid in (("past", txids[0]), ("middle", txids[1])):
                db.execute("ATTACH ? AS " + name, (replica_uri(PARAMS["replica_url"], txid=txid),))
            rows = db.execute('''
                SELECT 'new', id, v FROM (SELECT * FROM main.t EXCEPT SELECT * FROM past.t)
                UNION ALL
                SELECT 'old', id, v FROM (SELECT * FROM past.t EXCEPT SELECT * FROM main.t)
                ORDER BY 1, 2''').fetchall()
            say(rows=rows, middle=value(db, "middle"),
                txids=[scalar(db, "SELECT litestream_txid(?)", s) for s in ("past", "middle", "main")]
                    == txids, pragma=scalar(db, "PRAGMA past.litestream_txid") == txids[0],
                roles=[json.loads(scalar(db, "SELECT litestream_status(?)", s))["role"]
                       for s in ("main", "past", "temp")])
            db.execute("INSERT INTO main.t SELECT NULL, v FROM past.t")
            say(written=scalar(db, "SELECT count(*) FROM t"))
        """)
        self.assertEqual(said["rows"], [["new", 1, 300], ["new", 3, 200], ["new", 4, 300],
                                        ["old", 1, 100]])
        self.assertEqual((said["middle"], said["written"]), (200, 6))
        self.assertTrue(said["txids"] and said["pragma"])
        self.assertEqual(said["roles"], ["primary", "replica", "none"])

    def test_history_lists_the_files(self):
        said = self.host(STATES + """
            db.close()
            r = replica(**PARAMS)
            say(rows=r.execute("SELECT * FROM litestream_history").fetchall(),
                named=r.execute("SELECT count(*) FROM litestream_history('main')").fetchone(),
                columns=[c[0] for c in r.execute("SELECT * FROM litestream_history").description],
                wrong=host_error(r.execute, "SELECT * FROM litestream_history('temp')"))
            memory = load()
            memory.execute("ATTACH ? AS past", (replica_uri(**PARAMS),))
            say(attached=scalar(memory, "SELECT count(*) FROM litestream_history WHERE schema = 'past'"),
                joined=memory.execute("SELECT d.name, max(h.max_txid) FROM pragma_database_list d, "
                    "litestream_history(d.name) h WHERE d.name = 'past'").fetchall())
        """)
        self.assertEqual(said["columns"],
                         ["level", "min_txid", "max_txid", "time", "size", "pages"])
        names = [(level, low, high) for level in range(10)
                 for low, high in self.replica.names(level)]
        rows = [(r[0], int(r[1], 16), int(r[2], 16)) for r in said["rows"]]
        self.assertEqual(sorted(rows), names)
        for level, low, high, _, size, _ in said["rows"]:
            path = self.replica.file(int(low, 16), int(high, 16), level)
            self.assertEqual(size, path.stat().st_size)
        self.assertIn("not a replica", said["wrong"])
        self.assertEqual((said["named"], said["attached"]), ([len(names)], len(names)))
        self.assertEqual(said["joined"], [["past", f"{self.replica.last():016x}"]])


class Surface(HostCase):
    """Functions and pragmas."""

    def test_functions_and_pragmas_agree(self):
        said = self.host(STATES + """
            r = replica(**PARAMS)
            names = ("txid", "lag", "time")
            pragma = lambda text: r.execute("PRAGMA " + text).fetchall()
            say(functions=[str(scalar(r, f"SELECT litestream_{n}()")) for n in names],
                pragmas=[pragma("litestream_" + n)[0][0] for n in names],
                upper=pragma("LITESTREAM_TXID"), schema=pragma("main.litestream_txid"),
                readonly=[host_error(pragma, f"litestream_{n} = 1") for n in ("txid", "lag")],
                hydration=[pragma("litestream_hydration_progress"), pragma("litestream_hydration_file")],
                enabled=[pragma("litestream_write_enabled")] +
                    [pragma(f"litestream_write_enabled = {v}") for v in ("0", "off", "false")],
                refused=[host_error(pragma, f"litestream_write_enabled = {v}") for v in ("1", "maybe")],
                travelled=pragma(f"litestream_time = '{moments[0]}'"), there=value(r),
                wrong=host_error(pragma, "litestream_time = 'soon'"),
                back=len(pragma("litestream_time = latest")), latest=value(r),
                sync=host_error(r.execute, "SELECT litestream_sync(10)"),
                moments=moments)
        """)
        self.assertRegex(said["functions"][0], "^[0-9a-f]{16}$")
        self.assertGreaterEqual(int(said["functions"][1]), 0)
        self.assertEqual(said["functions"], said["pragmas"])
        self.assertEqual(said["upper"], [[said["functions"][0]]])
        self.assertEqual(said["schema"], said["upper"])
        self.assertTrue(all("read-only" in text for text in said["readonly"]))
        self.assertEqual(said["hydration"], [[["0"]], [[""]]])
        self.assertEqual(said["enabled"], [[["0"]]] * 4)
        self.assertIn("cannot be written yet", said["refused"][0])
        self.assertEqual(said["refused"][1],
                         "invalid value for litestream_write_enabled: maybe (use 0 or 1)")
        self.assertEqual(said["travelled"], [[said["moments"][0]]])
        self.assertEqual((said["there"], said["latest"], said["back"]), (100, 300, 1))
        self.assertIn("invalid timestamp", said["wrong"])
        self.assertIn("nobody writes", said["sync"])

    def test_status_of_a_replica(self):
        said = self.host(STATES + """
            say(status=status(replica(**PARAMS, txid=txids[0])), txids=txids)
        """)
        status = said["status"]
        self.assertEqual((status["role"], status["url"]), ("replica", self.replica.url))
        self.assertEqual(status["view"]["txid"], said["txids"][0])
        self.assertEqual(status["target"], said["txids"][0])
        self.assertEqual(status["view"]["page_size"], 4096)
        self.assertGreater(status["requests"]["get"], 0, json.dumps(status))

    def test_writing_is_refused(self):
        said = self.host(STATES + """
            say(txid=txids[-1])
            r = replica(**PARAMS, mode="rwc")
            errors = [host_error(r.execute, sql) for sql in (
                "INSERT INTO t(v) VALUES(1)", "CREATE TABLE x(y)", "DELETE FROM t", "VACUUM",
                "PRAGMA user_version=7", "DROP TABLE t")]
            say(errors=errors, mode=scalar(r, "PRAGMA journal_mode=WAL"), value=value(r),
                check=scalar(r, "PRAGMA integrity_check"))
        """)
        self.assertEqual(set(said["errors"]), {"attempt to write a readonly database"})
        self.assertEqual((said["mode"], said["value"], said["check"]), ("delete", 300, "ok"))


if __name__ == "__main__":
    unittest.main()
