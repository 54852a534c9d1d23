/* A VFS over the default one that calls back at three points of a WAL checkpoint
 * and a WAL restart, in the thread that is there. It changes nothing else, so it
 * can lie below any other VFS. */
#ifndef WINDOW_H
#define WINDOW_H
#include <sqlite3.h>

/* What the calling thread wants to be told; null members are skipped. */
struct window {
  void (*checkpoint_granted)(void *); /* the host granted the CKPT lock */
  void (*header_read)(void *);        /* between header and backfill count, when the header changed */
  void (*restart_granted)(void *);    /* the host granted READ1..READ4 at once */
  void *context;
};
extern __thread struct window window;

/* Registers the VFS "window" as the default one. */
void window_register(void);
#endif
