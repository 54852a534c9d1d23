"""How a database gets its replica, or is told why it cannot have one."""

import json
import os
import sqlite3
import subprocess
import sys
import textwrap

import host


class Options(host.Case):
    def test_a_misspelt_parameter_is_named(self):
        why = self.refused(host.uri(self.path("a.db"), self.path("r"), sync_intervall="1s"))
        self.assertIn("sync_intervall", why)
        self.assertIn("sync_interval", why.replace("sync_intervall", ""))
        self.assertFalse(os.path.exists(self.path("a.db")))

    def test_an_option_without_a_replica_is_refused(self):
        self.assertIn("replica_url", self.refused(host.uri(self.path("a.db"), sync_interval="1s")))

    def test_the_reason_goes_away_with_the_next_open(self):
        self.refused(host.uri(self.path("a.db"), sync_interval="1s"))
        self.assertIsNotNone(self.last_error())
        self.connect(host.uri(self.path("a.db"))).execute("CREATE TABLE t(a)")
        self.assertIsNone(self.last_error())

    def test_nolock_and_immutable_do_not_replicate(self):
        sqlite3.connect(self.path("a.db")).execute("CREATE TABLE t(a)")
        for key in ("nolock", "immutable"):
            why = self.refused(host.uri(self.path("a.db"), self.path("r"), **{key: "1"}))
            self.assertIn(key, why)

    def test_parameters_of_others_pass(self):
        db = self.connect(host.uri(self.path("a.db"), self.path("r"), _pragma="x", psow="1",
                                   cache="private", mode="rwc"))
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t(a)")

    def test_configure_checks_at_once(self):
        for key, value, word in (("replica_ulr", "file:///x", "replica_ulr"),
                                 ("sync_interval", "soon", "soon"),
                                 ("page_format", "zip", "zip")):
            with self.assertRaisesRegex(sqlite3.OperationalError, word):
                self.loader.execute("SELECT litestream_configure(?,?,?)",
                                    (self.path("a.db"), key, value))
        with self.assertRaisesRegex(sqlite3.OperationalError, "NULL"):
            self.loader.execute("SELECT litestream_configure(NULL,'replica_url','x')")

    def test_configure_finds_the_file_by_any_name(self):
        os.mkdir(self.path("d"))
        os.symlink(self.path("d"), self.path("link"))
        self.loader.execute("SELECT litestream_configure(?,'replica_url',?)",
                            (self.path("link/a.db"), "file://" + self.path("r")))
        db = self.connect(host.uri(self.path("d/a.db")))
        self.assertEqual(json.loads(db.execute("SELECT litestream_status()").fetchone()[0])["role"],
                         "primary")


class Functions(host.Case):
    def test_attached_databases_are_named_by_their_schema(self):
        db = self.connect(host.uri(self.path("a.db"), self.path("ra"), sync_interval="10ms"))
        db.execute("ATTACH ? AS aux", (host.uri(self.path("b.db"), self.path("rb")),))
        db.execute("ATTACH ? AS plain", (host.uri(self.path("c.db")),))
        for schema, name in (("main", "a.db"), ("aux", "b.db")):
            db.execute("PRAGMA %s.journal_mode=WAL" % schema)
            db.execute("CREATE TABLE %s.t(a)" % schema)
            text = db.execute("SELECT litestream_status(?)", (schema,)).fetchone()[0]
            self.assertTrue(json.loads(text)["database"].endswith(name))
            pragma = db.execute("PRAGMA %s.litestream_status" % schema).fetchone()[0]
            self.assertTrue(json.loads(pragma)["database"].endswith(name))
            txid = db.execute("SELECT litestream_sync(10000, ?)", (schema,)).fetchone()[0]
            self.assertRegex(txid, "^[0-9a-f]{16}$")
        for schema in ("plain", "temp", "nonsense"):
            self.assertEqual(
                db.execute("SELECT litestream_txid(?)", (schema,)).fetchone(), (None,), schema)
        with self.assertRaisesRegex(sqlite3.OperationalError, "not replicated"):
            db.execute("SELECT litestream_sync(1, 'plain')")

    def test_pragmas(self):
        db = self.connect(host.uri(self.path("a.db"), self.path("r")))
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t(a)")
        txid = db.execute("PRAGMA litestream_sync=10000").fetchone()[0]
        self.assertEqual(db.execute("PRAGMA litestream_txid").fetchone()[0], txid)
        self.assertEqual(db.execute("PRAGMA LITESTREAM_TXID").fetchone()[0], txid)
        self.assertGreaterEqual(float(db.execute("PRAGMA litestream_lag").fetchone()[0]), 0)
        self.assertRegex(db.execute("PRAGMA litestream_version").fetchone()[0], r"^\d")
        with self.assertRaisesRegex(sqlite3.OperationalError, "milliseconds"):
            db.execute("PRAGMA litestream_sync=soon")
        with self.assertRaisesRegex(sqlite3.OperationalError, "read-only"):
            db.execute("PRAGMA litestream_txid=1")
        self.assertIsNone(db.execute("PRAGMA litestream_nonsense").fetchone())


class DefaultVfs(host.Case):
    """Each test in a process of its own: the mode is the process's."""

    def run_host(self, script, **environment):
        # Debian's SQLite parses every name as a URI unless told not to (option 17).
        preamble = "import ctypes\n" \
                   "ctypes.CDLL('libsqlite3.so.0').sqlite3_config(17, ctypes.c_int(0))\n" \
                   "import os, sqlite3, sys\nsys.path.insert(0, %r)\nimport host\nhost.SO = %r\n" \
                   "D = %r\nl = host.load()\n" \
                   "def error(name):\n" \
                   "    try:\n" \
                   "        sqlite3.connect(name).execute('SELECT * FROM sqlite_master')\n" \
                   "    except sqlite3.OperationalError:\n" \
                   "        return l.execute('SELECT litestream_last_error()').fetchone()[0]\n" \
                   "def role(db):\n" \
                   "    s = db.execute('SELECT litestream_status()').fetchone()[0]\n" \
                   "    return 'primary' if 'primary' in s else 'none'\n" \
                   % (os.path.dirname(host.__file__), host.SO, self.dir)
        env = {k: v for k, v in os.environ.items() if not k.startswith("LITESTREAM_")}
        env.update(environment, PYTHONDONTWRITEBYTECODE="1")
        done = subprocess.run(
            [sys.executable, "-c", preamble + textwrap.dedent(script)], env=env, text=True,
            timeout=120, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout.split()

    def test_configured_databases_replicate_and_others_stay_with_the_host(self):
        out = self.run_host("""
            l.execute("SELECT litestream_configure(?,'replica_url',?)",
                      (D + "/a.db", "file://" + D + "/r"))
            l.execute("SELECT litestream_default_vfs(1)")
            a, b = sqlite3.connect(D + "/a.db"), sqlite3.connect(D + "/b.db")
            for db in (a, b):
                db.execute("CREATE TABLE t(a)")
                print(role(db))
            l.execute("SELECT litestream_default_vfs(0)")
            c = sqlite3.connect(D + "/a.db")
            c.execute("SELECT * FROM t")
            print(role(c))
        """)
        self.assertEqual(out, ["primary", "none", "none"])

    def test_the_environment_names_one_database(self):
        out = self.run_host("""
            for name in ("a.db", "b.db"):
                db = sqlite3.connect(D + "/" + name)
                db.execute("CREATE TABLE t(a)")
                print(role(db))
                db.close()
        """, LITESTREAM_DEFAULT_VFS="1", LITESTREAM_REPLICA_URL="file://" + self.path("r"),
            LITESTREAM_DATABASE=self.path("b.db"))
        self.assertEqual(out, ["none", "primary"])

    def test_raw_names_are_parsed_and_make_no_file(self):
        out = self.run_host("""
            l.execute("SELECT litestream_default_vfs(1)")
            db = sqlite3.connect("file:" + D + "/a%20b.db?replica_url=file://" + D + "/r",
                                 isolation_level=None)
            db.execute("CREATE TABLE t(a)")
            db.execute("INSERT INTO t VALUES (1)")
            print(role(db), os.path.exists(D + "/a b.db"))
            ro = sqlite3.connect("file:" + D + "/a%20b.db?mode=ro", isolation_level=None)
            print(ro.execute("SELECT count(*) FROM t").fetchone()[0])
            try:
                ro.execute("INSERT INTO t VALUES (2)")
            except sqlite3.OperationalError as e:
                print("readonly" in str(e))
            print("memory" in error("file:" + D + "/x.db?mode=memory"))
            print("immutable" in error("file:" + D + "/x.db?immutable=1"))
            print("authority" in error("file://elsewhere/x.db"))
            print("nonsense" in error("file:" + D + "/x.db?nonsense=1"))
            os.chdir(D)
            sqlite3.connect("file:rel.db").execute("CREATE TABLE t(a)")
            db.execute("ATTACH 'file:" + D + "/att.db?_x=1' AS att")
            db.execute("CREATE TABLE att.t(a)")
            db.close()
            print(",".join(sorted(n for n in os.listdir(D) if "db" in n and n[0] != ".")))
        """)
        self.assertEqual(out[:2], ["primary", "True"])
        self.assertEqual(out[2], "1")
        self.assertEqual(out[3:8], ["True"] * 5)
        self.assertEqual(" ".join(out[8:]), "a b.db,att.db,rel.db")

    def test_placeholders_give_each_database_its_own_url(self):
        out = self.run_host("""
            for name in ("a.db", "b.db"):
                db = sqlite3.connect(D + "/" + name, isolation_level=None)
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("CREATE TABLE t(a)")
                db.execute("SELECT litestream_sync(10000)")
                db.close()
            print(",".join(sorted(os.listdir(D + "/replicas"))))
        """, LITESTREAM_DEFAULT_VFS="1",
            LITESTREAM_REPLICA_URL="file://" + self.path("replicas") + "/{name}")
        self.assertEqual(out, ["a.db,b.db"])


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    host.main()
