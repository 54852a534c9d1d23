"""Short runs of the scripts in tests/crash that have make targets of their own."""

import subprocess
import sys
import unittest

from lab import paths


class Scripts(unittest.TestCase):
    """Each ends with exit code 0 and says what it did."""

    def script(self, name, *words):
        done = subprocess.run(
            [paths.PYTHON, paths.ROOT / "tests/crash" / name, *words], text=True, timeout=300,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        sys.stderr.write(done.stdout)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_workers_and_masters_of_a_pre_fork_server_are_killed(self):
        self.script("prefork.py", "15")

    def test_programs_without_the_library_write_and_replace(self):
        self.script("foreign.py", "--pages", "400", "--rounds", "6")


if __name__ == "__main__":
    unittest.main()
