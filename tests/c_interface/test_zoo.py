"""Real models as C programs, here and in an emulator, on real data."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcc.runtime.build import codegen, native_backend_name
from tests.c_interface.building import Driving, Machine, build_driver, drive
from tests.differential.models import sample
from tests.emulation.programs import LEAST_CPU, require_emulator

pytestmark = pytest.mark.shared


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("kws_dscnn", "host"),
        ("kws_dscnn", "arm-neon"),
        ("kws_dscnn", "arm-dotprod"),
        ("kws_dscnn", "arm-i8mm"),
        ("sww_wakeword", "host"),
        ("mnist_gru", "arm-dotprod"),
        ("vww_mobilenet025_96_nhwc", "arm-neon"),
    ],
)
def test_real_models_give_the_bytes_of_python(
    name: str, target: str, zoo: Path, tmp_path: Path
) -> None:
    if target in LEAST_CPU:
        require_emulator()
    real = sample(name, 4, zoo)
    graph = real.numbered(native_backend_name(target))
    shapes = {key: array.shape for key, array in real.feeds[0].items()}
    executable = codegen(graph, target, shapes=shapes)
    executable.save(tmp_path / "model.o")
    machine = Machine.of(target)
    build_driver(machine, tmp_path)
    here = codegen(graph, shapes=shapes)
    for feeds, side, fill in zip(real.feeds, ("end", "begin"), (0xA5, 0xFF), strict=False):
        how = Driving(side, fill, threads=2, repeats=2)
        drive(machine, executable, feeds, here.run(feeds), tmp_path, how)
