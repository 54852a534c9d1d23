#!/usr/bin/python3
"""What replication costs a program outside WAL mode, per commit.

usage: rollback.py [--pairs N] [--seconds S] [--modes DELETE,TRUNCATE,PERSIST] [--directory DIR] [--trace]

On a disk most of a commit's CPU time is spent in its syncs. With --directory /dev/shm they are
free: that shows the extension's own cost, at a larger ratio than any durable database has.
With --trace the committing thread's system calls per commit are counted (strace) after each mode.
"""

import argparse
import collections
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


def system_calls(bench, extension, arguments, directory):
    """{name: calls per commit} of the committing thread, from the second half of a run."""
    with Run(bench, extension, arguments, parent=directory) as run:
        run.measure(3, ["strace", "-ff", "-o", str(run.dir / "trace")])
        threads = [path.read_text(errors="replace") for path in run.dir.glob("trace.*")]
    lines = max(threads, key=lambda text: text.count("pwrite64(")).splitlines()
    names = collections.Counter(line.split("(")[0] for line in lines[len(lines) // 2:])
    # One lock of RESERVED each.
    commits = sum("l_type=F_WRLCK" in line and "l_start=1073741825, l_len=1}" in line
                  for line in lines[len(lines) // 2:])
    return {name: count / commits for name, count in names.items()}


def trace(bench, arguments, directory):
    host, extension = (system_calls(bench, e, arguments, directory) for e in (False, True))
    more = {name: round(count - host.get(name, 0), 1) for name, count in extension.items()}
    text = ", ".join(f"{name} {n:+g}" for name, n in sorted(more.items()) if abs(n) >= 0.1)
    print(f"system calls per commit: host {sum(host.values()):.1f}, "
          f"extension {sum(extension.values()):.1f} ({text})")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--modes", default="DELETE,TRUNCATE,PERSIST")
    parser.add_argument("--directory")
    parser.add_argument("--trace", action="store_true")
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
        if options.trace:
            trace(bench, (1, 200, "NORMAL", mode), options.directory)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
