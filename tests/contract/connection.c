/* Opcodes that SQLite's core answers, and clauses that need a connection. */
#define _GNU_SOURCE
#include "contract.h"

#include <string.h>

static sqlite3 *connect(const char *base, int flags) {
  sqlite3 *db = NULL;
  const char *path = full(base);
  const char *uri = is_replicated ? sqlite3_mprintf("file:%s?vfs=%s&replica_url=file://%s-replica",
                                                    path, vfs->zName, path)
                                  : sqlite3_mprintf("file:%s?vfs=%s", path, vfs->zName);
  int rc = sqlite3_open_v2(uri, &db, flags | SQLITE_OPEN_URI, NULL);
  MUST(rc == SQLITE_OK);
  return db;
}

#define RWC (SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE)

static void run(sqlite3 *db, const char *sql) {
  SAY("%s: %d", sql, sqlite3_exec(db, sql, NULL, NULL, NULL));
}

static sqlite3_int64 value(sqlite3 *db, const char *sql) {
  sqlite3_stmt *s = NULL;
  sqlite3_int64 v = -1;
  sqlite3_prepare_v2(db, sql, -1, &s, NULL);
  if (s && sqlite3_step(s) == SQLITE_ROW) v = sqlite3_column_int64(s, 0);
  sqlite3_finalize(s);
  return v;
}

static void pointers(void) {
  sqlite3 *db = connect("a.db", RWC);
  sqlite3_file *file = NULL, *journal = NULL;
  sqlite3_vfs *of = NULL;
  run(db, "CREATE TABLE t(a)");
  SAY("file %d", sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file));
  SAY("vfs %d", sqlite3_file_control(db, "main", SQLITE_FCNTL_VFS_POINTER, &of));
  MUST(file && file->pMethods && of == vfs);
  SAY("journal %d", sqlite3_file_control(db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &journal));
  MUST(journal != NULL);
  run(db, "PRAGMA journal_mode=WAL");
  run(db, "INSERT INTO t VALUES(1)");
  SAY("wal %d", sqlite3_file_control(db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &journal));
  MUST(journal && journal->pMethods);
  sqlite3_int64 size = 0;
  SAY("size %d", journal->pMethods->xFileSize(journal, &size));
  SAY("%lld", size);
  /* A method called beside the connection's own calls. */
  unsigned char bytes[16];
  SAY("read %d", file->pMethods->xRead(file, bytes, 16, 0));
  say_bytes("header", bytes, 16);
  sqlite3_close(db);
}

static void data_version(void) {
  sqlite3 *one = connect("a.db", RWC), *two = connect("a.db", RWC);
  unsigned before = 0, after = 0;
  run(one, "PRAGMA journal_mode=WAL; CREATE TABLE t(a)");
  MUST(value(two, "SELECT count(*) FROM t") == 0);
  SAY("rc %d", sqlite3_file_control(two, "main", SQLITE_FCNTL_DATA_VERSION, &before));
  run(one, "INSERT INTO t VALUES(1)");
  MUST(value(two, "SELECT count(*) FROM t") == 1);
  SAY("rc %d", sqlite3_file_control(two, "main", SQLITE_FCNTL_DATA_VERSION, &after));
  MUST(before != after);
  sqlite3_close(one);
  sqlite3_close(two);
}

static void reserve_bytes(void) {
  sqlite3 *db = connect("a.db", RWC);
  int n = 16;
  SAY("rc %d", sqlite3_file_control(db, "main", SQLITE_FCNTL_RESERVE_BYTES, &n));
  SAY("was %d", n);
  run(db, "CREATE TABLE t(a)");
  n = -1;
  SAY("rc %d", sqlite3_file_control(db, "main", SQLITE_FCNTL_RESERVE_BYTES, &n));
  SAY("is %d", n);
  sqlite3_close(db);
  say_files();
}

static void reset_cache(void) {
  sqlite3 *db = connect("a.db", RWC);
  run(db, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
  SAY("rc %d", sqlite3_file_control(db, "main", SQLITE_FCNTL_RESET_CACHE, NULL));
  MUST(value(db, "SELECT count(*) FROM t") == 1);
  sqlite3_close(db);
}

static void persist_wal(void) {
  sqlite3 *db = connect("a.db", RWC);
  int on = 1;
  SAY("rc %d", sqlite3_file_control(db, "main", SQLITE_FCNTL_PERSIST_WAL, &on));
  run(db, "PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1)");
  SAY("close %d", sqlite3_close(db));
  MUST(size_of("a.db-wal") >= 0 && size_of("a.db-shm") >= 0);
  db = connect("a.db", RWC);
  MUST(value(db, "SELECT count(*) FROM t") == 1);
  SAY("close %d", sqlite3_close(db));
  MUST(size_of("a.db-wal") < 0 && size_of("a.db-shm") < 0);
}

static void wal_is_gone_after_the_last_close(void) {
  sqlite3 *one = connect("a.db", RWC), *two = connect("a.db", RWC);
  run(one, "PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1)");
  MUST(value(two, "SELECT count(*) FROM t") == 1);
  SAY("close %d", sqlite3_close(one));
  MUST(size_of("a.db-wal") > 0);
  SAY("close %d", sqlite3_close(two));
  MUST(size_of("a.db-wal") < 0 && size_of("a.db-shm") < 0);
  say_files();
}

/* A super-journal appears with transactions over two databases. */
static void super_journal(void) {
  sqlite3 *db = connect("a.db", RWC);
  sqlite3_close(connect("b.db", RWC));
  char *attach = sqlite3_mprintf("ATTACH %Q AS b", full("b.db"));
  MUST(sqlite3_exec(db, attach, NULL, NULL, NULL) == SQLITE_OK);
  run(db, "CREATE TABLE main.t(a); CREATE TABLE b.u(a)");
  run(db, "BEGIN; INSERT INTO t VALUES(1); INSERT INTO u VALUES(2); COMMIT");
  run(db, "BEGIN; INSERT INTO t VALUES(1); INSERT INTO u VALUES(2); ROLLBACK");
  SAY("%lld %lld", value(db, "SELECT sum(a) FROM t"), value(db, "SELECT sum(a) FROM u"));
  sqlite3_close(db);
  say_files();
}

static void pragma_reaches_sqlite(void) {
  sqlite3 *db = connect("a.db", RWC);
  MUST(value(db, "PRAGMA page_size") > 0);
  MUST(value(db, "PRAGMA user_version") == 0);
  run(db, "PRAGMA user_version=7");
  MUST(value(db, "PRAGMA user_version") == 7);
  run(db, "PRAGMA no_such_pragma=7");
  sqlite3_close(db);
  say_files();
}

static void read_only_connection(void) {
  sqlite3 *db = connect("a.db", RWC);
  run(db, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
  sqlite3_close(db);
  db = connect("a.db", SQLITE_OPEN_READONLY);
  SAY("read only %d", sqlite3_db_readonly(db, "main"));
  run(db, "INSERT INTO t VALUES(2)");
  MUST(value(db, "SELECT count(*) FROM t") == 1);
  sqlite3_close(db);
  say_files();
}

const struct clause CONNECTION_CLAUSES[] = {
    {"connection_pointers", ON_VFS, "FILE_POINTER, VFS_POINTER, JOURNAL_POINTER", pointers},
    {"connection_data_version", ON_VFS, "DATA_VERSION", data_version},
    {"connection_reserve_bytes", ON_VFS, "RESERVE_BYTES", reserve_bytes},
    {"connection_reset_cache", ON_VFS, "RESET_CACHE", reset_cache},
    {"connection_persist_wal", ON_VFS, "PERSIST_WAL keeps the WAL", persist_wal},
    {"connection_last_close", ON_VFS, "the last close deletes WAL and wal-index",
     wal_is_gone_after_the_last_close},
    {"connection_super_journal", ON_VFS, "a transaction over two databases", super_journal},
    {"connection_pragma", ON_VFS, "SQLite's own pragmas work", pragma_reaches_sqlite},
    {"connection_read_only", ON_VFS, "a read-only connection", read_only_connection},
    {0},
};
