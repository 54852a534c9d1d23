/* Clauses of xFetch and xUnfetch. */
#include "contract.h"

#include <string.h>

static unsigned char pages[8 * 4096];

static struct handle *with_mmap(sqlite3_int64 limit) {
  struct handle *h = open_kind();
  fill(pages, sizeof(pages), 3);
  MUST(WRITE(h, pages, sizeof(pages), 0) == SQLITE_OK);
  SAY("limit %d", CONTROL(h, SQLITE_FCNTL_MMAP_SIZE, &limit));
  return h;
}

static void *fetch(struct handle *h, sqlite3_int64 at, int n) {
  void *out = &out;
  int rc = M(h)->xFetch(h->file, at, n, &out);
  MUST(rc == SQLITE_OK);
  return out;
}

static void nothing_by_default(void) {
  struct handle *h = with_mmap(0);
  MUST(fetch(h, 0, 4096) == NULL);
  SAY("unfetch %d", M(h)->xUnfetch(h->file, 0, NULL));
  close_handle(h);
}

static void fetches(void) {
  struct handle *h = with_mmap(1 << 20);
  for (int i = 0; i < 8; i++) {
    void *page = fetch(h, 4096 * i, 4096);
    SAY("page %d: %d", i, page != NULL);
    if (page) MUST(memcmp(page, pages + 4096 * i, 4096) == 0);
    if (page) SAY("unfetch %d", M(h)->xUnfetch(h->file, 4096 * i, page));
  }
  SAY("beyond the end %d", fetch(h, 8 * 4096, 4096) != NULL);
  SAY("across the end %d", fetch(h, 8 * 4096 - 100, 4096) != NULL);
  SAY("invalidate %d", M(h)->xUnfetch(h->file, 0, NULL));
  close_handle(h);
}

static void follows_writes(void) {
  struct handle *h = with_mmap(1 << 20);
  unsigned char *page = fetch(h, 0, 4096);
  if (page) {
    SAY("write %d", WRITE(h, "changed", 7, 10));
    MUST(memcmp(page + 10, "changed", 7) == 0);
    SAY("unfetch %d", M(h)->xUnfetch(h->file, 0, page));
  }
  SAY("write %d", WRITE(h, pages, 4096, 8 * 4096));
  page = fetch(h, 8 * 4096, 4096);
  SAY("grown %d", page != NULL);
  if (page) {
    MUST(memcmp(page, pages, 4096) == 0);
    M(h)->xUnfetch(h->file, 8 * 4096, page);
  }
  SAY("truncate %d", TRUNCATE(h, 4096));
  SAY("after truncation %d %d", fetch(h, 4096, 4096) != NULL, file_size(h) == 4096);
  SAY("close %d", close_handle(h));
  say_files();
}

static void limit_is_kept(void) {
  struct handle *h = with_mmap(2 * 4096);
  for (int i = 0; i < 4; i++) {
    void *page = fetch(h, 4096 * i, 4096);
    SAY("page %d: %d", i, page != NULL);
    if (page) M(h)->xUnfetch(h->file, 4096 * i, page);
  }
  close_handle(h);
}

/* Closing with pages fetched must not fault. */
static void resize_while_fetched(void) {
  struct handle *h = with_mmap(1 << 20);
  void *page = fetch(h, 0, 4096);
  sqlite3_int64 limit = 4096;
  SAY("limit %d", CONTROL(h, SQLITE_FCNTL_MMAP_SIZE, &limit));
  if (page) MUST(memcmp(page, pages, 4096) == 0);
  if (page) M(h)->xUnfetch(h->file, 0, page);
  limit = 0;
  SAY("limit %d", CONTROL(h, SQLITE_FCNTL_MMAP_SIZE, &limit));
  SAY("none %d", fetch(h, 0, 4096) != NULL);
  close_handle(h);
}

const struct clause FETCH_CLAUSES[] = {
    {"fetch_off", ON_EVERY, "without mmap_size xFetch gives NULL", nothing_by_default},
    {"fetch", ON_EVERY, "xFetch gives the file's bytes or NULL", fetches},
    {"fetch_follows", ON_EVERY, "fetched memory follows writes and truncation", follows_writes},
    {"fetch_limit", ON_EVERY, "xFetch keeps to mmap_size", limit_is_kept},
    {"fetch_resize", ON_EVERY, "MMAP_SIZE while a page is out", resize_while_fetched},
    {0},
};
