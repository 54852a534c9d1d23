"""A pre-fork server whose processes are killed at random (see tests/crash/prefork.py)."""

import subprocess
import sys
import unittest

from lab import paths

SECONDS = "15"


class Prefork(unittest.TestCase):
    """Fifteen seconds of it; `make prefork` runs longer."""

    def test_workers_and_masters_are_killed(self):
        done = subprocess.run(
            [paths.PYTHON, paths.ROOT / "tests/crash/prefork.py", SECONDS], text=True, timeout=300,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        sys.stderr.write(done.stdout)
        self.assertEqual(done.returncode, 0, done.stdout)


if __name__ == "__main__":
    unittest.main()
