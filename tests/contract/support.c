/* Opening files as SQLite does, and what a transcript says of them. */
#define _GNU_SOURCE
#include "contract.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define RWC (SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE)
#define TEMPORARY (RWC | SQLITE_OPEN_EXCLUSIVE | SQLITE_OPEN_DELETEONCLOSE)

const struct kind KINDS[] = {
    {"main", RWC | SQLITE_OPEN_MAIN_DB, 0, 0},
    {"wal", RWC | SQLITE_OPEN_WAL, 1, 0},
    {"journal", RWC | SQLITE_OPEN_MAIN_JOURNAL, 1, 0},
    {"super", RWC | SQLITE_OPEN_EXCLUSIVE | SQLITE_OPEN_SUPER_JOURNAL, 0, 0},
    {"temp", TEMPORARY | SQLITE_OPEN_TEMP_DB, 0, 1},
    {"tempjournal", TEMPORARY | SQLITE_OPEN_TEMP_JOURNAL, 0, 1},
    {"subjournal", TEMPORARY | SQLITE_OPEN_SUBJOURNAL, 0, 1},
    {"transient", TEMPORARY | SQLITE_OPEN_TRANSIENT_DB, 0, 1},
    {NULL, 0, 0, 0},
};
const struct kind *const MAIN = &KINDS[0];
const struct kind *const WAL = &KINDS[1];

const struct kind *kind_named(const char *name) {
  for (const struct kind *k = KINDS; k->name; k++) {
    if (strcmp(k->name, name) == 0) return k;
  }
  fprintf(stderr, "contract: no kind %s\n", name);
  exit(2);
}

/* The path of `base` in the working directory, kept for ever. */
const char *full(const char *base) {
  char here[PATH_MAX];
  if (!getcwd(here, sizeof(here))) exit(2);
  return sqlite3_mprintf("%s/%s", here, base);
}

/* The name of a main database, with `extra` more parameters for the URI. */
sqlite3_filename database_name(const char *base, int extra, const char **parameters) {
  const char *all[20] = {"vfs", vfs->zName};
  int n = 2;
  if (is_replicated) {
    all[n++] = "replica_url";
    all[n++] = sqlite3_mprintf("file://%s-replica", full(base));
  }
  for (int i = 0; i < 2 * extra; i++) all[n++] = parameters[i];
  const char *path = full(base);
  return sqlite3_create_filename(path, sqlite3_mprintf("%s-journal", path),
                                 sqlite3_mprintf("%s-wal", path), n / 2, all);
}

/* szOsFile bytes of no particular content between two fences. */
enum { FENCE = 64, POISON = 0xa5 };

sqlite3_file *file_memory(void) {
  unsigned char *all = sqlite3_malloc(vfs->szOsFile + 2 * FENCE);
  memset(all, POISON, vfs->szOsFile + 2 * FENCE);
  return (sqlite3_file *)(all + FENCE);
}

void free_file_memory(sqlite3_file *file) {
  unsigned char *all = (unsigned char *)file - FENCE;
  int broken = 0;
  for (int i = 0; i < FENCE; i++) {
    broken |= all[i] != POISON || all[FENCE + vfs->szOsFile + i] != POISON;
  }
  check(!broken, "the VFS stays within szOsFile bytes", __FILE__, __LINE__);
  sqlite3_free(all);
}

const char *file_name_of(const struct kind *k, sqlite3_filename database, const char *base) {
  if (k->anonymous) return NULL;
  if (k == MAIN) return database;
  if (k == WAL) return sqlite3_filename_wal(database);
  if (k->owned) return sqlite3_filename_journal(database);
  /* SQLite keeps four zeros before the name of a super-journal. */
  char *super = sqlite3_mprintf("%.4c%s-mj0123456%.16c", 0, full(base), 0);
  return super + 4;
}

/* Opens with exactly `flags`; NULL when that fails. */
struct handle *try_open(const struct kind *k, const char *base, int flags, int *rc) {
  struct handle *h = calloc(1, sizeof(*h));
  if (k->owned) {
    h->owner = open_as(MAIN, base, MAIN->flags);
    h->database = h->owner->database;
  } else {
    h->database = database_name(base, 0, NULL);
  }
  h->name = file_name_of(k, h->database, base);
  h->file = file_memory();
  h->out_flags = 0;
  *rc = vfs->xOpen(vfs, h->name, h->file, flags, &h->out_flags);
  if (*rc == SQLITE_OK) {
    MUST(h->file->pMethods != NULL);
    return h;
  }
  if (h->file->pMethods) M(h)->xClose(h->file);
  free_file_memory(h->file);
  if (h->owner) close_handle(h->owner);
  free(h);
  return NULL;
}

struct handle *open_as(const struct kind *k, const char *base, int flags) {
  int rc = 0;
  struct handle *h = try_open(k, base, flags, &rc);
  if (!h) {
    printf("FAILED: open of %s as %s: %d\n", base, k->name, rc);
    exit(1);
  }
  return h;
}

/* A file of the kind under test. */
struct handle *open_kind(void) { return open_as(kind, "a.db", kind->flags); }

int close_handle(struct handle *h) {
  int rc = M(h)->xClose(h->file);
  free_file_memory(h->file);
  if (h->owner) {
    close_handle(h->owner);
  } else {
    sqlite3_free_filename(h->database);
  }
  free(h);
  return rc;
}

void say(const char *format, ...) {
  va_list args;
  va_start(args, format);
  vprintf(format, args);
  va_end(args);
  putchar('\n');
}

/* Length, FNV hash, and the first bytes. */
void say_bytes(const char *what, const void *bytes, size_t n) {
  const unsigned char *p = bytes;
  uint64_t hash = 14695981039346656037u;
  for (size_t i = 0; i < n; i++) hash = (hash ^ p[i]) * 1099511628211u;
  printf("%s: %zu bytes, hash %016llx:", what, n, (unsigned long long)hash);
  for (size_t i = 0; i < n && i < 16; i++) printf(" %02x", p[i]);
  putchar('\n');
}

void check(int holds, const char *text, const char *file, int line) {
  if (holds) return;
  printf("FAILED: %s (%s:%d)\n", text, file, line);
  exit(1);
}

static int foreign(const struct dirent *entry) {
  const char *name = entry->d_name;
  return name[0] != '.' && !strstr(name, "-replica") && !strstr(name, "-litestream");
}

static void say_file(const char *name) {
  struct stat st;
  if (stat(name, &st)) return;
  SAY("file %s mode %o links %d", name, st.st_mode, (int)st.st_nlink);
  if (!S_ISREG(st.st_mode)) return;
  unsigned char *all = malloc(st.st_size + 1);
  int fd = open(name, O_RDONLY);
  ssize_t got = fd < 0 ? 0 : pread(fd, all, st.st_size, 0);
  say_bytes(name, all, got < 0 ? 0 : got);
  close(fd);
  free(all);
}

/*
** Every file in the directory save replication's own: mode, size, content.
** A child reads them: a descriptor closed in this process would give up the
** locks that its handles hold.
*/
void say_files(void) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    struct dirent **found;
    int n = scandir(".", &found, foreign, alphasort);
    for (int i = 0; i < n; i++) say_file(found[i]->d_name);
    SAY("%d files", n);
    fflush(stdout);
    _exit(0);
  }
  waitpid(child, NULL, 0);
}

/* Locked ranges of a file, as another process sees them. */
void say_locks(const char *base) {
  int out[2];
  char seen[4096];
  if (pipe(out)) exit(2);
  pid_t child = fork();
  if (child == 0) {
    int fd = open(base, O_RDWR), at = 0;
    off_t from = 0;
    while (fd >= 0 && at < (int)sizeof(seen) - 100) {
      struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = from, .l_len = 0};
      if (fcntl(fd, F_GETLK, &l) || l.l_type == F_UNLCK) break;
      at += snprintf(seen + at, 100, " %s %lld+%lld", l.l_type == F_RDLCK ? "shared" : "exclusive",
                     (long long)l.l_start, (long long)l.l_len);
      if (l.l_len == 0) break;
      from = l.l_start + l.l_len;
    }
    _exit(write(out[1], seen, at) < 0);
  }
  close(out[1]);
  ssize_t n = read(out[0], seen, sizeof(seen) - 1);
  close(out[0]);
  waitpid(child, NULL, 0);
  seen[n < 0 ? 0 : n] = 0;
  SAY("locks of %s:%s", base, seen);
}

void put(const char *base, const void *bytes, size_t n) {
  int fd = open(base, O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (fd < 0 || write(fd, bytes, n) != (ssize_t)n) exit(2);
  close(fd);
}

long size_of(const char *base) {
  struct stat st;
  return stat(base, &st) ? -1 : (long)st.st_size;
}

/* Open descriptors on files of the database, not of replication. */
int own_descriptors(void) {
  char here[PATH_MAX], link[PATH_MAX], name[64];
  int count = 0;
  if (!getcwd(here, sizeof(here))) exit(2);
  for (int fd = 3; fd < 1024; fd++) {
    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(name, link, sizeof(link) - 1);
    if (n < 0) continue;
    link[n] = 0;
    count += strncmp(link, here, strlen(here)) == 0 && !strstr(link, "-replica") &&
             !strstr(link, "-litestream");
  }
  return count;
}

/* Bytes that depend on `seed` and look like no format. */
void fill(unsigned char *at, size_t n, unsigned seed) {
  uint32_t state = seed * 2654435761u + 1;
  for (size_t i = 0; i < n; i++) {
    state = state * 1664525u + 1013904223u;
    at[i] = (unsigned char)(state >> 24);
  }
}

sqlite3_int64 file_size(struct handle *h) {
  sqlite3_int64 size = -1;
  int rc = M(h)->xFileSize(h->file, &size);
  MUST(rc == SQLITE_OK);
  return size;
}

int reserved(struct handle *h) {
  int held = -1;
  int rc = M(h)->xCheckReservedLock(h->file, &held);
  MUST(rc == SQLITE_OK);
  return held;
}
