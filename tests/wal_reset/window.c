#include "window.h"

__thread struct window window;

typedef struct {
  sqlite3_file base;
  int holds_checkpoint;
} File;

static sqlite3_vfs *host;
static sqlite3_vfs own;

#define TAKE (SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE)
enum { CKPT_LOCK = 1, FIRST_MARK = 4, ALL_MARKS = 4 };
#define HOST(f) ((sqlite3_file *)((File *)(f) + 1))
#define CALL(f, method, ...) (HOST(f)->pMethods->method(HOST(f), ##__VA_ARGS__))

static void tell(void (*callback)(void *)) {
  if (callback) callback(window.context);
}

static int x_shm_lock(sqlite3_file *f, int offset, int n, int flags) {
  int rc = CALL(f, xShmLock, offset, n, flags);
  if (rc != SQLITE_OK) return rc;
  if (offset == CKPT_LOCK && n == 1) {
    ((File *)f)->holds_checkpoint = flags == TAKE;
    if (flags == TAKE) tell(window.checkpoint_granted);
  }
  if (offset == FIRST_MARK && n == ALL_MARKS && flags == TAKE) tell(window.restart_granted);
  return rc;
}

/* sqlite3WalCheckpoint() drops the mapping of the database right after it has read
 * a header that is new to it. */
static int x_unfetch(sqlite3_file *f, sqlite3_int64 at, void *page) {
  int rc = CALL(f, xUnfetch, at, page);
  if (((File *)f)->holds_checkpoint && !page) tell(window.header_read);
  return rc;
}

static int x_close(sqlite3_file *f) { return CALL(f, xClose); }
static int x_read(sqlite3_file *f, void *b, int n, sqlite3_int64 at) { return CALL(f, xRead, b, n, at); }
static int x_write(sqlite3_file *f, const void *b, int n, sqlite3_int64 at) { return CALL(f, xWrite, b, n, at); }
static int x_truncate(sqlite3_file *f, sqlite3_int64 n) { return CALL(f, xTruncate, n); }
static int x_sync(sqlite3_file *f, int flags) { return CALL(f, xSync, flags); }
static int x_size(sqlite3_file *f, sqlite3_int64 *n) { return CALL(f, xFileSize, n); }
static int x_lock(sqlite3_file *f, int level) { return CALL(f, xLock, level); }
static int x_unlock(sqlite3_file *f, int level) { return CALL(f, xUnlock, level); }
static int x_reserved(sqlite3_file *f, int *held) { return CALL(f, xCheckReservedLock, held); }
static int x_control(sqlite3_file *f, int op, void *arg) { return CALL(f, xFileControl, op, arg); }
static int x_sector(sqlite3_file *f) { return CALL(f, xSectorSize); }
static int x_traits(sqlite3_file *f) { return CALL(f, xDeviceCharacteristics); }
static int x_shm_map(sqlite3_file *f, int i, int n, int extend, void volatile **p) { return CALL(f, xShmMap, i, n, extend, p); }
static void x_shm_barrier(sqlite3_file *f) { CALL(f, xShmBarrier); }
static int x_shm_unmap(sqlite3_file *f, int remove) { return CALL(f, xShmUnmap, remove); }
static int x_fetch(sqlite3_file *f, sqlite3_int64 at, int n, void **p) { return CALL(f, xFetch, at, n, p); }

static const sqlite3_io_methods methods = {
  3, x_close, x_read, x_write, x_truncate, x_sync, x_size, x_lock, x_unlock, x_reserved, x_control,
  x_sector, x_traits, x_shm_map, x_shm_lock, x_shm_barrier, x_shm_unmap, x_fetch, x_unfetch,
};

static int x_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out) {
  (void)vfs;
  ((File *)f)->holds_checkpoint = 0;
  int rc = host->xOpen(host, name, HOST(f), flags, out);
  f->pMethods = HOST(f)->pMethods ? &methods : 0;
  return rc;
}
static int x_delete(sqlite3_vfs *v, const char *name, int sync) { (void)v; return host->xDelete(host, name, sync); }
static int x_access(sqlite3_vfs *v, const char *name, int how, int *out) { (void)v; return host->xAccess(host, name, how, out); }
static int x_full(sqlite3_vfs *v, const char *name, int n, char *out) { (void)v; return host->xFullPathname(host, name, n, out); }

void window_register(void) {
  host = sqlite3_vfs_find(0);
  own = *host;
  own.zName = "window";
  own.szOsFile = sizeof(File) + host->szOsFile;
  own.xOpen = x_open;
  own.xDelete = x_delete;
  own.xAccess = x_access;
  own.xFullPathname = x_full;
  sqlite3_vfs_register(&own, 1);
}
