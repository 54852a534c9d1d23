/* A second process that opens a main database and does what it is told. */
#define _GNU_SOURCE
#include "contract.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct peer {
  pid_t pid;
  FILE *to, *from;
};

struct peer *peer_start(const char *base, int with_host_vfs) {
  int in[2], out[2];
  char self[4096];
  ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
  if (n < 0 || pipe2(in, 02000000) || pipe2(out, 02000000)) exit(2);
  self[n] = 0;
  struct peer *p = calloc(1, sizeof(*p));
  const char *variant = with_host_vfs ? "host" : variant_name;
  p->pid = fork();
  if (p->pid == 0) {
    dup2(in[0], 0);
    dup2(out[1], 1);
    execl(self, self, extension_path, variant, "peer", base, (char *)NULL);
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  p->to = fdopen(in[1], "w");
  p->from = fdopen(out[0], "r");
  return p;
}

/* Sends a command; returns the number that answers it. */
int ask(struct peer *p, const char *format, ...) {
  char answer[64] = "";
  va_list args;
  va_start(args, format);
  vfprintf(p->to, format, args);
  va_end(args);
  fputc('\n', p->to);
  fflush(p->to);
  if (!fgets(answer, sizeof(answer), p->from)) {
    printf("FAILED: the other process ended\n");
    exit(1);
  }
  return atoi(answer);
}

void peer_end(struct peer *p) {
  int status = -1;
  fclose(p->to);
  waitpid(p->pid, &status, 0);
  fclose(p->from);
  free(p);
  MUST(status == 0);
}

/* The byte at `at` of the wal-index, after storing `value` unless negative. */
static int index_byte(struct handle *h, int at, int value) {
  void volatile *region = NULL;
  if (M(h)->xShmMap(h->file, 0, 32768, 0, &region) || !region) return -1;
  unsigned char volatile *byte = (unsigned char volatile *)region + at;
  if (value >= 0) *byte = (unsigned char)value;
  M(h)->xShmBarrier(h->file);
  return *byte;
}

static int serve(struct handle *h, const char *line) {
  int a = 0, b = 0, c = 0;
  void volatile *region = NULL;
  if (sscanf(line, "lock %d", &a) == 1) return LOCK(h, a);
  if (sscanf(line, "unlock %d", &a) == 1) return UNLOCK(h, a);
  if (strncmp(line, "reserved", 8) == 0) return reserved(h);
  if (strncmp(line, "size", 4) == 0) return (int)file_size(h);
  if (sscanf(line, "map %d %d", &a, &b) == 2) {
    return M(h)->xShmMap(h->file, a, 32768, b, &region);
  }
  if (sscanf(line, "shmlock %d %d %d", &a, &b, &c) == 3) return SHM_LOCK(h, a, b, c);
  if (sscanf(line, "unmap %d", &a) == 1) return M(h)->xShmUnmap(h->file, a);
  if (sscanf(line, "peek %d", &a) == 1) return index_byte(h, a, -1);
  if (sscanf(line, "poke %d %d", &a, &b) == 2) return index_byte(h, a, b);
  return -2;
}

int peer_main(const char *base) {
  char line[256];
  struct handle *h = open_as(MAIN, base, MAIN->flags);
  while (fgets(line, sizeof(line), stdin)) {
    printf("%d\n", serve(h, line));
    fflush(stdout);
  }
  return close_handle(h);
}
