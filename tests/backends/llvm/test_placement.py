"""Concatenations and splits along the channels share memory; every byte is the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.llvm import module
from qcc.backends.llvm.buffers import HALO_PART, Buffer, Pointer
from qcc.backends.llvm.codegen import compile_graph
from qcc.backends.llvm.isa import host_instruction_set
from qcc.backends.llvm.kernels.copy import CopyKernel
from qcc.backends.llvm.kernels.nest import dense_view
from qcc.ir.core import Graph, Value
from qcc.passes.layout import convert_layout
from qcc.passes.lower import lower
from qcc.ref.evaluate import evaluate
from qcc.runtime import program
from tests.conformance.shared_channels import BranchyNetwork
from tests.passes.native_patterns import PATTERNS
from tests.passes.numbered import Numbered

SIDE = 5


@pytest.fixture(autouse=True, scope="module")
def _threads_for_small_models() -> object:
    patch = pytest.MonkeyPatch()
    patch.setattr(program, "LEAST_MACS", 0)
    yield
    patch.undo()


def run(b: Numbered, graph: Graph, threads: int = 2) -> list[str]:
    """Hold native code against the reference; gives the names of the kernels as they run."""
    feeds = b.feeds()
    lower(graph, PATTERNS)
    wanted = evaluate(graph, feeds)
    convert_layout(graph)
    model = compile_graph(graph, host_instruction_set())
    native = program.Program(model, threads)
    for _ in range(2):
        found = native.run([feeds[value.name] for value in graph.inputs])
        for value, array in zip(graph.outputs, found, strict=True):
            assert np.array_equal(wanted[value.name], array), value.name
    native.close()
    return [row.kernel for step in model.steps for row in getattr(step, "calls", ())]


def copies(kernels: list[str]) -> int:
    return sum(name.startswith(("copy", "lut", "clamp")) for name in kernels)


class Builder(Numbered):
    """Networks whose values all have one scale."""

    storage = "uint8"

    def one_scale(self, value: Value) -> Value:
        return self.q(value, 0.1, 3, self.storage)

    def conv(self, x: Value, outputs: int, size: int = 1) -> Value:
        channels, pads = x.tensor.static_shape[1], [size // 2] * 4
        weight = self.weight((outputs, channels, size, size))
        shape = (1, outputs, SIDE, SIDE)
        return self.one_scale(self.op("Conv", [x, weight], shape, pads=pads))

    def concat(self, *values: Value) -> Value:
        channels = sum(v.tensor.static_shape[1] for v in values)
        shape = (1, channels, SIDE, SIDE)
        return self.one_scale(self.op("Concat", list(values), shape, axis=1))

    def split(self, x: Value, first: int, last: int) -> Value:
        bounds = [self.constant(np.array([v])) for v in (first, last, 1)]
        shape = (1, last - first, SIDE, SIDE)
        return self.one_scale(self.op("Slice", [x, *bounds], shape))

    def image(self, channels: int) -> Value:
        return self.one_scale(self.input("x", 1, channels, SIDE, SIDE))


@pytest.mark.parametrize("storage", ["uint8", "int8"])
@pytest.mark.parametrize("halo", [1, 3])
def test_branches_are_written_where_they_are_joined(storage: str, halo: int) -> None:
    b = Builder()
    b.storage = storage
    x = b.image(6)
    joined = b.concat(b.conv(x, 8), b.conv(x, 12, 3), b.conv(x, 5))
    assert copies(run(b, b.done(b.conv(joined, 4, halo)))) == 0


def test_values_with_other_readers_and_joins_of_joins_move_nothing() -> None:
    b = Builder()
    x = b.conv(b.image(3), 8)
    y = b.conv(x, 4)
    inner = b.concat(x, y)
    outer = b.concat(b.conv(inner, 8), inner, b.conv(y, 8))
    again = b.concat(outer, b.conv(outer, 4))
    pooled = b.one_scale(
        b.op("MaxPool", [y], (1, 4, SIDE, SIDE), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    )
    assert copies(run(b, b.done(b.conv(again, 8, 3), pooled))) == 0


def test_a_cross_stage_block_copies_only_for_its_wide_convolutions() -> None:
    b = Builder()
    whole = b.conv(b.image(8), 16)
    parts = [b.split(whole, 0, 8), b.split(whole, 8, 16)]
    for _ in range(2):
        parts.append(b.conv(parts[-1], 8, 3))
    kernels = run(b, b.done(b.conv(b.concat(*parts), 8)))
    # The second half and the first convolution's result are read by convolutions of three columns.
    assert copies(kernels) == 2


def test_parts_that_do_not_begin_at_four_channels_are_copied() -> None:
    b = Builder()
    x = b.image(4)
    assert copies(run(b, b.done(b.conv(b.concat(b.conv(x, 6), b.conv(x, 8)), 4)))) == 2


def test_a_value_that_is_joined_twice_lies_in_one_place() -> None:
    b = Builder()
    x = b.conv(b.image(4), 8)
    y = b.conv(x, 8)
    first, second = b.concat(x, y), b.concat(y, b.conv(x, 4), y)
    kernels = run(b, b.done(b.conv(first, 4), b.conv(second, 4), y))
    # Both times in the second one, and for the graph's output.
    assert copies(kernels) == 2


def test_another_scale_is_requantized_into_place() -> None:
    b = Builder()
    x = b.image(4)
    other = b.q(b.op("Conv", [x, b.weight((8, 4, 1, 1))], (1, 8, SIDE, SIDE)), 0.3)
    assert copies(run(b, b.done(b.conv(b.concat(b.conv(x, 8), other), 4)))) == 1


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), steps=st.integers(4, 14), threads=st.integers(1, 2))
def test_any_network_of_branches(seed: int, steps: int, threads: int) -> None:
    network = BranchyNetwork(seed)
    run(network.b, network.grow(steps), threads)


def _call(source: Pointer, target: Pointer) -> module.Call:
    view = dense_view((4,), 1)
    return module.Call(CopyKernel((4,), view, view), {"source": source, "target": target})


def test_only_kernels_of_the_same_channels_wait_for_each_other() -> None:
    shared, other = Buffer("shared", 64, offset=0), Buffer("other", 64, offset=256)
    left, right = Pointer(shared, 0, (0, 4)), Pointer(shared, 4, (4, 8))
    halo, whole, x = Pointer(shared, 0, HALO_PART), Pointer(shared), Pointer(other)

    def depends(call: module.Call, earlier: module.Call) -> bool:
        return module._depends(call, earlier)

    assert not depends(_call(x, left), _call(x, right))
    assert not depends(_call(x, left), _call(x, halo))
    assert not depends(_call(x, left), _call(right, Pointer(Buffer("third", 64, offset=512))))
    assert depends(_call(x, left), _call(x, left))
    assert depends(_call(left, x), _call(x, left))
    assert depends(_call(left, x), _call(x, halo))
    assert depends(_call(x, left), _call(left, x))
    assert depends(_call(whole, x), _call(x, right))
    assert depends(_call(x, left), _call(x, whole))
