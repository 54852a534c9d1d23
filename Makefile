# The front door. Every target installs what it needs on a bare Debian 12 with a
# Rust toolchain; what apt does not have goes to .cache/.
export CARGO_TARGET_DIR ?= $(CURDIR)/target
RELEASE := $(CARGO_TARGET_DIR)/release
N ?= 200
TRIES ?= 20000

.PHONY: help build demo test large lint bench kill-loop wal-reset prefork foreign fuzz torture clean

help:
	@echo "make build        $(RELEASE)/litestream and dist/litestream_vfs.so"
	@echo "make demo         replicate, kill and restore a real program"
	@echo "make test         everything CI runs"
	@echo "make lint         formatting, clippy, licences and banned crates"
	@echo "make bench        commit, idle and restore cost beside the alternatives"
	@echo "make torture SECONDS=600   simulated worlds, seed after seed"
	@echo "make kill-loop N=200   kill -9 a writer N times, restore and compare"
	@echo "make prefork SECONDS=300   kill a pre-fork server's workers and master at random, compare"
	@echo "make foreign           writes, checkpoints and older copies by a shell without the library"
	@echo "make fuzz SECONDS=60   hostile input for every decoder and parser, guided by coverage"
	@echo "make large             databases over 1 GiB, all page sizes"
	@echo "make wal-reset TRIES=20000   commits lost when checkpoints meet restarts of the WAL"

# Two builds: features of the command line must not reach the extension, which has
# a link step of its own.
build:
	tests/setup build
	cargo build --release --locked -p litestream --features cli
	sqlite-ext/link release
	mkdir -p dist
	cp $(RELEASE)/liblitestream_vfs.so dist/litestream_vfs.so.tmp
	mv dist/litestream_vfs.so.tmp dist/litestream_vfs.so

demo: build
	tests/setup demo
	/usr/bin/python3 tests/demo/demo.py

test:
	tests/setup test
	tests/run

lint:
	tests/setup lint
	tests/run lint

bench: build
	tests/setup bench
	/usr/bin/python3 benches/commit.py
	/usr/bin/python3 benches/truncate.py
	/usr/bin/python3 benches/processes.py
	/usr/bin/python3 benches/rollback.py
	/usr/bin/python3 benches/many.py
	/usr/bin/python3 benches/idle.py
	/usr/bin/python3 benches/restore.py

# Simulated worlds: many processes, faults of storage and disk, crashes. TORTURE_FIRST=N
# begins with seed N; a failing seed prints how to run it again.
torture:
	cargo run --locked -q -p litestream-simulation --profile torture run $(or $(SECONDS),60) $(TORTURE_FIRST)

kill-loop: build
	tests/setup hosts
	/usr/bin/python3 tests/crash/kill_loop.py $(N)

wal-reset: build
	tests/setup hosts
	/usr/bin/python3 tests/wal_reset/run.py $(TRIES)

prefork: build
	tests/setup hosts
	/usr/bin/python3 tests/crash/prefork.py $(or $(SECONDS),300)

foreign: build
	tests/setup hosts
	/usr/bin/python3 tests/crash/foreign.py

fuzz:
	tests/setup fuzz
	tests/fuzz/run $(or $(SECONDS),60)

# What CI leaves out for its length: two million pages around SQLite's lock page.
large: build
	tests/setup hosts
	cd tests/hosts && SLOW_TESTS=1 PYTHONPATH=.. /usr/bin/python3 -m unittest -v test_usage_large

clean:
	rm -rf dist $(CARGO_TARGET_DIR)
