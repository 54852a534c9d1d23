/*
** Result codes when the system fails. The system calls of the host's VFS are
** replaced through xSetSystemCall, as its documentation proposes for tests.
*/
#define _GNU_SOURCE
#include "contract.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int fault;

static ssize_t failing_pread(int fd, void *p, size_t n, off_t at) {
  (void)fd, (void)p, (void)n, (void)at;
  errno = fault;
  return -1;
}
static ssize_t failing_pwrite(int fd, const void *p, size_t n, off_t at) {
  (void)fd, (void)p, (void)n, (void)at;
  errno = fault;
  return -1;
}
static int failing_ftruncate(int fd, off_t n) {
  (void)fd, (void)n;
  errno = fault;
  return -1;
}
static int failing_fstat(int fd, struct stat *st) {
  (void)fd, (void)st;
  errno = fault;
  return -1;
}
static int failing_unlink(const char *name) {
  (void)name;
  errno = fault;
  return -1;
}
static int failing_open(const char *name, int flags, int mode) {
  (void)name, (void)flags, (void)mode;
  errno = fault;
  return -1;
}
static int failing_fcntl(int fd, int op, ...) {
  (void)fd, (void)op;
  errno = fault;
  return -1;
}

/* Sets up one failing call; 0 as error number takes it back. */
static void break_call(const char *name, void *replacement, int number) {
  fault = number;
  int rc = vfs->xSetSystemCall(vfs, name, number ? (sqlite3_syscall_ptr)replacement : NULL);
  MUST(rc == SQLITE_OK);
}

static void say_last(struct handle *h, int rc) {
  int number = 0;
  int last = CONTROL(h, SQLITE_FCNTL_LAST_ERRNO, &number);
  SAY("rc %d, last errno %d: %d", rc, last, number);
}

static void write_fails(void) {
  struct handle *h = open_kind();
  static const int NUMBERS[] = {EIO, ENOSPC, EBADF};
  char buf[100] = "content";
  for (int i = 0; i < 3; i++) {
    for (int at = 0; at < 200; at += 100) {
      break_call("pwrite", failing_pwrite, NUMBERS[i]);
      break_call("pwrite64", failing_pwrite, NUMBERS[i]);
      int rc = WRITE(h, buf, 100, at);
      break_call("pwrite", NULL, 0);
      break_call("pwrite64", NULL, 0);
      MUST(rc != SQLITE_OK);
      say_last(h, rc);
    }
  }
  MUST(WRITE(h, buf, 100, 0) == SQLITE_OK);
  SAY("close %d", close_handle(h));
  say_files();
}

static void read_fails(void) {
  struct handle *h = open_kind();
  char buf[100] = "content";
  MUST(WRITE(h, buf, 100, 0) == SQLITE_OK);
  break_call("pread", failing_pread, EIO);
  break_call("pread64", failing_pread, EIO);
  int rc = READ(h, buf, 100, 0);
  break_call("pread", NULL, 0);
  break_call("pread64", NULL, 0);
  MUST((rc & 0xff) == SQLITE_IOERR && rc != SQLITE_IOERR_SHORT_READ);
  say_last(h, rc);
  SAY("close %d", close_handle(h));
}

static void truncate_fails(void) {
  struct handle *h = open_kind();
  MUST(WRITE(h, "0123456789", 10, 0) == SQLITE_OK);
  for (int to = 0; to < 100; to += 40) {
    break_call("ftruncate", failing_ftruncate, EIO);
    int rc = TRUNCATE(h, to);
    break_call("ftruncate", NULL, 0);
    MUST(rc == SQLITE_IOERR_TRUNCATE);
    say_last(h, rc);
  }
  SAY("close %d", close_handle(h));
  say_files();
}

static void file_size_fails(void) {
  struct handle *h = open_kind();
  sqlite3_int64 size = 0;
  break_call("fstat", failing_fstat, EIO);
  int rc = M(h)->xFileSize(h->file, &size);
  break_call("fstat", NULL, 0);
  MUST(rc == SQLITE_IOERR_FSTAT);
  say_last(h, rc);
  SAY("close %d", close_handle(h));
}

static void lock_fails(void) {
  struct handle *h = open_kind();
  break_call("fcntl", failing_fcntl, EIO);
  int rc = LOCK(h, SQLITE_LOCK_SHARED);
  break_call("fcntl", NULL, 0);
  MUST(rc != SQLITE_OK);
  say_last(h, rc);
  MUST(LOCK(h, SQLITE_LOCK_SHARED) == SQLITE_OK);
  MUST(LOCK(h, SQLITE_LOCK_RESERVED) == SQLITE_OK);
  break_call("fcntl", failing_fcntl, EIO);
  rc = UNLOCK(h, SQLITE_LOCK_NONE);
  break_call("fcntl", NULL, 0);
  say_last(h, rc);
  SAY("close %d", close_handle(h));
  say_locks("a.db");
}

static void delete_fails(void) {
  static const int NUMBERS[] = {EIO, EACCES, ENOENT};
  put("x", "abc", 3);
  for (int i = 0; i < 3; i++) {
    break_call("unlink", failing_unlink, NUMBERS[i]);
    int rc = vfs->xDelete(vfs, full("x"), 1);
    int number = vfs->xGetLastError(vfs, 0, NULL);
    break_call("unlink", NULL, 0);
    SAY("delete: %d, errno %d", rc, number);
    MUST((rc & 0xff) == SQLITE_IOERR);
  }
  say_files();
}

static void open_fails(void) {
  static const int NUMBERS[] = {EIO, EMFILE, ENOSPC, EACCES, EISDIR};
  int before = own_descriptors();
  sqlite3_filename database = database_name("a.db", 0, NULL);
  for (int i = 0; i < 5; i++) {
    sqlite3_file *file = file_memory();
    const char *name = file_name_of(kind, database, "a.db");
    int out = 0;
    break_call("open", failing_open, NUMBERS[i]);
    int rc = vfs->xOpen(vfs, name, file, kind->flags, &out);
    int number = vfs->xGetLastError(vfs, 0, NULL);
    break_call("open", NULL, 0);
    SAY("open: %d, errno %d", rc, number);
    MUST(rc != SQLITE_OK);
    if (file->pMethods) file->pMethods->xClose(file);
    free_file_memory(file);
  }
  MUST(own_descriptors() == before);
  say_files();
}

const struct clause FAULT_CLAUSES[] = {
    {"write_fails", ON_EVERY, "result codes and errno of a failed xWrite", write_fails},
    {"read_fails", ON_EVERY, "result codes and errno of a failed xRead", read_fails},
    {"truncate_fails", ON_EVERY, "IOERR_TRUNCATE", truncate_fails},
    {"file_size_fails", ON_EVERY, "IOERR_FSTAT", file_size_fails},
    {"lock_fails", ON_MAIN, "result codes of a failed xLock and xUnlock", lock_fails},
    {"delete_fails", ON_VFS, "result codes and errno of a failed xDelete", delete_fails},
    {"open_fails", ON_NAMED, "result codes and errno of a failed xOpen", open_fails},
    {0},
};
