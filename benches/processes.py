#!/usr/bin/python3
"""Several processes that write to one database at once: their commits together.

usage: processes.py [--pairs N] [--seconds S] [--processes N]
"""

import argparse
import sys

from pairs import Run, alternate, compile_program, report

LIMITS = {
    "commits/s": ("per_s", lambda host, ext: ext >= 0.95 * host, "at least 0.95 of the host"),
    "p99 us": ("p99_us", None, ""),
    "max ms": ("max_ms", None, ""),
    "cpu us/commit": ("cpu_us_per_commit", None, ""),
    "checkpoints": ("checkpoints", None, ""),
}


def total(figures):
    """The figures of several processes as one."""
    commits = sum(each["commits"] for each in figures)
    return {
        "commits": commits,
        "per_s": sum(each["per_s"] for each in figures),
        "p99_us": max(each["p99_us"] for each in figures),
        "max_ms": max(each["max_ms"] for each in figures),
        "cpu_us_per_commit": 1e6 * sum(each["cpu_s"] for each in figures) / commits,
        "checkpoints": sum(each["checkpoints"] for each in figures),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--processes", type=int, default=4)
    options = parser.parse_args()
    bench = compile_program("commitbench")

    def measure(extension):
        with Run(bench, extension) as run:
            # Once alone, so that the database and its table are there.
            before = run.measure(0.1)["commits"]
            started = [run.start(options.seconds) for _ in range(options.processes)]
            figures = total([run.finish(process) for process in started])
            if extension:
                run.check_caught_up(before + figures["commits"])
            return figures

    results = alternate(options.pairs, measure, {label: key for label, (key, *_) in LIMITS.items()})
    good, _ = report(results, LIMITS)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
