#!/usr/bin/python3
"""What replication costs a program outside WAL mode, per commit.

usage: rollback.py [--pairs N] [--seconds S] [--modes DELETE,TRUNCATE,PERSIST] [--directory DIR]

On a disk most of a commit's CPU time is spent in its syncs. With --directory /dev/shm they are
free: that shows the extension's own cost, at a larger ratio than any durable database has.
"""

import argparse
import sys

from pairs import Run, alternate, compile_program, report

LIMITS = {
    "cpu us/commit": (
        "cpu_us_per_commit", lambda host, ext: ext <= 1.35 * host, "at most 1.35 of the host"),
    "commits/s": ("per_s", None, ""),
    "p50 us": ("p50_us", None, ""),
    "p99 us": ("p99_us", None, ""),
    "max ms": ("max_ms", None, ""),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--modes", default="DELETE,TRUNCATE,PERSIST")
    parser.add_argument("--directory")
    options = parser.parse_args()
    bench = compile_program("commitbench")
    good = True
    for mode in options.modes.split(","):
        print(f"journal_mode={mode}, synchronous=NORMAL")

        def measure(extension):
            with Run(bench, extension, (1, 200, "NORMAL", mode), parent=options.directory) as run:
                figures = run.measure(options.seconds)
                if extension:
                    run.check_caught_up(figures["commits"])
                return figures

        results = alternate(options.pairs, measure, {label: key for label, (key, *_) in LIMITS.items()})
        fine, _ = report(results, LIMITS)
        good &= fine
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
