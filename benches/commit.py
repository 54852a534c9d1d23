#!/usr/bin/python3
"""What replication costs a committing program, beside the host VFS alone.

usage: commit.py [--pairs N] [--seconds S] [--skip-trace] [--json FILE]

Runs commitbench in alternating pairs (one writer, synchronous=NORMAL, one small row per
commit, file replica at the default interval), then counts the committing thread's
instructions (callgrind) and wake-ups (strace). A figure counts only beside its
alternative in the same run: quote medians and ratios.
"""

import argparse
import json
import pathlib
import re
import sys

from pairs import Run, alternate, compile_program, report

RESTARTS_MIN = 20
# name: (key of commitbench's JSON, what holds for host and extension medians, how it reads)
LIMITS = {
    "commits/s": ("per_s", lambda host, ext: ext >= 0.97 * host, "at least 0.97 of the host"),
    "p50 us": ("p50_us", None, ""),
    "p99 us": ("p99_us", lambda host, ext: ext <= 1.15 * host, "at most 1.15 of the host"),
    "max ms": ("max_ms", lambda host, ext: ext <= host + 25, "at most 25 ms above the host"),
    "cpu us/commit": (
        "cpu_us_per_commit", lambda host, ext: ext <= 1.25 * host, "at most 1.25 of the host"),
    "WAL restarts": (
        "restarts", lambda host, ext: min(host, ext) >= RESTARTS_MIN, f"at least {RESTARTS_MIN}"),
    "checkpoints/restart": (
        "checkpoints_per_restart", lambda host, ext: ext <= 1.02 * host, "as many as the host"),
}
MORE = {key: (key, None, "") for key in ("load_ms", "open_ms", "close_ms", "rss_kb")}
INSTRUCTIONS_MAX = 1000


def pairs(bench, options):
    def measure(extension):
        with Run(bench, extension) as run:
            figures = run.measure(options.seconds)
            if extension:
                run.check_caught_up(figures["commits"])
            return figures

    return alternate(options.pairs, measure, {label: key for label, (key, *_) in LIMITS.items()})


def writer_instructions(directory):
    """Instructions of the thread that runs commitbench's writer()."""
    for path in directory.glob("callgrind.out.*"):
        text = path.read_text(errors="replace")
        if re.search(r"^c?fn=\(\d+\) writer$", text, re.M):
            return int(re.search(r"^(?:totals|summary): (\d+)", text, re.M)[1])
    raise SystemExit("callgrind named no thread that runs writer()")


def instructions_per_commit(bench, extension):
    """Slope between a short and a longer run, which leaves opening and closing out."""
    valgrind = ["valgrind", "--tool=callgrind", "--separate-threads=yes", "--fair-sched=yes", "-q"]
    points = []
    for seconds in (4, 16):
        with Run(bench, extension) as run:
            commits = run.measure(seconds, valgrind)["commits"]
            points.append((commits, writer_instructions(run.dir)))
    (n1, i1), (n2, i2) = points
    return (i2 - i1) / (n2 - n1)


def traced(bench, extension):
    """Syncs per commit, and wake-ups by the committing thread per batch."""
    calls = "trace=fdatasync,fsync,futex,pwrite64,write,sendto"
    with Run(bench, extension) as run:
        commits = run.measure(8, ["strace", "-ff", "-o", str(run.dir / "trace"), "-e", calls])["commits"]
        threads = [path.read_text(errors="replace") for path in run.dir.glob("trace.*")]
        writer = max(threads, key=lambda text: text.count("pwrite64("))
        wakes = len(re.findall(r"FUTEX_WAKE|sendto\(|^write\(", writer, re.M))
        syncs = len(re.findall(r"^f(?:data)?sync\(", writer, re.M))
        return {"commits": commits, "syncs_per_1000": 1000 * syncs / commits, "wakes": wakes,
                "batches": len(run.replica.names())}


def trace(bench):
    host = instructions_per_commit(bench, False)
    extension = instructions_per_commit(bench, True)
    extra = extension - host
    good = extra <= INSTRUCTIONS_MAX
    print(f"instructions of the committing thread per commit: host {host:.0f}, extension "
          f"{extension:.0f}, {extra:+.0f} ({'ok' if good else 'MISSED'}, at most {INSTRUCTIONS_MAX})")
    calls = {"host": traced(bench, False), "extension": traced(bench, True)}
    for name, figures in calls.items():
        print(f"{name:10} {figures['commits']} commits under strace, "
              f"{figures['syncs_per_1000']:.2f} syncs per 1000 commits, "
              f"{figures['wakes']} wake-ups in {figures['batches']} batches")
    return good, {"instructions": {"host": host, "extension": extension}, "calls": calls}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--skip-trace", action="store_true")
    parser.add_argument("--json")
    options = parser.parse_args()
    bench = compile_program("commitbench")
    good, summary = report(pairs(bench, options), {**LIMITS, **MORE})
    if not options.skip_trace:
        fine, more = trace(bench)
        good, summary = good and fine, {**summary, **more}
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(summary, indent=1) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
