"""Random float networks: native code gives the reference's bytes, whatever shares memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.llvm.compile import compile_numbered
from qcc.backends.llvm.isa import INSTRUCTION_SETS, can_run
from qcc.ir.core import Graph, Value
from qcc.ref.evaluate import evaluate
from qcc.runtime import program
from qcc.runtime.build import backend_of
from tests.differential.native import runnable_row
from tests.passes.numbered import Numbered

SIDE = 6
ROWS = [name for name in INSTRUCTION_SETS if name.startswith("x86")]


class Network(Numbered):
    """Grows a float network of images of one size, one op after the other."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.values = [self.input("x", 1, int(self.random.integers(1, 9)), SIDE, SIDE)]

    def grow(self, steps: int) -> Graph:
        ops = [
            self.conv,
            self.pointwise,
            self.depthwise,
            self.join,
            self.part,
            self.add,
            self.pool,
            self.activation,
            self.gate,
            self.reshaped,
            self.resized,
        ]
        for _ in range(steps):
            made = ops[self.random.integers(len(ops))]()
            self.values.append(made)
        count = int(self.random.integers(1, 3))
        return self.done(*self.values[-count:])

    def any(self) -> Value:
        """One of the latest values, so that the network is deep and has branches."""
        return self.values[-1 - int(self.random.integers(min(3, len(self.values))))]

    def make(self, op: str, inputs: list[Value | None], channels: int, **more: Any) -> Value:
        return self.op(op, inputs, (1, channels, SIDE, SIDE), **more)

    def numbers(self, *shape: int) -> Value:
        return self.constant(self.random.normal(scale=0.4, size=shape).astype(np.float32))

    def conv(self) -> Value:
        x, n = self.any(), int(self.random.integers(1, 20))
        size, dilation = [(3, 1), (5, 1), (3, 2)][self.random.integers(3)]
        pad = (size - 1) * dilation // 2
        weight = self.numbers(n, channels(x), size, size)
        made = self.make(
            "Conv", [x, weight, self.bias(n)], n, pads=[pad] * 4, dilations=[dilation] * 2
        )
        return self.make("Relu", [made], n) if self.random.integers(2) else made

    def pointwise(self) -> Value:
        x, n = self.any(), 4 * int(self.random.integers(1, 9))
        return self.make("Conv", [x, self.numbers(n, channels(x), 1, 1)], n)

    def depthwise(self) -> Value:
        x = self.any()
        weight = self.numbers(channels(x), 1, 3, 3)
        more = {"pads": [1] * 4, "group": channels(x)}
        return self.make("Conv", [x, weight], channels(x), **more)

    def join(self) -> Value:
        parts = [self.any() for _ in range(int(self.random.integers(2, 4)))]
        return self.make("Concat", list(parts), sum(map(channels, parts)), axis=1)

    def part(self) -> Value:
        x = self.any()
        first = int(self.random.integers(channels(x)))
        last = int(self.random.integers(first, channels(x))) + 1
        bounds = [self.constant(np.array([value])) for value in (first, last, 1)]
        return self.make("Slice", [x, *bounds], last - first)

    def add(self) -> Value:
        x = self.any()
        same = [value for value in self.values if channels(value) == channels(x)]
        other = same[self.random.integers(len(same))]
        return self.make("Add", [x, other], channels(x))

    def pool(self) -> Value:
        op = ("MaxPool", "AveragePool")[self.random.integers(2)]
        x = self.any()
        return self.make(op, [x], channels(x), kernel_shape=[3, 3], pads=[1] * 4)

    def activation(self) -> Value:
        x = self.any()
        return self.make(
            ("Sigmoid", "HardSwish", "Tanh")[self.random.integers(3)], [x], channels(x)
        )

    def gate(self) -> Value:
        x = self.any()
        return self.make("Mul", [x, self.make("Sigmoid", [x], channels(x))], channels(x))

    def reshaped(self) -> Value:
        x = self.any()
        shape = (1, channels(x), SIDE * SIDE)
        flat = self.op("Reshape", [x, self.constant(np.array(shape))], shape)
        back = self.constant(np.array([1, channels(x), SIDE, SIDE]))
        return self.make("Reshape", [flat, back], channels(x))

    def resized(self) -> Value:
        x = self.any()
        mode = ("nearest", "linear")[self.random.integers(2)]
        small = {"kernel_shape": [2, 2], "strides": [2, 2]}
        half = self.op("MaxPool", [x], (1, channels(x), SIDE // 2, SIDE // 2), **small)
        sizes = self.constant(np.array([1, channels(x), SIDE, SIDE]))
        return self.make("Resize", [half, None, None, sizes], channels(x), mode=mode)


def channels(value: Value) -> int:
    return value.tensor.static_shape[1]


def check(seed: int, steps: int, row: str, threads: int) -> None:
    network = Network(seed)
    graph = network.grow(steps)
    feeds = network.feeds(1.0)
    isa = runnable_row(INSTRUCTION_SETS[row])
    compiled = compile_numbered(graph, isa, backend_of(isa).patterns, floats=True)
    assert not compiled.model.regions
    wanted = evaluate(compiled.lowered, feeds)
    native = program.Program(compiled.model, threads)
    for _ in range(2):
        found = native.run([feeds[value.name] for value in graph.inputs])
        for spec, array in zip(compiled.model.outputs, found, strict=True):
            assert array.tobytes() == np.ascontiguousarray(wanted[spec.name]).tobytes()
    native.close()


@pytest.fixture(autouse=True, scope="module")
def _threads_for_small_models() -> object:
    patch = pytest.MonkeyPatch()
    patch.setattr(program, "LEAST_MACS", 0)
    yield
    patch.undo()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 12), threads=st.integers(1, 2))
def test_any_network(seed: int, steps: int, threads: int) -> None:
    check(seed, steps, "x86-avx2", threads)


@pytest.mark.parametrize("row", [row for row in ROWS if not can_run(INSTRUCTION_SETS[row])])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_networks_on_other_rows(row: str, seed: int) -> None:
    check(seed, 8, row, 2)
