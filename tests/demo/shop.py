"""A small shop that takes orders: an ordinary program on Python's sqlite3.

usage: shop.py EXTENSION URI. Nothing in it knows of replication but the two lines that load
the library and the URI that it opens.
"""

import random
import sqlite3
import sys
import time

SCHEMA = """
CREATE TABLE IF NOT EXISTS customers(id INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS orders(
  id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customers, cents INTEGER, placed REAL);
CREATE TABLE IF NOT EXISTS lines(
  order_id INTEGER REFERENCES orders, item TEXT, quantity INTEGER, cents INTEGER);
"""
NAMES = ["Ada", "Barbara", "Edsger", "Grace", "Jim", "Leslie", "Margaret", "Tony"]
ITEMS = {"pencil": 120, "notebook": 450, "lamp": 3900, "desk": 24900}


def load(extension):
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(extension)


def place_order(db):
    """One transaction: the customer, the order and its lines."""
    with db:
        name = random.choice(NAMES)
        db.execute("INSERT OR IGNORE INTO customers(name) VALUES(?)", (name,))
        customer = db.execute("SELECT id FROM customers WHERE name = ?", (name,)).fetchone()[0]
        basket = random.sample(sorted(ITEMS), random.randint(1, len(ITEMS)))
        lines = [(item, random.randint(1, 5), ITEMS[item]) for item in basket]
        total = sum(quantity * cents for _, quantity, cents in lines)
        order = db.execute("INSERT INTO orders(customer, cents, placed) VALUES(?, ?, ?)",
                           (customer, total, time.time())).lastrowid
        db.executemany("INSERT INTO lines VALUES(?, ?, ?, ?)", [(order, *line) for line in lines])
    return order


def main():
    extension, uri = sys.argv[1:]
    load(extension)
    db = sqlite3.connect(uri, uri=True)
    db.execute("PRAGMA journal_mode=WAL")
    db.executescript(SCHEMA)
    while True:
        order = place_order(db)
        acknowledged = db.execute("SELECT litestream_lag() = 0").fetchone()[0]
        print(order, acknowledged, flush=True)
        time.sleep(0.002)


if __name__ == "__main__":
    main()
