"""Replicas that are opened straight from storage: names, settings, refusals."""

import os
import shutil
import unittest
import urllib.parse

from base import HostCase, S3Case

FILL = """
    db = connect(PATH, **PARAMS)
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
    db.executemany("INSERT INTO t(v) VALUES(?)", [(f"row {n}",) for n in range(500)])
    say(txid=sync(db), rows=db.execute("SELECT * FROM t").fetchall())
    db.close()
"""


class Names(HostCase):
    """What names a replica."""

    def setUp(self):
        super().setUp()
        self.filled = self.host(FILL)

    def count(self, uri, env=None, before="pass", **more):
        """Open a URI with SQLite's URI parser; what was read, or the error."""
        return self.host(f"""
            load()
            {before}
            try:
                db = sqlite3.connect(URI, uri=True)
                say(count=scalar(db, "SELECT count(*) FROM t"),
                    role=status(db)["role"], name=db.execute("PRAGMA database_list").fetchone()[2])
                db.close()
            except sqlite3.Error as error:
                say(error=str(error), last=last_error())
        """, env, URI=uri, URL=self.replica.url, DIR=self.dir, **more)

    def opens(self, uri, env=None, before="pass", **more):
        said = self.count(uri, env, before, **more)
        self.assertEqual((said.get("count"), said.get("role")), (500, "replica"), said)
        return said

    def refused(self, uri, *words, env=None, before="pass"):
        said = self.count(uri, env, before)
        self.assertIn("error", said)
        for word in words:
            self.assertIn(word, said["last"])

    def test_a_url_as_the_path(self):
        said = self.opens(f"file:{self.replica.url}?vfs=litestream&mode=ro")
        self.assertEqual(said["name"], self.replica.url)

    def test_a_folder_is_no_database(self):
        for name in (self.replica.url, f"file:{self.replica.directory}"):
            self.opens(f"{name}?vfs=litestream")
        odd = self.dir / "odd name%20(1)"
        shutil.copytree(self.replica.directory, odd)
        self.opens(f"file:{urllib.parse.quote(str(odd))}?vfs=litestream")

    def test_modes_do_not_matter(self):
        for mode in ("rw", "rwc"):
            self.opens(f"file:{self.replica.url}?vfs=litestream&mode={mode}")

    def test_a_label_of_the_replica_vfs(self):
        for label in ("anything", f"{self.dir}/app.db", "x/y/z.db"):
            uri = f"file:{label}?vfs=litestream-replica&replica_url={self.replica.url}"
            said = self.opens(uri)
            self.assertEqual(said["name"], label)

    def test_a_label_by_role(self):
        uri = f"file:{self.dir}/none/label.db?vfs=litestream"
        self.opens(f"{uri}&role=replica&replica_url={self.replica.url}")
        env = {"LITESTREAM_REPLICA_URL": self.replica.url}
        self.opens(f"{uri}&role=replica", env)
        self.opens(uri, {**env, "LITESTREAM_ROLE": "replica"})
        self.opens("file:any?vfs=litestream-replica", env)

    def test_a_label_by_configure(self):
        label = f"{self.dir}/label.db"
        self.opens(f"file:{label}?vfs=litestream", before="""
            for key, value in (("role", "replica"), ("replica_url", URL), ("cache_size", "1MiB")):
                load().execute("SELECT litestream_configure(?, ?, ?)", (LABEL, key, value))
        """, LABEL=label)

    def test_a_label_by_the_configuration_file(self):
        config = self.dir / "litestream.yml"
        config.write_text(f"dbs:\n- path: {self.dir}/label.db\n  replica: {{url: '{self.replica.url}'}}\n")
        env = {"LITESTREAM_CONFIG": config}
        self.opens(f"file:{self.dir}/label.db?vfs=litestream&role=replica", env)

    def test_names_that_are_not_parsed_by_sqlite(self):
        for name in (f"file:{self.replica.url}?mode=ro", f"file:{self.replica.url}",
                     f"{self.replica.url}?txid={self.filled['txid']}", self.replica.url):
            said = self.host("""
                loader = load()
                loader.execute("SELECT litestream_default_vfs(1)")
                db = sqlite3.connect(NAME)
                say(count=scalar(db, "SELECT count(*) FROM t"), role=status(db)["role"])
            """, NAME=name)
            self.assertEqual(said, {"count": 500, "role": "replica"}, name)
        self.assertEqual([n for n in os.listdir(".") if n.startswith("file:")], [])

    def test_a_local_database_stays_one(self):
        said = self.host("""
            load()
            for uri in (f"file:{PATH}?vfs=litestream", f"file://{PATH}?vfs=litestream",
                        f"file:{PATH}?vfs=litestream&role=primary"):
                db = sqlite3.connect(uri, uri=True)
                db.execute("INSERT INTO t(v) VALUES('local')")
                db.commit()
                db.close()
            loader = load()
            loader.execute("SELECT litestream_default_vfs(1)")
            db = sqlite3.connect(f"file://{PATH}")
            say(count=scalar(db, "SELECT count(*) FROM t"))
        """)
        self.assertEqual(said["count"], 503)

    def test_the_local_journal_is_not_the_replicas(self):
        """A label may be the path of a local database with a hot journal."""
        journal = self.dir / "app.db-journal"
        journal.write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(504))
        self.opens(f"file:{self.db}?vfs=litestream&role=replica&replica_url={self.replica.url}")
        self.opens(f"file:{self.db}?vfs=litestream-replica&replica_url={self.replica.url}")
        self.assertTrue(journal.exists())

    def test_what_is_refused(self):
        url = f"file:{self.replica.url}?vfs=litestream"
        self.refused(f"{url}&pol_interval=1s", "unknown URI parameter 'pol_interval'")
        self.refused(f"{url}&poll_interval=soon", "poll_interval='soon'")
        self.refused(f"{url}&meta_path=/tmp", "meta_path", "this is a replica")
        self.refused(f"{url}&write_enabled=true", "cannot be written yet")
        self.refused(f"{url}&sync_interval=1s", "cannot be written yet")
        self.refused(f"{url}&buffer_path=/tmp/x", "cannot be written yet")
        self.refused(f"{url}&role=primary", "role=primary")
        self.refused(f"{url}&offline=allow", "cache_dir")
        self.refused(f"{url}&txid=00000000000000ff", "00000000000000ff")
        self.refused(f"{url}&time=soon", "5 minutes ago")
        self.refused(f"{url}&replica_url=file:///x", "replica_url")
        self.refused("file:any?vfs=litestream-replica", "no replica is named")
        self.refused(f"file:{self.dir}/x.db?vfs=litestream&poll_interval=1s", "option of replicas")
        self.refused("file:gs://bucket/x?vfs=litestream", "not supported by this version")
        self.refused("file:s3://b/" + "x" * 600 + "?vfs=litestream", "bytes")

    def test_the_environment_is_checked(self):
        url = f"file:{self.replica.url}?vfs=litestream"
        self.refused(url, "LITESTREAM_POLL_INTERVAL", env={"LITESTREAM_POLL_INTERVAL": "soon"})
        self.refused(url, "LITESTREAM_WRITE_ENABLED", env={"LITESTREAM_WRITE_ENABLED": "true"})
        label = f"file:{self.dir}/x?vfs=litestream"
        self.refused(label, "LITESTREAM_ROLE", env={"LITESTREAM_ROLE": "boss"})
        self.opens(url, {"LITESTREAM_SYNC_INTERVAL": "3s", "LITESTREAM_CACHE_SIZE": "1MiB"})

    def test_a_replica_without_files(self):
        empty = self.dir / "empty"
        for _ in range(2):
            self.refused(f"file:file://{empty}?vfs=litestream", str(empty))
            empty.mkdir(exist_ok=True)

    def test_an_empty_replica_that_fills_within_the_wait_timeout(self):
        late = self.dir / "late"
        reader = self.start("""
            db = replica(URL, wait_timeout="60s", poll_interval="50ms")
            say(count=scalar(db, "SELECT count(*) FROM t"))
        """, URL=f"file://{late}")
        self.host(FILL, PATH=self.dir / "late.db", PARAMS={"replica_url": f"file://{late}"})
        out, err = reader.communicate(timeout=60)
        self.assertIn('"count":', out, err)

    def test_ordinary_databases_are_left_alone(self):
        """Litestream's own library makes every other open of the process fail."""
        said = self.host("""
            r = replica(**PARAMS)
            plain = sqlite3.connect(f"{DIR}/plain.db")
            plain.execute("CREATE TABLE x(y)")
            plain.commit()
            memory = sqlite3.connect(":memory:")
            say(tables=scalar(plain, "SELECT count(*) FROM sqlite_master"),
                one=scalar(memory, "SELECT 1"), rows=scalar(r, "SELECT count(*) FROM t"))
        """, DIR=self.dir)
        self.assertEqual(said, {"tables": 1, "one": 1, "rows": 500})


class NamesS3(S3Case):
    """The same names in a bucket, with options of the URL."""

    def setUp(self):
        super().setUp()
        self.host(FILL)

    def test_options_beside_and_inside_the_url(self):
        bare = self.replica.uri_parameters()["replica_url"]
        inside = self.replica.url.replace("?", "%3F").replace("&", "%26")
        collapsed = bare.replace("s3://", "s3:/")
        said = self.host("""
            load()
            beside = "&".join(f"{k}={v}" for k, v in PARAMS.items() if k != "replica_url")
            names = [f"file:{BARE}?vfs=litestream&{beside}", f"file:{INSIDE}?vfs=litestream",
                     f"file:{COLLAPSED}?vfs=litestream&{beside}"]
            counts = []
            for name in names:
                db = sqlite3.connect(name, uri=True)
                counts.append(scalar(db, "SELECT count(*) FROM t"))
                db.close()
            load().execute("SELECT litestream_default_vfs(1)")
            for name in (WHOLE, f"file:{BARE}?{beside}&poll_interval=9s"):
                db = sqlite3.connect(name)
                counts.append(scalar(db, "SELECT count(*) FROM t"))
            say(counts=counts)
        """, BARE=bare, INSIDE=inside, COLLAPSED=collapsed, WHOLE=self.replica.url)
        self.assertEqual(said["counts"], [500] * 5)

    def test_wrong_credentials_are_named_and_not_shown(self):
        said = self.host("""
            error = host_error(replica, **PARAMS)
            say(error=error, last=last_error())
        """, env={"AWS_ACCESS_KEY_ID": "unknown", "AWS_SECRET_ACCESS_KEY": "wrongsecret"})
        self.assertIn(self.replica.prefix, said["last"])
        self.assertNotIn("wrongsecret", said["last"])


if __name__ == "__main__":
    unittest.main()
