"""What an open accepts, refuses, and says."""

import os
import sqlite3
import unittest

from base import HostCase

REFUSED = """
    error = host_error(connect, PATH, **PARAMS)
    say(error=error, last=last_error(), exists=os.path.exists(PATH))
"""


class Refused(HostCase):
    """A wrong option fails the open and litestream_last_error() says why."""

    def refused(self, *words, **params):
        known = {**self.replica.uri_parameters(), **params}
        said = self.host(REFUSED, PARAMS=known)
        for word in words:
            self.assertIn(word, said["last"])
        self.assertFalse(said["exists"], "the database file was created")
        self.assertFalse(self.replica.directory.exists())

    def test_r_81_an_unknown_option(self):
        self.refused("sync_intervall", sync_intervall="1s")

    def test_r_80_an_unknown_option_of_encryption(self):
        self.refused("encryption_key", encryption_key="x")

    def test_r_84_a_value_that_does_not_fit(self):
        self.refused("sync_interval", "soon", sync_interval="soon")
        self.refused("page_format", "zip", page_format="zip")
        self.refused("spool_bytes_max", spool_bytes_max="lots")

    def test_an_unknown_scheme(self):
        self.refused("ftp", replica_url="ftp://host/app")

    def test_no_bucket(self):
        self.refused("bucket", replica_url="s3://")

    def test_an_unencoded_question_mark_is_explained(self):
        script = """
            load()
            raw = f"file:{PATH}?vfs=litestream&replica_url=s3://bkt/app?region=x&nonsense=1"
            error = host_error(sqlite3.connect, raw, uri=True)
            say(last=last_error(), exists=os.path.exists(PATH))
        """
        said = self.host(script)
        self.assertIn("%3F", said["last"])
        self.assertFalse(said["exists"])

    def test_options_percent_encoded_inside_the_url(self):
        said = self.host("""
            params = dict(PARAMS, replica_url=PARAMS["replica_url"] + "%3Fnonsense=1")
            load()
            raw = f"file:{PATH}?vfs=litestream&replica_url={params['replica_url']}"
            host_error(sqlite3.connect, raw, uri=True)
            say(last=last_error())
        """)
        self.assertIn("nonsense", said["last"])

    def test_two_databases_with_one_url(self):
        said = self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(x)")
            host_error(connect, OTHER, **PARAMS)
            last = last_error()
            db.execute("INSERT INTO t VALUES(1)")
            db.close()
            say(last=last)
        """, OTHER=self.dir / "other.db")
        self.assertIn("app.db", said["last"])
        self.oracle()

    def test_two_databases_with_one_meta_path(self):
        meta = self.dir / "meta"
        said = self.host("""
            db = connect(PATH, **PARAMS, meta_path=META)
            db.execute("CREATE TABLE t(x)")
            host_error(connect, OTHER, replica_url=f"file://{OTHER}-replica", meta_path=META)
            last = last_error()
            db.execute("INSERT INTO t VALUES(1)")
            db.close()
            say(last=last)
        """, OTHER=self.dir / "other.db", META=meta)
        for words in ("app.db", "meta_path", str(meta)):
            self.assertIn(words, said["last"])
        self.oracle()

    def test_creating_a_database_over_a_chain(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(x)")
            db.close()
        """)
        names = self.replica.names()
        other = self.dir / "other.db"
        said = self.host(REFUSED, PATH=other)
        for word in ("mode=ro", "role=replica", "restore"):
            self.assertIn(word, said["last"])
        self.assertFalse(other.exists())
        self.assertEqual(self.replica.names(), names)

    def test_credentials_are_never_shown(self):
        said = self.host("""
            host_error(connect, PATH, replica_url="s3://bkt/app", endpoint="not a url",
                       secretAccessKey="hunter2", nonsense="1")
            say(last=last_error())
        """)
        self.assertNotIn("hunter2", said["last"])


class Accepted(HostCase):
    """What opens, and what then happens."""

    def test_sqlites_own_parameters_and_private_ones_pass(self):
        self.host("""
            db = connect(PATH, **PARAMS, mode="rwc", cache="private", psow="1", _mine="x")
            db.execute("CREATE TABLE t(x)")
            db.close()
        """)
        self.oracle()

    def test_without_a_replica_it_is_a_pass_through(self):
        self.host("""
            db = connect(PATH)
            db.execute("CREATE TABLE t(x)")
            db.close()
        """)
        self.assertEqual(sorted(os.listdir(self.dir)), ["app.db"])

    def test_memory_and_temporary_databases_are_never_replicated(self):
        self.host("""
            load()
            for name in ("", ":memory:"):
                db = sqlite3.connect(f"file:{name}?vfs=litestream", uri=True)
                db.execute("CREATE TABLE t(x)")
                db.execute("CREATE TEMP TABLE u(x)")
                db.close()
        """, env={"LITESTREAM_REPLICA_URL": f"file://{self.dir}/env/{{name}}"})
        self.assertEqual(os.listdir(self.dir), [])

    def test_the_environment_configures_by_name(self):
        self.host("""
            for name in ("a.db", "b.db"):
                db = connect(os.path.join(DIR, name))
                db.execute("CREATE TABLE t(x)")
                db.close()
        """, DIR=self.dir, env={"LITESTREAM_REPLICA_URL": f"file://{self.dir}/env/{{name}}"})
        self.assertEqual(sorted(os.listdir(self.dir / "env")), ["a.db", "b.db"])

    def test_r_84_uri_wins_over_function_wins_over_environment(self):
        self.host("""
            load().execute("SELECT litestream_configure(?, 'replica_url', ?)",
                           (str(PATH), f"file://{DIR}/function"))
            load().execute("SELECT litestream_configure(?, 'page_format', 'frame')", (str(PATH),))
            db = connect(PATH, replica_url=f"file://{DIR}/uri")
            db.execute("CREATE TABLE t(x)")
            db.close()
        """, DIR=self.dir, env={"LITESTREAM_REPLICA_URL": f"file://{self.dir}/env/{{name}}"})
        self.assertTrue((self.dir / "uri").exists())
        self.assertFalse((self.dir / "env").exists())
        self.assertFalse((self.dir / "function").exists())

    def test_r_84_meta_path_is_where_our_files_go(self):
        meta = self.dir / "elsewhere"
        self.host("""
            db = connect(PATH, **PARAMS, meta_path=META)
            db.execute("CREATE TABLE t(x)")
            db.close()
        """, META=meta)
        self.assertTrue(meta.is_dir())
        self.assertFalse((self.dir / ".app.db-litestream").exists())
        self.oracle()

    def test_the_meta_directory_belongs_to_its_owner_only(self):
        self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(x)")
            sync(db)
            db.close()
        """)
        top = self.dir / ".app.db-litestream" / "vfs"
        found = [top, *top.rglob("*")]
        self.assertGreater(len(found), 1)
        for path in found:
            self.assertEqual(path.stat().st_mode & 0o077, 0, path)

    def test_a_database_in_rollback_mode_is_replicated(self):
        said = self.host("""
            db = connect(PATH, wal=False, **PARAMS)
            db.execute("CREATE TABLE t(x)")
            sync(db)
            before = status(db)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("INSERT INTO t VALUES(1)")
            sync(db)
            say(before=before, after=status(db))
            db.close()
        """)
        self.assertEqual(said["before"]["state"], "ok")
        self.assertEqual(said["after"]["state"], "ok")
        self.assertEqual(said["after"]["gaps"], {})
        self.oracle()

    def test_an_unreachable_replica_does_not_fail_the_open(self):
        said = self.host("""
            db = connect(PATH, replica_url="s3://bkt/app", endpoint="http://127.0.0.1:9",
                         region="us-east-1", forcePathStyle="true", close_timeout="300ms")
            db.execute("CREATE TABLE t(x)")
            for n in range(50):
                db.execute("INSERT INTO t VALUES(1)")
            end = time.monotonic() + 10
            while time.monotonic() < end and "127.0.0.1:9" not in json.dumps(status(db)):
                time.sleep(0.05)
            say(status=status(db), lag=scalar(db, "SELECT litestream_lag()"))
            db.close()
        """)
        self.assertIn("127.0.0.1:9", str(said["status"]))
        self.assertGreater(said["lag"], 0)
        self.assertEqual(self.rows(self.db, "SELECT count(*) FROM t"), [(50,)])

    def test_pragmas_answer_like_the_functions(self):
        said = self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("CREATE TABLE t(x)")
            sync(db)
            say(status=json.loads(scalar(db, "PRAGMA litestream_status")),
                txid=scalar(db, "PRAGMA litestream_txid"),
                same=scalar(db, "SELECT litestream_txid()"))
            db.close()
        """)
        self.assertEqual(said["txid"], said["same"])
        self.assertRegex(said["txid"], "^[0-9a-f]{16}$")
        self.assertIn("snapshots", said["status"])

    def test_a_raw_name_in_default_vfs_mode_makes_no_file_of_that_name(self):
        self.host("""
            load().execute("SELECT litestream_default_vfs(1)")
            db = sqlite3.connect(f"file:{PATH}?replica_url={PARAMS['replica_url']}",
                                 isolation_level=None)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE t(x)")
            db.close()
        """)
        self.assertEqual([n for n in os.listdir(self.dir) if n.startswith("file:")], [])
        self.oracle()

    def test_a_database_that_is_only_turned_to_wal_mode_gets_its_snapshot(self):
        plain = sqlite3.connect(self.db)
        plain.execute("CREATE TABLE t(v)")
        plain.executemany("INSERT INTO t VALUES(randomblob(?))", ((3000,) for _ in range(200)))
        plain.commit()
        plain.close()
        said = self.host("""
            db = connect(PATH, wal=False, **PARAMS, sync_interval="10ms")
            db.execute("PRAGMA journal_mode=WAL").fetchall()
            sync(db, 30000)
            first = status(db)
            for n in range(20):
                db.execute("INSERT INTO t VALUES(randomblob(2000))")
            sync(db, 30000)
            say(first=first, status=status(db))
            db.close()
        """)
        self.assertEqual((said["first"]["state"], said["status"]["gaps"]), ("ok", {}), said)
        self.oracle()

    def test_paths_that_reach_one_file_are_one_database(self):
        link = self.dir / "link"
        link.symlink_to(self.dir, target_is_directory=True)
        self.host("""
            one = connect(PATH, **PARAMS)
            one.execute("CREATE TABLE t(x)")
            two = connect(LINK, **PARAMS)
            two.execute("INSERT INTO t VALUES(1)")
            one.execute("INSERT INTO t VALUES(2)")
            say(paths=[status(one), status(two)])
            two.close()
            one.close()
        """, LINK=link / "app.db")
        self.oracle()


if __name__ == "__main__":
    unittest.main()
