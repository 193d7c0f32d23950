"""LSTM and GRU from the graph to native code: which steps are computed, and that bytes agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcc.backends.llvm.compile import compile_numbered
from qcc.backends.llvm.isa import host_instruction_set
from qcc.backends.llvm.model import NativeStep
from qcc.backends.llvm.selectors.recurrent import elements_read
from qcc.ir.core import Value
from qcc.ref.evaluate import evaluate
from qcc.runtime.program import Program
from tests.passes.native_patterns import PATTERNS
from tests.passes.numbered import Numbered

STEPS, BATCH, INPUTS, HIDDEN = 6, 2, 5, 9


def recurrent(b: Numbered, kind: str, **attributes: Any) -> list[Value]:
    """Y and the states of a bidirectional node on a quantized input."""
    gates = {"LSTM": 4, "GRU": 3}[kind]
    x = b.q(b.input("x", STEPS, BATCH, INPUTS))
    shapes = [(2, gates * HIDDEN, INPUTS), (2, gates * HIDDEN, HIDDEN), (2, 2 * gates * HIDDEN)]
    weights = [b.constant(b.random.normal(0, 0.4, s).astype(np.float32)) for s in shapes]
    types = [x.tensor.with_shape((STEPS, 2, BATCH, HIDDEN))]
    types += [x.tensor.with_shape((2, BATCH, HIDDEN))] * (2 if kind == "LSTM" else 1)
    node = b.graph.create_node(
        kind,
        [x, *weights],
        types,
        attributes={"hidden_size": HIDDEN, "direction": "bidirectional", **attributes},
        name="recurrent",
    )
    return list(node.outputs)


def kernels(b: Numbered, *outputs: Value) -> set[str]:
    """Hold native code against the reference; gives the names of the kernels."""
    graph, feeds = b.done(*outputs), b.feeds()
    program = compile_numbered(graph, host_instruction_set(), PATTERNS)
    wanted = evaluate(program.lowered, feeds)
    found = Program(program.model, 2).run([feeds["x"]])
    for (name, array), other in zip(wanted.items(), found, strict=True):
        assert np.array_equal(array, other), name
    steps = [step for step in program.model.steps if isinstance(step, NativeStep)]
    assert len(steps) == len(program.model.steps)
    return {call.kernel for step in steps for call in step.calls}


def last_step(b: Numbered, y: Value) -> Value:
    turned = b.op("Transpose", [y], (STEPS, BATCH, 2, HIDDEN), perm=[0, 2, 1, 3])
    flat = b.op("Reshape", [turned, b.constant([STEPS, BATCH, -1])], (STEPS, BATCH, 2 * HIDDEN))
    bounds = [b.constant(np.array([n])) for n in (-1, 2**31 - 1, 0)]
    return b.op("Slice", [flat, *bounds], (1, BATCH, 2 * HIDDEN))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_direction_that_begins_at_the_step_that_is_read_takes_one_step(kind: str) -> None:
    b = Numbered()
    y, *_ = recurrent(b, kind)
    names = kernels(b, b.q(last_step(b, y)))
    assert f"{kind.lower()}_6x2x5_9_bidirectional_6_1" in names


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_all_steps_where_more_is_read(kind: str) -> None:
    for more in ("y", "state"):
        b = Numbered()
        y, *states = recurrent(b, kind)
        also = y if more == "y" else states[0]
        names = kernels(b, b.q(last_step(b, y)), also)
        assert f"{kind.lower()}_6x2x5_9_bidirectional" in names


@pytest.mark.parametrize("reset", [0, 1])
def test_both_forms_of_the_reset_gate(reset: int) -> None:
    b = Numbered()
    y, state = recurrent(b, "GRU", linear_before_reset=reset)
    assert "gru_6x2x5_9_bidirectional" in kernels(b, y, state)


def test_elements_that_are_read_are_followed_through_movement() -> None:
    b = Numbered()
    x = b.input("x", 3, 4)
    turned = b.graph.create_node(
        "q.transpose", [x], [x.tensor.with_shape((4, 3))], attributes={"perm": [1, 0]}
    ).output
    cut = b.graph.create_node(
        "q.slice",
        [turned],
        [x.tensor.with_shape((1, 2))],
        attributes={"starts": [2, 1], "stops": [3, 3], "steps": [1, 1]},
    ).output
    b.done(b.op("Relu", [cut], (1, 2)))
    assert np.flatnonzero(elements_read(x)).tolist() == [6, 10]
