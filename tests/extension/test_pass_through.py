"""The same script gives the same results with and without the library.

Each script runs three times: on the host VFS alone, through our VFS without a
replica (the host VFS's own files), and through our VFS with a replica (files
behind our methods). Results, the database's content and the files left behind
must agree.
"""

import hashlib
import os
import sqlite3
import sys

import host

HOST, PLAIN, REPLICATED = "host", "plain", "replicated"
VARIANTS = (HOST, PLAIN, REPLICATED)
SEED = "CREATE TABLE t(id INTEGER PRIMARY KEY, k INT, v BLOB); CREATE INDEX tk ON t(k)"
FILL = ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<%d)"
        " INSERT INTO t(k, v) SELECT i*7919%%1009, zeroblob(50+i*37%%400) FROM n")

CONTROLS = """
.open %s
PRAGMA journal_mode=WAL;
CREATE TABLE t(a);
INSERT INTO t VALUES (1),(2);
.filectrl data_version
.filectrl has_moved
.filectrl persist_wal 1
.filectrl psow
.filectrl reserve_bytes
.filectrl size_limit
.filectrl chunk_size 65536
INSERT INTO t SELECT a FROM t;
PRAGMA integrity_check;
"""


class Variant:
    """One way to open databases, in a directory of its own."""

    def __init__(self, kind, directory):
        self.kind, self.dir = kind, directory
        os.mkdir(directory)

    def path(self, name):
        return os.path.join(self.dir, name)

    def uri(self, name, **parameters):
        if self.kind == HOST:
            base = host.uri(self.path(name), **parameters)
            return base.replace("vfs=litestream", "vfs=unix")
        replica = self.path("replica-" + name) if self.kind == REPLICATED else None
        return host.uri(self.path(name), replica, **parameters)

    def open(self, name, **parameters):
        return host.connect(self.uri(name, **parameters), timeout=5)

    def settle(self, db):
        """Lets the first snapshot end: it reads under a read mark, as any reader does."""
        if self.kind == REPLICATED:
            db.execute("SELECT litestream_sync(10000)")

    def files(self):
        """Names of what SQLite left, without what belongs to replication."""
        return sorted(n for n in os.listdir(self.dir)
                      if not n.startswith("replica-") and not n.endswith("-litestream"))


def content(db, schema="main"):
    """A hash of the logical content of one schema."""
    digest = hashlib.sha256()
    names = db.execute("SELECT name, sql FROM %s.sqlite_master ORDER BY name" % schema).fetchall()
    digest.update(repr(names).encode())
    for name, _ in names:
        if db.execute("SELECT type FROM %s.sqlite_master WHERE name=?" % schema,
                      (name,)).fetchone() == ("table",):
            for row in db.execute('SELECT * FROM %s."%s" ORDER BY 1' % (schema, name)):
                digest.update(repr(row).encode())
    return digest.hexdigest()


class PassThrough(host.Case):
    maxDiff = None

    def same(self, script, variants=VARIANTS):
        """Runs `script(variant)` for each variant; all results must agree."""
        self.runs = getattr(self, "runs", 0) + 1
        results = {}
        for kind in variants:
            variant = Variant(kind, self.path("%s-%d" % (kind, self.runs)))
            results[kind] = (script(variant), variant.files())
        for kind in variants[1:]:
            self.assertEqual(results[kind], results[variants[0]], kind)
        return results[variants[0]][0]

    def test_page_sizes_and_journal_modes(self):
        def script(v):
            out = []
            for size in (512, 1024, 4096, 65536):
                for mode in ("delete", "truncate", "persist", "memory", "off", "wal"):
                    name = "%s-%d.db" % (mode, size)
                    db = v.open(name)
                    db.execute("PRAGMA page_size=%d" % size)
                    out.append(db.execute("PRAGMA journal_mode=%s" % mode).fetchone())
                    db.executescript(SEED)
                    db.execute(FILL % 300)
                    db.execute("BEGIN")
                    db.execute("UPDATE t SET k=k+1")
                    if mode != "off":
                        db.execute("ROLLBACK")
                    else:
                        db.execute("COMMIT")
                    db.execute("DELETE FROM t WHERE id%3=0")
                    out.append(db.execute("PRAGMA page_size").fetchone())
                    out.append(db.execute("PRAGMA integrity_check").fetchall())
                    out.append((content(db), db.execute("PRAGMA page_count").fetchone()))
                    db.close()
            return out
        self.same(script)

    def test_closed_files_are_equal_byte_for_byte(self):
        def script(v):
            db = v.open("a.db")
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(SEED)
            v.settle(db)
            for n in (100, 300, 20):
                db.execute(FILL % n)
            db.execute("PRAGMA wal_checkpoint(RESTART)")
            db.execute("DELETE FROM t WHERE id%2=0")
            db.execute("VACUUM")
            db.close()
            with open(v.path("a.db"), "rb") as f:
                return hashlib.sha256(f.read()).hexdigest()
        self.same(script)

    def test_checkpoints(self):
        def script(v):
            db = v.open("a.db")
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(SEED)
            v.settle(db)
            out = []
            for kind in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
                db.execute(FILL % 100)
                out.append(db.execute("PRAGMA wal_checkpoint(%s)" % kind).fetchone())
                out.append(os.path.getsize(v.path("a.db-wal")) > 0)
            db.execute("PRAGMA wal_autocheckpoint=10")
            for _ in range(40):
                db.execute(FILL % 3)
            out.append(content(db))
            db.close()
            return out
        self.same(script)

    def test_mmap(self):
        def script(v):
            db = v.open("a.db")
            out = [db.execute("PRAGMA mmap_size=1048576").fetchone()]
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(SEED)
            db.execute(FILL % 2000)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            out.append(content(db))
            db.execute("UPDATE t SET v=zeroblob(10) WHERE k<500")
            db.execute("VACUUM")
            out += [content(db), db.execute("PRAGMA integrity_check").fetchall()]
            db.close()
            return out
        self.same(script)

    def test_attach_and_transactions_over_two_files(self):
        def script(v):
            out = []
            for mode in ("DELETE", "WAL"):
                db = v.open("main-%s.db" % mode)
                db.execute("ATTACH ? AS aux", (v.uri("aux-%s.db" % mode),))
                db.execute("ATTACH ':memory:' AS mem")
                db.execute("PRAGMA main.journal_mode=%s" % mode)
                db.execute("PRAGMA aux.journal_mode=%s" % mode)
                db.executescript(SEED)
                db.execute("CREATE TABLE aux.u(x)")
                db.execute("CREATE TABLE mem.w(x)")
                for end in ("COMMIT", "ROLLBACK", "COMMIT"):
                    db.execute("BEGIN")
                    db.execute(FILL % 50)
                    db.execute("INSERT INTO aux.u SELECT k FROM t")
                    db.execute("INSERT INTO mem.w SELECT x FROM aux.u")
                    db.execute(end)
                out += [content(db), content(db, "aux"), content(db, "mem")]
                out.append([r[1] for r in db.execute("PRAGMA database_list")])
                db.execute("DETACH aux")
                db.close()
            return out
        self.same(script)

    def test_temporary_and_memory_databases(self):
        def script(v):
            db = v.open("a.db")
            db.execute("PRAGMA temp_store=FILE")
            db.execute("PRAGMA cache_size=5")
            db.executescript(SEED)
            db.execute("CREATE TEMP TABLE s AS SELECT 1 AS a")
            db.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<9999)"
                       " INSERT INTO s SELECT i FROM n")
            db.execute("INSERT INTO t(k) SELECT a FROM s ORDER BY a DESC")
            out = [content(db), db.execute("SELECT sum(a) FROM s").fetchone()]
            db.close()
            for name in (":memory:", ""):
                text = "file:%s" % name if v.kind == HOST else "file:%s?vfs=litestream" % name
                db = host.connect(text)
                db.executescript(SEED)
                db.execute(FILL % 100)
                out.append(content(db))
                db.close()
            return out
        self.same(script)

    def test_shared_cache(self):
        def script(v):
            one, two = v.open("a.db", cache="shared"), v.open("a.db", cache="shared")
            one.executescript(SEED)
            one.execute(FILL % 100)
            out = [content(two)]
            one.execute("BEGIN")
            one.execute("DELETE FROM t")
            try:
                two.execute("SELECT count(*) FROM t").fetchall()
                out.append("read")
            except sqlite3.OperationalError as e:
                out.append(str(e))
            one.execute("ROLLBACK")
            out.append(content(two))
            two.close()
            one.close()
            return out
        self.same(script, (HOST, PLAIN))
        refused = Variant(REPLICATED, self.path("refused"))
        self.assertIn("shared cache", self.refused(refused.uri("a.db", cache="shared")))

    def test_backup(self):
        def script(v):
            db = v.open("a.db")
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(SEED)
            db.execute(FILL % 500)
            copy = v.open("b.db")
            db.backup(copy, pages=7)
            out = [content(copy), copy.execute("PRAGMA journal_mode").fetchone()]
            db.execute("DELETE FROM t WHERE id>100")
            db.backup(copy)
            out.append(content(copy))
            copy.close()
            back = v.open("b.db")
            back.backup(db)
            out.append(content(db))
            back.close()
            db.execute("VACUUM INTO ?", (v.path("c.db"),))
            db.close()
            return out
        self.same(script)

    def test_auto_vacuum(self):
        def script(v):
            out = []
            for mode in ("FULL", "INCREMENTAL"):
                db = v.open("%s.db" % mode)
                db.execute("PRAGMA auto_vacuum=%s" % mode)
                db.execute("PRAGMA journal_mode=WAL")
                db.executescript(SEED)
                db.execute(FILL % 3000)
                out.append(db.execute("PRAGMA page_count").fetchone())
                db.execute("DELETE FROM t WHERE id%5")
                db.execute("PRAGMA incremental_vacuum(20)").fetchall()
                out.append(db.execute("PRAGMA page_count").fetchone())
                out.append(content(db))
                db.close()
            return out
        self.same(script)

    def test_locks_between_connections(self):
        def script(v):
            out = []
            for mode in ("DELETE", "WAL"):
                one = v.open(mode + ".db")
                one.execute("PRAGMA journal_mode=%s" % mode)
                one.executescript(SEED)
                two = host.connect(v.uri(mode + ".db"), timeout=0)
                one.execute("BEGIN IMMEDIATE")
                one.execute(FILL % 10)
                for sql in ("SELECT count(*) FROM t", "INSERT INTO t(k) VALUES (1)"):
                    try:
                        out.append(two.execute(sql).fetchall())
                    except sqlite3.OperationalError as e:
                        out.append(str(e))
                one.execute("COMMIT")
                two.execute("BEGIN")
                out.append(two.execute("SELECT count(*) FROM t").fetchall())
                try:
                    one.execute("DELETE FROM t WHERE id<5")
                    out.append("deleted")
                except sqlite3.OperationalError as e:
                    out.append(str(e))
                out.append(two.execute("SELECT count(*) FROM t").fetchall())
                two.execute("COMMIT")
                out.append(two.execute("SELECT count(*) FROM t").fetchall())
                two.close()
                one.close()
            return out
        self.same(script)

    def test_exclusive_locking(self):
        def script(v):
            out = []
            for first in (True, False):
                name = "x%d.db" % first
                db = v.open(name)
                if first:
                    db.execute("PRAGMA locking_mode=EXCLUSIVE")
                db.execute("PRAGMA journal_mode=WAL")
                db.executescript(SEED)
                db.execute("PRAGMA locking_mode=EXCLUSIVE")
                for n in (5, 500):
                    db.execute(FILL % n)
                out += [content(db), os.path.exists(v.path(name + "-shm"))]
                db.execute("PRAGMA locking_mode=NORMAL")
                out.append(db.execute("SELECT count(*) FROM t").fetchall())
                db.close()
            return out
        self.same(script)

    def test_journal_modes_switched(self):
        def script(v):
            db = v.open("a.db")
            db.executescript(SEED)
            out = []
            for mode in ("WAL", "DELETE", "WAL", "PERSIST", "WAL", "MEMORY", "WAL"):
                out.append(db.execute("PRAGMA journal_mode=%s" % mode).fetchone())
                db.execute(FILL % 30)
            out.append(content(db))
            db.close()
            return out
        self.same(script)

    def test_readers_of_a_read_only_open(self):
        def script(v):
            db = v.open("a.db")
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(SEED)
            db.execute(FILL % 30)
            reader = v.open("a.db", mode="ro")
            out = [content(reader)]
            try:
                reader.execute("INSERT INTO t(k) VALUES (1)")
            except sqlite3.OperationalError as e:
                out.append(str(e))
            db.execute(FILL % 30)
            out.append(content(reader))
            reader.close()
            db.close()
            return out
        self.same(script)

    def test_file_controls(self):
        def script(v):
            load = "" if v.kind == HOST else ".load %s\n" % host.library()
            return host.shell(load + CONTROLS % v.uri("a.db"))
        self.same(script)

    def test_vfs_names(self):
        plain = Variant(PLAIN, self.path("p"))
        replicated = Variant(REPLICATED, self.path("r"))
        names = [host.shell(".load %s\n.open %s\n.vfsname\n" % (host.library(), v.uri("a.db")))
                 for v in (plain, replicated)]
        self.assertEqual(names, ["unix\n", "litestream/unix\n"])


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    host.main()
