#include "common.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *vfs = "vfs=unix";

void fail(sqlite3 *db, const char *what) {
  fprintf(stderr, "%s: %s\n", what, db ? sqlite3_errmsg(db) : "failed");
  exit(1);
}

void load_extension(const char *path) {
  static sqlite3 *loader;
  char *why = 0;
  if (sqlite3_open(":memory:", &loader)) fail(loader, "open the loading connection");
  sqlite3_enable_load_extension(loader, 1);
  if (sqlite3_load_extension(loader, path, 0, &why)) fail(loader, why ? why : path);
}

void run(sqlite3 *db, const char *sql) {
  if (sqlite3_exec(db, sql, 0, 0, 0)) fail(db, sql);
}

sqlite3 *open_database(const char *path) {
  char uri[2048];
  sqlite3 *db;
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX;
  snprintf(uri, sizeof uri, "file:%s?%s", path, vfs);
  if (sqlite3_open_v2(uri, &db, flags, 0)) fail(db, uri);
  sqlite3_busy_timeout(db, 10000);
  run(db, "PRAGMA journal_mode=WAL");
  run(db, "PRAGMA wal_autocheckpoint=0");
  run(db, "PRAGMA synchronous=OFF");
  return db;
}

/* Null when the database is damaged; any other error ends the program. */
static sqlite3_stmt *first_row(sqlite3 *db, const char *sql) {
  sqlite3_stmt *statement;
  if (sqlite3_prepare_v2(db, sql, -1, &statement, 0) == SQLITE_OK) {
    if (sqlite3_step(statement) == SQLITE_ROW) return statement;
    sqlite3_finalize(statement);
  }
  if (sqlite3_errcode(db) != SQLITE_CORRUPT) fail(db, sql);
  return 0;
}

long number(sqlite3 *db, const char *sql) {
  sqlite3_stmt *row = first_row(db, sql);
  if (!row) return -1;
  long n = sqlite3_column_int64(row, 0);
  sqlite3_finalize(row);
  return n;
}

void text(sqlite3 *db, const char *sql, char *out, int size) {
  sqlite3_stmt *row = first_row(db, sql);
  const char *found = row ? (const char *)sqlite3_column_text(row, 0) : sqlite3_errmsg(db);
  snprintf(out, size, "%s", found ? found : "");
  sqlite3_finalize(row);
}

struct checkpoint checkpoint(sqlite3 *db, const char *mode) {
  char sql[64];
  snprintf(sql, sizeof sql, "PRAGMA wal_checkpoint(%s)", mode);
  sqlite3_stmt *row = first_row(db, sql);
  if (!row) fail(db, sql);
  struct checkpoint c = {
    sqlite3_column_int(row, 0), sqlite3_column_int(row, 1), sqlite3_column_int(row, 2)};
  sqlite3_finalize(row);
  return c;
}

static volatile unsigned *wal_index(sqlite3 *db) {
  sqlite3_file *file = 0;
  void volatile *region = 0;
  sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file);
  if (file->pMethods->xShmMap(file, 0, 32768, 0, &region) || !region) fail(db, "map the wal-index");
  return region;
}

struct wal_state wal_state(sqlite3 *db) {
  volatile unsigned *words = wal_index(db);
  struct wal_state s = {words[4], words[24]};
  return s;
}

void spoil_wal_index(sqlite3 *db) {
  volatile unsigned *words = wal_index(db);
  for (int i = 0; i < 12; i++) words[i] ^= 0x5a5a5a5a;
}
