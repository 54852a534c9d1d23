/* Clauses of xShmMap, xShmLock, xShmBarrier and xShmUnmap. */
#define _GNU_SOURCE
#include "contract.h"

#include <string.h>
#include <unistd.h>

enum {
  REGION = 32768,
  TAKE = SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE,
  SHARE = SQLITE_SHM_LOCK | SQLITE_SHM_SHARED,
  DROP = SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE,
  UNSHARE = SQLITE_SHM_UNLOCK | SQLITE_SHM_SHARED,
};

static unsigned char volatile *map(struct handle *h, int region, int extend, int *rc) {
  void volatile *out = (void volatile *)1;
  *rc = M(h)->xShmMap(h->file, region, REGION, extend, &out);
  return (unsigned char volatile *)out;
}

static unsigned char volatile *mapped(struct handle *h, int region) {
  int rc = -1;
  unsigned char volatile *p = map(h, region, 1, &rc);
  MUST(rc == SQLITE_OK && p != NULL);
  return p;
}

static void maps(void) {
  struct handle *h = open_kind();
  int rc = -1;
  MUST(map(h, 0, 0, &rc) == NULL && rc == SQLITE_OK);
  say_files();
  unsigned char volatile *p = mapped(h, 0);
  for (int i = 0; i < REGION; i++) MUST(p[i] == 0);
  MUST(mapped(h, 0) == p && map(h, 0, 0, &rc) == p);
  SAY("size %ld", size_of("a.db-shm"));
  MUST(map(h, 1, 0, &rc) == NULL && rc == SQLITE_OK);
  unsigned char volatile *q = mapped(h, 3);
  for (int i = 0; i < REGION; i++) MUST(q[i] == 0);
  SAY("size %ld", size_of("a.db-shm"));
  p[0] = 1;
  mapped(h, 1)[0] = 2;
  mapped(h, 2)[REGION - 1] = 3;
  q[REGION - 1] = 4;
  MUST(mapped(h, 0) == p && p[0] == 1);
  M(h)->xShmBarrier(h->file);
  say_files();
  SAY("unmap %d", M(h)->xShmUnmap(h->file, 1));
  say_files();
  close_handle(h);
}

static void shares_memory(void) {
  struct handle *one = open_kind(), *two = open_kind();
  unsigned char volatile *p = mapped(one, 0), *q = mapped(two, 0);
  p[1000] = 42;
  M(one)->xShmBarrier(one->file);
  MUST(q[1000] == 42);
  q[1001] = 43;
  M(two)->xShmBarrier(two->file);
  MUST(p[1001] == 43);
  SAY("unmap %d", M(one)->xShmUnmap(one->file, 0));
  MUST(q[1000] == 42);
  SAY("again %d", M(one)->xShmUnmap(one->file, 0));
  p = mapped(one, 0);
  MUST(p[1001] == 43);
  SAY("unmap %d", M(one)->xShmUnmap(one->file, 1));
  say_files();
  SAY("unmap %d", M(two)->xShmUnmap(two->file, 0));
  say_files();
  close_handle(one);
  close_handle(two);
}

static void unmap_deletes(void) {
  struct handle *one = open_kind(), *two = open_kind();
  mapped(one, 0)[0] = 1;
  mapped(two, 0);
  SAY("first %d", M(one)->xShmUnmap(one->file, 1));
  MUST(access("a.db-shm", F_OK) == 0);
  SAY("last %d", M(two)->xShmUnmap(two->file, 1));
  MUST(access("a.db-shm", F_OK) != 0);
  close_handle(one);
  close_handle(two);
  say_files();
}

static void locks_alone(void) {
  struct handle *h = open_kind();
  mapped(h, 0);
  for (int at = 0; at < SQLITE_SHM_NLOCK; at++) {
    SAY("%d: share %d", at, SHM_LOCK(h, at, 1, SHARE));
    say_locks("a.db-shm");
    SAY("unshare %d", SHM_LOCK(h, at, 1, UNSHARE));
    SAY("take %d", SHM_LOCK(h, at, 1, TAKE));
    say_locks("a.db-shm");
    SAY("drop %d", SHM_LOCK(h, at, 1, DROP));
  }
  say_locks("a.db-shm");
  M(h)->xShmUnmap(h->file, 1);
  close_handle(h);
}

static void locks_ranges(void) {
  struct handle *one = open_kind(), *two = open_kind();
  mapped(one, 0);
  mapped(two, 0);
  for (int at = 0; at < SQLITE_SHM_NLOCK; at++) {
    for (int n = 1; at + n <= SQLITE_SHM_NLOCK; n++) {
      MUST(SHM_LOCK(one, at, n, TAKE) == SQLITE_OK);
      for (int k = 0; k < SQLITE_SHM_NLOCK; k++) {
        int inside = k >= at && k < at + n;
        MUST(SHM_LOCK(two, k, 1, SHARE) == (inside ? SQLITE_BUSY : SQLITE_OK));
        if (!inside) MUST(SHM_LOCK(two, k, 1, UNSHARE) == SQLITE_OK);
      }
      MUST(SHM_LOCK(one, at, n, DROP) == SQLITE_OK);
      MUST(SHM_LOCK(two, at, n, TAKE) == SQLITE_OK);
      MUST(SHM_LOCK(two, at, n, DROP) == SQLITE_OK);
    }
  }
  say_locks("a.db-shm");
  M(one)->xShmUnmap(one->file, 0);
  M(two)->xShmUnmap(two->file, 1);
  close_handle(one);
  close_handle(two);
}

static void locks_share_and_exclude(void) {
  struct handle *h[3];
  for (int i = 0; i < 3; i++) {
    h[i] = open_kind();
    mapped(h[i], 0);
  }
  for (int at = 0; at < SQLITE_SHM_NLOCK; at++) {
    MUST(SHM_LOCK(h[0], at, 1, SHARE) == SQLITE_OK && SHM_LOCK(h[1], at, 1, SHARE) == SQLITE_OK);
    MUST(SHM_LOCK(h[2], at, 1, TAKE) == SQLITE_BUSY);
    SHM_LOCK(h[0], at, 1, UNSHARE);
    MUST(SHM_LOCK(h[2], at, 1, TAKE) == SQLITE_BUSY);
    SHM_LOCK(h[1], at, 1, UNSHARE);
    MUST(SHM_LOCK(h[2], at, 1, TAKE) == SQLITE_OK);
    MUST(SHM_LOCK(h[0], at, 1, SHARE) == SQLITE_BUSY);
    MUST(SHM_LOCK(h[1], at, 1, TAKE) == SQLITE_BUSY);
    SHM_LOCK(h[2], at, 1, DROP);
    MUST(SHM_LOCK(h[0], at, 1, SHARE) == SQLITE_OK);
    SHM_LOCK(h[0], at, 1, UNSHARE);
  }
  say_locks("a.db-shm");
  for (int i = 0; i < 3; i++) M(h[i])->xShmUnmap(h[i]->file, i == 2);
  for (int i = 0; i < 3; i++) close_handle(h[i]);
}

/* "If a lock is not held, unlocking it is harmless", nor does it hurt others. */
static void unlocks_what_is_not_held(void) {
  struct handle *one = open_kind(), *two = open_kind();
  mapped(one, 0);
  mapped(two, 0);
  MUST(SHM_LOCK(one, 4, 1, SHARE) == SQLITE_OK);
  SAY("unshare %d", SHM_LOCK(two, 4, 1, UNSHARE));
  SAY("drop %d", SHM_LOCK(two, 0, 8, DROP));
  say_locks("a.db-shm");
  SHM_LOCK(one, 4, 1, UNSHARE);
  M(one)->xShmUnmap(one->file, 0);
  M(two)->xShmUnmap(two->file, 1);
  close_handle(one);
  close_handle(two);
}

static void between_processes(int with_host_vfs) {
  struct handle *h = open_kind();
  unsigned char volatile *p = mapped(h, 0);
  struct peer *peer = peer_start("a.db", with_host_vfs);
  MUST(ask(peer, "map 0 0") == SQLITE_OK);
  p[2000] = 9;
  M(h)->xShmBarrier(h->file);
  MUST(ask(peer, "peek 2000") == 9 && ask(peer, "poke 2001 8") == 8 && p[2001] == 8);
  for (int at = 0; at < SQLITE_SHM_NLOCK; at++) {
    MUST(ask(peer, "shmlock %d 1 %d", at, TAKE) == SQLITE_OK);
    MUST(SHM_LOCK(h, at, 1, SHARE) == SQLITE_BUSY && SHM_LOCK(h, at, 1, TAKE) == SQLITE_BUSY);
    MUST(ask(peer, "shmlock %d 1 %d", at, DROP) == SQLITE_OK);
    MUST(SHM_LOCK(h, at, 1, SHARE) == SQLITE_OK);
    MUST(ask(peer, "shmlock %d 1 %d", at, SHARE) == SQLITE_OK);
    MUST(ask(peer, "shmlock %d 1 %d", at, UNSHARE) == SQLITE_OK);
    MUST(ask(peer, "shmlock %d 1 %d", at, TAKE) == SQLITE_BUSY);
    SHM_LOCK(h, at, 1, UNSHARE);
    MUST(SHM_LOCK(h, at, 1, TAKE) == SQLITE_OK);
    MUST(ask(peer, "shmlock %d 1 %d", at, SHARE) == SQLITE_BUSY);
    SHM_LOCK(h, at, 1, DROP);
  }
  MUST(ask(peer, "shmlock 4 4 %d", TAKE) == SQLITE_OK);
  MUST(SHM_LOCK(h, 7, 1, SHARE) == SQLITE_BUSY && SHM_LOCK(h, 3, 1, SHARE) == SQLITE_OK);
  SHM_LOCK(h, 3, 1, UNSHARE);
  peer_end(peer);
  MUST(SHM_LOCK(h, 7, 1, SHARE) == SQLITE_OK);
  SHM_LOCK(h, 7, 1, UNSHARE);
  say_locks("a.db-shm");
  SAY("unmap %d", M(h)->xShmUnmap(h->file, 1));
  close_handle(h);
  say_files();
}

static void between_our_processes(void) { between_processes(0); }
static void between_ours_and_the_hosts(void) { between_processes(1); }

static void close_without_unmap(void) {
  struct handle *h = open_kind();
  mapped(h, 0)[5] = 6;
  SAY("close %d", close_handle(h));
  SAY("left %d", access("a.db-shm", F_OK));
  h = open_kind();
  /* The first to connect finds the index cleared. */
  SAY("byte %d", mapped(h, 0)[5]);
  M(h)->xShmUnmap(h->file, 1);
  close_handle(h);
}

static void barrier(void) {
  struct handle *h = open_kind();
  M(h)->xShmBarrier(h->file);
  mapped(h, 0);
  M(h)->xShmBarrier(h->file);
  M(h)->xShmUnmap(h->file, 1);
  M(h)->xShmBarrier(h->file);
  SAY("unmap of nothing %d", M(h)->xShmUnmap(h->file, 1));
  close_handle(h);
}

const struct clause SHM_CLAUSES[] = {
    {"shm_map", ON_MAIN, "xShmMap: NULL unless extended, then zeros", maps},
    {"shm_shared", ON_MAIN, "two handles map the same memory", shares_memory},
    {"shm_unmap", ON_MAIN, "xShmUnmap with deleteFlag deletes with the last", unmap_deletes},
    {"shm_lock", ON_MAIN, "xShmLock of each lock, and what of it other processes see",
     locks_alone},
    {"shm_lock_ranges", ON_MAIN, "xShmLock of every range", locks_ranges},
    {"shm_lock_modes", ON_MAIN, "SHARED shares, EXCLUSIVE excludes", locks_share_and_exclude},
    {"shm_unlock_free", ON_MAIN, "unlocking what is not held is harmless",
     unlocks_what_is_not_held},
    {"shm_processes", ON_MAIN, "memory and locks between two processes", between_our_processes},
    {"shm_foreign", ON_MAIN, "memory and locks against a process with the host's VFS",
     between_ours_and_the_hosts},
    {"shm_close", ON_MAIN, "xClose without xShmUnmap", close_without_unmap},
    {"shm_barrier", ON_MAIN, "xShmBarrier at any time", barrier},
    {0},
};
