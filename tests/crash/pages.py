"""Comparing database files page by page."""

import pathlib


def differing_pages(one, other):
    """Numbers of the pages in which two database files differ, by the second's page size."""
    a, b = pathlib.Path(one).read_bytes(), pathlib.Path(other).read_bytes()
    size = int.from_bytes(b[16:18], "big")
    size = {0: 4096, 1: 65536}.get(size, size)
    count = -(-max(len(a), len(b)) // size)
    return [n + 1 for n in range(count) if a[n * size:(n + 1) * size] != b[n * size:(n + 1) * size]]
