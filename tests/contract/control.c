/* Clauses of xFileControl, called directly. */
#define _GNU_SOURCE
#include "contract.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(struct handle *h, const char *name, int op, int value) {
  int out = value;
  int rc = CONTROL(h, op, &out);
  SAY("%s %d: rc %d, %d", name, value, rc, out);
  return out;
}
#define NUMBER(h, op, value) number(h, #op, op, value)

static void unknown(void) {
  struct handle *h = open_kind();
  int room[16] = {0};
  static const int OPS[] = {0, 43, 99, 100, 101, 999, 12345678, -1};
  for (size_t i = 0; i < sizeof(OPS) / sizeof(OPS[0]); i++) {
    MUST(CONTROL(h, OPS[i], room) == SQLITE_NOTFOUND);
    for (int k = 0; k < 16; k++) MUST(room[k] == 0);
  }
  close_handle(h);
}

static void lock_state(void) {
  struct handle *h = open_kind();
  MUST(NUMBER(h, SQLITE_FCNTL_LOCKSTATE, -1) == SQLITE_LOCK_NONE);
  MUST(LOCK(h, SQLITE_LOCK_SHARED) == SQLITE_OK);
  NUMBER(h, SQLITE_FCNTL_LOCKSTATE, -1);
  MUST(LOCK(h, SQLITE_LOCK_EXCLUSIVE) == SQLITE_OK);
  NUMBER(h, SQLITE_FCNTL_LOCKSTATE, -1);
  UNLOCK(h, SQLITE_LOCK_NONE);
  NUMBER(h, SQLITE_FCNTL_LOCKSTATE, -1);
  close_handle(h);
}

static void flags_that_are_kept(void) {
  static const int OPS[] = {SQLITE_FCNTL_PERSIST_WAL, SQLITE_FCNTL_POWERSAFE_OVERWRITE};
  struct handle *h = open_kind();
  for (int i = 0; i < 2; i++) {
    int start = number(h, "query", OPS[i], -1);
    number(h, "set", OPS[i], !start);
    number(h, "query", OPS[i], -1);
    number(h, "set", OPS[i], start);
    number(h, "query", OPS[i], -1);
  }
  close_handle(h);
}

static void chunks(void) {
  struct handle *h = open_kind();
  NUMBER(h, SQLITE_FCNTL_CHUNK_SIZE, 32768);
  sqlite3_int64 hint = 40000;
  SAY("hint %d", CONTROL(h, SQLITE_FCNTL_SIZE_HINT, &hint));
  SAY("size %lld", file_size(h));
  MUST(WRITE(h, "abc", 3, 0) == SQLITE_OK);
  hint = 10;
  SAY("small hint %d", CONTROL(h, SQLITE_FCNTL_SIZE_HINT, &hint));
  SAY("size %lld", file_size(h));
  NUMBER(h, SQLITE_FCNTL_CHUNK_SIZE, 0);
  SAY("close %d", close_handle(h));
  say_files();
}

static void size_hint(void) {
  struct handle *h = open_kind();
  sqlite3_int64 hint = 100000;
  SAY("hint %d", CONTROL(h, SQLITE_FCNTL_SIZE_HINT, &hint));
  SAY("size %lld", file_size(h));
  hint = 0;
  SAY("no hint %d", CONTROL(h, SQLITE_FCNTL_SIZE_HINT, &hint));
  SAY("size %lld", file_size(h));
  close_handle(h);
}

static void vfs_name(void) {
  struct handle *h = open_kind();
  char *name = NULL;
  int rc = CONTROL(h, SQLITE_FCNTL_VFSNAME, &name);
  SAY("name %d", rc);
  MUST(rc == SQLITE_OK && name != NULL);
  /* Each layer puts its own name before that of the layer below. */
  int watched = is_replicated && kind == MAIN;
  MUST(strcmp(name, watched ? "litestream/unix" : "unix") == 0);
  sqlite3_free(name);
  close_handle(h);
}

static void temp_file_name(void) {
  struct handle *h = open_kind();
  char *name = NULL;
  SAY("name %d", CONTROL(h, SQLITE_FCNTL_TEMPFILENAME, &name));
  MUST(name && name[0] == '/' && strlen(name) < (size_t)vfs->mxPathname);
  sqlite3_free(name);
  close_handle(h);
}

static void has_moved(void) {
  struct handle *h = open_kind();
  NUMBER(h, SQLITE_FCNTL_HAS_MOVED, 7);
  if (h->name) {
    MUST(rename(h->name, "elsewhere") == 0);
    int told = NUMBER(h, SQLITE_FCNTL_HAS_MOVED, 7);
    MUST(told == (kind == MAIN));
    put(strrchr(h->name, '/') + 1, "another", 7);
    MUST(NUMBER(h, SQLITE_FCNTL_HAS_MOVED, 7) == told);
    MUST(rename("elsewhere", h->name) == 0);
    MUST(NUMBER(h, SQLITE_FCNTL_HAS_MOVED, 7) == 0);
  }
  close_handle(h);
}

static void mmap_size(void) {
  struct handle *h = open_kind();
  static const sqlite3_int64 SIZES[] = {-1, 65536, -1, 0, -1, 1 << 20, -1};
  for (int i = 0; i < 7; i++) {
    sqlite3_int64 size = SIZES[i];
    int rc = CONTROL(h, SQLITE_FCNTL_MMAP_SIZE, &size);
    SAY("mmap size %lld: rc %d, %lld", SIZES[i], rc, size);
  }
  close_handle(h);
}

static int pragma(struct handle *h, const char *name, const char *value) {
  char *args[4] = {NULL, (char *)name, (char *)value, NULL};
  int rc = CONTROL(h, SQLITE_FCNTL_PRAGMA, args);
  MUST(rc == SQLITE_NOTFOUND || is_shim);
  SAY("pragma %s=%s: rc %d, %s", name, value ? value : "(none)", rc, args[0] ? args[0] : "(none)");
  sqlite3_free(args[0]);
  return rc;
}

/* SQLite goes on with its own pragmas when the VFS answers NOTFOUND. */
static void pragmas(void) {
  struct handle *h = open_kind();
  static const char *const NAMES[] = {"journal_mode", "mmap_size", "", "lite", "litestream",
                                      "LITESTREAMX",  "x_litestream_status", "\xc3\xa9tat"};
  for (int i = 0; i < 8; i++) {
    MUST(pragma(h, NAMES[i], NULL) == SQLITE_NOTFOUND);
    MUST(pragma(h, NAMES[i], "value") == SQLITE_NOTFOUND);
  }
  close_handle(h);
}

/* Opcodes that only inform: the host's answer, nothing changed. */
static void notices(void) {
  static const int OPS[] = {
      SQLITE_FCNTL_SYNC_OMITTED, SQLITE_FCNTL_SYNC,          SQLITE_FCNTL_COMMIT_PHASETWO,
      SQLITE_FCNTL_OVERWRITE,    SQLITE_FCNTL_CKPT_START,    SQLITE_FCNTL_CKPT_DONE,
      SQLITE_FCNTL_WAL_BLOCK,    SQLITE_FCNTL_CKSM_FILE,     SQLITE_FCNTL_RESET_CACHE,
      SQLITE_FCNTL_BUSYHANDLER,  SQLITE_FCNTL_TRACE,         SQLITE_FCNTL_LAST_ERRNO,
      SQLITE_FCNTL_LOCK_TIMEOUT, SQLITE_FCNTL_WIN32_AV_RETRY};
  struct handle *h = open_kind();
  MUST(WRITE(h, "content", 7, 0) == SQLITE_OK);
  for (size_t i = 0; i < sizeof(OPS) / sizeof(OPS[0]); i++) {
    sqlite3_int64 room[4] = {0, 0, 0, 0};
    SAY("op %d: rc %d", OPS[i], CONTROL(h, OPS[i], room));
    say_bytes("argument", room, sizeof(room));
  }
  close_handle(h);
  say_files();
}

static void without_argument(void) {
  static const int OPS[] = {SQLITE_FCNTL_SYNC, SQLITE_FCNTL_COMMIT_PHASETWO,
                            SQLITE_FCNTL_SYNC_OMITTED, SQLITE_FCNTL_CKPT_START,
                            SQLITE_FCNTL_CKPT_DONE};
  struct handle *h = open_kind();
  for (int i = 0; i < 5; i++) SAY("op %d: rc %d", OPS[i], CONTROL(h, OPS[i], NULL));
  close_handle(h);
}

/* Core opcodes that never reach a file, and those of other systems. */
static void not_for_files(void) {
  static const int OPS[] = {
      SQLITE_FCNTL_GET_LOCKPROXYFILE,  SQLITE_FCNTL_SET_LOCKPROXYFILE, SQLITE_FCNTL_FILE_POINTER,
      SQLITE_FCNTL_VFS_POINTER,        SQLITE_FCNTL_JOURNAL_POINTER,   SQLITE_FCNTL_DATA_VERSION,
      SQLITE_FCNTL_WIN32_SET_HANDLE,   SQLITE_FCNTL_WIN32_GET_HANDLE,  SQLITE_FCNTL_ZIPVFS,
      SQLITE_FCNTL_RBU,                SQLITE_FCNTL_PDB,               SQLITE_FCNTL_SIZE_LIMIT,
      SQLITE_FCNTL_RESERVE_BYTES,      SQLITE_FCNTL_EXTERNAL_READER,   17};
  struct handle *h = open_kind();
  for (size_t i = 0; i < sizeof(OPS) / sizeof(OPS[0]); i++) {
    sqlite3_int64 room[4] = {0, 0, 0, 0};
    SAY("op %d: rc %d", OPS[i], CONTROL(h, OPS[i], room));
    say_bytes("argument", room, sizeof(room));
  }
  close_handle(h);
}

static void atomic_writes(void) {
  struct handle *h = open_kind();
  int begin = CONTROL(h, SQLITE_FCNTL_BEGIN_ATOMIC_WRITE, NULL);
  SAY("begin %d", begin);
  int can = M(h)->xDeviceCharacteristics(h->file) & SQLITE_IOCAP_BATCH_ATOMIC;
  MUST(can || begin != SQLITE_OK);
  SAY("rollback %d", CONTROL(h, SQLITE_FCNTL_ROLLBACK_ATOMIC_WRITE, NULL));
  SAY("commit %d", CONTROL(h, SQLITE_FCNTL_COMMIT_ATOMIC_WRITE, NULL));
  close_handle(h);
}

const struct clause CONTROL_CLAUSES[] = {
    {"control_unknown", ON_EVERY, "opcodes not known are NOTFOUND", unknown},
    {"control_lockstate", ON_MAIN, "LOCKSTATE", lock_state},
    {"control_flags", ON_EVERY, "PERSIST_WAL and POWERSAFE_OVERWRITE", flags_that_are_kept},
    {"control_chunk_size", ON_EVERY, "CHUNK_SIZE", chunks},
    {"control_size_hint", ON_EVERY, "SIZE_HINT", size_hint},
    {"control_vfsname", ON_EVERY, "VFSNAME names every layer", vfs_name},
    {"control_tempfilename", ON_EVERY, "TEMPFILENAME", temp_file_name},
    {"control_has_moved", ON_EVERY, "HAS_MOVED", has_moved},
    {"control_mmap_size", ON_EVERY, "MMAP_SIZE", mmap_size},
    {"control_pragma", ON_EVERY, "PRAGMA: NOTFOUND lets SQLite go on", pragmas},
    {"control_notices", ON_EVERY, "opcodes that inform", notices},
    {"control_null", ON_EVERY, "opcodes without an argument", without_argument},
    {"control_core", ON_EVERY, "opcodes of SQLite's core and of other systems", not_for_files},
    {"control_atomic", ON_EVERY, "BEGIN, COMMIT and ROLLBACK_ATOMIC_WRITE", atomic_writes},
    {0},
};
