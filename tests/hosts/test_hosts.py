"""Three stock hosts write through the extension; others' commands restore what they wrote."""

import json
import os
import subprocess
import unittest

from base import HostCase, S3Case
from lab import paths
from lab.replica import run

WORK = """
    db = connect(PATH, **PARAMS)
    db.execute("CREATE TABLE orders(id INTEGER PRIMARY KEY, item TEXT, amount REAL)")
    for n in range(200):
        db.execute("INSERT INTO orders(item, amount) VALUES(?, ?)", (f"item {n}", n / 4))
    db.execute("UPDATE orders SET amount = amount * 2 WHERE id % 3 = 0")
    db.execute("DELETE FROM orders WHERE id % 7 = 0")
    db.close()
"""

SHELL = """
.load {extension}
.open {uri}
PRAGMA journal_mode=WAL;
CREATE TABLE orders(id INTEGER PRIMARY KEY, item TEXT, amount REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
  INSERT INTO orders SELECT i, 'item ' || i, i / 4.0 FROM n;
DELETE FROM orders WHERE id % 5 = 0;
"""

NODE = """
const Database = require('better-sqlite3');
const loader = new Database(':memory:');
loader.loadExtension(process.env.LAB_EXTENSION);
if (process.env.LAB_CONFIGURE) {
  loader.prepare('SELECT litestream_default_vfs(1)').get();
  loader.prepare('SELECT litestream_configure(?, ?, ?)')
    .get(process.env.LAB_PATH, 'replica_url', process.env.LAB_CONFIGURE);
}
const db = new Database(process.env.LAB_PATH);
db.pragma('journal_mode = WAL');
db.exec('CREATE TABLE orders(id INTEGER PRIMARY KEY, item TEXT, amount REAL)');
const insert = db.prepare('INSERT INTO orders(item, amount) VALUES (?, ?)');
for (let i = 0; i < 300; i++) insert.run('item ' + i, i / 4);
db.transaction(() => { for (let i = 0; i < 5000; i++) insert.run('bulk ' + i, i); })();
console.log(db.prepare('SELECT litestream_status() AS s').get().s);
db.close();
const other = new Database(process.env.LAB_PATH + '-other');
other.exec('CREATE TABLE t(x)');
other.close();
"""


class FromPython(HostCase):
    """Debian's python3 and its sqlite3 module."""

    def test_writes_reach_a_folder(self):
        self.host(WORK)
        self.oracle()

    def test_nothing_of_ours_is_in_the_database(self):
        self.host(WORK)
        tables = self.rows(self.db, "SELECT name FROM sqlite_master")
        self.assertEqual(tables, [("orders",)])

    def test_r_67_the_replica_has_no_tables_of_its_own(self):
        self.host(WORK)
        copy = self.restored()
        self.assertEqual(self.rows(copy, "SELECT name FROM sqlite_master"), [("orders",)])


class FromPythonToS3(S3Case):
    """The same against an S3 server."""

    def test_writes_reach_a_bucket(self):
        self.host(WORK)
        self.oracle()


class FromTheShell(HostCase):
    """The sqlite3 shell."""

    def run_shell(self, script):
        words = ["sqlite3", "-batch", "-bail", ":memory:"]
        return subprocess.run(words, input=script, env=paths.environment(), text=True, timeout=60,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def test_writes_reach_a_folder(self):
        uri = f"file:{self.db}?vfs=litestream&replica_url={self.replica.url}"
        done = self.run_shell(SHELL.format(extension=paths.EXTENSION.with_suffix(""), uri=uri))
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(done.stdout.strip(), "wal")
        self.oracle()


@unittest.skipUnless(paths.NODE_MODULES.is_dir(), "better-sqlite3 is not installed")
class FromNode(HostCase):
    """better-sqlite3, which passes no URIs: default-VFS mode."""

    def run_node(self, **variables):
        env = paths.environment(
            NODE_PATH=paths.NODE_MODULES, LAB_EXTENSION=paths.EXTENSION, LAB_PATH=self.db,
            **variables,
        )
        script = self.dir / "host.js"
        script.write_text(NODE)
        return json.loads(run(["node", script], env=env))

    def check(self):
        self.oracle()
        meta = {name for name in os.listdir(self.dir) if "litestream" in name}
        self.assertEqual(meta, {".app.db-litestream"})

    def test_default_vfs_by_environment(self):
        self.run_node(
            LITESTREAM_DEFAULT_VFS=1, LITESTREAM_REPLICA_URL=self.replica.url,
            LITESTREAM_DATABASE=self.db,
        )
        self.check()

    def test_default_vfs_by_function(self):
        self.run_node(LAB_CONFIGURE=self.replica.url)
        self.check()


if __name__ == "__main__":
    unittest.main()
