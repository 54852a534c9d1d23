/* A host VFS whose disk is slow: bulk reads of main databases sleep as long as
** they would take at SLOW_BYTES_PER_SECOND (environment). Loaded as an
** extension before the library under test, which then lies above it. Reads of
** single pages, the application's, are not slowed: they would come from the
** operating system's cache. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sqlite3ext.h>
SQLITE_EXTENSION_INIT1

#define BULK 65536

/* Files stay those of the VFS below, with a table that differs in xRead and
** lies before a pointer to the real one. */
typedef struct {
  sqlite3_io_methods table;
  const sqlite3_io_methods *real;
} Slow;

static sqlite3_vfs slow_vfs;
static sqlite3_vfs *below;
static double bytes_per_second;

static int slow_read(sqlite3_file *file, void *out, int n, sqlite3_int64 at){
  const Slow *slow = (const Slow*)file->pMethods;
  if( n>=BULK ) usleep((useconds_t)(n * 1e6 / bytes_per_second));
  return slow->real->xRead(file, out, n, at);
}

static int slow_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out){
  int rc = below->xOpen(below, name, file, flags, out);
  (void)vfs;
  if( rc==SQLITE_OK && (flags & SQLITE_OPEN_MAIN_DB) && file->pMethods ){
    /* One per open, never freed: a test opens few files. */
    Slow *slow = malloc(sizeof(*slow));
    slow->table = *file->pMethods;
    slow->table.xRead = slow_read;
    slow->real = file->pMethods;
    file->pMethods = &slow->table;
  }
  return rc;
}

int sqlite3_slowvfs_init(sqlite3 *db, char **error, const sqlite3_api_routines *api){
  const char *rate = getenv("SLOW_BYTES_PER_SECOND");
  (void)db; (void)error;
  SQLITE_EXTENSION_INIT2(api);
  bytes_per_second = rate ? atof(rate) : 12e6;
  below = sqlite3_vfs_find(0);
  slow_vfs = *below;
  slow_vfs.zName = "unix-slow";
  slow_vfs.xOpen = slow_open;
  return sqlite3_vfs_register(&slow_vfs, 1)==SQLITE_OK ? SQLITE_OK_LOAD_PERMANENTLY : SQLITE_ERROR;
}
