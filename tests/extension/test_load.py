"""Loading: entry points, exports, second copies, threads and descriptors."""

import ctypes
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import unittest

import host


def threads():
    return len(os.listdir("/proc/self/task"))


def descriptors():
    return len(os.listdir("/proc/self/fd"))


class Loading(host.Case):
    def test_loading_starts_nothing(self):
        before = (threads(), descriptors())
        for _ in range(20):
            host.load().close()
        self.assertEqual((threads(), descriptors()), before)

    def test_functions_are_on_every_connection(self):
        version = self.loader.execute("SELECT litestream_version()").fetchone()[0]
        self.assertRegex(version, r"^\d+\.\d+\.\d+")
        later = sqlite3.connect(":memory:")
        self.addCleanup(later.close)
        self.assertEqual(later.execute("SELECT litestream_version()").fetchone()[0], version)
        self.assertEqual(later.execute("SELECT litestream_txid()").fetchone(), (None,))
        self.assertIn('"none"', later.execute("SELECT litestream_status()").fetchone()[0])

    def test_effects_are_not_for_triggers(self):
        self.loader.execute("CREATE TABLE t(a)")
        self.loader.execute("CREATE TRIGGER u AFTER INSERT ON t BEGIN"
                            " SELECT litestream_default_vfs(1); END")
        with self.assertRaisesRegex(sqlite3.OperationalError, "unsafe use"):
            self.loader.execute("INSERT INTO t VALUES (1)")

    def test_a_second_copy_is_refused(self):
        copy = self.path("copy.so")
        shutil.copy(host.SO, copy)
        db = sqlite3.connect(":memory:")
        self.addCleanup(db.close)
        db.enable_load_extension(True)
        with self.assertRaisesRegex(sqlite3.OperationalError, "registered already"):
            db.load_extension(copy)
        self.assertEqual(db.execute("SELECT 1").fetchone(), (1,))

    def test_only_the_entry_points_are_exported(self):
        names = subprocess.run(["nm", "-D", "--defined-only", host.SO], text=True, check=True,
                               stdout=subprocess.PIPE).stdout
        exported = sorted(line.split()[-1] for line in names.splitlines())
        self.assertEqual(exported, ["sqlite3_extension_init", "sqlite3_litestreamvfs_init"])

    def test_an_old_sqlite_is_told_so(self):
        # A table of API routines as an old SQLite would pass it: version and
        # mprintf are in slots 67 and 69 of every release, and no other is read.
        sqlite = ctypes.CDLL("libsqlite3.so.0")
        old = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 3033000)
        table = (ctypes.c_void_p * 300)()
        table[67] = ctypes.cast(old, ctypes.c_void_p).value
        table[69] = ctypes.cast(sqlite.sqlite3_mprintf, ctypes.c_void_p).value
        error = ctypes.c_char_p()
        entry = ctypes.CDLL(host.SO).sqlite3_litestreamvfs_init
        self.assertEqual(entry(None, ctypes.byref(error), table), 1)
        self.assertEqual(error.value, b"litestream: SQLite 3.34.0 or later is needed, this is 3.33.0")

    def test_no_libsqlite3_is_linked(self):
        needed = subprocess.run(["readelf", "-d", host.SO], text=True, check=True,
                                stdout=subprocess.PIPE).stdout
        libraries = set(re.findall(r"NEEDED.*\[(.*)\]", needed))
        allowed = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0",
                   "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
        self.assertLessEqual(libraries, allowed)

    def test_the_shell_loads_it_by_either_name(self):
        out = host.shell(".load %s\nSELECT litestream_version();\n" % host.library())
        self.assertRegex(out, r"^\d+\.\d+\.\d+\s*$")
        for entry in ("sqlite3_litestreamvfs_init", "sqlite3_extension_init"):
            out = host.shell(".load %s %s\nSELECT 7;\n" % (host.library(), entry))
            self.assertEqual(out, "7\n")

    def test_a_bad_environment_fails_the_load_with_a_reason(self):
        out = host.shell(".load %s\n" % host.library(), {"LITESTREAM_DEFAULT_VFS": "perhaps"})
        self.assertIn("LITESTREAM_DEFAULT_VFS", out)
        out = host.shell(".load %s\n" % host.library(), {"LITESTREAM_LOG_LEVEL": "loud"})
        self.assertIn("LITESTREAM_LOG_LEVEL", out)
        out = host.shell(".load %s\n" % host.library(),
                         {"LITESTREAM_DEFAULT_VFS": "1", "LITESTREAM_REPLICA_URL": "file:///x"})
        self.assertIn("LITESTREAM_DATABASE", out)


class Leaks(host.Case):
    def test_a_thousand_opens_leave_nothing(self):
        for replicated in (False, True):
            with self.subTest(replicated=replicated):
                path = self.path("leak-%s.db" % replicated)
                replica = self.path("replica") if replicated else None
                options = {"sync_interval": "10ms"} if replicated else {}
                name = host.uri(path, replica, **options)
                first = host.connect(name)
                first.execute("PRAGMA journal_mode=WAL")
                first.execute("CREATE TABLE t(a)")
                before = (threads(), descriptors())
                for i in range(1000):
                    db = host.connect(name)
                    if i % 100 == 0:
                        db.execute("INSERT INTO t VALUES (?)", (i,))
                    else:
                        db.execute("SELECT count(*) FROM t").fetchone()
                    db.close()
                if replicated:
                    first.execute("SELECT litestream_sync(10000)")
                after = (threads(), descriptors())
                # Workers of the open replica may have started meanwhile.
                self.assertLess(after[0] - before[0], 12)
                self.assertLess(after[1] - before[1], 30)
                first.close()

    def test_no_thread_outlives_the_last_close(self):
        before = (threads(), descriptors())
        for i in range(3):
            db = host.connect(host.uri(self.path("t%d.db" % i), self.path("r%d" % i)))
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE t(a)")
            db.close()
        deadline = time.time() + 5
        while threads() > before[0] and time.time() < deadline:
            time.sleep(0.05)
        self.assertEqual((threads(), descriptors()), before)


class Forks(host.Case):
    def test_a_child_may_close_what_it_inherited(self):
        db = self.connect(host.uri(self.path("a.db"), self.path("r"), sync_interval="10ms"))
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t(a)")
        db.execute("SELECT litestream_sync(10000)")
        pid = os.fork()
        if pid == 0:
            start = time.time()
            db.close()
            mine = host.connect(host.uri(self.path("a.db"), self.path("r")))
            mine.execute("INSERT INTO t VALUES ('child')")
            mine.close()
            os._exit(0 if time.time() - start < 4 else 1)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        db.execute("INSERT INTO t VALUES ('parent')")
        db.execute("SELECT litestream_sync(10000)")
        self.assertEqual(db.execute("SELECT count(*) FROM t").fetchone(), (2,))
        status = json.loads(db.execute("SELECT litestream_status()").fetchone()[0])
        self.assertEqual((status["state"], status["lag_seconds"]), ("ok", 0))


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    host.main()
