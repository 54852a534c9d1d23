/*
** The contract suite calls the method tables of a VFS directly. One process
** runs one clause on one kind of file and prints a transcript; the runner
** compares the transcripts of the host's VFS and of the shim.
**
** Every line that SAY prints must be the same for both. MUST states what the
** documentation of sqlite3_vfs and sqlite3_io_methods promises; a broken
** promise ends the process with status 1.
*/
#ifndef CONTRACT_H
#define CONTRACT_H

#include <sqlite3.h>
#include <stddef.h>

/* What SQLite opens files as. */
struct kind {
  const char *name;
  int flags;      /* as SQLite passes them to create or open */
  int owned;      /* named after a main database, which is opened first */
  int anonymous;  /* the name is NULL */
};
extern const struct kind KINDS[];
extern const struct kind *const MAIN;
extern const struct kind *const WAL;
const struct kind *kind_named(const char *name);

/* On which kinds a clause is tried. */
enum { ON_VFS = 1, ON_MAIN = 2, ON_NAMED = 4, ON_EVERY = 8 };

struct clause {
  const char *name;
  int where;
  const char *says;
  void (*run)(void);
};
extern const struct clause VFS_CLAUSES[], PATH_CLAUSES[], OPEN_CLAUSES[], DATA_CLAUSES[],
    FAULT_CLAUSES[], LOCK_CLAUSES[], CONTROL_CLAUSES[], CONNECTION_CLAUSES[], SHM_CLAUSES[],
    FETCH_CLAUSES[];

/* The run. The working directory is empty at its start. */
extern sqlite3_vfs *vfs;          /* under test */
extern sqlite3 *loader;           /* a connection, open all the time */
extern const struct kind *kind;   /* of the file under test */
extern int is_shim, is_replicated;

/* An open file and what it needs. */
struct handle {
  sqlite3_file *file;
  sqlite3_filename database;  /* names of the main database, its journal, its WAL */
  const char *name;
  struct handle *owner;       /* the main database that is open beside its WAL */
  int out_flags;
};

struct handle *open_as(const struct kind *kind, const char *base, int flags);
struct handle *open_kind(void);
struct handle *try_open(const struct kind *kind, const char *base, int flags, int *rc);
int close_handle(struct handle *h);
sqlite3_filename database_name(const char *base, int extra, const char **parameters);
sqlite3_file *file_memory(void);
void free_file_memory(sqlite3_file *file);
const char *full(const char *base);
const char *file_name_of(const struct kind *k, sqlite3_filename database, const char *base);

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void say_bytes(const char *what, const void *bytes, size_t n);
void say_files(void);
void say_locks(const char *base);
void check(int holds, const char *text, const char *file, int line);
#define SAY say
#define MUST(condition) check((condition) != 0, #condition, __FILE__, __LINE__)

void put(const char *base, const void *bytes, size_t n);
long size_of(const char *base);
int own_descriptors(void);
void fill(unsigned char *at, size_t n, unsigned seed);

/* Another process with the same VFS, or the host's, on a main database. */
struct peer;
struct peer *peer_start(const char *base, int with_host_vfs);
int ask(struct peer *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
void peer_end(struct peer *p);
int peer_main(const char *base);
extern const char *extension_path, *variant_name;

/* Shorter calls of a file's methods. */
#define M(h) ((h)->file->pMethods)
#define READ(h, p, n, at) M(h)->xRead((h)->file, (p), (n), (at))
#define WRITE(h, p, n, at) M(h)->xWrite((h)->file, (p), (n), (at))
#define TRUNCATE(h, n) M(h)->xTruncate((h)->file, (n))
#define SYNC(h, flags) M(h)->xSync((h)->file, (flags))
#define LOCK(h, level) M(h)->xLock((h)->file, (level))
#define UNLOCK(h, level) M(h)->xUnlock((h)->file, (level))
#define CONTROL(h, op, arg) M(h)->xFileControl((h)->file, (op), (arg))
#define SHM_LOCK(h, at, n, flags) M(h)->xShmLock((h)->file, (at), (n), (flags))

sqlite3_int64 file_size(struct handle *h);
int reserved(struct handle *h);

#endif
