"""Random models as C programs: buffers lie between guard pages, workspaces are dirty."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcc.compiler import quantize
from qcc.onnxio import read_onnx
from qcc.runtime.build import codegen, native_backend_name
from tests.c_interface.building import Driving, Machine, build_driver, drive
from tests.fuzzing.cases import random_case


# (The models of other seeds have ops that only onnxruntime runs.)
@pytest.mark.parametrize("seed", [2, 3, 5, 6, 10, 12])
def test_random_models_touch_nothing_but_their_buffers(seed: int, tmp_path: Path) -> None:
    case = random_case(seed, ())
    graph = quantize(read_onnx(case.model), case.feeds, native_backend_name("host")).graph
    shapes = {name: array.shape for name, array in case.feeds[0].items()}
    executable = codegen(graph, shapes=shapes, floats=True)
    executable.save(tmp_path / "model.o")
    machine = Machine.of("host")
    build_driver(machine, tmp_path)
    ways = (
        Driving("end", 0xFF, threads=2, repeats=2),
        Driving("begin", 0xA5),
        Driving("end", 0x7F, align=1),
    )
    for feeds, how in zip(case.feeds, ways, strict=False):
        drive(machine, executable, feeds, executable.run(feeds), tmp_path, how)
