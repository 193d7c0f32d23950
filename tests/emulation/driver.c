// Calls compiled models as qcc/runtime/program.py does, and writes what they give.
//
// The argument names a file of words (tests/emulation/programs.py writes it): how many programs
// there are, and for each one its library, its file of weights and their size, the bytes of its
// arena, threads, calls; the number of steps and their symbols, of inputs and their sizes, of
// outputs and their sizes (-1: none is written); the file that holds the inputs of all calls, and
// the one that gets, for each call, two int64 of fault and the outputs.
//
// Every buffer lies between pages that must not be touched: weights and arena end there but for
// their alignment of 64 bytes, inputs and outputs with their last byte.
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST_THREADS = 64, CALL = 384, FAULT = 432, FILL = 0x5A };

typedef void step(void *arena, const void *weights, void **inputs, void **outputs, int tid,
                  int nthreads);
typedef void worker(void *control, int tid);
typedef void control(void *control);

typedef struct {
  worker *run;
  void *arena;
  int tid;
} member;

static void die(const char *what) {
  fprintf(stderr, "driver: %s\n", what);
  exit(2);
}

static FILE *job;

static char *word(void) {
  char found[256];
  if (fscanf(job, "%255s", found) != 1) die("the job ends too early");
  return strdup(found);
}

static long number(void) { return strtol(word(), NULL, 10); }

static size_t pages_of(size_t size) {
  size_t page = sysconf(_SC_PAGESIZE);
  return (size + page - 1) / page * page;
}

// Zeroed memory that ends before a forbidden page.
static unsigned char *guarded(size_t size, size_t alignment) {
  size_t page = sysconf(_SC_PAGESIZE), inner = pages_of(size);
  unsigned char *memory =
      mmap(NULL, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) die("there is no memory");
  if (inner && mprotect(memory + page, inner, PROT_READ | PROT_WRITE)) die("mprotect failed");
  return memory + page + (inner - size) / alignment * alignment;
}

static void fill(unsigned char *memory, size_t size, FILE *file) {
  if (fread(memory, 1, size, file) != size) die("a file is too short");
}

static void *symbol(void *library, const char *name) {
  void *found = dlsym(library, name);
  if (!found) die(dlerror());
  return found;
}

static void *work(void *argument) {
  member *m = argument;
  m->run(m->arena, m->tid);
  return NULL;
}

static void run_step(step *function, control *team, unsigned char *arena, void *weights,
                     void **inputs, void **outputs, int threads) {
  if (threads == 1) {
    function(arena, weights, inputs, outputs, 0, 1);
    return;
  }
  void *call[] = {(void *)function, arena, weights, inputs, outputs};
  int32_t count = threads;
  memcpy(arena + CALL, call, sizeof call);
  memcpy(arena + CALL + sizeof call, &count, sizeof count);
  team(arena);
}

static void run_program(int index) {
  char *path = word();
  FILE *file = fopen(word(), "rb");
  if (!file) die("the weights cannot be read");
  size_t weight_bytes = number(), arena_bytes = number();
  int threads = number();
  long calls = number();
  fprintf(stderr, "program %d\n", index);
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) die(dlerror());
  long steps = number();
  step *functions[steps + 1];
  for (long i = 0; i < steps; i++) functions[i] = (step *)symbol(library, word());
  unsigned char *weights = guarded(weight_bytes, 64), *arena = guarded(arena_bytes, 64);
  fill(weights, weight_bytes, file);
  fclose(file);
  size_t first = (uintptr_t)weights % sysconf(_SC_PAGESIZE);
  if (weight_bytes) mprotect(weights - first, pages_of(first + weight_bytes), PROT_READ);

  long given = number();
  void *inputs[given + 1];
  long input_sizes[given + 1];
  for (long i = 0; i < given; i++) inputs[i] = guarded(input_sizes[i] = number(), 1);
  long made = number();
  void *outputs[made + 1];
  long output_sizes[made + 1];
  for (long i = 0; i < made; i++) {
    output_sizes[i] = number();
    outputs[i] = output_sizes[i] < 0 ? NULL : guarded(output_sizes[i], 1);
  }
  FILE *source = fopen(word(), "rb"), *target = fopen(word(), "wb");
  if (!source || !target) die("inputs cannot be read or outputs not written");

  pthread_t ids[MOST_THREADS];
  member members[MOST_THREADS];
  if (threads > MOST_THREADS) die("there are too many threads");
  control *team = NULL;
  for (int tid = 1; tid < threads; tid++) {
    members[tid] = (member){(worker *)symbol(library, "qcc_worker"), arena, tid};
    if (pthread_create(&ids[tid], NULL, work, &members[tid])) die("a thread does not start");
  }
  if (threads > 1) team = (control *)symbol(library, "qcc_team_run");
  for (long c = 0; c < calls; c++) {
    int64_t fault[2] = {0, 0}, none[2] = {0, 0};
    for (long i = 0; i < given; i++) fill(inputs[i], input_sizes[i], source);
    for (long i = 0; i < made; i++)
      if (outputs[i]) memset(outputs[i], FILL, output_sizes[i]);
    for (long i = 0; i < steps && !fault[0]; i++) {
      run_step(functions[i], team, arena, weights, inputs, outputs, threads);
      memcpy(fault, arena + FAULT, sizeof fault);
    }
    memcpy(arena + FAULT, none, sizeof none);
    fwrite(fault, sizeof fault, 1, target);
    for (long i = 0; i < made; i++)
      if (outputs[i]) fwrite(outputs[i], 1, output_sizes[i], target);
  }
  if (threads > 1) ((control *)symbol(library, "qcc_team_stop"))(arena);
  for (int tid = 1; tid < threads; tid++) pthread_join(ids[tid], NULL);
  fclose(source);
  if (fclose(target)) die("outputs cannot be written");
}

int main(int argc, char **argv) {
  if (argc != 2 || !(job = fopen(argv[1], "r"))) die("name the job");
  int programs = number();
  for (int i = 0; i < programs; i++) run_program(i);
  return 0;
}
