/* Clauses of xOpen and xClose. */
#define _GNU_SOURCE
#include "contract.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RW SQLITE_OPEN_READWRITE
#define RO SQLITE_OPEN_READONLY

/* Flags of the kind under test that say what it is. */
static int type(void) {
  return kind->flags & ~(RW | SQLITE_OPEN_CREATE | SQLITE_OPEN_EXCLUSIVE);
}

/* The file of the kind under test exists before it is opened. */
static void existing(const char *bytes, size_t n) {
  sqlite3_filename database = database_name("a.db", 0, NULL);
  put(strrchr(file_name_of(kind, database, "a.db"), '/') + 1, bytes, n);
  sqlite3_free_filename(database);
}

static void say_open(const char *what, int flags) {
  int rc = -1;
  struct handle *h = try_open(kind, "a.db", flags, &rc);
  SAY("%s: rc %d out %x", what, rc, h ? h->out_flags : 0);
  if (h) {
    SAY("write %d", WRITE(h, "0123456789", 10, 5));
    SAY("close %d", close_handle(h));
  }
  say_files();
}

static void creates(void) {
  struct handle *h = open_kind();
  SAY("out %x", h->out_flags);
  MUST(h->out_flags & RW && !(h->out_flags & RO));
  MUST(file_size(h) == 0);
  say_files();
  SAY("close %d", close_handle(h));
  say_files();
}

static void existing_content_stays(void) {
  existing("precious", 8);
  say_open("existing", type() | RW | SQLITE_OPEN_CREATE);
}

static void missing_without_create(void) {
  int rc = -1;
  struct handle *h = try_open(kind, "a.db", type() | RW, &rc);
  MUST(h == NULL && (rc & 0xff) == SQLITE_CANTOPEN);
  SAY("missing %d", rc);
  h = try_open(kind, "a.db", type() | RO, &rc);
  MUST(h == NULL && (rc & 0xff) == SQLITE_CANTOPEN);
  SAY("missing, read only %d", rc);
  say_files();
}

static void read_only(void) {
  existing("content", 7);
  int rc = -1;
  struct handle *h = try_open(kind, "a.db", type() | RO, &rc);
  MUST(h != NULL && h->out_flags & RO);
  char buf[7];
  SAY("read %d", READ(h, buf, 7, 0));
  say_bytes("read", buf, 7);
  MUST(WRITE(h, "x", 1, 0) != SQLITE_OK);
  SAY("write %d", WRITE(h, "x", 1, 0));
  SAY("truncate %d", TRUNCATE(h, 0));
  SAY("close %d", close_handle(h));
  say_files();
}

/* A file that may only be read is opened so, whatever was asked for. */
static void falls_back_to_read_only(void) {
  /* Permissions mean nothing to root. */
  MUST(chmod(".", 0777) == 0);
  if (geteuid() == 0 && setresuid(65534, 65534, 0)) exit(2);
  existing("content", 7);
  sqlite3_filename database = database_name("a.db", 0, NULL);
  chmod(file_name_of(kind, database, "a.db"), 0444);
  int rc = -1;
  struct handle *h = try_open(kind, "a.db", type() | RW | SQLITE_OPEN_CREATE, &rc);
  SAY("rc %d out %x", rc, h ? h->out_flags : 0);
  MUST(h != NULL && h->out_flags & RO);
  char buf[7];
  SAY("read %d", READ(h, buf, 7, 0));
  SAY("write %d", WRITE(h, "x", 1, 0));
  SAY("shared %d", LOCK(h, SQLITE_LOCK_SHARED));
  SAY("unlock %d", UNLOCK(h, SQLITE_LOCK_NONE));
  SAY("close %d", close_handle(h));
  say_files();
}

static void exclusive_create(void) {
  int flags = type() | RW | SQLITE_OPEN_CREATE | SQLITE_OPEN_EXCLUSIVE;
  say_open("new", flags);
  int rc = -1;
  struct handle *h = try_open(kind, "a.db", flags, &rc);
  /* The unix VFS then tries to open it for reading only. */
  MUST(h == NULL || !(h->out_flags & RW));
  SAY("exists %d out %x", rc, h ? h->out_flags : 0);
  if (h) SAY("close %d", close_handle(h));
  say_files();
}

static void delete_on_close(void) {
  int rc = -1;
  int flags = type() | RW | SQLITE_OPEN_CREATE | SQLITE_OPEN_DELETEONCLOSE;
  struct handle *h = try_open(kind, "a.db", flags, &rc);
  SAY("open %d", rc);
  MUST(h != NULL);
  SAY("write %d", WRITE(h, "abc", 3, 0));
  SAY("size %lld", file_size(h));
  const char *name = h->name ? sqlite3_mprintf("%s", h->name) : NULL;
  SAY("close %d", close_handle(h));
  MUST(name == NULL || access(name, F_OK) != 0);
  say_files();
}

static void failed_open_leaves_nothing(void) {
  mkdir("a.db", 0755);
  sqlite3_filename database = database_name("a.db", 0, NULL);
  const char *name = file_name_of(MAIN, database, "a.db");
  int before = own_descriptors(), out = 0;
  for (int flags = 0; flags < 4; flags++) {
    int all = SQLITE_OPEN_MAIN_DB | (flags & 1 ? RO : RW) | (flags & 2 ? SQLITE_OPEN_CREATE : 0);
    if ((flags & 3) == 3) continue;
    sqlite3_file *file = file_memory();
    int rc = vfs->xOpen(vfs, name, file, all, &out);
    SAY("directory as database: %d", rc);
    MUST(rc != SQLITE_OK || file->pMethods != NULL);
    MUST(rc == SQLITE_OK || file->pMethods == NULL || file->pMethods->xClose != NULL);
    if (file->pMethods) file->pMethods->xClose(file);
    free_file_memory(file);
  }
  MUST(own_descriptors() == before);
}

static void out_flags_may_be_null(void) {
  sqlite3_filename database = database_name("a.db", 0, NULL);
  struct handle *owner = kind->owned ? open_as(MAIN, "b.db", MAIN->flags) : NULL;
  const char *name = file_name_of(kind, owner ? owner->database : database, "a.db");
  sqlite3_file *file = file_memory();
  SAY("open %d", vfs->xOpen(vfs, name, file, kind->flags, NULL));
  MUST(file->pMethods != NULL);
  SAY("close %d", file->pMethods->xClose(file));
  free_file_memory(file);
  if (owner) close_handle(owner);
}

static void descriptors_come_back(void) {
  int before = own_descriptors();
  for (int i = 0; i < 20; i++) {
    struct handle *h = open_kind();
    MUST(WRITE(h, "abc", 3, 0) == SQLITE_OK);
    MUST(close_handle(h) == SQLITE_OK);
    if (kind->flags & SQLITE_OPEN_EXCLUSIVE && !kind->anonymous) unlink("a.db-mj0123456");
  }
  for (int tries = 0; own_descriptors() != before && tries < 1000; tries++) usleep(10000);
  MUST(own_descriptors() == before);
}

/* Journals and WALs get the permissions of their database. */
static void permissions(void) {
  umask(0);
  put("a.db", "", 0);
  chmod("a.db", 0640);
  struct handle *h = open_kind();
  say_files();
  close_handle(h);
}

static void umask_of_new_files(void) {
  umask(027);
  struct handle *h = open_kind();
  say_files();
  close_handle(h);
}

static void uri_parameters_reach_the_host(void) {
  static const char *const SETS[][2] = {
      {"psow", "0"}, {"psow", "1"}, {"nolock", "0"}, {"modeof", "pattern"}, {"cache", "private"},
  };
  put("pattern", "", 0);
  chmod("pattern", 0600);
  for (size_t i = 0; i < sizeof(SETS) / sizeof(SETS[0]); i++) {
    const char *pair[2] = {SETS[i][0], SETS[i][1]};
    if (strcmp(pair[0], "modeof") == 0) pair[1] = full("pattern");
    char base[16];
    sqlite3_snprintf(sizeof(base), base, "a%d.db", (int)i);
    sqlite3_filename name = database_name(base, 1, pair);
    sqlite3_file *file = file_memory();
    int out = 0, rc = vfs->xOpen(vfs, name, file, MAIN->flags, &out);
    SAY("%s=%s: rc %d out %x", SETS[i][0], SETS[i][1], rc, out);
    MUST(rc == SQLITE_OK);
    SAY("device %x", file->pMethods->xDeviceCharacteristics(file));
    file->pMethods->xClose(file);
    free_file_memory(file);
    sqlite3_free_filename(name);
  }
  say_files();
}

static void flags_of_the_connection_are_allowed(void) {
  static const int EXTRA[] = {SQLITE_OPEN_URI, SQLITE_OPEN_NOMUTEX, SQLITE_OPEN_FULLMUTEX,
                              SQLITE_OPEN_PRIVATECACHE, SQLITE_OPEN_EXRESCODE};
  for (size_t i = 0; i < sizeof(EXTRA) / sizeof(EXTRA[0]); i++) {
    say_open("with a flag", (kind->flags & ~SQLITE_OPEN_EXCLUSIVE) | EXTRA[i]);
  }
}

static void version_of_the_methods(void) {
  struct handle *h = open_kind();
  const sqlite3_io_methods *m = M(h);
  SAY("version %d map %d fetch %d", m->iVersion, m->iVersion >= 2 && m->xShmMap != NULL,
      m->iVersion >= 3 && m->xFetch != NULL);
  MUST(m->xClose && m->xRead && m->xWrite && m->xTruncate && m->xSync && m->xFileSize);
  MUST(m->xLock && m->xUnlock && m->xCheckReservedLock && m->xFileControl && m->xSectorSize);
  close_handle(h);
}

static void which_opens_are_watched(void) {
  struct handle *h = open_kind(), *host = h->owner ? h->owner : h;
  int watched = (kind == MAIN || kind == WAL) && is_replicated;
  sqlite3_file *plain = file_memory();
  MUST(sqlite3_vfs_find("unix")->xOpen(sqlite3_vfs_find("unix"), host->name, plain, kind->flags,
                                       NULL) == SQLITE_OK ||
       kind->anonymous || kind->flags & SQLITE_OPEN_EXCLUSIVE);
  if (plain->pMethods && kind == MAIN) MUST((plain->pMethods != M(h)) == watched);
  if (plain->pMethods) plain->pMethods->xClose(plain);
  free_file_memory(plain);
  close_handle(h);
}

const struct clause OPEN_CLAUSES[] = {
    {"open_creates", ON_EVERY, "READWRITE and CREATE make an empty file", creates},
    {"open_existing", ON_NAMED, "an existing file is opened as it is", existing_content_stays},
    {"open_missing", ON_NAMED, "without CREATE a missing file is CANTOPEN",
     missing_without_create},
    {"open_read_only", ON_NAMED, "READONLY shows in the flags that come out", read_only},
    {"open_falls_back", ON_NAMED, "read only where writing is not permitted",
     falls_back_to_read_only},
    {"open_exclusive", ON_NAMED, "EXCLUSIVE with CREATE never opens an existing file to write",
     exclusive_create},
    {"open_delete_on_close", ON_EVERY, "DELETEONCLOSE: gone when closed", delete_on_close},
    {"open_fails_clean", ON_VFS, "a failed open sets pMethods, keeps no descriptor",
     failed_open_leaves_nothing},
    {"open_null_out_flags", ON_EVERY, "pOutFlags may be NULL", out_flags_may_be_null},
    {"open_and_close", ON_EVERY, "xClose gives the descriptor back", descriptors_come_back},
    {"open_permissions", ON_NAMED, "files get the permissions of their database", permissions},
    {"open_umask", ON_NAMED, "new files follow the umask", umask_of_new_files},
    {"open_uri", ON_MAIN, "URI parameters behind the name are the VFS's",
     uri_parameters_reach_the_host},
    {"open_flags", ON_EVERY, "flags of the connection are passed on",
     flags_of_the_connection_are_allowed},
    {"open_version", ON_EVERY, "iVersion of the methods is the host's", version_of_the_methods},
    {"open_watched", ON_EVERY, "our methods stand before watched files only",
     which_opens_are_watched},
    {0},
};
