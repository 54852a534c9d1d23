#!/usr/bin/python3
"""What an idle replicated database costs a process that has many of them open.

usage: many.py [--databases N] [--settle SECONDS]

One process opens the databases in WAL mode, commits a row to each and rests; memory,
descriptors and threads are read from /proc, with and without the extension. The cost of the
first hundred is left out of the slope, so what the library takes once does not count.
"""

import argparse
import pathlib
import sys
import tempfile
import time

from pairs import ROOT  # noqa: F401  (puts the lab on the path)

from lab import child, paths  # noqa: E402

KIB_MAX, DESCRIPTORS_MAX = 20, 1
FIRST = 100

HOST = """
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def figures():
        text = open("/proc/self/status").read()
        value = lambda key: int(text.split(key + ":")[1].split()[0])
        return {"rss_kib": value("VmRSS"), "threads": value("Threads"),
                "descriptors": len(os.listdir("/proc/self/fd"))}

    if SHIMMED:
        load()
    databases = []

    def more(count):
        for _ in range(count):
            path = f"{DIRECTORY}/{len(databases)}.db"
            if SHIMMED:
                db = connect(path, replica_url=f"file://{DIRECTORY}/replica/{len(databases)}")
            else:
                db = sqlite3.connect(path, isolation_level=None)
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=NORMAL")
            databases.append(db)
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
            db.execute("INSERT INTO t(v) VALUES(zeroblob(100))")

    def rest():
        if SHIMMED:
            for db in databases:
                sync(db, 60000)
        time.sleep(SETTLE)
        return figures()

    say(empty=figures())
    more(FIRST)
    say(first=rest())
    more(COUNT - FIRST)
    say(all=rest())
    if SHIMMED:
        states = {}
        for db in databases:
            state = status(db)["state"]
            states[state] = states.get(state, 0) + 1
        say(states=states)
    started = time.monotonic()
    for db in databases:
        db.close()
    say(close_s=time.monotonic() - started)
"""


def measure(shimmed, options):
    with tempfile.TemporaryDirectory(prefix="litestream-many-") as name:
        return child.host(HOST, timeout=1800, DIRECTORY=name, SHIMMED=shimmed, FIRST=FIRST,
                          COUNT=options.databases, SETTLE=options.settle)


def per_database(figures, options, key):
    return (figures["all"][key] - figures["first"][key]) / (options.databases - FIRST)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--databases", type=int, default=1000)
    parser.add_argument("--settle", type=float, default=8)
    options = parser.parse_args()
    started = time.monotonic()
    host, extension = measure(False, options), measure(True, options)
    for name, figures in (("host", host), ("extension", extension)):
        print(name, figures)
    good = True
    for key, unit, most in (("rss_kib", "KiB", KIB_MAX), ("descriptors", "descriptors", DESCRIPTORS_MAX),
                            ("threads", "threads", 0)):
        a, b = (per_database(figures, options, key) for figures in (host, extension))
        fine = b - a <= most
        good &= fine
        print(f"{unit} per idle database: host {a:.2f}, extension {b:.2f}, {b - a:+.2f} "
              f"({'ok' if fine else 'MISSED'}, at most {most} above the host)")
    more = extension["all"]["rss_kib"] - host["all"]["rss_kib"]
    print(f"whole process: {more / 1024:.1f} MiB and {extension['all']['threads']} threads "
          f"(host {host['all']['threads']}) with {options.databases} databases; {time.monotonic() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
