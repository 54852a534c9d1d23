/* Clauses of xRead, xWrite, xTruncate, xSync, xFileSize and what the device is. */
#define _GNU_SOURCE
#include "contract.h"

#include <string.h>
#include <unistd.h>

static unsigned char buf[1 << 17], other[1 << 17];

static struct handle *filled(size_t n) {
  struct handle *h = open_kind();
  fill(buf, n, 1);
  MUST(WRITE(h, buf, (int)n, 0) == SQLITE_OK);
  return h;
}

static void say_truncate(struct handle *h, sqlite3_int64 to) {
  int rc = TRUNCATE(h, to);
  SAY("truncate to %lld: %d, size %lld", to, rc, file_size(h));
}

static void say_write(struct handle *h, const char *text, sqlite3_int64 at) {
  int rc = WRITE(h, text, (int)strlen(text), at);
  SAY("write at %lld: %d, size %lld", at, rc, file_size(h));
}

static void say_state(struct handle *h) {
  sqlite3_int64 size = file_size(h);
  MUST(size <= (sqlite3_int64)sizeof(other));
  memset(other, 0xee, sizeof(other));
  SAY("size %lld read %d", size, READ(h, other, (int)size, 0));
  say_bytes("content", other, (size_t)size);
}

static void reads_what_was_written(void) {
  struct handle *h = filled(20000);
  static const int AT[][2] = {{0, 20000}, {0, 1}, {19999, 1}, {4096, 4096}, {1, 511}, {100, 0}};
  for (size_t i = 0; i < sizeof(AT) / sizeof(AT[0]); i++) {
    memset(other, 0xee, sizeof(other));
    int rc = READ(h, other, AT[i][1], AT[i][0]);
    MUST(rc == SQLITE_OK);
    MUST(memcmp(other, buf + AT[i][0], (size_t)AT[i][1]) == 0);
    MUST(other[AT[i][1]] == 0xee);
  }
  SAY("close %d", close_handle(h));
  say_files();
}

static void short_read_fills_with_zeros(void) {
  struct handle *h = filled(1000);
  memset(other, 0xee, sizeof(other));
  MUST(READ(h, other, 4096, 600) == SQLITE_IOERR_SHORT_READ);
  MUST(memcmp(other, buf + 600, 400) == 0);
  for (int i = 400; i < 4096; i++) MUST(other[i] == 0);
  MUST(other[4096] == 0xee);
  close_handle(h);
}

static void read_past_the_end_is_zeros(void) {
  struct handle *h = filled(1000);
  sqlite3_int64 at[] = {1000, 1001, 1 << 20, (sqlite3_int64)1 << 33};
  for (int k = 0; k < 4; k++) {
    memset(other, 0xee, sizeof(other));
    MUST(READ(h, other, 512, at[k]) == SQLITE_IOERR_SHORT_READ);
    for (int i = 0; i < 512; i++) MUST(other[i] == 0);
    MUST(other[512] == 0xee);
  }
  MUST(file_size(h) == 1000);
  close_handle(h);
}

static void reads_an_empty_file(void) {
  struct handle *h = open_kind();
  memset(other, 0xee, sizeof(other));
  MUST(READ(h, other, 100, 0) == SQLITE_IOERR_SHORT_READ);
  for (int i = 0; i < 100; i++) MUST(other[i] == 0);
  close_handle(h);
}

/* Sizes that SQLite writes: headers, frames, pages, odd ones; over each other. */
static void writes(void) {
  struct handle *h = open_kind();
  static const int AT[][2] = {{0, 32},      {32, 24},     {56, 4096},   {100, 4}, {4152, 24},
                              {4176, 4096}, {0, 32},      {0, 65536},   {40, 1},  {65535, 2},
                              {70000, 3},   {0, 512},     {12, 0},      {31, 8},  {65536, 65536}};
  for (size_t i = 0; i < sizeof(AT) / sizeof(AT[0]); i++) {
    fill(buf, (size_t)AT[i][1], (unsigned)i + 2);
    SAY("write %d at %d: %d", AT[i][1], AT[i][0], WRITE(h, buf, AT[i][1], AT[i][0]));
    SAY("size %lld", file_size(h));
  }
  SAY("sync %d", SYNC(h, SQLITE_SYNC_NORMAL));
  memset(other, 0, sizeof(other));
  SAY("read %d", READ(h, other, 131072, 0));
  say_bytes("content", other, 131072);
  SAY("close %d", close_handle(h));
  say_files();
}

static void write_leaves_a_hole(void) {
  struct handle *h = open_kind();
  MUST(WRITE(h, "end", 3, 50000) == SQLITE_OK);
  MUST(file_size(h) == 50003);
  say_state(h);
  close_handle(h);
  say_files();
}

static void writes_far_out(void) {
  struct handle *h = open_kind();
  sqlite3_int64 far = ((sqlite3_int64)5 << 30) + 7;
  SAY("write %d", WRITE(h, "far", 3, far));
  MUST(file_size(h) == far + 3);
  char three[3];
  MUST(READ(h, three, 3, far) == SQLITE_OK && memcmp(three, "far", 3) == 0);
  say_truncate(h, far + 1);
  say_truncate(h, 10);
  close_handle(h);
  say_files();
}

static void truncates(void) {
  struct handle *h = filled(70000);
  static const int TO[] = {69999, 65536, 100, 100, 33, 32, 31, 1, 0, 0};
  for (size_t i = 0; i < sizeof(TO) / sizeof(TO[0]); i++) {
    MUST(TRUNCATE(h, TO[i]) == SQLITE_OK);
    /* The unix VFS takes one byte for an empty file. */
    MUST(file_size(h) == (TO[i] == 1 ? 0 : TO[i]));
    say_state(h);
  }
  MUST(WRITE(h, "again", 5, 0) == SQLITE_OK);
  close_handle(h);
  say_files();
}

static void truncate_may_extend(void) {
  struct handle *h = filled(10);
  SAY("truncate %d", TRUNCATE(h, 5000));
  say_state(h);
  close_handle(h);
  say_files();
}

static void truncate_by_chunks(void) {
  struct handle *h = filled(10000);
  int chunk = 4096;
  SAY("chunk %d", CONTROL(h, SQLITE_FCNTL_CHUNK_SIZE, &chunk));
  say_truncate(h, 5000);
  say_truncate(h, 0);
  close_handle(h);
}

static void syncs(void) {
  struct handle *h = filled(3000);
  static const int FLAGS[] = {SQLITE_SYNC_NORMAL, SQLITE_SYNC_FULL,
                              SQLITE_SYNC_NORMAL | SQLITE_SYNC_DATAONLY,
                              SQLITE_SYNC_FULL | SQLITE_SYNC_DATAONLY};
  for (int i = 0; i < 4; i++) {
    MUST(SYNC(h, FLAGS[i]) == SQLITE_OK);
    MUST(WRITE(h, buf, 100 + i, 3000) == SQLITE_OK);
  }
  close_handle(h);
  say_files();
}

static void two_handles_see_one_file(void) {
  struct handle *one = filled(100), *two = open_as(kind, "a.db", kind->flags);
  MUST(READ(two, other, 100, 0) == SQLITE_OK && memcmp(buf, other, 100) == 0);
  MUST(WRITE(two, "from two", 8, 100) == SQLITE_OK);
  MUST(file_size(one) == 108);
  MUST(READ(one, other, 8, 100) == SQLITE_OK && memcmp(other, "from two", 8) == 0);
  MUST(TRUNCATE(one, 50) == SQLITE_OK && file_size(two) == 50);
  close_handle(one);
  MUST(READ(two, other, 50, 0) == SQLITE_OK && memcmp(buf, other, 50) == 0);
  close_handle(two);
}

static void device(void) {
  struct handle *h = open_kind();
  int sector = M(h)->xSectorSize(h->file);
  SAY("sector %d device %x", sector, M(h)->xDeviceCharacteristics(h->file));
  MUST(sector >= 32 && sector <= 65536 && (sector & (sector - 1)) == 0);
  int psow = 0;
  SAY("psow off %d", CONTROL(h, SQLITE_FCNTL_POWERSAFE_OVERWRITE, &psow));
  SAY("sector %d device %x", M(h)->xSectorSize(h->file), M(h)->xDeviceCharacteristics(h->file));
  psow = 1;
  SAY("psow on %d", CONTROL(h, SQLITE_FCNTL_POWERSAFE_OVERWRITE, &psow));
  SAY("device %x", M(h)->xDeviceCharacteristics(h->file));
  close_handle(h);
}

/* The file goes on under a name that is deleted or changed. */
static void survives_its_name(void) {
  struct handle *h = filled(100);
  sqlite3_filename name = h->name;
  if (name) MUST(unlink(name) == 0);
  MUST(READ(h, other, 100, 0) == SQLITE_OK && memcmp(buf, other, 100) == 0);
  say_write(h, "more", 100);
  int moved = -1, rc = CONTROL(h, SQLITE_FCNTL_HAS_MOVED, &moved);
  SAY("has moved: rc %d, %d", rc, moved);
  SAY("close %d", close_handle(h));
  say_files();
}

const struct clause DATA_CLAUSES[] = {
    {"read", ON_EVERY, "xRead gives what xWrite took", reads_what_was_written},
    {"read_short", ON_EVERY, "IOERR_SHORT_READ, and zeros for what is missing",
     short_read_fills_with_zeros},
    {"read_past_end", ON_EVERY, "a read past the end is short and all zeros",
     read_past_the_end_is_zeros},
    {"read_empty", ON_EVERY, "a read of an empty file is short", reads_an_empty_file},
    {"write", ON_EVERY, "xWrite of any size anywhere", writes},
    {"write_hole", ON_EVERY, "a write past the end leaves zeros between", write_leaves_a_hole},
    {"write_far", ON_EVERY, "offsets beyond 32 bits", writes_far_out},
    {"truncate", ON_EVERY, "xTruncate shortens", truncates},
    {"truncate_extends", ON_EVERY, "xTruncate beyond the end is as the host's",
     truncate_may_extend},
    {"truncate_chunks", ON_EVERY, "xTruncate rounds up to chunks", truncate_by_chunks},
    {"sync", ON_EVERY, "xSync with each set of flags", syncs},
    {"two_handles", ON_MAIN, "two handles see each other's writes", two_handles_see_one_file},
    {"device", ON_EVERY, "xSectorSize and xDeviceCharacteristics", device},
    {"survives_its_name", ON_EVERY, "an open file outlives its name", survives_its_name},
    {0},
};
