"""The library as a file: what it exports, how big it is, how fast it loads."""

import statistics
import subprocess
import unittest

from base import HostCase
from lab import paths

SIZE_MAX = 8_000_000
LOAD_MS_MAX = 5.0


class Artifact(HostCase):
    """dist/litestream_vfs.so and target/release/litestream."""

    def test_only_the_two_entry_points_are_exported(self):
        out = subprocess.check_output(["nm", "-D", "--defined-only", paths.EXTENSION], text=True)
        names = sorted(line.split()[-1].split("@")[0] for line in out.splitlines())
        self.assertEqual(names, ["sqlite3_extension_init", "sqlite3_litestreamvfs_init"])

    def test_no_sqlite_is_linked(self):
        out = subprocess.check_output(["nm", "-D", "--undefined-only", paths.EXTENSION], text=True)
        self.assertEqual([line for line in out.splitlines() if "sqlite3_" in line], [])
        out = subprocess.check_output(["readelf", "-d", paths.EXTENSION], text=True)
        needed = [line for line in out.splitlines() if "NEEDED" in line]
        self.assertFalse([n for n in needed if "sqlite" in n or "ssl" in n or "crypto" in n], needed)

    def test_the_library_is_small(self):
        self.assertLessEqual(paths.EXTENSION.stat().st_size, SIZE_MAX)

    def test_the_library_loads_fast(self):
        script = """
            db = sqlite3.connect(":memory:")
            db.enable_load_extension(True)
            start = time.perf_counter()
            db.load_extension(EXTENSION)
            say(ms=(time.perf_counter() - start) * 1000)
        """
        times = [self.host(script)["ms"] for _ in range(7)]
        self.assertLessEqual(statistics.median(times), LOAD_MS_MAX, times)

    def test_both_ways_to_load_it(self):
        for entry in ("sqlite3_extension_init", "sqlite3_litestreamvfs_init"):
            words = ["sqlite3", ":memory:", "-cmd", f".load {paths.EXTENSION} {entry}",
                     "SELECT litestream_status() IS NOT NULL"]
            out = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            self.assertEqual(out.returncode, 0, out.stdout)

    def test_the_command_says_its_version(self):
        out = subprocess.check_output([paths.OURS, "version"], text=True)
        self.assertRegex(out, r"\d+\.\d+\.\d+")


if __name__ == "__main__":
    unittest.main()
