"""Compiled graphs under qemu: the reference's bytes, and what goes wrong is said."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.arm.config import CONFIG
from qcc.backends.llvm.compile import NativeProgram, compile_numbered
from qcc.backends.llvm.isa import INSTRUCTION_SETS
from qcc.errors import DataError
from qcc.ir.core import Array, Graph
from qcc.ir.types import TensorType, float32
from qcc.ref.evaluate import evaluate
from tests.conformance.random_graphs import RandomNetwork
from tests.emulation.models import Run, run_model, run_models
from tests.emulation.programs import EmulationError, require_emulator
from tests.passes.numbered import Numbered

ROWS = ["arm-neon", "arm-dotprod", "arm-i8mm"]


@pytest.fixture(autouse=True)
def _emulator() -> None:
    require_emulator()


def compiled(graph: Graph, row: str) -> NativeProgram:
    return compile_numbered(graph, INSTRUCTION_SETS[row], CONFIG.patterns)


def small_graph() -> tuple[Graph, Numbered]:
    """A convolution whose result is an output, beside an input and a constant that are."""
    b = Numbered()
    x, passed = b.input("x", 1, 5, 6, 7), b.input("passed", 3)
    y = b.op("Conv", [b.q(x), b.weight((9, 5, 3, 3)), b.bias(9)], (1, 9, 4, 5))
    return b.done(b.q(y, 0.1), passed, b.constant(np.arange(4, dtype=np.float32))), b


def assert_same(program: NativeProgram, feeds: dict[str, Array], found: list[Array]) -> None:
    wanted = evaluate(program.lowered, feeds)
    for value, array in zip(program.lowered.outputs, found, strict=True):
        expected = np.asarray(wanted[value.name])
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert array.tobytes() == expected.tobytes(), value.name


@pytest.mark.parametrize("row", ROWS)
def test_a_graph_gives_the_bytes_of_the_reference_in_every_call(row: str) -> None:
    graph, b = small_graph()
    program = compiled(graph, row)
    feeds = [b.feeds(), b.feeds()]
    calls = [[feed[value.name] for value in graph.inputs] for feed in feeds]
    for feed, found in zip(feeds, run_model(program.model, calls), strict=True):
        assert_same(program, feed, found)


@pytest.mark.parametrize("row", ROWS)
def test_several_programs_run_in_one_process_with_threads_of_their_own(row: str) -> None:
    networks = [RandomNetwork(seed) for seed in range(3)]
    programs = [compiled(network.grow(6), row) for network in networks]
    feeds = [network.b.feeds() for network in networks]
    runs = [
        Run(program.model, [[feed["x"]]] * 3, threads)
        for program, feed, threads in zip(programs, feeds, (1, 2, 5), strict=True)
    ]
    for program, feed, calls in zip(programs, feeds, run_models(runs), strict=True):
        for found in calls:
            assert_same(program, feed, found)


def test_a_cpu_without_the_instructions_of_the_row_stops() -> None:
    graph, b = small_graph()
    feeds = b.feeds()
    model = compiled(graph, "arm-dotprod").model
    runs = [Run(model, [[feeds["x"], feeds["passed"]]])]
    with pytest.raises(EmulationError, match="arm-dotprod: exit code"):
        run_models(runs, cpu="cortex-a53")


def test_an_index_without_a_row_is_a_data_error() -> None:
    b = Numbered()
    index = b.graph.add_input("index", TensorType((2,), "int64"))
    table = b.constant(np.arange(15, dtype=np.float32).reshape(5, 3))
    node = b.graph.create_node("Gather", [table, index], [float32(2, 3)])
    x = b.input("x", 2, 3)
    y = b.q(b.op("Add", [b.q(node.output), b.q(x)], (2, 3)))
    program = compiled(b.done(y), "arm-neon")
    data = np.ones((2, 3), np.float32)
    right: dict[str, Array] = {"index": np.array([4, -5]), "x": data}
    (found,) = run_model(program.model, [list(right.values())])
    assert_same(program, right, found)
    with pytest.raises(DataError, match="row 5 of a table of 5 rows"):
        run_model(program.model, [[np.array([0, 5]), data]])
