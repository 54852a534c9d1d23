/* Checkpoints race with restarts of the WAL, again and again, each try verified.
 *
 * usage: race TRIES MODE ACTORS SEED DIRECTORY [EXTENSION PARAMETERS]
 *   MODE    raw       both start at the same time, after a random delay of up to 16 us
 *           aligned   the checkpoint, once it has its lock, and the restart, once it has its
 *                     locks, wait for each other; then the restart waits up to 2 us at random
 *           widened   as aligned, and the checkpoint waits up to 2 us after reading its header
 *   ACTORS  threads | processes
 *   PARAMETERS  of the database's URI; %d in it is replaced by the number of the database
 * One try: the WAL is full and backfilled; a PASSIVE checkpoint and a commit that restarts the
 * WAL run at once; one more commit; then the checkpointing connection must see both commits and
 * a PASSIVE checkpoint must copy everything. A lost commit ends the database: a new one is used.
 * Prints one JSON line. */
#include "common.h"
#include "window.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

enum { PAGES = 12, DELAY_RAW_NS = 16000, DELAY_ALIGNED_NS = 2000, MEETING_NS = 2000000 };

/* What both actors share; `turn` orders everything but the race itself. */
static struct shared {
  atomic_long turn;
  atomic_long checkpoint_at, restart_at; /* try whose lock was granted */
  atomic_int database;                   /* number of the database in use */
  long committed;                        /* value of the last commit */
  long met, restarts, lost, damaged, incomplete, refused;
  char integrity[200];
} *shared;

static const char *mode, *directory, *extension, *parameters;
static long tries;
static unsigned long seed;

struct actor {
  sqlite3 *db;
  int database;
  unsigned long random;
  long now; /* number of the try */
};

static long nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void spin(struct actor *a, long most) {
  a->random ^= a->random << 13, a->random ^= a->random >> 7, a->random ^= a->random << 17;
  long end = nanoseconds() + (long)(a->random % (unsigned long)most);
  while (nanoseconds() < end) {}
}

static void wait_turn(long turn) {
  for (long n = 0; atomic_load(&shared->turn) < turn; n++)
    if (n > 2000) sched_yield();
}

/* Tells that this actor is there; waits a while for the other one. */
static int meet(struct actor *a, atomic_long *mine, atomic_long *other) {
  long end = nanoseconds() + MEETING_NS;
  atomic_store(mine, a->now);
  while (atomic_load(other) < a->now)
    if (nanoseconds() > end) return 0;
  return 1;
}

static void at_checkpoint(void *a) { meet(a, &shared->checkpoint_at, &shared->restart_at); }

static void at_header(void *a) { spin(a, DELAY_ALIGNED_NS); }

static void at_restart(void *a) {
  shared->restarts++;
  if (!strcmp(mode, "raw")) return;
  shared->met += meet(a, &shared->restart_at, &shared->checkpoint_at);
  spin(a, DELAY_ALIGNED_NS);
}

static void database_path(char *out, int size, int number, const char *suffix) {
  snprintf(out, size, "%s/race-%d.db%s", directory, number, suffix);
}

static void open_current(struct actor *a) {
  static __thread char uri[1024];
  char path[512];
  a->database = shared->database;
  database_path(path, sizeof path, a->database, "");
  snprintf(uri, sizeof uri, parameters, a->database);
  vfs = uri;
  a->db = open_database(path);
}

static void remove_database(int number) {
  static const char *suffixes[] = {"", "-wal", "-shm"};
  for (int i = 0; i < 3; i++) {
    char path[512];
    database_path(path, sizeof path, number, suffixes[i]);
    unlink(path);
  }
}

static void fill(sqlite3 *db) {
  run(db, "CREATE TABLE t(id INTEGER PRIMARY KEY, n INT, pad BLOB)");
  run(db, "BEGIN");
  for (int i = 0; i < PAGES; i++) run(db, "INSERT INTO t(n, pad) VALUES(0, zeroblob(3000))");
  run(db, "COMMIT");
}

static void commit(struct actor *a, const char *where) {
  char sql[128];
  snprintf(sql, sizeof sql, "UPDATE t SET n=%ld WHERE %s", shared->committed + 1, where);
  run(a->db, sql);
  shared->committed++;
}

/* Turns of one try: 0 writer, 1 checkpointer, 2 and 3 both, 4 writer, 5 checkpointer. */
enum { TURNS = 6 };

static void writer(void) {
  struct actor a = {.random = seed * 2 + 1, .database = -1};
  window = (struct window){.restart_granted = at_restart, .context = &a};
  for (a.now = 1; a.now <= tries; a.now++) {
    long turn = (a.now - 1) * TURNS;
    wait_turn(turn);
    if (a.database != shared->database) {
      if (a.db) sqlite3_close(a.db);
      open_current(&a);
      fill(a.db);
      /* The first snapshot reads the database; it shall not disturb the tries. */
      if (extension) number(a.db, "SELECT litestream_sync(20000) IS NOT NULL");
    }
    window.restart_granted = 0;
    commit(&a, "1");
    window.restart_granted = at_restart;
    atomic_fetch_add(&shared->turn, 1);
    wait_turn(turn + 2);
    if (!strcmp(mode, "raw")) spin(&a, DELAY_RAW_NS);
    commit(&a, "id=1");
    atomic_fetch_add(&shared->turn, 1);
    wait_turn(turn + 4);
    commit(&a, "id=1");
    atomic_fetch_add(&shared->turn, 1);
  }
  wait_turn(tries * TURNS);
  if (a.db) sqlite3_close(a.db);
  atomic_fetch_add(&shared->turn, 1);
}

/* What a reader and the next checkpoint make of the try; 1 when a commit is lost. */
static int is_lost(struct actor *a) {
  struct wal_state wal = wal_state(a->db);
  int damaged = wal.copied > wal.last;
  int lost = number(a->db, "SELECT n FROM t WHERE id=1") != shared->committed;
  struct checkpoint c = checkpoint(a->db, "PASSIVE");
  shared->damaged += damaged;
  shared->lost += lost;
  if (!damaged && !lost && (c.busy || c.frames != c.copied)) shared->incomplete++;
  return damaged || lost;
}

static void checkpointer(void) {
  struct actor a = {.random = seed * 2 + 77777, .database = -1};
  struct window racing = {.context = &a};
  if (strcmp(mode, "raw")) racing.checkpoint_granted = at_checkpoint;
  if (!strcmp(mode, "widened")) racing.header_read = at_header;
  for (a.now = 1; a.now <= tries; a.now++) {
    long turn = (a.now - 1) * TURNS;
    wait_turn(turn + 1);
    if (a.database != shared->database) {
      if (a.db) {
        sqlite3_close(a.db);
        remove_database(a.database);
      }
      open_current(&a);
    }
    checkpoint(a.db, "PASSIVE");
    atomic_fetch_add(&shared->turn, 1);
    window = racing;
    if (!strcmp(mode, "raw")) spin(&a, DELAY_RAW_NS);
    checkpoint(a.db, "PASSIVE");
    window = (struct window){0};
    atomic_fetch_add(&shared->turn, 1);
    wait_turn(turn + 5);
    if (is_lost(&a)) shared->database++;
    atomic_fetch_add(&shared->turn, 1);
  }
  if (extension)
    shared->refused = number(a.db, "SELECT json_extract(litestream_status(), '$.checkpoints_refused')");
  text(a.db, "PRAGMA integrity_check", shared->integrity, sizeof shared->integrity);
  wait_turn(tries * TURNS + 1);
  sqlite3_close(a.db);
}

static void prepare(void) {
  if (strcmp(mode, "raw")) window_register();
  if (extension) load_extension(extension);
}

static void *writer_thread(void *unused) {
  (void)unused;
  writer();
  return 0;
}

static void in_threads(void) {
  pthread_t thread;
  prepare();
  pthread_create(&thread, 0, writer_thread, 0);
  checkpointer();
  pthread_join(thread, 0);
}

static void in_processes(void) {
  int status;
  pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prepare();
    writer();
    exit(0);
  }
  prepare();
  checkpointer();
  waitpid(child, &status, 0);
  if (status != 0) fail(0, "the writing process");
}

int main(int count, char **words) {
  if (count != 6 && count != 8) return 2;
  tries = atol(words[1]), mode = words[2], seed = strtoul(words[4], 0, 10), directory = words[5];
  extension = count == 8 ? words[6] : 0;
  parameters = extension ? words[7] : strcmp(mode, "raw") ? "vfs=window" : "vfs=unix";
  shared = mmap(0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) fail(0, "shared memory");
  long start = nanoseconds();
  if (strcmp(words[3], "processes")) in_threads();
  else in_processes();
  printf("{\"sqlite\":\"%s\",\"tries\":%ld,\"restarts\":%ld,\"met\":%ld,\"lost\":%ld,\"damaged\":%ld,"
         "\"incomplete\":%ld,\"refused\":%ld,\"integrity\":\"%s\",\"seconds\":%.1f}\n",
         sqlite3_libversion(), tries, shared->restarts, shared->met, shared->lost, shared->damaged,
         shared->incomplete, shared->refused, shared->integrity, (nanoseconds() - start) / 1e9);
  return 0;
}
