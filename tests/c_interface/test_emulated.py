"""C programs for AArch64, and for CPUs that lack what the code needs, run by qemu."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qcc.backends.llvm.isa import INSTRUCTION_SETS
from qcc.backends.llvm.machine import host_architecture
from qcc.runtime.build import codegen
from qcc.runtime.executable import Executable
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
from tests.c_interface.models import MODELS, CModel
from tests.emulation.programs import COMPILER, EMULATOR, LIBRARIES, require_emulator
from tests.required import skip_unless_required
from tests.runtime.models import small_net

ROWS = [isa.name for isa in INSTRUCTION_SETS.values() if isa.architecture == "aarch64"]

pytestmark = pytest.mark.usefixtures("emulator")


@pytest.fixture(scope="module")
def emulator() -> None:
    """Skips where there is no emulator or cross compiler, unless they are required."""
    require_emulator()


@pytest.fixture(scope="module", params=MODELS)
def quantized(request: pytest.FixtureRequest) -> tuple[CModel, Executable]:
    """A model, and its code for the first row."""
    model = MODELS[request.param]()
    return model, model.compiled(ROWS[0])


@pytest.mark.parametrize("row", ROWS)
def test_programs_for_arm_give_the_bytes_of_python(
    quantized: tuple[CModel, Executable], row: str, tmp_path: Path
) -> None:
    machine, (model, first) = Machine.of(row), quantized
    assert first.graph is not None
    executable = codegen(first.graph, row, floats=first.floats)
    executable.save(tmp_path / "model.o")
    build_driver(machine, tmp_path)
    here = codegen(first.graph, floats=first.floats)
    for feeds, side, fill in zip(model.feeds, ("end", "begin"), (0xA5, 0xFF), strict=False):
        wanted = here.run(feeds)
        how = Driving(side, fill, threads=3, repeats=5, workspaces=2)
        drive(machine, executable, feeds, wanted, tmp_path, how)


@pytest.mark.parametrize("row", ROWS)
def test_the_example_runs_with_a_separate_file_of_weights(row: str, tmp_path: Path) -> None:
    graph, feeds = small_net()
    executable = codegen(graph, row)
    executable.save(tmp_path / "model.o", weights_file=True)
    machine = Machine.of(row)
    machine.build(tmp_path, ["model_example.c", "model.o"], "example", "-std=c99", *STRICT)
    files = [*write_feeds(executable, feeds, tmp_path), *output_names(executable)]
    machine.run(tmp_path, "./example", *files)
    assert_outputs(executable, codegen(graph).run(feeds), tmp_path)


@pytest.mark.parametrize("file", ["libmodel.so", "libmodel.a"])
def test_libraries_for_arm_are_linked_here(file: str, tmp_path: Path) -> None:
    graph, feeds = small_net()
    executable = codegen(graph, "arm-dotprod")
    executable.save(tmp_path / file)
    machine = Machine(COMPILER, (), (EMULATOR, "-cpu", "cortex-a76", "-L", LIBRARIES))
    beside = "-Wl,-rpath,$ORIGIN"
    machine.build(tmp_path, ["model_example.c", file, beside], "example", *STRICT)
    files = [*write_feeds(executable, feeds, tmp_path), *output_names(executable)]
    machine.run(tmp_path, "./example", *files)
    assert_outputs(executable, codegen(graph).run(feeds), tmp_path)


_STUBBORN = r"""
#include "model.h"
#include <stdio.h>
#define ALIGNED __attribute__((aligned(MODEL_WORKSPACE_ALIGNMENT)))
static unsigned char workspace[MODEL_WORKSPACE_BYTES] ALIGNED;
static float data[2][4096];
int main(void) {
  const void *inputs[] = {data[0]};
  void *outputs[] = {data[1]};
  if (model_init(workspace) != MODEL_ERROR_CPU) return 1;
  if (model_run(inputs, outputs, workspace) != MODEL_ERROR_NOT_INITIALIZED) return 2;
  puts(model_error(MODEL_ERROR_CPU));
  puts(model_input(0)->name);
  return 0;
}
"""
"""A program that runs a model although it cannot be."""


def check_refusal(machine: Machine, folder: Path) -> None:
    """The model in ``folder`` is refused by the machine's CPU, and nothing worse happens."""
    (folder / "stubborn.c").write_text(_STUBBORN)
    machine.build(folder, ["stubborn.c", "model.o"], "stubborn")
    said = machine.run(folder, "./stubborn").stdout
    assert said == "this CPU lacks a feature that the code needs\nx\n"


@pytest.mark.parametrize(
    ("row", "cpu"),
    [
        ("arm-dotprod", "cortex-a53"),
        ("arm-i8mm", "cortex-a53"),
        ("arm-i8mm", "cortex-a76"),
        ("arm-i8mm", "neoverse-n1"),
    ],
)
def test_an_arm_cpu_without_a_feature_is_told_so(row: str, cpu: str, tmp_path: Path) -> None:
    graph, _ = small_net()
    codegen(graph, row).save(tmp_path / "model.o")
    check_refusal(Machine(COMPILER, ("-static",), (EMULATOR, "-cpu", cpu)), tmp_path)


def require_x86_emulator() -> None:
    """Skip where other x86 CPUs cannot be emulated; fail where rows of x86 are required."""
    if host_architecture() != "x86_64":
        pytest.skip("this is no x86 machine")
    if shutil.which("qemu-x86_64") is None:
        rows = [row.name for row in INSTRUCTION_SETS.values() if row.architecture == "x86_64"]
        skip_unless_required(rows, "qemu-x86_64 is not installed")


@pytest.mark.parametrize("row", ["x86-avx2", "x86-avxvnni", "x86-avx512vnni"])
def test_an_x86_cpu_without_a_feature_is_told_so(row: str, tmp_path: Path) -> None:
    require_x86_emulator()
    graph, _ = small_net()
    codegen(graph, row).save(tmp_path / "model.o")
    check_refusal(Machine("cc", ("-static",), ("qemu-x86_64", "-cpu", "Nehalem")), tmp_path)


def test_an_x86_cpu_that_has_the_features_is_not_refused(tmp_path: Path) -> None:
    require_x86_emulator()
    graph, feeds = small_net()
    executable = codegen(graph, "x86-avx2")
    executable.save(tmp_path / "model.o")
    machine = Machine("cc", ("-static",), ("qemu-x86_64", "-cpu", "max"))
    machine.build(tmp_path, ["model_example.c", "model.o"], "example")
    files = [*write_feeds(executable, feeds, tmp_path), *output_names(executable)]
    machine.run(tmp_path, "./example", *files)
    assert_outputs(executable, executable.run(feeds), tmp_path)
