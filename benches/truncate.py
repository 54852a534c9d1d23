#!/usr/bin/python3
"""What a second connection that checkpoints all the time does to a writer at full speed.

usage: truncate.py [--pairs N] [--seconds S] [--every MILLISECONDS]

PRAGMA wal_checkpoint(TRUNCATE), then RESTART, with a busy timeout of 5 s. With automatic
checkpoints SQLite answers busy at once when the writer's own checkpoint is running; without
them the host has no reason to be busy, so the extension must never be.
"""

import argparse
import sys

from pairs import Run, alternate, compile_program, report

LABELS = {"commits/s": "per_s", "checkpoints": "extra_checkpoints", "busy": "extra_busy",
          "p50 ms": "extra_p50_ms", "max ms": "extra_max_ms"}


def limits(automatic):
    # With automatic checkpoints the share of busy answers is chance: a tenth more is noise.
    share = 0.10 if automatic else 0
    return {
        "commits/s": ("per_s", lambda host, ext: ext >= 0.95 * host, "at least 0.95 of the host"),
        "checkpoints": ("extra_checkpoints", None, ""),
        "busy of 1000": ("busy_share", lambda host, ext: ext <= host + 1000 * share,
                         "no more than the host"),
        "busy commits": ("busy", lambda host, ext: ext <= host, "no more than the host"),
        "checkpoint p50 ms": ("extra_p50_ms", None, ""),
        "checkpoint max ms": ("extra_max_ms", None, ""),
        "commit max ms": ("max_ms", None, ""),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--every", type=int, default=100)
    options = parser.parse_args()
    bench = compile_program("commitbench")
    good = True
    for automatic in (1000, 0):
        for mode in ("TRUNCATE", "RESTART"):
            print(f"{mode} every {options.every} ms, automatic checkpoints at {automatic or 'no'} frames")
            arguments = (1, 200, "NORMAL", "WAL", mode, options.every, automatic)

            def measure(extension):
                with Run(bench, extension, arguments) as run:
                    figures = run.measure(options.seconds)
                    if extension:
                        run.check_caught_up(figures["commits"])
                    figures["busy_share"] = 1000 * figures["extra_busy"] / figures["extra_checkpoints"]
                    return figures

            fine, _ = report(alternate(options.pairs, measure, LABELS), limits(automatic))
            good &= fine
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
