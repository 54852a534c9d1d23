/* One interleaving of a checkpoint with a writer that restarts the WAL, without
 * threads: the writer runs inside the checkpoint, right after it has read its header.
 *
 * usage: interleave SCENARIO PATH [EXTENSION PARAMETERS]
 *   passive   the checkpoint is PASSIVE
 *   grown     the same, and the new WAL outgrows the old one afterwards
 *   fallback  the checkpoint is FULL but finds the write lock taken: it goes on as PASSIVE
 *   quiet     nobody interferes: PASSIVE, FULL, RESTART and TRUNCATE one after the other
 *   recover   the checkpoint finds a wal-index that it must rebuild: PASSIVE, then TRUNCATE
 * Prints one JSON line. */
#include "common.h"
#include "window.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 300, LATER = 12, LATER_GROWN = 100 };
static sqlite3 *writer, *checkpointer;
static const char *path;
static int restarts, fallback, later = LATER;

static void restarted(void *unused) {
  (void)unused;
  restarts++;
}

/* The writer's commit, which finds everything backfilled and restarts the WAL. */
static void write_inside(void *unused) {
  (void)unused;
  struct window outer = window;
  window = (struct window){.restart_granted = restarted};
  run(writer, fallback ? "INSERT INTO t(v) VALUES('inside')"
                       : "BEGIN IMMEDIATE; INSERT INTO t(v) VALUES('inside')");
  run(writer, "COMMIT");
  window = outer;
}

static void fill(void) {
  run(writer, "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE INDEX i ON t(v)");
  run(writer, "BEGIN");
  for (int i = 0; i < ROWS; i++) run(writer, "INSERT INTO t(v) VALUES(hex(randomblob(200)))");
  run(writer, "COMMIT");
}

static void show_checkpoint(const char *name, struct checkpoint c) {
  printf("\"%s\":[%d,%d,%d],", name, c.busy, c.frames, c.copied);
}

/* Rows seen by connections that open the database after the interleaving. */
static void verdict(int committed) {
  char integrity[256], status[4096] = "null";
  struct wal_state wal = wal_state(writer);
  sqlite3 *reader = open_database(path);
  long live = number(reader, "SELECT count(*) FROM t");
  struct checkpoint last = checkpoint(reader, "PASSIVE");
  if (strstr(vfs, "litestream")) text(reader, "SELECT litestream_status()", status, sizeof status);
  sqlite3_close(reader);
  sqlite3_close(checkpointer);
  sqlite3_close(writer);
  reader = open_database(path);
  text(reader, "PRAGMA integrity_check", integrity, sizeof integrity);
  for (char *c = integrity; *c; c++) if (*c == '\n' || *c == '"') *c = ' ';
  long reopened = number(reader, "SELECT count(*) FROM t");
  sqlite3_close(reader);
  show_checkpoint("last", last);
  printf("\"sqlite\":\"%s\",\"restarts\":%d,\"last_frame\":%u,\"backfilled\":%u,\"committed\":%d,"
         "\"seen_live\":%ld,\"seen_reopened\":%ld,\"integrity\":\"%s\",\"status\":%s}\n",
         sqlite3_libversion(), restarts, wal.last, wal.copied, committed, live, reopened, integrity, status);
}

/* A damaged database may refuse it. */
static void insert_later(void) {
  static const char *sql = "INSERT INTO t(v) VALUES(hex(randomblob(200)))";
  int rc = sqlite3_exec(writer, sql, 0, 0, 0);
  if (rc != SQLITE_OK && rc != SQLITE_CORRUPT) fail(writer, sql);
}

static void interleave(void) {
  /* A header that is new to the checkpointer, of a WAL that has been backfilled. */
  run(writer, "INSERT INTO t(v) VALUES('before')");
  show_checkpoint("first", checkpoint(writer, "PASSIVE"));
  if (fallback) {
    sqlite3_busy_timeout(checkpointer, 0);
    run(writer, "BEGIN IMMEDIATE");
  }
  window = (struct window){.header_read = write_inside};
  struct checkpoint raced = checkpoint(checkpointer, fallback ? "FULL" : "PASSIVE");
  window = (struct window){0};
  show_checkpoint("raced", raced);
  for (int i = 0; i < later; i++) insert_later();
  show_checkpoint("next", checkpoint(checkpointer, "PASSIVE"));
  verdict(ROWS + 2 + later);
}

static void quiet(void) {
  static const char *modes[] = {"PASSIVE", "FULL", "RESTART", "TRUNCATE"};
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < 4; i++) {
      char name[32];
      run(writer, "INSERT INTO t(v) VALUES('quiet')");
      snprintf(name, sizeof name, "%s %d", modes[i], round);
      show_checkpoint(name, checkpoint(i % 2 ? writer : checkpointer, modes[i]));
    }
  }
  verdict(ROWS + 8);
}

static void recover(void) {
  spoil_wal_index(writer);
  show_checkpoint("passive", checkpoint(checkpointer, "PASSIVE"));
  run(writer, "INSERT INTO t(v) VALUES('again')");
  spoil_wal_index(writer);
  show_checkpoint("truncate", checkpoint(checkpointer, "TRUNCATE"));
  run(writer, "INSERT INTO t(v) VALUES('and again')");
  verdict(ROWS + 2);
}

int main(int count, char **words) {
  if (count != 3 && count != 5) return 2;
  const char *scenario = words[1];
  path = words[2];
  fallback = !strcmp(scenario, "fallback");
  if (!strcmp(scenario, "grown")) later = LATER_GROWN;
  window_register();
  vfs = count == 5 ? words[4] : "vfs=window";
  if (count == 5) load_extension(words[3]);
  writer = open_database(path);
  fill();
  /* The first snapshot reads the database; it shall not hold a checkpoint back. */
  if (count == 5) number(writer, "SELECT litestream_sync(20000) IS NOT NULL");
  checkpointer = open_database(path);
  number(checkpointer, "SELECT count(*) FROM t");
  printf("{");
  if (!strcmp(scenario, "quiet")) quiet();
  else if (!strcmp(scenario, "recover")) recover();
  else interleave();
  return 0;
}
