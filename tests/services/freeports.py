#!/usr/bin/env python3
"""freeports.py COUNT [RUN]: print COUNT free loopback ports, each the first of RUN.

With RUN (default 1) the following RUN-1 ports are free as well, and so is
every one of them plus 10000 (SeaweedFS puts its gRPC ports there).
"""
import random
import socket
import sys


def free(port):
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def main():
    count, run = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    found = []
    while len(found) < count:
        # Below the ephemeral range: an outgoing connection must not take one meanwhile.
        first = random.randrange(12000, 22000)
        block = range(first, first + run)
        clash = any(abs(first - other) < 16 for other in found)
        wanted = list(block) + ([p + 10000 for p in block] if run > 1 else [])
        if not clash and all(free(port) for port in wanted):
            found.append(first)
    print(*found)


main()
