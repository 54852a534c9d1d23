/*
** The driver: usage:
**   contract list
**   contract EXTENSION|- host|plain|replicated KIND CLAUSE
**   contract EXTENSION|- VARIANT peer DATABASE
** Works in the current directory.
*/
#include "contract.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

sqlite3_vfs *vfs;
sqlite3 *loader;
const struct kind *kind;
int is_shim, is_replicated;
const char *extension_path, *variant_name;

static const struct clause *const ALL[] = {
    VFS_CLAUSES,  PATH_CLAUSES,    OPEN_CLAUSES,       DATA_CLAUSES, FAULT_CLAUSES,
    LOCK_CLAUSES, CONTROL_CLAUSES, CONNECTION_CLAUSES, SHM_CLAUSES,  FETCH_CLAUSES,
};
enum { GROUPS = sizeof(ALL) / sizeof(ALL[0]) };

/* clause, where, text: one a line. */
static int list(void) {
  for (int g = 0; g < GROUPS; g++) {
    for (const struct clause *c = ALL[g]; c->name; c++) {
      if (c->where == ON_VFS) {
        printf("%s\t%s\t%s\n", c->name, "vfs", c->says);
        continue;
      }
      for (const struct kind *k = KINDS; k->name; k++) {
        int wanted = c->where == ON_EVERY || (c->where == ON_NAMED && !k->anonymous) || k == MAIN;
        if (wanted) printf("%s\t%s\t%s\n", c->name, k->name, c->says);
      }
    }
  }
  return 0;
}

static void fail(const char *what, const char *detail) {
  fprintf(stderr, "contract: %s: %s\n", what, detail ? detail : "");
  exit(2);
}

static void load(const char *variant) {
  variant_name = variant;
  is_shim = strcmp(variant, "host") != 0;
  is_replicated = strcmp(variant, "replicated") == 0;
  if (sqlite3_open(":memory:", &loader)) fail("open", sqlite3_errmsg(loader));
  if (is_shim) {
    char *why = NULL;
    sqlite3_db_config(loader, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
    if (sqlite3_load_extension(loader, extension_path, NULL, &why)) fail("load", why);
  }
  vfs = sqlite3_vfs_find(is_shim ? "litestream" : NULL);
  if (!vfs) fail("no such VFS", variant);
}

static const struct clause *clause_named(const char *name) {
  for (int g = 0; g < GROUPS; g++) {
    for (const struct clause *c = ALL[g]; c->name; c++) {
      if (strcmp(c->name, name) == 0) return c;
    }
  }
  fail("no such clause", name);
  return NULL;
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  alarm(120);
  if (argc == 2 && strcmp(argv[1], "list") == 0) return list();
  if (argc != 5) fail("usage", "contract EXTENSION VARIANT KIND CLAUSE");
  extension_path = argv[1];
  load(argv[2]);
  if (strcmp(argv[3], "peer") == 0) return peer_main(argv[4]);
  kind = strcmp(argv[3], "vfs") == 0 ? NULL : kind_named(argv[3]);
  clause_named(argv[4])->run();
  sqlite3_close(loader);
  return 0;
}
