#ifndef COMMON_H
#define COMMON_H
#include <sqlite3.h>

/* `vfs` is "unix" or "window" for the host alone, else the URI parameters that
 * reach the extension, such as "vfs=litestream&replica_url=file:///replica". */
extern const char *vfs;

void fail(sqlite3 *db, const char *what);
void load_extension(const char *path);
/* Opens in WAL mode without automatic checkpoints, synchronous=OFF. */
sqlite3 *open_database(const char *path);
void run(sqlite3 *db, const char *sql);
/* The first value of the first row; the error's text, or -1, from a damaged database. */
long number(sqlite3 *db, const char *sql);
void text(sqlite3 *db, const char *sql, char *out, int size);

struct checkpoint { int busy, frames, copied; };
struct checkpoint checkpoint(sqlite3 *db, const char *mode);

/* The last frame and the backfilled frames as the wal-index has them now. */
struct wal_state { unsigned last, copied; };
struct wal_state wal_state(sqlite3 *db);
/* Makes the header of the wal-index invalid, as a writer that dies half-way. */
void spoil_wal_index(sqlite3 *db);
#endif
