/* Clauses of the sqlite3_vfs object: fields and the methods that touch no file. */
#include "contract.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <time.h>

static void fields(void) {
  sqlite3_vfs *host = sqlite3_vfs_find("unix");
  MUST(vfs->iVersion >= 1 && vfs->iVersion == host->iVersion);
  MUST(vfs->szOsFile >= host->szOsFile && vfs->szOsFile >= (int)sizeof(sqlite3_file));
  MUST(vfs->mxPathname == host->mxPathname);
  SAY("version %d path %d", vfs->iVersion, vfs->mxPathname);
}

static void methods(void) {
#define PRESENT(m) SAY(#m " %d", vfs->m != NULL)
  PRESENT(xOpen);
  PRESENT(xDelete);
  PRESENT(xAccess);
  PRESENT(xFullPathname);
  PRESENT(xDlOpen);
  PRESENT(xDlError);
  PRESENT(xDlSym);
  PRESENT(xDlClose);
  PRESENT(xRandomness);
  PRESENT(xSleep);
  PRESENT(xCurrentTime);
  PRESENT(xGetLastError);
  PRESENT(xCurrentTimeInt64);
  PRESENT(xSetSystemCall);
  PRESENT(xGetSystemCall);
  PRESENT(xNextSystemCall);
}

static void unique_name(void) {
  int count = 0;
  for (sqlite3_vfs *v = sqlite3_vfs_find(NULL); v; v = v->pNext) {
    count += strcmp(v->zName, vfs->zName) == 0;
  }
  MUST(count == 1);
  MUST(sqlite3_vfs_find(vfs->zName) == vfs);
}

static void default_vfs(void) {
  SAY("default is %s", sqlite3_vfs_find(NULL)->zName);
  MUST(sqlite3_vfs_register(vfs, 1) == SQLITE_OK);
  MUST(sqlite3_vfs_find(NULL) == vfs);
  sqlite3 *db = NULL;
  SAY("open %d", sqlite3_open("x.db", &db));
  SAY("write %d", sqlite3_exec(db, "CREATE TABLE t(a)", 0, 0, 0));
  sqlite3_close(db);
  MUST(sqlite3_vfs_register(sqlite3_vfs_find("unix"), 1) == SQLITE_OK);
}

static void randomness(void) {
  unsigned char a[64] = {0}, b[64] = {0};
  int n = vfs->xRandomness(vfs, 64, (char *)a);
  SAY("randomness %d", n);
  MUST(n > 0 && n <= 64);
  vfs->xRandomness(vfs, 64, (char *)b);
  MUST(memcmp(a, b, 64) != 0);
  memset(a, 7, 64);
  SAY("few %d", vfs->xRandomness(vfs, 3, (char *)a));
  MUST(a[3] == 7 && a[63] == 7);
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void sleeps(void) {
  double start = seconds();
  int slept = vfs->xSleep(vfs, 20000);
  MUST(slept >= 20000);
  MUST(seconds() - start >= 0.019);
  SAY("slept %d", slept);
}

static void current_time(void) {
  double day = 0;
  sqlite3_int64 ms = 0;
  SAY("codes %d %d", vfs->xCurrentTime(vfs, &day), vfs->xCurrentTimeInt64(vfs, &ms));
  /* The Unix epoch is Julian day 2440587.5. */
  double now = (double)time(NULL) / 86400 + 2440587.5;
  MUST(fabs(day - now) < 1.0 / 24);
  MUST(fabs((double)ms / 86400000 - day) < 1.0 / 24);
}

static void last_error(void) {
  char text[64] = "untouched";
  errno = ENOSPC;
  SAY("last error %d, %s", vfs->xGetLastError(vfs, sizeof(text), text), text);
  errno = 0;
  SAY("none %d", vfs->xGetLastError(vfs, 0, NULL));
}

/* The reason of a failed open survives until SQLite asks for it. */
static void system_errno(void) {
  sqlite3 *db = NULL;
  const char *uri = sqlite3_mprintf("file:%s?vfs=%s&replica_url=file://%s", full("no/where.db"),
                                    vfs->zName, full("r-replica"));
  if (!is_replicated) uri = sqlite3_mprintf("file:%s?vfs=%s", full("no/where.db"), vfs->zName);
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
  SAY("open %d", sqlite3_open_v2(uri, &db, flags, NULL) & 0xff);
  SAY("system errno %d", sqlite3_system_errno(db));
  sqlite3_close(db);
}

static void loads_libraries(void) {
  char text[256] = "";
  void *library = vfs->xDlOpen(vfs, "libm.so.6");
  MUST(library != NULL);
  double (*cosine)(double) = (double (*)(double))vfs->xDlSym(vfs, library, "cos");
  MUST(cosine != NULL && cosine(0) == 1);
  MUST(vfs->xDlSym(vfs, library, "no_such_symbol_anywhere") == NULL);
  vfs->xDlError(vfs, sizeof(text), text);
  SAY("symbol: %d", text[0] != 0);
  vfs->xDlClose(vfs, library);
  MUST(vfs->xDlOpen(vfs, "/no/such/library.so") == NULL);
  memset(text, 'x', sizeof(text));
  vfs->xDlError(vfs, 20, text);
  text[20] = 0;
  SAY("library: %s", text);
}

static int calls;
static int counting_close(int fd) {
  calls++;
  extern int close(int);
  return close(fd);
}

static void system_calls(void) {
  int n = 0;
  for (const char *name = vfs->xNextSystemCall(vfs, NULL); name;
       name = vfs->xNextSystemCall(vfs, name)) {
    SAY("%s %d", name, vfs->xGetSystemCall(vfs, name) != NULL);
    MUST(++n < 100);
  }
  MUST(vfs->xGetSystemCall(vfs, "nonsense") == NULL);
  SAY("set nonsense %d", vfs->xSetSystemCall(vfs, "nonsense", (sqlite3_syscall_ptr)counting_close));
  sqlite3_syscall_ptr before = vfs->xGetSystemCall(vfs, "close");
  SAY("set close %d", vfs->xSetSystemCall(vfs, "close", (sqlite3_syscall_ptr)counting_close));
  MUST(vfs->xGetSystemCall(vfs, "close") == (sqlite3_syscall_ptr)counting_close);
  close_handle(open_as(MAIN, "a.db", MAIN->flags));
  MUST(calls > 0);
  SAY("reset close %d", vfs->xSetSystemCall(vfs, "close", NULL));
  MUST(vfs->xGetSystemCall(vfs, "close") == before);
  SAY("reset all %d", vfs->xSetSystemCall(vfs, NULL, NULL));
}

const struct clause VFS_CLAUSES[] = {
    {"fields", ON_VFS, "iVersion and mxPathname as the host's, szOsFile large enough", fields},
    {"methods", ON_VFS, "a method is there when the host has it", methods},
    {"unique_name", ON_VFS, "zName is unique among all VFS modules", unique_name},
    {"default_vfs", ON_VFS, "registering again may make it the default", default_vfs},
    {"randomness", ON_VFS, "xRandomness gives the bytes that it counts", randomness},
    {"sleep", ON_VFS, "xSleep sleeps at least as long as asked", sleeps},
    {"current_time", ON_VFS, "xCurrentTime and xCurrentTimeInt64 give Julian days", current_time},
    {"last_error", ON_VFS, "xGetLastError tells the system's error", last_error},
    {"system_errno", ON_VFS, "a failed open leaves the system's error", system_errno},
    {"load_libraries", ON_VFS, "xDlOpen, xDlSym, xDlError, xDlClose", loads_libraries},
    {"system_calls", ON_VFS, "xSetSystemCall and its kin reach the host's table", system_calls},
    {0},
};
