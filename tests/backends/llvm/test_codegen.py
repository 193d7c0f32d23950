"""Whole graphs: odd inputs and outputs, views, fused tables, kernels emitted once."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from qcc.backends.llvm.codegen import compile_graph
from qcc.backends.llvm.isa import InstructionSet, host_instruction_set, instruction_set
from qcc.backends.llvm.model import CompiledModel
from qcc.backends.llvm.native_float import has_native_kernel
from qcc.errors import DataError, ModelError
from qcc.ir.core import Graph, Stage
from qcc.ir.types import Quant, TensorType, float32
from qcc.passes.layout import convert_layout
from qcc.passes.lower import lower
from qcc.passes.outline_float import outline_float
from qcc.ref.evaluate import evaluate
from qcc.runtime.program import LEAST_MACS, Program
from tests.backends.llvm.native import in_process_form
from tests.passes.native_patterns import PATTERNS
from tests.passes.numbered import Numbered


def compiled(b: Numbered, graph: Graph, isa: InstructionSet | None = None) -> CompiledModel:
    """Lower, compile, and hold the outputs against the reference."""
    feeds = b.feeds()
    report = lower(graph, PATTERNS)
    outline_float(graph, report.refusals, has_native_kernel)
    wanted = evaluate(graph, feeds)
    convert_layout(graph)
    model = compile_graph(graph, isa or host_instruction_set())
    found = Program(model).run([feeds[value.name] for value in graph.inputs])
    assert len(found) == len(graph.outputs)
    for value, array in zip(graph.outputs, found, strict=True):
        assert array.dtype == wanted[value.name].dtype
        assert np.array_equal(wanted[value.name], array)
    return model


def test_outputs_that_are_inputs_constants_and_repeated() -> None:
    b = Numbered()
    x = b.input("x", 2, 3)
    y = b.q(x)
    c = b.constant(np.arange(5, dtype=np.int64))
    model = compiled(b, b.done(y, x, c, y))
    assert [source.place for source in model.output_sources] == [
        "output", "slot", "weights", "output"
    ]  # fmt: skip


def test_an_output_that_is_also_read() -> None:
    b = Numbered()
    x = b.q(b.input("x", 1, 5, 4, 4))
    y = b.q(b.op("Conv", [x, b.weight((6, 5, 1, 1))], (1, 6, 4, 4)), 0.2)
    z = b.q(b.op("Conv", [y, b.weight((5, 6, 3, 3))], (1, 5, 4, 4), pads=[1, 1, 1, 1]), 0.4)
    compiled(b, b.done(y, z))


def test_inputs_that_nothing_reads() -> None:
    b = Numbered()
    b.input("unused", 7)
    compiled(b, b.done(b.q(b.input("x", 3))))


def test_quantized_inputs_and_outputs() -> None:
    for storage, zero in (("uint8", 120), ("int8", -8)):
        graph = Graph()
        graph.stage = Stage.LOWERED
        quant = Quant.make(storage, 0.1, zero)
        x = graph.add_input("x", TensorType((2, 3, 5), quant))
        table = np.random.default_rng(0).integers(0, 256, 256).astype(np.uint8).view(storage)
        entries = graph.add_constant("table", table)
        node = graph.create_node("q.lut", [x, entries], [x.tensor], output_names=["y"])
        graph.set_outputs([node.output, x])
        feeds = {"x": np.arange(-15, 15).astype(storage).reshape(2, 3, 5)}
        wanted = evaluate(graph, feeds)
        y, same = Program(compile_graph(graph, host_instruction_set())).run([feeds["x"]])
        assert np.array_equal(y, wanted["y"])
        assert np.array_equal(same, feeds["x"])


def test_a_table_behind_a_convolution_is_fused() -> None:
    b = Numbered()
    x = b.q(b.input("x", 1, 4, 6, 6))
    y = b.q(b.op("Conv", [x, b.weight((8, 4, 3, 3))], (1, 8, 6, 6), pads=[1, 1, 1, 1]), 0.2)
    z = b.q(b.op("HardSwish", [y], (1, 8, 6, 6)), 0.1)
    model = compiled(b, b.done(z))
    assert not any("lut" in name for row in model.kernels for name in row.kernels)


def test_equal_kernels_are_emitted_once() -> None:
    b = Numbered()
    x = b.q(b.input("x", 1, 8, 6, 6))
    for _ in range(5):
        y = b.op("Conv", [x, b.weight((8, 8, 3, 3))], (1, 8, 6, 6), pads=[1, 1, 1, 1])
        x = b.q(y, 0.5)
    model = compiled(b, b.done(x))
    names = {name for row in model.kernels for name in row.kernels if name.startswith("conv")}
    # The last result has no halo, so its kernel is another one.
    assert len(names) == 2
    assert model.llvm_ir.count('define internal void @"conv_') == 2


def test_reshapes_of_contiguous_tensors_move_nothing() -> None:
    b = Numbered()
    x = b.q(b.input("x", 2, 8, 4))
    y = b.op("Reshape", [x, b.constant(np.array([4, 16]))], (4, 16))
    model = compiled(b, b.done(b.op("MatMul", [b.q(y), b.weight((16, 4), 1)], (4, 4))))
    assert not any("copy" in name for row in model.kernels for name in row.kernels)


def test_float_ops_with_broadcasting() -> None:
    b = Numbered()
    x = b.op("MatMul", [b.q(b.input("x", 3, 8)), b.weight((8, 5), 1)], (3, 5))
    y = b.op("Add", [x, b.constant(np.arange(5, dtype=np.float32))], (3, 5))
    z = b.op("Clip", [y, None, b.constant(np.float32(2.0))], (3, 5))
    w = b.op("Div", [z, b.constant(np.float32(3.0))], (3, 5))
    model = compiled(b, b.done(b.op("Max", [w, b.op("Neg", [w], (3, 5))], (3, 5))))
    assert not model.regions


@pytest.mark.parametrize("name", ["x86-avx2", "x86-avxvnni", "x86-avx512vnni"])
def test_a_classifier_ends_in_a_native_softmax(name: str) -> None:
    b = Numbered()
    x = b.q(b.input("x", 3, 8))
    logits = b.op("Gemm", [x, b.weight((8, 13), 1), b.bias(13)], (3, 13))
    model = compiled(b, b.done(b.op("Softmax", [logits], (3, 13), axis=-1)), in_process_form(name))
    assert not model.regions
    assert any("float_softmax" in kernel for row in model.kernels for kernel in row.kernels)


@pytest.mark.parametrize("op", ["Softmax", "Sigmoid"])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_images_of_probabilities(op: str, axis: int) -> None:
    b = Numbered()
    x = b.q(b.input("x", 2, 4, 5, 6))
    logits = b.op("Conv", [x, b.weight((7, 4, 1, 1))], (2, 7, 5, 6))
    attributes = {"axis": axis} if op == "Softmax" else {}
    y = b.op(op, [logits], (2, 7, 5, 6), **attributes)
    model = compiled(b, b.done(y, b.q(b.op("Mul", [y, y], (2, 7, 5, 6)), 1 / 256, 0)))
    assert not model.regions


@pytest.mark.parametrize("name", ["x86-avx2", "x86-avxvnni", "x86-avx512vnni"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_a_residual_stream_is_normalized_natively(name: str, axis: int) -> None:
    b = Numbered()
    shape = (2, 5, 12)
    sizes = shape[axis:]
    x = b.op("MatMul", [b.q(b.input("x", *shape)), b.weight((12, 12), 1)], shape)
    for bias in (None, b.constant(np.linspace(-1, 1, math.prod(sizes), dtype=np.float32))):
        shift = bias if bias is None else b.op("Reshape", [bias, b.constant(sizes)], sizes)
        scale = b.constant(np.full(sizes, 1.5, np.float32))
        y = b.op("LayerNormalization", [x, scale, shift], shape, axis=axis, epsilon=1e-3)
        x = b.op("Add", [y, b.op("MatMul", [b.q(y), b.weight((12, 12), 1)], shape)], shape)
    model = compiled(b, b.done(x), in_process_form(name))
    assert not model.regions
    assert any("layer_norm" in kernel for row in model.kernels for kernel in row.kernels)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("element", ["int32", "int64"])
def test_embeddings_are_looked_up_natively(element: str, threads: int) -> None:
    b = Numbered()
    tokens = b.graph.add_input("tokens", TensorType((2, 3), element))
    table = b.constant(b.random.normal(size=(7, 12)).astype(np.float32))
    x = b.op("Gather", [table, tokens], (2, 3, 12))
    y = b.op("MatMul", [b.q(b.op("Relu", [x], (2, 3, 12))), b.weight((12, 5), 1)], (2, 3, 5))
    graph = b.done(y)
    report = lower(graph, PATTERNS)
    outline_float(graph, report.refusals, has_native_kernel)
    laid_out = graph.clone()
    convert_layout(laid_out)
    model = compile_graph(laid_out, host_instruction_set())
    assert not model.regions
    program = Program(dataclasses.replace(model, macs=LEAST_MACS), threads)
    good = np.array([[0, -7, 6], [3, -1, 2]], element)
    for index in (None, 7, -8):
        feed = good.copy()
        if index is None:
            (wanted,) = evaluate(graph, {"tokens": feed}).values()
            assert np.array_equal(program.run([feed])[0], wanted)
            continue
        feed[1, 1] = index
        with pytest.raises(DataError, match=rf"row {index} of a table of 7 rows"):
            program.run([feed])
        with pytest.raises(DataError, match=rf"row {index} of a table of 7 rows"):
            evaluate(graph, {"tokens": feed})
        # The fault of one call is not that of the next one.
        assert np.array_equal(program.run([good])[0], wanted)
    program.close()


@pytest.mark.parametrize("name", ["x86-avx2", "x86-avxvnni", "x86-avx512vnni"])
def test_attention_is_native(name: str) -> None:
    b = Numbered()
    x = b.q(b.input("x", 1, 9, 24))
    heads = []
    for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        y = b.op("MatMul", [x, b.weight((24, 24), 1)], (1, 9, 24))
        y = b.op("Reshape", [y, b.constant([1, 9, 3, 8])], (1, 9, 3, 8))
        shape = [(1, 9, 3, 8)[p] for p in perm]
        heads.append(b.op("Transpose", [y], shape, perm=perm))
    scores = b.op("MatMul", heads[:2], (1, 3, 9, 9))
    scores = b.op("Div", [scores, b.constant(np.float32(8**0.5))], (1, 3, 9, 9))
    mixed = b.op("MatMul", [b.op("Softmax", [scores], (1, 3, 9, 9)), heads[2]], (1, 3, 9, 8))
    turned = b.op("Transpose", [mixed], (1, 9, 3, 8), perm=[0, 2, 1, 3])
    flat = b.op("Reshape", [turned, b.constant([1, 9, 24])], (1, 9, 24))
    y = b.op("MatMul", [b.q(flat), b.weight((24, 24), 1)], (1, 9, 24))
    model = compiled(b, b.done(y), in_process_form(name))
    assert not model.regions
    assert any("float_matmul" in kernel for row in model.kernels for kernel in row.kernels)


@pytest.mark.parametrize("name", ["x86-avx2", "x86-avxvnni", "x86-avx512vnni"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceL2"])
@pytest.mark.parametrize("axes", [[-1], [1], [0, 2], [1, 3], [2, 3], None])
def test_float_reductions_are_native(
    name: str, keepdims: int, op: str, axes: list[int] | None
) -> None:
    b = Numbered()
    shape = (2, 4, 5, 3)
    x = b.op("MatMul", [b.q(b.input("x", *shape)), b.weight((3, 3), 1)], shape)
    reduced = {axis % 4 for axis in axes} if axes else {0, 1, 2, 3}
    kept = [1 if i in reduced else d for i, d in enumerate(shape) if keepdims or i not in reduced]
    given = [x] if axes is None else [x, b.constant(axes)]
    y = b.op(op, given, kept, keepdims=keepdims)
    assert not compiled(b, b.done(y), in_process_form(name)).regions


def test_root_mean_square_norm_is_native() -> None:
    b = Numbered()
    x = b.op("MatMul", [b.q(b.input("x", 2, 5, 12)), b.weight((12, 12), 1)], (2, 5, 12))
    square = b.op("Pow", [x, b.constant(np.float32(2))], (2, 5, 12))
    mean = b.op("ReduceMean", [square, b.constant([-1])], (2, 5, 1))
    root = b.op("Sqrt", [b.op("Add", [mean, b.constant(np.float32(1e-5))], (2, 5, 1))], (2, 5, 1))
    y = b.op("Mul", [x, b.op("Reciprocal", [root], (2, 5, 1))], (2, 5, 12))
    y = b.op("MatMul", [b.q(y), b.weight((12, 12), 1)], (2, 5, 12))
    assert not compiled(b, b.done(y)).regions


@pytest.mark.parametrize("name", ["x86-avx2", "x86-avxvnni", "x86-avx512vnni"])
@pytest.mark.parametrize("op", ["Tanh", "Gelu"])
def test_curves_are_native(name: str, op: str) -> None:
    b = Numbered()
    x = b.op("MatMul", [b.q(b.input("x", 5, 12)), b.weight((12, 12), 1)], (5, 12))
    y = b.op(op, [b.op(op, [x], (5, 12))], (5, 12))
    z = b.op("Gelu", [y], (5, 12), approximate="tanh")
    assert not compiled(b, b.done(z), in_process_form(name)).regions


def test_other_powers_stay_in_a_region() -> None:
    b = Numbered()
    x = b.op("MatMul", [b.q(b.input("x", 3, 8)), b.weight((8, 5), 1)], (3, 5))
    y = b.op("Pow", [b.op("Sigmoid", [x], (3, 5)), b.constant(np.float32(1.5))], (3, 5))
    assert len(compiled(b, b.done(y)).regions) == 1


def test_a_softmax_inside_a_region_stays_there() -> None:
    b = Numbered()
    x = b.op("MatMul", [b.q(b.input("x", 3, 8)), b.weight((8, 5), 1)], (3, 5))
    y = b.op("Softmax", [b.op("Erf", [x], (3, 5))], (3, 5))
    model = compiled(b, b.done(b.op("Erf", [y], (3, 5))))
    assert len(model.regions) == 1


def test_arena_is_shared_by_buffers_that_do_not_meet() -> None:
    b = Numbered()
    x = b.q(b.input("x", 1, 16, 16, 16))
    for _ in range(8):
        x = b.q(b.op("Conv", [x, b.weight((16, 16, 1, 1))], (1, 16, 16, 16)), 1.0)
    model = compiled(b, b.done(x))
    assert model.arena_bytes < 3 * (16 * 16 * 16 + 64) + 1024


def test_an_op_without_a_kernel_is_named() -> None:
    graph = Graph()
    graph.stage = Stage.LOWERED
    x = graph.add_input("x", float32(3))
    node = graph.create_node("Erf", [x], [float32(3)], name="erf")
    graph.set_outputs([node.output])
    with pytest.raises(ModelError, match=r"no native kernel for 'Erf'.*'erf'"):
        compile_graph(graph, host_instruction_set())


@pytest.mark.parametrize("name", ["x86-avx512vnni", "arm-dotprod"])
def test_code_for_other_cpus_is_compiled(name: str) -> None:
    b = Numbered()
    x = b.q(b.input("x", 1, 8, 5, 5))
    y = b.q(b.op("Conv", [x, b.weight((8, 8, 3, 3))], (1, 8, 5, 5), pads=[1, 1, 1, 1]), 0.3)
    y = b.q(b.op("Sigmoid", [y], (1, 8, 5, 5)), 1 / 256, 0)
    graph = b.done(b.q(b.op("GlobalAveragePool", [y], (1, 8, 1, 1)), 1 / 256, 0))
    lower(graph, PATTERNS)
    convert_layout(graph)
    model = compile_graph(graph, instruction_set(name))
    expected = {"x86-avx512vnni": "vpdpbusd", "arm-dotprod": "sdot"}[name]
    assert expected in model.assembly
