"""ArgMax from the graph to native code, and against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from qcc.backends.llvm.codegen import compile_graph
from qcc.backends.llvm.compile import compile_numbered
from qcc.backends.llvm.isa import host_instruction_set
from qcc.backends.llvm.model import NativeStep
from qcc.backends.llvm.native_float import has_native_kernel
from qcc.ir.types import TensorType
from qcc.passes.layout import convert_layout
from qcc.passes.lower import lower
from qcc.passes.outline_float import outline_float
from qcc.ref.arg_max import arg_max
from qcc.ref.evaluate import evaluate
from qcc.runtime.program import Program
from tests.passes.native_patterns import PATTERNS
from tests.passes.numbered import Numbered


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("attributes", [{}, {"keepdims": 0}, {"select_last_index": 1}])
def test_any_axis_is_native(axis: int, attributes: dict[str, int]) -> None:
    b = Numbered()
    x = b.q(b.input("x", 2, 5, 7, 9), scale=0.5)
    shape = [2, 5, 7, 9]
    shape[axis] = 1
    if not attributes.get("keepdims", 1):
        del shape[axis]
    type_ = TensorType(tuple(shape), "int64")
    node = b.graph.create_node("ArgMax", [x], [type_], attributes={"axis": axis, **attributes})
    graph = b.done(node.output)
    feeds = b.feeds()
    (exact,) = evaluate(graph, feeds).values()
    report = lower(graph, PATTERNS)
    assert not outline_float(graph, report.refusals, has_native_kernel)
    (wanted,) = evaluate(graph, feeds).values()
    convert_layout(graph)
    native = Program(compile_graph(graph, host_instruction_set()), 2)
    (found,) = native.run([feeds["x"]])
    assert found.shape == tuple(shape)
    assert np.array_equal(found, wanted)
    assert np.array_equal(found, exact)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("channels", [5, 70])
def test_a_resized_image_is_searched_without_being_stored(mode: str, channels: int) -> None:
    b = Numbered()
    x = b.q(b.input("x", 1, 4, 5, 6), scale=0.5)
    x = b.op("Conv", [x, b.weight((channels, 4, 1, 1))], (1, channels, 5, 6))
    sizes = b.constant(np.array([1, channels, 15, 11]))
    y = b.op("Resize", [x, None, None, sizes], (1, channels, 15, 11), mode=mode)
    type_ = TensorType((1, 15, 11), "int64")
    attributes = {"axis": 1, "keepdims": 0}
    node = b.graph.create_node("ArgMax", [y], [type_], attributes=attributes, name="search")
    graph = b.done(node.output)
    feeds, isa = b.feeds(), host_instruction_set()
    program = compile_numbered(graph, isa, PATTERNS)
    (wanted,) = evaluate(program.lowered, feeds).values()
    (found,) = Program(program.model, 2).run([feeds["x"]])
    assert np.array_equal(found, wanted)
    steps = [step for step in program.model.steps if isinstance(step, NativeStep)]
    assert len(steps) == len(program.model.steps)
    kernels = {call.kernel for step in steps for call in step.calls}
    fused = any(name.startswith("resize_arg_max") for name in kernels)
    assert fused == (mode == "linear" and channels == 5)


@pytest.mark.parametrize("last", [False, True])
def test_onnxruntime_finds_the_same(last: bool) -> None:
    attributes: dict[str, Any] = {"axis": 1, "select_last_index": int(last)}
    graph = helper.make_graph(
        [helper.make_node("ArgMax", ["x"], ["y"], **attributes)],
        "arg_max",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 30, 3])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, None)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = np.random.default_rng(0).integers(0, 5, (4, 30, 3)).astype(np.float32)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"x": x})[0], arg_max(x, 1, last=last))
