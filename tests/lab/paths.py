"""Where the built library, the commands and the installed peers are."""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
EXTENSION = pathlib.Path(os.environ.get("LITESTREAM_EXTENSION", ROOT / "dist/litestream_vfs.so"))
OURS = pathlib.Path(os.environ.get("LITESTREAM_BIN", TARGET / "release/litestream"))
GO_17 = CACHE / "litestream-0.5.17/bin/litestream"
GO_15 = CACHE / "litestream-0.5.15/bin/litestream"
MINISTACK = CACHE / "services/ministack/bin/ministack"
SQLCIPHER_PYTHON = CACHE / "sqlcipher3/bin/python"
CIPHERS_PYTHON = CACHE / "apsw-sqlite3mc/bin/python"
NODE_MODULES = CACHE / "node/node_modules"
PYTHON = "/usr/bin/python3"

ACCESS_KEY = "testkey"
SECRET_KEY = "testsecret"
REGION = "us-east-1"
BUCKET = "bkt"


def environment(**extra):
    """The environment of a host or peer: no settings of ours but those given."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LITESTREAM_", "AWS_"))}
    kept.update(AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY)
    kept.update({k: str(v) for k, v in extra.items()})
    return kept
