/* Calls a model through its header with guard pages around every buffer.
 *
 *   driver SIDE FILL THREADS REPEATS WORKSPACES ALIGN INPUT... OUTPUT...
 *
 * SIDE: where buffers touch a page that must not be touched, "begin" or "end".  FILL: the byte that
 * workspaces and outputs hold beforehand.  Each of WORKSPACES is used by THREADS threads at once,
 * REPEATS times.  ALIGN: buffers are moved away from the page until they are no better aligned
 * than this many bytes (0: not at all).  Exit code 0: every run gave the same bytes.
 *
 * Compiled with -DNAME=prefix -DCAPITALS=PREFIX -DHEADER="prefix.h", and -DWEIGHTS="file" for
 * separate weights.
 */
#define _GNU_SOURCE
#include HEADER

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define FUNCTION(name) JOIN(NAME, name)
#define CONSTANT(name) JOIN(CAPITALS, name)

#define MOST 64

typedef JOIN(NAME, tensor) tensor;

static const char *side;
static int fill, threads, repeats;
static size_t off;
static const void *inputs[MOST];
static void *expected[MOST];

static void die(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static void check(int code) {
  if (code != CONSTANT(OK)) die(FUNCTION(error)(code));
}

/* Memory between two pages that must not be touched. */
static unsigned char *guarded(size_t bytes, size_t shift) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  const size_t inner = (bytes + shift + page - 1) / page * page;
  unsigned char *memory = (unsigned char *)mmap(NULL, inner + 2 * page, PROT_NONE,
                                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) die("no memory");
  if (mprotect(memory + page, inner, PROT_READ | PROT_WRITE) != 0) die("no protection");
  memset(memory + page, fill, inner);
  if (strcmp(side, "begin") == 0) return memory + page + shift;
  return memory + page + inner - bytes - shift;
}

static void seal(const unsigned char *data, size_t bytes) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  const size_t start = (size_t)data / page * page;
  if (mprotect((void *)start, (size_t)data + bytes - start, PROT_READ) != 0) die("not sealed");
}

static void read_file(const char *path, void *data, size_t bytes) {
  FILE *file = fopen(path, "rb");
  if (file == NULL || fread(data, 1, bytes, file) != bytes || fgetc(file) != EOF) die(path);
  fclose(file);
}

static size_t shift_for(const tensor *t) {
  size_t element = t->bytes, i;
  for (i = 0; i < (size_t)t->rank; i++) element /= t->dims[i];
  return off == 0 ? 0 : (off + element - 1) / element * element;
}

static void *new_workspace(void) {
  void *workspace = guarded(CONSTANT(WORKSPACE_BYTES), 0);
#ifdef WEIGHTS
  static unsigned char *weights;
  if (weights == NULL) {
    const char *kept = side;
    /* Its size need not be a multiple of its alignment. */
    side = CONSTANT(WEIGHTS_BYTES) % CONSTANT(WORKSPACE_ALIGNMENT) ? "begin" : side;
    weights = guarded(CONSTANT(WEIGHTS_BYTES), 0);
    side = kept;
    read_file(WEIGHTS, weights, CONSTANT(WEIGHTS_BYTES));
    seal(weights, CONSTANT(WEIGHTS_BYTES));
  }
  check(FUNCTION(init_with_weights)(workspace, weights, CONSTANT(WEIGHTS_BYTES)));
#else
  check(FUNCTION(init)(workspace));
#endif
  return workspace;
}

typedef struct team {
  void *workspace;
  void *outputs[MOST];
  int code, wrong;
} team;

typedef struct member {
  pthread_t thread;
  team *team;
  int tid;
} member;

static void *work(void *argument) {
  member *self = (member *)argument;
  team *t = self->team;
  int run, i;
  for (run = 0; run < repeats; run++) {
    if (self->tid == 0) {
      for (i = 0; i < CONSTANT(OUTPUT_COUNT); i++) {
        memset(t->outputs[i], fill, FUNCTION(output)(i)->bytes);
      }
    }
    int code = FUNCTION(run_part)(inputs, t->outputs, t->workspace, self->tid, threads);
    if (self->tid != 0) continue;
    t->code |= code;
    for (i = 0; i < CONSTANT(OUTPUT_COUNT); i++) {
      t->wrong += memcmp(t->outputs[i], expected[i], FUNCTION(output)(i)->bytes) != 0;
    }
  }
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 7 + CONSTANT(INPUT_COUNT) + CONSTANT(OUTPUT_COUNT)) die("wrong arguments");
  side = argv[1];
  fill = atoi(argv[2]);
  threads = atoi(argv[3]);
  repeats = atoi(argv[4]);
  const int workspaces = atoi(argv[5]);
  off = (size_t)atoi(argv[6]);
  int i, w;

  for (i = 0; i < CONSTANT(INPUT_COUNT); i++) {
    const tensor *t = FUNCTION(input)(i);
    unsigned char *data = guarded(t->bytes, shift_for(t));
    read_file(argv[7 + i], data, t->bytes);
    seal(data, t->bytes);
    inputs[i] = data;
  }
  for (i = 0; i < CONSTANT(OUTPUT_COUNT); i++) {
    const tensor *t = FUNCTION(output)(i);
    expected[i] = guarded(t->bytes, shift_for(t));
  }
  check(FUNCTION(run)(inputs, expected, new_workspace()));
  for (i = 0; i < CONSTANT(OUTPUT_COUNT); i++) {
    FILE *file = fopen(argv[7 + CONSTANT(INPUT_COUNT) + i], "wb");
    fwrite(expected[i], 1, FUNCTION(output)(i)->bytes, file);
    fclose(file);
  }

  team *teams = (team *)calloc((size_t)workspaces, sizeof(team));
  member *members = (member *)calloc((size_t)(workspaces * threads), sizeof(member));
  for (w = 0; w < workspaces; w++) {
    teams[w].workspace = new_workspace();
    for (i = 0; i < CONSTANT(OUTPUT_COUNT); i++) {
      const tensor *t = FUNCTION(output)(i);
      teams[w].outputs[i] = guarded(t->bytes, shift_for(t));
    }
  }
  for (i = 0; i < workspaces * threads; i++) {
    members[i].team = &teams[i / threads];
    members[i].tid = i % threads;
    if (pthread_create(&members[i].thread, NULL, work, &members[i]) != 0) die("no thread");
  }
  for (i = 0; i < workspaces * threads; i++) pthread_join(members[i].thread, NULL);
  for (w = 0; w < workspaces; w++) {
    check(teams[w].code);
    if (teams[w].wrong != 0) die("a run gave other bytes");
  }
  free(teams);
  free(members);
  return 0;
}
