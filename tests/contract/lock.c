/* Clauses of xLock, xUnlock and xCheckReservedLock. */
#include "contract.h"

enum {
  NONE = SQLITE_LOCK_NONE,
  SHARED = SQLITE_LOCK_SHARED,
  RESERVED = SQLITE_LOCK_RESERVED,
  PENDING = SQLITE_LOCK_PENDING,
  EXCLUSIVE = SQLITE_LOCK_EXCLUSIVE,
};

static int state_of(struct handle *h) {
  int state = -1;
  CONTROL(h, SQLITE_FCNTL_LOCKSTATE, &state);
  return state;
}

/* A database of two pages of nothing in particular, closed. */
static void make(void) {
  static unsigned char pages[8192];
  fill(pages, sizeof(pages), 9);
  put("a.db", pages, sizeof(pages));
}

static void climbs_the_ladder(void) {
  static const int UP[] = {SHARED, SHARED, RESERVED, SHARED, RESERVED, EXCLUSIVE, SHARED, PENDING};
  make();
  struct handle *h = open_kind();
  MUST(state_of(h) == NONE);
  say_locks("a.db");
  for (int i = 0; i < 8; i++) {
    int rc = LOCK(h, UP[i]);
    MUST(rc == SQLITE_OK);
    SAY("lock %d: state %d", UP[i], state_of(h));
    MUST(state_of(h) >= UP[i]);
    say_locks("a.db");
  }
  static const int DOWN[] = {SHARED, SHARED, NONE, NONE, SHARED};
  for (int i = 0; i < 5; i++) {
    int rc = UNLOCK(h, DOWN[i]);
    MUST(rc == SQLITE_OK);
    SAY("unlock %d: state %d", DOWN[i], state_of(h));
    say_locks("a.db");
  }
  close_handle(h);
  say_files();
}

static void skips_rungs(void) {
  make();
  struct handle *h = open_kind();
  SAY("shared %d", LOCK(h, SHARED));
  SAY("exclusive %d", LOCK(h, EXCLUSIVE));
  SAY("state %d", state_of(h));
  say_locks("a.db");
  SAY("none %d", UNLOCK(h, NONE));
  SAY("state %d", state_of(h));
  say_locks("a.db");
  close_handle(h);
}

static void many_share(void) {
  make();
  struct handle *h[4];
  for (int i = 0; i < 4; i++) {
    h[i] = open_kind();
    MUST(LOCK(h[i], SHARED) == SQLITE_OK);
  }
  say_locks("a.db");
  for (int i = 0; i < 4; i++) {
    MUST(UNLOCK(h[i], NONE) == SQLITE_OK);
    say_locks("a.db");
  }
  for (int i = 0; i < 4; i++) close_handle(h[i]);
}

static void one_reserves(void) {
  make();
  struct handle *one = open_kind(), *two = open_kind();
  MUST(LOCK(one, SHARED) == SQLITE_OK && LOCK(two, SHARED) == SQLITE_OK);
  MUST(LOCK(one, RESERVED) == SQLITE_OK);
  MUST(LOCK(two, RESERVED) == SQLITE_BUSY);
  SAY("state %d", state_of(two));
  MUST(UNLOCK(one, SHARED) == SQLITE_OK);
  MUST(LOCK(two, RESERVED) == SQLITE_OK);
  say_locks("a.db");
  close_handle(two);
  say_locks("a.db");
  close_handle(one);
}

static void exclusive_waits_for_readers(void) {
  make();
  struct handle *one = open_kind(), *two = open_kind(), *three = open_kind();
  MUST(LOCK(one, SHARED) == SQLITE_OK && LOCK(two, SHARED) == SQLITE_OK);
  MUST(LOCK(one, RESERVED) == SQLITE_OK);
  MUST(LOCK(one, EXCLUSIVE) == SQLITE_BUSY);
  /* Pending: no new readers. */
  SAY("state %d", state_of(one));
  say_locks("a.db");
  MUST(LOCK(three, SHARED) == SQLITE_BUSY);
  MUST(UNLOCK(two, NONE) == SQLITE_OK);
  MUST(LOCK(one, EXCLUSIVE) == SQLITE_OK);
  MUST(LOCK(two, SHARED) == SQLITE_BUSY);
  say_locks("a.db");
  MUST(UNLOCK(one, SHARED) == SQLITE_OK);
  MUST(LOCK(two, SHARED) == SQLITE_OK);
  say_locks("a.db");
  close_handle(one);
  close_handle(two);
  close_handle(three);
}

static void checks_reserved(void) {
  make();
  struct handle *one = open_kind(), *two = open_kind();
  MUST(!reserved(one) && !reserved(two));
  LOCK(one, SHARED);
  MUST(!reserved(one) && !reserved(two));
  LOCK(one, RESERVED);
  MUST(reserved(one) && reserved(two));
  LOCK(one, EXCLUSIVE);
  MUST(reserved(two));
  UNLOCK(one, SHARED);
  MUST(!reserved(two));
  close_handle(one);
  close_handle(two);
}

/* The same, with the holder in another process: of our VFS or of the host's. */
static void between_processes(int with_host_vfs) {
  make();
  struct handle *h = open_kind();
  struct peer *p = peer_start("a.db", with_host_vfs);
  MUST(ask(p, "reserved") == 0 && ask(p, "size") == 8192);
  MUST(ask(p, "lock %d", SHARED) == 0 && LOCK(h, SHARED) == SQLITE_OK);
  MUST(ask(p, "lock %d", RESERVED) == 0 && reserved(h));
  MUST(LOCK(h, RESERVED) == SQLITE_BUSY);
  MUST(ask(p, "lock %d", EXCLUSIVE) == SQLITE_BUSY);
  MUST(UNLOCK(h, NONE) == SQLITE_OK);
  MUST(LOCK(h, SHARED) == SQLITE_BUSY);
  MUST(ask(p, "lock %d", EXCLUSIVE) == 0 && LOCK(h, SHARED) == SQLITE_BUSY);
  MUST(reserved(h));
  MUST(ask(p, "unlock %d", SHARED) == 0 && LOCK(h, SHARED) == SQLITE_OK);
  MUST(!reserved(h));
  MUST(ask(p, "unlock %d", NONE) == 0 && LOCK(h, RESERVED) == SQLITE_OK);
  MUST(LOCK(h, EXCLUSIVE) == SQLITE_OK);
  MUST(ask(p, "lock %d", SHARED) == SQLITE_BUSY && ask(p, "reserved") == 1);
  say_locks("a.db");
  MUST(UNLOCK(h, NONE) == SQLITE_OK && ask(p, "lock %d", SHARED) == 0);
  MUST(!reserved(h) && ask(p, "reserved") == 0);
  say_locks("a.db");
  peer_end(p);
  say_locks("a.db");
  close_handle(h);
  say_files();
}

static void between_our_processes(void) { between_processes(0); }
static void between_ours_and_the_hosts(void) { between_processes(1); }

/* POSIX drops all locks of a process with any descriptor of the file. */
static void close_keeps_the_locks_of_others(void) {
  make();
  struct handle *one = open_kind(), *two = open_kind();
  MUST(LOCK(one, SHARED) == SQLITE_OK && LOCK(one, RESERVED) == SQLITE_OK);
  say_locks("a.db");
  close_handle(two);
  say_locks("a.db");
  for (int i = 0; i < 5; i++) {
    two = open_kind();
    MUST(LOCK(two, SHARED) == SQLITE_OK);
    close_handle(two);
  }
  say_locks("a.db");
  struct peer *p = peer_start("a.db", 1);
  MUST(ask(p, "reserved") == 1);
  peer_end(p);
  MUST(UNLOCK(one, NONE) == SQLITE_OK);
  close_handle(one);
}

static void close_drops_its_locks(void) {
  static const int LEVELS[] = {SHARED, RESERVED, EXCLUSIVE};
  make();
  for (int i = 0; i < 3; i++) {
    struct handle *h = open_kind();
    MUST(LOCK(h, SHARED) == SQLITE_OK && LOCK(h, LEVELS[i]) == SQLITE_OK);
    SAY("close %d", close_handle(h));
    say_locks("a.db");
  }
}

/* What SQLite does in a transaction of a rollback journal. */
static void transaction_by_hand(void) {
  make();
  struct handle *h = open_kind();
  unsigned char page[4096];
  for (int i = 0; i < 3; i++) {
    MUST(LOCK(h, SHARED) == SQLITE_OK && LOCK(h, RESERVED) == SQLITE_OK);
    MUST(LOCK(h, EXCLUSIVE) == SQLITE_OK);
    fill(page, sizeof(page), 20 + (unsigned)i);
    MUST(WRITE(h, page, 4096, 4096 * i) == SQLITE_OK);
    SAY("sync fcntl %d", CONTROL(h, SQLITE_FCNTL_SYNC, NULL));
    MUST(SYNC(h, SQLITE_SYNC_NORMAL) == SQLITE_OK);
    SAY("phase two %d", CONTROL(h, SQLITE_FCNTL_COMMIT_PHASETWO, NULL));
    MUST(UNLOCK(h, SHARED) == SQLITE_OK && UNLOCK(h, NONE) == SQLITE_OK);
    say_locks("a.db");
  }
  close_handle(h);
  say_files();
}

const struct clause LOCK_CLAUSES[] = {
    {"lock_ladder", ON_MAIN, "xLock climbs, xUnlock descends, doing nothing at the level asked for",
     climbs_the_ladder},
    {"lock_skips", ON_MAIN, "SHARED to EXCLUSIVE at once", skips_rungs},
    {"lock_shared", ON_MAIN, "any number of handles share", many_share},
    {"lock_reserved", ON_MAIN, "one handle reserves", one_reserves},
    {"lock_pending", ON_MAIN, "EXCLUSIVE waits for readers and keeps new ones out",
     exclusive_waits_for_readers},
    {"check_reserved", ON_MAIN, "xCheckReservedLock sees every handle of the process",
     checks_reserved},
    {"lock_processes", ON_MAIN, "locks between two processes with the same VFS",
     between_our_processes},
    {"lock_foreign", ON_MAIN, "locks against a process with the host's VFS",
     between_ours_and_the_hosts},
    {"close_keeps_locks", ON_MAIN, "closing one handle keeps the locks of another",
     close_keeps_the_locks_of_others},
    {"close_drops_locks", ON_MAIN, "xClose gives a handle's locks back", close_drops_its_locks},
    {"transaction", ON_MAIN, "a rollback transaction's calls", transaction_by_hand},
    {0},
};
