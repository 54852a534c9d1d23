#!/usr/bin/python3
"""Rewrite the hand-made part of the corpus beside this file."""

import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent
words = "".join(l.split(":")[1] for l in (DATA / "example_a.hex").read_text().splitlines())
A = bytes.fromhex("".join(words.split()))
WAL = (DATA / "wal/small.db-wal").read_bytes()


def put(folder, name, data):
    (HERE / folder / name).write_bytes(data)


def patched(data, at, new):
    return data[:at] + new + data[at + len(new):]


put("ltx", "ok-example", A)
put("ltx", "empty", b"")
put("ltx", "header-only", A[:100])
put("ltx", "no-marker", A[:464])
put("ltx", "no-trailer", A[:487])
put("ltx", "page-size-0", patched(A, 8, bytes(4)))
put("ltx", "page-size-huge", patched(A, 8, b"\x80\0\0\0"))
put("ltx", "commit-max", patched(A, 12, b"\xff" * 4))
put("ltx", "txid-max", patched(A, 16, b"\xff" * 16))
put("ltx", "block-size-max", patched(A, 106, b"\xff" * 4))
put("ltx", "block-size-0", patched(A, 106, bytes(4)))
put("ltx", "index-length-max", patched(A, 487, b"\xff" * 8))
put("ltx", "index-length-0", patched(A, 487, bytes(8)))
put("ltx", "lz4-offset-0", patched(A, 399, bytes(2)))
put("ltx", "lz4-offset-far", patched(A, 399, b"\xff\xff"))
put("ltx", "lz4-length-run", A[:390] + b"\xff" * 30 + A[420:])
frame = b"\x04\x22\x4d\x18\x64\x40\xa7"
put("ltx", "frame-block-0", A[:104] + bytes(2) + frame + bytes(40))
put("ltx", "frame-block-max", A[:104] + bytes(2) + frame + b"\xff" * 40)
put("ltx", "frame-stored-short", A[:104] + bytes(2) + frame + struct.pack("<I", 1 << 31 | 100) + bytes(200))
put("ltx", "trailing", A + b"\0")
put("index", "ok-example", A[470:487])
put("index", "empty", b"")
put("index", "endless-uvarint", b"\xff" * 40)
put("index", "overflow", b"\x01\x64" + b"\xff" * 9 + b"\x01\0")
put("index", "pgno-33-bit", b"\xff\xff\xff\xff\x1f\x64\x20\0")
put("index", "no-terminator", A[470:486])
put("index", "tail-23", bytes(23))
put("index", "tail-24-ff", b"\xff" * 24)
put("wal", "ok-whole", WAL)
put("wal", "ok-torn", WAL[:700])
put("wal", "ok-commit-max", patched(WAL, 36, b"\xff" * 4))
put("wal", "ok-pgno-max", patched(WAL, 32, b"\xff" * 4))
put("wal", "header-short", WAL[:31])
put("wal", "page-size-1", patched(WAL, 8, b"\0\0\0\1"))
put("wal", "magic", patched(WAL, 0, b"\x37\x7f\x06\x84"))
