"""Programs that use the C interface in the ways that its header promises or refuses."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

import qcc
from qcc.errors import DataError
from qcc.runtime.build import codegen
from tests.c_interface.building import (
    STRICT,
    Driving,
    Machine,
    assert_outputs,
    build_driver,
    drive,
    output_names,
    write_feeds,
)
from tests.c_interface.models import MODELS, lookup, lstm, several, small_cnn
from tests.passes.float_models import Net
from tests.runtime.models import small_net

HOST = Machine.of("host")


def run_source(folder: Path, source: str, *libraries: str, flags: tuple[str, ...] = ()) -> str:
    """Compile and run a program, which must end with 0; what it prints."""
    (folder / "program.c").write_text(source)
    HOST.build(folder, ["program.c", *libraries], "program", *STRICT, *flags)
    return HOST.run(folder, "./program").stdout


_MISUSE = r"""
#include "net.h"
#include <string.h>
#define EXPECT(code, call) if ((call) != (code)) return __LINE__
static unsigned char memory[NET_WORKSPACE_BYTES + 128], data[NET_INPUT_0_BYTES + 8];
static unsigned char result[NET_OUTPUT_0_BYTES + 8];
int main(void) {
  unsigned char *workspace = memory + (64 - (size_t)memory % 64) % 64;
  unsigned char *in = data + (4 - (size_t)data % 4) % 4;
  unsigned char *out = result + (4 - (size_t)result % 4) % 4;
  const void *inputs[] = {in};
  void *outputs[] = {out};
  const void *no_input[] = {NULL}, *odd_input[] = {in + 1};
  void *no_output[] = {NULL}, *odd_output[] = {out + 2};
  int i;
  EXPECT(NET_ERROR_NULL, net_init(NULL));
  for (i = 1; i < 64; i++) EXPECT(NET_ERROR_WORKSPACE_ALIGNMENT, net_init(workspace + i));
  memset(workspace, 0xA5, NET_WORKSPACE_BYTES);
  EXPECT(NET_ERROR_NOT_INITIALIZED, net_run(inputs, outputs, workspace));
  EXPECT(NET_ERROR_NOT_INITIALIZED, net_run_part(inputs, outputs, workspace, 0, 3));
  EXPECT(NET_ERROR_NULL, net_run(inputs, outputs, NULL));
  EXPECT(NET_ERROR_WORKSPACE_ALIGNMENT, net_run(inputs, outputs, workspace + 8));
  EXPECT(NET_OK, net_init(workspace));
  EXPECT(NET_ERROR_NULL, net_run(NULL, outputs, workspace));
  EXPECT(NET_ERROR_NULL, net_run(inputs, NULL, workspace));
  EXPECT(NET_ERROR_NULL, net_run(no_input, outputs, workspace));
  EXPECT(NET_ERROR_NULL, net_run(inputs, no_output, workspace));
  EXPECT(NET_ERROR_TENSOR_ALIGNMENT, net_run(odd_input, outputs, workspace));
  EXPECT(NET_ERROR_TENSOR_ALIGNMENT, net_run(inputs, odd_output, workspace));
  EXPECT(NET_ERROR_THREADS, net_run_part(inputs, outputs, workspace, -1, 1));
  EXPECT(NET_ERROR_THREADS, net_run_part(inputs, outputs, workspace, 1, 1));
  EXPECT(NET_ERROR_THREADS, net_run_part(inputs, outputs, workspace, 0, 0));
  EXPECT(NET_ERROR_THREADS, net_run_part(inputs, outputs, workspace, 0, -2));
  EXPECT(NET_ERROR_THREADS, net_run_part(inputs, outputs, workspace, 0, NET_MOST_THREADS + 1));
  EXPECT(NET_OK, net_run(inputs, outputs, workspace));
  EXPECT(NET_OK, net_run_part(inputs, outputs, workspace, 0, 1));
  return 0;
}
"""


def test_misuse_gives_a_code_and_no_crash(tmp_path: Path) -> None:
    small_cnn().compiled("host").save(tmp_path / "net.o")
    run_source(tmp_path, _MISUSE, "net.o", flags=("-fsanitize=address,undefined",))


_WEIGHTS = r"""
#include "net.h"
#include <stdio.h>
#include <string.h>
#define EXPECT(code, call) if ((call) != (code)) return __LINE__
static unsigned char memory[NET_WORKSPACE_BYTES + 64], file[NET_WEIGHTS_BYTES + 128];
int main(void) {
  unsigned char *workspace = memory + (64 - (size_t)memory % 64) % 64;
  unsigned char *weights = file + (64 - (size_t)file % 64) % 64;
  size_t bytes = NET_WEIGHTS_BYTES;
  FILE *opened = fopen("net.weights", "rb");
  if (fread(weights, 1, bytes, opened) != bytes || bytes != net_weights_bytes()) return 1;
  fclose(opened);
  EXPECT(NET_ERROR_NULL, net_init_with_weights(NULL, weights, bytes));
  EXPECT(NET_ERROR_NULL, net_init_with_weights(workspace, NULL, bytes));
  EXPECT(NET_ERROR_WEIGHTS, net_init_with_weights(workspace, weights, bytes - 1));
  EXPECT(NET_ERROR_WEIGHTS, net_init_with_weights(workspace, weights, 0));
  EXPECT(NET_ERROR_WEIGHTS_ALIGNMENT, net_init_with_weights(workspace, weights + 8, bytes));
  EXPECT(NET_OK, net_init_with_weights(workspace, weights, bytes));
  weights[8] ^= 1;
  EXPECT(NET_ERROR_WEIGHTS, net_init_with_weights(workspace, weights, bytes));
  weights[8] ^= 1;
  weights[0] ^= 1;
  EXPECT(NET_ERROR_WEIGHTS, net_init_with_weights(workspace, weights, bytes));
  return 0;
}
"""


def test_wrong_weights_give_a_code_and_no_crash(tmp_path: Path) -> None:
    small_cnn().compiled("host").save(tmp_path / "net.o", weights_file=True)
    run_source(tmp_path, _WEIGHTS, "net.o", flags=("-fsanitize=address,undefined",))


def test_separate_weights_give_the_same_bytes_between_guard_pages(tmp_path: Path) -> None:
    model = small_cnn()
    executable = model.compiled("host")
    executable.save(tmp_path / "model.o", weights_file=True)
    build_driver(HOST, tmp_path)
    wanted = executable.run(model.feeds[0])
    for how in (Driving("end"), Driving("begin", 0xFF, threads=3, repeats=20, workspaces=2)):
        drive(HOST, executable, model.feeds[0], wanted, tmp_path, how)


@pytest.mark.parametrize("name", MODELS)
def test_sanitizers_find_nothing(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    executable = model.compiled("host")
    executable.save(tmp_path / "model.o")
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-std=c99")
    HOST.build(tmp_path, ["model_example.c", "model.o"], "example", *STRICT, *flags)
    files = [*write_feeds(executable, model.feeds[1], tmp_path), *output_names(executable)]
    HOST.run(tmp_path, "./example", *files)
    assert_outputs(executable, executable.run(model.feeds[1]), tmp_path)


@pytest.mark.parametrize("side", ["begin", "end"])
def test_buffers_need_no_better_alignment_than_their_elements(side: str, tmp_path: Path) -> None:
    for build in (small_cnn, lookup, lstm):
        model = build()
        executable = model.compiled("host")
        executable.save(tmp_path / "model.o")
        build_driver(HOST, tmp_path)
        for shift in (1, 12):
            how = Driving(side, align=shift)
            drive(HOST, executable, model.feeds[2], executable.run(model.feeds[2]), tmp_path, how)


def test_an_index_outside_its_table_gives_a_code_and_the_next_run_is_right(tmp_path: Path) -> None:
    model = lookup()
    executable = model.compiled("host")
    executable.save(tmp_path / "net.o")
    outside = {"rows": np.array([1, 2, 11, 3])}
    with pytest.raises(DataError, match="11"):
        executable.run(outside)
    wanted = executable.run(model.feeds[0])
    good = ", ".join(map(str, model.feeds[0]["rows"]))
    source = _INDEX.replace("GOOD", good)
    run_source(tmp_path, source, "net.o", flags=("-pthread",))
    (name,) = wanted
    assert (tmp_path / "result").read_bytes() == wanted[name].tobytes()


_INDEX = r"""
#include "net.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#define EXPECT(code, call) if ((call) != (code)) return __LINE__
static long good[] = {GOOD}, bad[] = {1, 2, 11, 3};
static float result[NET_OUTPUT_0_ELEMENTS];
static void *workspace;
static int codes[3];
static void *part(void *tid) {
  const void *inputs[] = {bad};
  void *outputs[] = {result};
  codes[(long)tid] = net_run_part(inputs, outputs, workspace, (int)(long)tid, 3);
  return NULL;
}
int main(void) {
  const void *inputs[] = {good}, *wrong[] = {bad};
  void *outputs[] = {result};
  pthread_t threads[3];
  long i, run;
  if (posix_memalign(&workspace, NET_WORKSPACE_ALIGNMENT, NET_WORKSPACE_BYTES)) return 1;
  EXPECT(NET_OK, net_init(workspace));
  for (run = 0; run < 20; run++) {
    EXPECT(NET_ERROR_INDEX, net_run(wrong, outputs, workspace));
    for (i = 0; i < 3; i++) pthread_create(&threads[i], NULL, part, (void *)i);
    for (i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    for (i = 0; i < 3; i++) EXPECT(NET_ERROR_INDEX, codes[i]);
    EXPECT(NET_OK, net_run(inputs, outputs, workspace));
  }
  FILE *file = fopen("result", "wb");
  fwrite(result, 1, sizeof(result), file);
  fclose(file);
  free(workspace);
  return 0;
}
"""


def test_two_models_live_in_one_program_and_keep_their_workspaces_apart(tmp_path: Path) -> None:
    one, two = small_cnn(), several()
    for model, stem in ((one, "first"), (two, "second")):
        model.compiled("host").save(tmp_path / f"{stem}.o")
    run_source(tmp_path, _TWO, "first.o", "second.o")
    for model, stem in ((one, "first"), (two, "second")):
        zeros = {name: np.zeros_like(array) for name, array in model.feeds[0].items()}
        wanted = next(iter(model.compiled("host").run(zeros).values()))
        assert (tmp_path / stem).read_bytes() == wanted.tobytes()


_TWO = r"""
#include "first.h"
#include "second.h"
#include <stdio.h>
#include <stdlib.h>
static const float zeros[4096];
static float results[3][4096];
static void keep(const char *path, size_t bytes) {
  FILE *file = fopen(path, "wb");
  fwrite(results[0], 1, bytes, file);
  fclose(file);
}
int main(void) {
  const void *inputs[] = {zeros, zeros};
  void *outputs[] = {results[0], results[1], results[2]};
  void *a, *b;
  if (posix_memalign(&a, 64, FIRST_WORKSPACE_BYTES + SECOND_WORKSPACE_BYTES)) return 1;
  if (posix_memalign(&b, 64, FIRST_WORKSPACE_BYTES + SECOND_WORKSPACE_BYTES)) return 1;
  if (first_init(a) || second_init(b)) return 2;
  if (second_run(inputs, outputs, a) != SECOND_ERROR_NOT_INITIALIZED) return 3;
  if (first_run(inputs, outputs, b) != FIRST_ERROR_NOT_INITIALIZED) return 4;
  if (first_run(inputs, outputs, a)) return 5;
  keep("first", FIRST_OUTPUT_0_BYTES);
  if (second_run(inputs, outputs, b)) return 6;
  keep("second", SECOND_OUTPUT_0_BYTES);
  free(a);
  free(b);
  return 0;
}
"""


def test_workspaces_of_inner_and_separate_weights_are_told_apart(tmp_path: Path) -> None:
    made = small_cnn().compiled("host")
    made.save(tmp_path / "whole.o")
    made.save(tmp_path / "bare.o", weights_file=True)
    run_source(tmp_path, _FORMS, "whole.o", "bare.o")


_FORMS = r"""
#include "bare.h"
#include "whole.h"
#include <stdlib.h>
int main(void) {
  static float in[4096], out[4096];
  const void *inputs[] = {in};
  void *outputs[] = {out}, *workspace;
  if (posix_memalign(&workspace, 64, WHOLE_WORKSPACE_BYTES)) return 1;
  if (whole_init(workspace) || whole_run(inputs, outputs, workspace)) return 2;
  if (bare_run(inputs, outputs, workspace) != BARE_ERROR_NOT_INITIALIZED) return 3;
  free(workspace);
  return 0;
}
"""


def test_a_shared_library_is_called_from_python(tmp_path: Path) -> None:
    graph, feeds = small_net()
    executable = codegen(graph)
    executable.save(tmp_path / "libnet.so")
    library = ctypes.CDLL(str(tmp_path / "libnet.so"))
    library.net_workspace_bytes.restype = ctypes.c_size_t
    library.net_error.restype = ctypes.c_char_p
    memory = np.zeros(library.net_workspace_bytes() + 64, np.uint8)
    start = -memory.ctypes.data % 64
    workspace = ctypes.c_void_p(memory.ctypes.data + start)
    x = np.ascontiguousarray(feeds["x"])
    wanted = executable.run(feeds)["y"]
    found = np.empty_like(wanted)
    inputs = (ctypes.c_void_p * 1)(x.ctypes.data)
    outputs = (ctypes.c_void_p * 1)(found.ctypes.data)
    assert library.net_run(inputs, outputs, workspace) == 3
    assert b"not initialized" in library.net_error(3)
    assert library.net_init(workspace) == 0
    assert library.net_run(inputs, outputs, workspace) == 0
    np.testing.assert_array_equal(found, wanted)


def test_a_shared_library_has_no_text_relocations_and_no_executable_stack(tmp_path: Path) -> None:
    graph, _ = small_net()
    codegen(graph).save(tmp_path / "libnet.so")

    def told(*words: str) -> str:
        command = ["readelf", "-W", *words, "libnet.so"]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    dynamic = told("-d")
    assert "TEXTREL" not in dynamic
    assert "soname: [libnet.so]" in dynamic
    needed = [line for line in dynamic.splitlines() if "(NEEDED)" in line]
    assert all("libc.so" in line for line in needed)
    (stack,) = (line for line in told("-l").splitlines() if "GNU_STACK" in line)
    assert " RW " in stack
    symbols = [line.split() for line in told("--dyn-syms").splitlines() if "GLOBAL" in line]
    defined = {row[7] for row in symbols if row[6] != "UND"}
    assert defined
    assert all(name.startswith("net_") for name in defined)


def test_the_object_asks_for_no_executable_stack(tmp_path: Path) -> None:
    graph, _ = small_net()
    codegen(graph).save(tmp_path / "net.o")
    sections = subprocess.run(
        ["readelf", "-SW", "net.o"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert ".note.GNU-stack" in sections
    # No state: nothing of a size can be written to.
    writable = [line for line in sections.splitlines() if " WA " in line]
    assert all(".data.rel.ro" in line or line.split()[-6] == "000000" for line in writable)
    (weights,) = (line for line in sections.splitlines() if ".rodata.qcc_weights" in line)
    assert weights.split()[-1] == "64"
    assert " A " in weights


@pytest.mark.parametrize("stem", ["qcc", "run", "profile", "float_conv", "int"])
def test_names_of_a_file_do_not_meet_those_inside(stem: str, tmp_path: Path) -> None:
    net = Net(0)
    x = net.input("init", 1, 4)
    y = net.op("MatMul", x, net.normal(4, 3))
    made = qcc.compile(net.model(y).SerializeToString(), precision="float32")
    made.save(tmp_path / f"{stem}.o")
    HOST.build(tmp_path, [f"{stem}_example.c", f"{stem}.o"], "program", *STRICT)
    HOST.run(tmp_path, "./program")
