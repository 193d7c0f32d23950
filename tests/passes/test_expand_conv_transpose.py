"""Transposed convolutions as convolutions of phases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Graph
from qcc.ir.types import float32
from qcc.passes.manager import PassManager, parse_pass_list
from qcc.pipeline import convert, prepare
from qcc.ref.evaluate import evaluate
from qcc.runtime.build import codegen
from tests.passes.flow_models import feeds


def model(
    size: tuple[int, int] = (5, 4),
    channels: int = 6,
    outputs: int = 4,
    kernel: tuple[int, int] = (2, 2),
    bias: bool = True,
    relu: bool = False,
    after: bool = False,
    **attributes: Any,
) -> Graph:
    random = np.random.default_rng(kernel[0])
    b = GraphBuilder()
    x = b.input("x", float32(1, channels, *size))
    group = int(attributes.get("group", 1))
    weight = random.normal(size=(channels, outputs // group, *kernel)).astype(np.float32)
    operands = [x, b.constant(weight, "w")]
    if bias:
        operands.append(b.constant(random.normal(size=outputs).astype(np.float32), "b"))
    y = b.op.ConvTranspose(*operands, **attributes)
    y = b.op.Relu(y) if relu else y
    if after:
        y = b.op.Add(y, y)
    return b.output(y)


def expanded(graph: Graph) -> Graph:
    clone = graph.clone()
    PassManager(parse_pass_list("expand-conv-transpose,canonicalize,eliminate-dead")).run(clone)
    return clone


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 4),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    extra=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    group=st.sampled_from([1, 2]),
    bias=st.booleans(),
    relu=st.booleans(),
)
def test_the_result_stays(
    kernel: tuple[int, int],
    stride: int,
    pads: tuple[int, ...],
    extra: tuple[int, int],
    group: int,
    bias: bool,
    relu: bool,
) -> None:
    assume(max(extra) < stride)
    sizes = [stride * 4 + k - a - b for k, a, b in zip(kernel, pads[:2], pads[2:], strict=True)]
    assume(min(sizes) >= 1)
    graph = model(
        (5, 5),
        kernel=kernel,
        bias=bias,
        relu=relu,
        strides=[stride] * 2,
        pads=list(pads),
        output_padding=list(extra),
        group=group,
    )
    made = expanded(graph)
    batch = feeds(graph, 1)[0]
    (wanted,), (found,) = evaluate(graph, batch).values(), evaluate(made, batch).values()
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    beyond = any(
        stride * -(-k // stride) - k - e + end < 0
        for k, e, end in zip(kernel, extra, pads[2:], strict=True)
    )
    assert ("ConvTranspose" in ops(made)) == beyond


def test_activations_move_behind_the_convolution() -> None:
    assert ops(expanded(model(relu=True, strides=[2, 2]))) == ["Conv", "Relu", "DepthToSpace"]
    cut = model(relu=True, kernel=(4, 4), strides=[2, 2], pads=[1, 1, 1, 1])
    assert ops(expanded(cut)) == ["Conv", "Relu", "DepthToSpace", "Slice"]
    shared = model(strides=[2, 2], after=True)
    assert ops(expanded(shared)) == ["Conv", "DepthToSpace", "Add"]


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 1]},
        {"strides": [2, 2], "dilations": [2, 2]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "output_shape": [9, 7]},
    ],
)
def test_what_has_no_such_form_stays(attributes: dict[str, Any]) -> None:
    assert ops(expanded(model(**attributes))) == ["ConvTranspose"]


def test_it_runs_natively_on_integers() -> None:
    b = GraphBuilder()
    random = np.random.default_rng(0)
    weight = random.normal(size=(16, 8, 4, 4)).astype(np.float32)
    x = b.op.ConvTranspose(
        b.input("x", float32(1, 16, 6, 6)), b.constant(weight), strides=[2, 2], pads=[1, 1, 1, 1]
    )
    weight = random.normal(size=(5, 8, 1, 1)).astype(np.float32)
    graph = b.output(b.op.Conv(b.op.Relu(x), b.constant(weight)))
    prepared = prepare(graph).calibrate(feeds(graph, 16))
    quantized = convert(prepared)
    executable = codegen(quantized.graph)
    assert executable.report.float_nodes == 0
    for batch in feeds(graph, 20)[16:]:
        (wanted,), (found,) = evaluate(graph, batch).values(), executable.run(batch).values()
        assert found.shape == wanted.shape
        noise = float(((wanted - found) ** 2).sum() / (wanted**2).sum())
        assert noise < 1e-3
