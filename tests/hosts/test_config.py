"""The configuration file that LITESTREAM_CONFIG names, in real hosts."""

import json
import os
import unittest

from base import HostCase, S3Case
from lab import paths
from lab.replica import FileReplica, run

WRITE = """
    db = connect(PATH)
    db.execute("CREATE TABLE t(x)")
    db.execute("INSERT INTO t VALUES(1)")
    found = status(db)
    db.close()
    say(status=found)
"""


class FromTheFile(HostCase):
    """Databases whose replica only the file knows."""

    def write(self, text, name="litestream.yml"):
        path = self.dir / name
        path.write_text(text)
        return {"LITESTREAM_CONFIG": path, "LITESTREAM_LOG_FILE": self.dir / "log"}

    def one(self, *lines):
        """A file with this test's database and `lines` in its replica."""
        body = "".join(f"      {line}\n" for line in lines)
        return self.write(f"dbs:\n  - path: {self.db}\n    replica:\n{body}")

    def log(self):
        path = self.dir / "log"
        return path.read_text() if path.exists() else ""

    def test_a_database_by_its_path(self):
        self.host(WRITE, env=self.one(f"path: {self.replica.directory}"))
        self.oracle()

    def test_the_same_file_serves_litestream_and_our_command_line(self):
        env = self.one(f"url: {self.replica.url}")
        self.host(WRITE, env=env)
        config = env["LITESTREAM_CONFIG"]
        copies = []
        for command in (paths.GO_17, paths.OURS):
            copy = self.dir / f"copy-{len(copies)}.db"
            run([command, "restore", "-config", config, "-o", copy, self.db])
            copies.append(copy.read_bytes())
        self.assertEqual(copies, [self.db.read_bytes()] * 2)
        listed = [run([c, "databases", "-json", "-config", config]) for c in (paths.GO_17, paths.OURS)]
        self.assertEqual(listed[0], listed[1])
        self.assertEqual(json.loads(listed[0]), [{"path": str(self.db), "replica": "file"}])

    def test_the_default_vfs_and_no_uri_at_all(self):
        env = self.one(f"url: {self.replica.url}")
        self.host("""
            load()
            for path in (PATH, OTHER):
                db = sqlite3.connect(path)
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("CREATE TABLE t(x)")
                db.close()
        """, env={**env, "LITESTREAM_DEFAULT_VFS": "1"}, OTHER=self.dir / "other.db")
        self.oracle()
        self.assertFalse((self.dir / ".other.db-litestream").exists())

    def test_paths_are_relative_to_the_working_directory_and_links_are_followed(self):
        (self.dir / "real").mkdir()
        os.symlink(self.dir / "real", self.dir / "link")
        env = self.write("dbs:\n- path: link/app.db\n  replica: {path: ${WHERE}}\n")
        self.host("os.chdir(DIR)\n" + "\n".join(line[4:] for line in WRITE.splitlines()),
                  env={**env, "WHERE": "replica"}, DIR=self.dir, PATH=self.dir / "real/app.db")
        self.oracle(self.dir / "real/app.db")

    def test_a_directory_gives_each_database_its_own_place(self):
        (self.dir / "data/x").mkdir(parents=True)
        env = self.write(
            f"dbs:\n- dir: {self.dir}/data\n  pattern: '*.db'\n  recursive: true\n"
            f"  replica: {{path: {self.dir}/all}}\n")
        for name in ("a.db", "x/a.db"):
            path = self.dir / "data" / name
            self.host(WRITE, env=env, PATH=path)
            self.oracle(path, FileReplica(self.dir / "all" / name))
        self.host(WRITE, env=env, PATH=self.dir / "data/a.txt")
        self.assertFalse((self.dir / "data/.a.txt-litestream").exists())

    def test_r_84_meta_path_is_applied(self):
        meta = self.dir / "elsewhere"
        env = self.write(f"dbs:\n- path: {self.db}\n  meta-path: {meta}\n"
                         f"  replica: {{path: {self.replica.directory}}}\n")
        self.host(WRITE, env=env)
        self.assertTrue((meta / "vfs").is_dir())
        self.assertFalse((self.dir / ".app.db-litestream").exists())
        told = json.loads(run([paths.OURS, "status", "-json", "-config",
                               env["LITESTREAM_CONFIG"]]))
        self.assertEqual([(row["database"], row["vfs"] is None) for row in told],
                         [(str(self.db), False)])
        self.oracle()

    def test_configure_and_uri_are_stronger_and_the_environment_is_weaker(self):
        env = self.one(f"path: {self.dir}/filed")
        env["LITESTREAM_REPLICA_URL"] = f"file://{self.dir}/environment"
        for name, script in (
            ("filed", WRITE),
            ("configured", f"""
                scalar(load(), "SELECT litestream_configure(?, 'replica_url', ?)", PATH,
                       "file://{self.dir}/configured")
                """ + WRITE.replace("\n    ", "\n                ")),
            ("uri", WRITE.replace("connect(PATH)",
                                  f'connect(PATH, replica_url="file://{self.dir}/uri")')),
        ):
            for leftover in self.dir.glob("app.db*"):
                leftover.unlink()
            self.host(script, env=env)
            self.assertEqual(FileReplica(self.dir / name).names()[0], (1, 1), name)
        self.assertFalse((self.dir / "environment").exists())

    def test_keys_of_the_daemon_are_accepted_and_logged_once(self):
        env = self.write(
            f"addr: ':9090'\nlevels: [{{interval: 1m}}]\ndbs:\n- path: {self.db}\n"
            f"  checkpoint-interval: 5m\n  replica: {{path: {self.replica.directory}}}\n")
        self.host("""
            for _ in range(3):
                db = connect(PATH)
                db.execute("CREATE TABLE IF NOT EXISTS t(x)")
                db.close()
        """, env=env)
        self.oracle()
        lines = [line for line in self.log().splitlines() if "daemon" in line]
        self.assertEqual(len(lines), 1, self.log())
        for words in ("line 1: addr", "line 2: levels", "line 5: dbs[0].checkpoint-interval"):
            self.assertIn(words, lines[0])

    def test_forked_children_know_the_file(self):
        env = self.one(f"path: {self.replica.directory}")
        self.host("""
            connect(PATH).close()
            child = os.fork()
            if child == 0:
                db = connect(PATH)
                db.execute("CREATE TABLE t(x)")
                db.close()
                os._exit(0)
            _, code = os.waitpid(child, 0)
            assert code == 0, code
        """, env=env)
        self.oracle()


class Refused(FromTheFile):
    """Files that fail every open, by name and line."""

    def refused(self, env, *words, **params):
        said = self.host("""
            error = host_error(connect, PATH, **PARAMS)
            say(last=last_error(), exists=os.path.exists(PATH))
        """, env=env, PARAMS=params)
        for word in words:
            self.assertIn(word, said["last"])
        self.assertFalse(said["exists"])
        return said["last"]

    def test_r_81_an_unknown_key(self):
        env = self.write("dbs: []\nretentions: 1h\n")
        self.refused(env, f"{self.dir}/litestream.yml:2: unknown key \"retentions\"")
        self.refused(env, "unknown key", replica_url=self.replica.url)

    def test_r_80_age_in_a_file(self):
        env = self.one("path: /x", "age:", "  recipients: [abc]")
        self.refused(env, "litestream.yml:5: ", "age encryption is not supported")

    def test_r_84_a_value_in_a_file_that_does_not_fit(self):
        self.refused(self.one("path: /x", "sync-interval: 1d"), "litestream.yml:5: ", "duration")

    def test_a_missing_file(self):
        self.refused({"LITESTREAM_CONFIG": self.dir / "none.yml"}, "config file not found",
                     f"{self.dir}/none.yml")

    def test_a_type_that_is_not_served(self):
        self.refused(self.one("url: gs://bucket/app"), "not supported")

    def test_no_secret_is_shown(self):
        last = self.refused(
            self.one("url: 's3://b/x?nonsense=1'", "access-key-id: id1", "secret-access-key: hunter2",
                     "sse-customer-key: hunter3"), "")
        for secret in ("hunter2", "hunter3", "id1"):
            self.assertNotIn(secret, last)


class OnS3(S3Case):
    """Credentials and endpoint from the file alone."""

    def test_r_84_keys_and_endpoint(self):
        path = self.dir / "litestream.yml"
        path.write_text(f"""
access-key-id: {paths.ACCESS_KEY}
secret-access-key: ${{SECRET}}
region: {paths.REGION}
dbs:
  - path: {self.db}
    replica:
      type: s3
      bucket: {paths.BUCKET}
      path: {self.replica.prefix}
      endpoint: {self.server.endpoint}
      force-path-style: true
""")
        self.host(WRITE, env={"LITESTREAM_CONFIG": path, "SECRET": paths.SECRET_KEY,
                              "AWS_ACCESS_KEY_ID": "wrong", "AWS_SECRET_ACCESS_KEY": "wrong"})
        self.oracle()


# The tests of FromTheFile run once, as its own.
for _name in [n for n in dir(FromTheFile) if n.startswith("test_")]:
    setattr(Refused, _name, None)

if __name__ == "__main__":
    unittest.main()
