/* Clauses of xDelete, xAccess and xFullPathname. */
#define _GNU_SOURCE
#include "contract.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void delete_file(void) {
  put("x", "abc", 3);
  SAY("delete %d", vfs->xDelete(vfs, full("x"), 0));
  MUST(access("x", F_OK) != 0);
  put("x", "abc", 3);
  SAY("delete and sync %d", vfs->xDelete(vfs, full("x"), 1));
  say_files();
}

static void delete_missing(void) {
  int rc = vfs->xDelete(vfs, full("missing"), 0);
  MUST(rc == SQLITE_IOERR_DELETE_NOENT);
  MUST(vfs->xDelete(vfs, full("no/such/directory"), 1) == SQLITE_IOERR_DELETE_NOENT);
  SAY("missing %d", vfs->xDelete(vfs, full("missing"), 1));
}

static void delete_directory(void) {
  mkdir("d", 0755);
  int rc = vfs->xDelete(vfs, full("d"), 0);
  MUST(rc != SQLITE_OK);
  SAY("directory %d", rc);
  say_files();
}

static void delete_symlink(void) {
  put("x", "abc", 3);
  MUST(symlink("x", "link") == 0);
  SAY("link %d", vfs->xDelete(vfs, full("link"), 1));
  say_files();
}

/* SQLite deletes journals and WALs that handles still have open. */
static void delete_open_files(void) {
  struct handle *wal = open_as(WAL, "a.db", WAL->flags);
  SAY("write %d", WRITE(wal, "abcdefgh", 8, 100));
  SAY("delete wal %d", vfs->xDelete(vfs, wal->name, 0));
  SAY("again %d", vfs->xDelete(vfs, wal->name, 0));
  SAY("size %lld", file_size(wal));
  const char *journal = sqlite3_filename_journal(wal->owner->database);
  put("a.db-journal", "abc", 3);
  SAY("delete journal %d", vfs->xDelete(vfs, journal, 1));
  SAY("close %d", close_handle(wal));
  say_files();
}

static int can(const char *name, int flags) {
  int out = -1, rc = vfs->xAccess(vfs, full(name), flags, &out);
  SAY("access %s %d: rc %d, %d", name, flags, rc, out);
  return rc == SQLITE_OK ? out : -1;
}

static void access_exists(void) {
  put("x", "abc", 3);
  MUST(can("x", SQLITE_ACCESS_EXISTS) > 0);
  MUST(can("missing", SQLITE_ACCESS_EXISTS) == 0);
  MUST(can("no/where", SQLITE_ACCESS_EXISTS) == 0);
  put("empty", "", 0);
  can("empty", SQLITE_ACCESS_EXISTS);
  mkdir("d", 0755);
  can("d", SQLITE_ACCESS_EXISTS);
  MUST(symlink("nowhere", "dangling") == 0);
  can("dangling", SQLITE_ACCESS_EXISTS);
}

static void access_readwrite(void) {
  put("x", "abc", 3);
  put("r", "abc", 3);
  chmod("r", 0444);
  MUST(can("x", SQLITE_ACCESS_READWRITE) > 0);
  MUST(can("missing", SQLITE_ACCESS_READWRITE) == 0);
  /* access() asks for the real user. */
  if (geteuid() == 0 && setreuid(65534, -1)) exit(2);
  MUST(can("r", SQLITE_ACCESS_READWRITE) == 0);
}

static void access_of_an_open_database(void) {
  struct handle *h = open_as(MAIN, "a.db", MAIN->flags);
  const char *journal = sqlite3_filename_journal(h->database);
  int out = -1;
  SAY("journal %d", vfs->xAccess(vfs, journal, SQLITE_ACCESS_EXISTS, &out));
  MUST(out == 0);
  put("a.db-journal", "abc", 3);
  SAY("journal %d", vfs->xAccess(vfs, journal, SQLITE_ACCESS_EXISTS, &out));
  MUST(out > 0);
  close_handle(h);
}

/* What comes out, relative to the working directory. */
static void say_full(const char *name, int room) {
  char *out = malloc(room + 64);
  memset(out, 'z', room + 64);
  int rc = vfs->xFullPathname(vfs, name, room, out);
  MUST(out[room] == 'z');
  const char *here = full("");
  size_t n = strlen(here) - (name[0] == 0);
  const char *shown = (rc & 0xff) ? "" : strncmp(out, here, n) == 0 ? out + n : out;
  SAY("full of %.20s (%zu) in %d: rc %d '%s'", name, strlen(name), room, rc, shown);
  free(out);
}

static void full_pathname(void) {
  int room = vfs->mxPathname + 1;
  mkdir("d", 0755);
  say_full("x", room);
  say_full("./d/../x.db", room);
  say_full("d//x.db", room);
  say_full("/etc/../etc/passwd", room);
  say_full("name with blanks?&=#%41.db", room);
  say_full("", room);
}

static void full_pathname_of_links(void) {
  int room = vfs->mxPathname + 1;
  put("x", "abc", 3);
  MUST(symlink("x", "link") == 0 && symlink("loop", "loop") == 0);
  mkdir("d", 0755);
  MUST(symlink("d", "dlink") == 0);
  say_full("link", room);
  say_full("dlink/x", room);
  say_full("loop", room);
}

static void full_pathname_too_long(void) {
  char name[2000];
  memset(name, 'n', sizeof(name));
  name[0] = '/';
  name[sizeof(name) - 1] = 0;
  char out[64];
  MUST(vfs->xFullPathname(vfs, name, sizeof(out), out) == SQLITE_CANTOPEN);
  say_full(name, vfs->mxPathname + 1);
  name[600] = 0;
  say_full(name, vfs->mxPathname + 1);
  name[20] = 0;
  for (int room = 18; room < 24; room++) say_full(name, room);
}

const struct clause PATH_CLAUSES[] = {
    {"delete", ON_VFS, "xDelete deletes, with and without syncing the directory", delete_file},
    {"delete_missing", ON_VFS, "xDelete of nothing is IOERR_DELETE_NOENT", delete_missing},
    {"delete_directory", ON_VFS, "xDelete refuses a directory", delete_directory},
    {"delete_symlink", ON_VFS, "xDelete of a link leaves its target", delete_symlink},
    {"delete_open_files", ON_VFS, "xDelete of open files", delete_open_files},
    {"access_exists", ON_VFS, "xAccess with ACCESS_EXISTS", access_exists},
    {"access_readwrite", ON_VFS, "xAccess with ACCESS_READWRITE", access_readwrite},
    {"access_open", ON_VFS, "xAccess of an open database's journal", access_of_an_open_database},
    {"full_pathname", ON_VFS, "xFullPathname makes names absolute", full_pathname},
    {"full_pathname_links", ON_VFS, "xFullPathname follows links", full_pathname_of_links},
    {"full_pathname_long", ON_VFS, "a buffer too small is CANTOPEN", full_pathname_too_long},
    {0},
};
