"""SQLite's contract for a VFS, clause by clause, for the shim and the host side by side.

usage: test_contract.py PATH_TO_SO [unittest options]

The program in this folder calls the method tables directly. It runs one clause
on one kind of file with each variant: the host's VFS, ours without a replica,
ours with one. It fails where the documentation's promise is broken; transcripts
of results, bytes, locks and files left behind must not differ. Each test is
named after its clause and the kind of file.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = [str(HERE / name) for name in (
    "main.c", "support.c", "peer.c", "vfs.c", "path.c", "open.c", "data.c", "fault.c", "lock.c",
    "control.c", "connection.c", "shm.c", "fetch.c")]
VARIANTS = ("host", "plain", "replicated")
TIMEOUT = 120


class Suite:
    """The program, compiled, and where it works."""

    library = None
    directory = None
    program = None

    @classmethod
    def build(cls, library):
        cls.library = os.path.abspath(library)
        cls.directory = tempfile.mkdtemp(prefix="litestream-contract-")
        # Clauses about permissions give up root's.
        os.chmod(cls.directory, 0o755)
        cls.program = os.path.join(cls.directory, "contract")
        subprocess.run(
            ["cc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-o", cls.program,
             *PROGRAM, "-lsqlite3", "-lm"], check=True)

    @classmethod
    def clauses(cls):
        """Clause, kind of file, what the clause says."""
        out = subprocess.run([cls.program, "list"], check=True, text=True,
                             stdout=subprocess.PIPE).stdout
        return [line.split("\t") for line in out.splitlines()]

    @classmethod
    def run(cls, variant, kind, clause):
        """Exit status, transcript and complaints of one run in a directory of its own."""
        place = tempfile.mkdtemp(prefix=variant + "-", dir=cls.directory)
        os.chmod(place, 0o755)
        env = {k: v for k, v in os.environ.items() if not k.startswith("LITESTREAM_")}
        env.update(LITESTREAM_LOG_FILE="/dev/null", SQLITE_TMPDIR=place, TMPDIR=place)
        try:
            done = subprocess.run(
                [cls.program, cls.library[:-3], variant, kind, clause], cwd=place, env=env,
                text=True, errors="replace", timeout=TIMEOUT, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        finally:
            shutil.rmtree(place, True)
        return done.returncode, done.stdout, done.stderr


class Contract(unittest.TestCase):
    maxDiff = None

    def clause(self, kind, clause):
        expected = None
        for variant in VARIANTS:
            code, transcript, complaints = Suite.run(variant, kind, clause)
            self.assertEqual(code, 0, "%s: %s%s" % (variant, transcript, complaints))
            expected = transcript if expected is None else expected
            self.assertEqual(transcript, expected, variant)


def add_tests():
    """One test for each clause and kind of file."""
    for clause, kind, says in Suite.clauses():
        def test(self, clause=clause, kind=kind):
            self.clause(kind, clause)
        test.__doc__ = "%s (%s)" % (says, kind)
        setattr(Contract, "test_%s__%s" % (clause, kind), test)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    if len(sys.argv) < 2 or not os.path.exists(sys.argv[1]):
        sys.exit("usage: %s PATH_TO_SO" % sys.argv[0])
    Suite.build(sys.argv.pop(1))
    add_tests()
    try:
        unittest.main(module="__main__", verbosity=1)
    finally:
        shutil.rmtree(Suite.directory, True)
