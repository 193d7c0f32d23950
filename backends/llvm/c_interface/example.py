"""The example program of a model, which is also how its code is tried out."""

from __future__ import annotations

from qcc.backends.llvm.c_interface.c_text import fill
from qcc.backends.llvm.c_interface.description import Interface

_PROGRAM = r"""/* How to call HEADER; qcc writes this file anew whenever it writes the header.
 *
 *   cc STEM_example.c LIBRARY -o STEM_example
 *   ./STEM_example [INPUT ...] [OUTPUT ...]
 *
 * Every INPUT is a file of raw elements, in the order of the model's inputs; without any, all
 * inputs are zeros.  What the model gives is printed, and written to the OUTPUTs where they are
 * named.WEIGHTS_REMARK
 */
#include "HEADER"

#include <stdio.h>
#include <stdlib.h>

enum { MOST_PRINTED = 8 };

/* Zeros at a multiple of the workspace's alignment; what calloc gave is kept in front of them. */
static void *new_memory(size_t bytes) {
  const size_t alignment = CAPITALS_WORKSPACE_ALIGNMENT;
  char *given = (char *)calloc(bytes + 2 * alignment, 1);
  char *memory;
  if (given == NULL) {
    fprintf(stderr, "out of memory\n");
    exit(1);
  }
  memory = given + 2 * alignment - (size_t)given % alignment;
  ((void **)(void *)memory)[-1] = given;
  return memory;
}

static void release(void *memory) { free(((void **)memory)[-1]); }

static void read_file(const char *path, void *data, size_t bytes) {
  FILE *file = fopen(path, "rb");
  if (file == NULL || fread(data, 1, bytes, file) != bytes || fgetc(file) != EOF) {
    fprintf(stderr, "%s is not a file of %lu bytes\n", path, (unsigned long)bytes);
    exit(1);
  }
  fclose(file);
}

static void write_file(const char *path, const void *data, size_t bytes) {
  FILE *file = fopen(path, "wb");
  if (file == NULL || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) {
    fprintf(stderr, "cannot write %s\n", path);
    exit(1);
  }
}

static void print_element(const PREFIX_tensor *tensor, const void *data, size_t i) {
  switch (tensor->dtype) {
    case CAPITALS_FLOAT32: printf(" %g", (double)((const float *)data)[i]); break;
    case CAPITALS_FLOAT64: printf(" %g", ((const double *)data)[i]); break;
    case CAPITALS_INT8: printf(" %d", ((const signed char *)data)[i]); break;
    case CAPITALS_BOOL:
    case CAPITALS_UINT8: printf(" %d", ((const unsigned char *)data)[i]); break;
    case CAPITALS_INT32: printf(" %d", ((const int *)data)[i]); break;
    case CAPITALS_INT64: printf(" %ld", ((const long *)data)[i]); break;
    default: printf(" ?"); break;
  }
}

static void print_tensor(const PREFIX_tensor *tensor, const void *data) {
  size_t elements = 1, i;
  int axis;
  printf("%s [", tensor->name);
  for (axis = 0; axis < tensor->rank; axis++) {
    printf(axis == 0 ? "%lu" : ", %lu", (unsigned long)tensor->dims[axis]);
    elements *= tensor->dims[axis];
  }
  printf("]:");
  for (i = 0; i < elements && i < MOST_PRINTED; i++) print_element(tensor, data, i);
  printf(elements > MOST_PRINTED ? " ...\n" : "\n");
}

static void check(int code) {
  if (code == CAPITALS_OK) return;
  fprintf(stderr, "%s\n", PREFIX_error(code));
  exit(1);
}

int main(int argc, char **argv) {
  void *data[INPUT_SLOTS];
  const void *inputs[INPUT_SLOTS];
  void *outputs[OUTPUT_SLOTS];
  void *workspace = new_memory(CAPITALS_WORKSPACE_BYTES);
DECLARE  const int given = argc - 1, most = CAPITALS_INPUT_COUNT + CAPITALS_OUTPUT_COUNT;
  int i;

  if (given != 0 && given != CAPITALS_INPUT_COUNT && given != most) {
    fprintf(stderr, "give no files, %d inputs, or %d inputs and %d outputs\n",
            CAPITALS_INPUT_COUNT, CAPITALS_INPUT_COUNT, CAPITALS_OUTPUT_COUNT);
    return 1;
  }
  for (i = 0; i < CAPITALS_INPUT_COUNT; i++) {
    inputs[i] = data[i] = new_memory(PREFIX_input(i)->bytes);
    if (given != 0) read_file(argv[1 + i], data[i], PREFIX_input(i)->bytes);
  }
  for (i = 0; i < CAPITALS_OUTPUT_COUNT; i++) outputs[i] = new_memory(PREFIX_output(i)->bytes);

INITIALIZE
  check(PREFIX_run(inputs, outputs, workspace));

  for (i = 0; i < CAPITALS_OUTPUT_COUNT; i++) {
    print_tensor(PREFIX_output(i), outputs[i]);
    if (given > CAPITALS_INPUT_COUNT) {
      write_file(argv[1 + CAPITALS_INPUT_COUNT + i], outputs[i], PREFIX_output(i)->bytes);
    }
    release(outputs[i]);
  }
  for (i = 0; i < CAPITALS_INPUT_COUNT; i++) release(data[i]);
RELEASE  release(workspace);
  return 0;
}
"""

_BESIDE = "-Wl,-rpath,'$ORIGIN'"
"""Lets a program find a shared library in the folder that it lies in itself."""

_PLAIN = "  check(PREFIX_init(workspace));"

_WITH_WEIGHTS = """  read_file("STEM.weights", weights, CAPITALS_WEIGHTS_BYTES);
  check(PREFIX_init_with_weights(workspace, weights, CAPITALS_WEIGHTS_BYTES));"""

_WEIGHTS = "  void *weights = new_memory(CAPITALS_WEIGHTS_BYTES);\n"


def example_text(interface: Interface, stem: str, library: str) -> str:
    """The text of ``STEM_example.c``; ``library`` is what it is linked with."""
    separate = interface.separate_weights
    words = {
        "INPUT_SLOTS": str(max(1, len(interface.inputs))),
        "OUTPUT_SLOTS": str(max(1, len(interface.outputs))),
        "WEIGHTS_REMARK": f"  It reads {stem}.weights from the current folder." if separate else "",
        "HEADER": f"{stem}.h",
        "LIBRARY": f"{library} {_BESIDE}" if library.endswith(".so") else library,
        "CAPITALS": interface.prefix.upper(),
        "PREFIX": interface.prefix,
        "STEM": stem,
    }
    parts = {
        "DECLARE": _WEIGHTS if separate else "",
        "INITIALIZE": _WITH_WEIGHTS if separate else _PLAIN,
        "RELEASE": "  release(weights);\n" if separate else "",
    }
    return fill(fill(_PROGRAM, parts), words)
