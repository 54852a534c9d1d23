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
    (HERE / folder).mkdir(exist_ok=True)
    (HERE / folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


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

# Targets that make a file of the input's numbers.
for n in range(4):
    put("ltx-made", f"plan-{n}", bytes((i * 37 + n * 101) % 251 for i in range(120 + n)))
    put("wal-made", f"plan-{n}", bytes((i * 59 + n * 13) % 253 for i in range(200 + n)))
    put("segment-made", f"plan-{n}", bytes((i * 7 + n * 3) % 255 for i in range(300 + n)))

# Records; the targets put their checksums right.
def words(*fields):
    return b"".join(struct.pack("<Q" if wide else "<I", value) for value, wide in fields)


POSITION = b"LSVFSPOS" + words(
    (2, 0), (0x7f, 0), (4096, 0), (7, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (1, 0), (6, 0),
    (7, 0), (9, 1), (9, 1), (1, 0), (2, 0), (1 << 20, 1), (6, 0), (77, 0), (10, 1), (11, 1),
    (12, 1), (13, 1), (14, 1), (15, 1), (16, 1), (1, 1), (1, 1), (78, 1)) + bytes(80)
put("position", "format-2", POSITION)
put("position", "format-1", patched(POSITION, 8, b"\1")[:160])
put("position", "format-3", patched(POSITION, 8, b"\3"))
put("position", "page-size-0", patched(POSITION, 16, bytes(4)))
put("position", "ones", b"LSVFSPOS\2\0\0\0" + b"\xff" * 244)
put("position", "empty", b"")
LEDGER = b"LSVFSLDG" + words((1, 0), (1, 0), (4096, 0), (2, 0), (9, 1), (1 << 63, 1)) + bytes(88)
put("ledger", "header", LEDGER)
put("ledger", "with-entries", LEDGER + bytes(3968) + struct.pack("<QQQ", 0, 1 << 63 | 5, 1 << 63 | 6))
put("ledger", "commit-max", patched(LEDGER, 20, b"\xff" * 4))
put("ledger", "empty", b"")


def batch(kind, count, body):
    return struct.pack("<IIQQQ", kind, count, len(body), 0, 0) + body


SEGMENT = b"LSVFSSEG" + struct.pack("<IIQ", 1, 512, 7) + bytes(40)
PAGES = struct.pack("<II", 3, 1) + bytes(512) + b"\1" * 512
put("segment", "pages", SEGMENT + batch(1, 2, PAGES) + batch(3, 0, struct.pack("<I", 2)))
put("segment", "sealed", SEGMENT + batch(1, 2, PAGES) + batch(2, 0, bytes(40)) + b"rest")
put("segment", "count-max", SEGMENT + batch(1, 0xffffffff, PAGES))
put("segment", "no-pages", SEGMENT + batch(1, 0, b""))
put("segment", "page-0", SEGMENT + batch(1, 1, bytes(516)))
put("segment", "empty", b"")

# Texts.
CONFIG = """addr: ":9090"
access-key-id: $A
logging: {level: info, type: text}
levels:
  - interval: 5m
dbs:
  - path: ~/a.db
    meta-path: /var/m
    replica:
      type: s3
      bucket: b
      path: p
      endpoint: http://127.0.0.1:9000
      sync-interval: 1h30m
  - dir: /data
    pattern: "*.db"
    recursive: true
    replicas:
      - url: file:///backup/${NAME}
"""
put("config", "litestream.yml", CONFIG)
put("config", "aliases", "a: &a [1,1]\nb: &b [*a,*a,*a]\nc: &c [*b,*b,*b]\ndbs: [*c,*c]\n")
put("config", "deep", "dbs: " + "[" * 3000)
put("config", "tabs", "dbs:\n\t- path: a\n")
put("config", "anchor-of-itself", "dbs: &x\n  - *x\n")
put("config", "merge", "x: &x {path: a}\ndbs:\n  - <<: *x\n    replica: {url: 'file:///r'}\n")
for n, text in enumerate(["1s", "1h30m", "-1", "1e400", "0.000000001s", "nan", "1GiB", "8ei",
                          "9223372036854775807", "inf", "1.5.5s", "", "TRUE", "/a b?c#d{name}.db",
                          "99999999999999999999h", "infs", "1e3", "+1", "{path}"]):
    put("values", f"value-{n}", text)
for n, text in enumerate(["s3://b/p", "s3://b", "s3://b.s3.eu-west-1.amazonaws.com/p?region=x",
                          "file:///a/../b//c", "file://host/x", "s3://u:p@b/p?endpoint=h%3A1",
                          "S3://b?sse-customer-key=AAAA", "s3://b/%2e%2e/x%zz", "://", "a_b://",
                          "s3://b/p?partSize=5MiB&concurrency=0", "http://x", "s3://b/p?x=1#f?y",
                          "s3://@@b/p", "s3://b.localhost:9000/p", "file://", "s3://[::1]:1/b",
                          "s3://b?endpoint=http://u:p@h/"]):
    put("url", f"url-{n}", text)
for n, text in enumerate(["file:a", "file:///a?mode=ro&x=%41", "file://localhost/x?vfs=litestream",
                          "file:a%00", "file:%ff", "file:?a", "file:a?mode=memory#f", "plain.db",
                          "file:a?&&=&b", "file://h/x", "file:a?nolock=1"]):
    put("raw-name", f"name-{n}", text)
for n, text in enumerate(["0000000000000001-00000000000000ff.ltx", "00000000000000ff",
                          "0000000000000001/8000000000000001", "2026-01-02T03:04:05.678Z",
                          "0000000000000007.00000001.segment", "2026-01-02T03:04:05+02:00",
                          "+000000000000001", "-9999-01-01T00:00:00Z", "9999-12-31T23:59:60Z",
                          "000000000000000A", "0000000000000007.+1.segment"]):
    put("names", f"name-{n}", text)
