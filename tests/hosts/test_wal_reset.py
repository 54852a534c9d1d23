"""Checkpoints that meet a restart of the WAL: SQLite before 3.51.3 loses commits, not with us."""

import unittest

from base import HostCase
from lab import wal_reset

CHECKPOINTS = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")


class Interleaving(unittest.TestCase):
    """A commit restarts the WAL between a checkpoint's look at the header and its first copy."""

    def check(self, scenario):
        host = wal_reset.interleave(scenario, shimmed=False)
        shim = wal_reset.interleave(scenario, shimmed=True)
        self.assertEqual((host["restarts"], shim["restarts"]), (1, 1))
        vulnerable = wal_reset.is_vulnerable(host["sqlite"])
        sound = host["seen_reopened"] == host["committed"] and host["integrity"] == "ok"
        self.assertEqual(sound, not vulnerable, host)
        for key in ("seen_live", "seen_reopened"):
            self.assertEqual(shim[key], shim["committed"], shim)
        self.assertEqual(shim["integrity"], "ok")
        # The stopped checkpoint answers as the host's, and the next one copies everything.
        self.assertEqual(shim["raced"][0], host["raced"][0])
        self.assertEqual(shim["next"], [0, shim["last_frame"], shim["last_frame"]])
        self.assertEqual(shim["backfilled"], shim["last_frame"])
        state = "vulnerable, shielded" if vulnerable else "fixed"
        self.assertEqual(shim["status"]["wal_reset"], state)
        self.assertEqual(shim["status"]["checkpoints_refused"], int(vulnerable))

    def test_passive_checkpoint(self):
        self.check("passive")

    def test_full_checkpoint_that_finds_the_write_lock_taken(self):
        self.check("fallback")

    def test_wal_that_outgrows_its_former_self(self):
        self.check("grown")


class Progress(unittest.TestCase):
    def assert_same(self, scenario, names):
        host = wal_reset.interleave(scenario, shimmed=False)
        shim = wal_reset.interleave(scenario, shimmed=True)
        for name in names:
            for figures in (host, shim):
                busy, frames, copied = figures[name]
                self.assertEqual((busy, frames - copied), (0, 0), (scenario, name, figures))
        self.assertEqual(shim["seen_reopened"], shim["committed"])
        self.assertEqual(shim["status"]["checkpoints_refused"], 0)

    def test_undisturbed_checkpoints_are_complete(self):
        self.assert_same("quiet", [f"{mode} {n}" for mode in CHECKPOINTS for n in (0, 1)])

    def test_checkpoints_that_rebuild_the_wal_index_are_complete(self):
        self.assert_same("recover", ["passive", "truncate"])


class FirstStatement(HostCase):
    """A checkpoint as a connection's first statement is complete, in every mode."""

    def test_checkpoint_before_any_read(self):
        said = self.host("""
            db = connect(PATH, **PARAMS)
            db.execute("PRAGMA wal_autocheckpoint=0")
            db.execute("CREATE TABLE t(x)")
            sync(db)
            answers = []
            for mode in MODES:
                db.execute("INSERT INTO t VALUES(zeroblob(9000))")
                fresh = connect(PATH, wal=False, **PARAMS)
                answers.append(fresh.execute(f"PRAGMA wal_checkpoint({mode})").fetchone())
                fresh.close()
            say(answers=answers, refused=status(db)["checkpoints_refused"])
            db.close()
        """, MODES=CHECKPOINTS)
        for busy, frames, copied in said["answers"]:
            self.assertEqual((busy, frames), (0, copied), said)
            self.assertGreaterEqual(frames, 0, said)
        self.assertEqual(said["refused"], 0)


class Race(unittest.TestCase):
    def test_nothing_is_lost_and_checkpoints_go_on(self):
        for mode, actors in (("raw", "threads"), ("aligned", "threads"), ("widened", "processes")):
            with self.subTest(mode=mode, actors=actors):
                figures = wal_reset.race(1500, mode, actors, shimmed=True)
                self.assertEqual((figures["lost"], figures["damaged"]), (0, 0), figures)
                self.assertEqual(figures["integrity"], "ok")
                # A read of ours for a snapshot may stop one short.
                self.assertLess(figures["incomplete"], 10)


if __name__ == "__main__":
    unittest.main()
