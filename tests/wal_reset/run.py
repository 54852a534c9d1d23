#!/usr/bin/python3
"""Commits lost per million tries when checkpoints race with restarts of the WAL.

usage: tests/wal_reset/run.py [TRIES]; TRIES of each kind, on the host VFS alone and through
the extension. race.c says what the kinds are. Fails when a commit was lost through the
extension, or when nothing was lost without it although the host has the fault.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lab import wal_reset  # noqa: E402

KINDS = [(mode, actors) for mode in ("raw", "aligned", "widened") for actors in ("threads", "processes")]


def per_million(count, figures):
    return f"{1e6 * count / figures['tries']:.0f}"


def main():
    tries = int(sys.argv[1]) if len(sys.argv) > 1 else 20000
    lost = {False: 0, True: 0}
    print(f"{'kind':20} {'':10} {'tries':>9} {'lost/million':>13} {'stopped/million':>16} {'seconds':>8}")
    for mode, actors in KINDS:
        for shimmed in (False, True):
            figures = wal_reset.race(tries, mode, actors, shimmed)
            failed = max(figures["lost"], figures["damaged"])
            lost[shimmed] += failed
            stopped = per_million(figures["refused"], figures) if shimmed else ""
            print(f"{mode + ' ' + actors:20} {'extension' if shimmed else 'host':10} {tries:9} "
                  f"{per_million(failed, figures):>13} {stopped:>16} {figures['seconds']:8.1f}", flush=True)
    version = figures["sqlite"]
    vulnerable = wal_reset.is_vulnerable(version)
    print(f"SQLite {version}: {'has' if vulnerable else 'has not'} the fault; databases damaged: "
          f"host {lost[False]}, extension {lost[True]}")
    return 1 if lost[True] or (vulnerable and not lost[False]) else 0


if __name__ == "__main__":
    sys.exit(main())
