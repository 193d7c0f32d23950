"""Weights in int4 blocks: scales of least error, the right axis, and what stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Graph
from qcc.ir.types import float32
from qcc.passes.quantize_blocks import NO_BLOCKS, VECTOR, in_blocks, quantize_blocks


def product(shape: tuple[int, int], trans: int = 0) -> Graph:
    random = np.random.default_rng(0)
    inputs = shape[1] if trans else shape[0]
    b = GraphBuilder()
    x = b.input("x", float32(4, inputs))
    w = b.constant(random.normal(size=shape).astype(np.float32), "w")
    return b.output(b.op.Gemm(x, w, transB=trans))


@pytest.mark.parametrize(
    ("shape", "trans", "axis", "block"),
    [
        ((256, 8), 0, 0, 128),
        ((8, 192), 1, 1, 64),
        ((96, 8), 0, 0, 32),
    ],
)
def test_blocks_lie_along_the_inputs(
    shape: tuple[int, int], trans: int, axis: int, block: int
) -> None:
    graph = product(shape, trans)
    assert quantize_blocks(graph) == {}
    (node,) = (node for node in graph.nodes if node.op == "DequantizeLinear")
    assert (node.attributes["axis"], node.attributes["block_size"]) == (axis, block)
    scales = node.operand(1).tensor.static_shape
    assert scales[axis] == shape[axis] // block
    assert scales[1 - axis] == shape[1 - axis]
    assert node.operand(0).tensor.storage == "int4"


@pytest.mark.parametrize(
    ("shape", "sentence"), [((100, 8), NO_BLOCKS.format(100)), ((64, 1), VECTOR)]
)
def test_what_has_no_blocks_stays(shape: tuple[int, int], sentence: str) -> None:
    graph = product(shape)
    assert list(quantize_blocks(graph).values()) == [sentence]
    assert [node.op for node in graph.nodes] == ["Gemm"]


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1]), st.floats(1e-3, 1e3))
@settings(max_examples=25)
def test_no_block_errs_more_than_rounding_by_its_largest(seed: int, axis: int, size: float) -> None:
    random = np.random.default_rng(seed)
    data = (random.standard_t(3, size=(64, 64)) * size).astype(np.float32)
    stored, scales = in_blocks(data, axis, 32)
    whole = np.repeat(scales, 32, axis=axis)
    error = (stored.astype(np.float32) * whole - data) ** 2
    blocks = np.moveaxis(np.abs(data), axis, 0).reshape(2, 32, 64).max(axis=1)
    plain = np.moveaxis(np.repeat(blocks / 7, 32, axis=0), 0, axis)
    rounded = np.clip(np.rint(data / plain), -8, 7) * plain
    assert error.sum() <= ((rounded - data) ** 2).sum() * (1 + 1e-4)


def test_an_empty_block_is_zero() -> None:
    stored, scales = in_blocks(np.zeros((32, 2), np.float32), 0, 32)
    assert not stored.astype(np.int32).any()
    assert np.all(scales == 1)
