"""Random nets, quantized for TensorRT: what must hold of any export."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.tensorrt.config import CONFIG
from qcc.backends.tensorrt.placement import fused_operand
from qcc.ir.core import Graph, Node, Stage, Value
from qcc.ir.types import Quant
from qcc.ir.verify import verify
from qcc.lint import lint_model
from qcc.onnxio import write_onnx
from qcc.pipeline import convert, prepare
from qcc.ref.evaluate import evaluate
from qcc.runtime.tensorrt_builder import build
from tests.backends.tensorrt.placements import SmallNet, quantized
from tests.passes.float_models import feeds_for

Grower = Callable[[SmallNet, str, str], str]

MOVERS = ("MaxPool", "Transpose", "Split", "Reshape", "Concat")


def pool(op: str) -> Grower:
    return lambda net, x, _: net.op(op, x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def silu(net: SmallNet, x: str, _: str) -> str:
    return net.op("Mul", x, net.op("Sigmoid", x))


def gate(net: SmallNet, x: str, y: str) -> str:
    return net.op("Mul", x, net.op("Sigmoid", net.op("GlobalAveragePool", y)))


def joined(net: SmallNet, x: str, y: str) -> str:
    return net.conv(net.op("Concat", x, y, axis=1), given=32, kernel=1)


def halves(net: SmallNet, x: str, y: str) -> str:
    """A channel of each group of two comes from the other operand."""
    left = net.ops("Split", x, np.array([8, 8]), results=2, axis=1)
    right = net.ops("Split", y, np.array([8, 8]), results=2, axis=1)
    return net.op("Concat", left[0], right[1], axis=1)


def sequence(net: SmallNet, x: str, _: str) -> str:
    """A product over the pixels, as attention has them."""
    pixels = net.op("Transpose", net.op("Reshape", x, np.array([1, 16, 36])), perm=[0, 2, 1])
    mixed = net.op("MatMul", pixels, net.normal(16, 16))
    back = net.op("Transpose", mixed, perm=[0, 2, 1])
    return net.op("Reshape", back, np.array([1, 16, 6, 6]))


GROWERS: dict[str, Grower] = {
    "conv": lambda net, x, _: net.conv(x, bias=True),
    "pointwise": lambda net, x, _: net.conv(x, kernel=1),
    "depthwise": lambda net, x, _: net.conv(x, group=16),
    "narrow": lambda net, x, _: net.conv(net.conv(x, channels=4), given=4),
    "up": lambda net, x, _: net.op("ConvTranspose", x, net.normal(16, 16, 3, 3), pads=[1, 1, 1, 1]),
    "normalize": lambda net, x, _: net.op("BatchNormalization", x, *net.statistics()),
    "relu": lambda net, x, _: net.op("Relu", x),
    "clip": lambda net, x, _: net.op("Clip", x, -3.0, 3.0),
    "silu": silu,
    "add": lambda net, x, y: net.op("Add", x, y),
    "mul": lambda net, x, y: net.op("Mul", x, y),
    "gate": gate,
    "max": pool("MaxPool"),
    "average": pool("AveragePool"),
    "concat": joined,
    "halves": halves,
    "turn": lambda net, x, _: net.op("Transpose", x, perm=[0, 1, 3, 2]),
    "softmax": lambda net, x, _: net.op("Softmax", x, axis=1),
    "sequence": sequence,
}

steps = st.tuples(st.sampled_from(sorted(GROWERS)), st.integers(0, 3), st.integers(0, 3))


def grown(plan: list[tuple[str, int, int]], kept: int) -> Graph:
    """A net of these steps, which read values so many steps back; ``kept`` says what is given."""
    net = SmallNet()
    made = [net.image()]
    for name, near, far in plan:
        x, y = (made[-1 - min(back, len(made) - 1)] for back in (near, far))
        made.append(GROWERS[name](net, x, y))
    outputs = [name for i, name in enumerate(made[1:-1]) if kept >> i & 1]
    return net.graph(*outputs, made[-1])


def stored_as(value: Value) -> Quant | None:
    """How a dequantized value is stored."""
    producer = value.producer
    if producer is None or producer.op != "q.dequantize":
        return None
    return producer.operand(0).tensor.quant


def quantized_as(value: Value) -> Quant | None:
    """How a value is quantized for its readers; at most once."""
    found = [user.output.tensor.quant for user in value.users if user.op == "q.quantize"]
    assert len(found) <= 1
    return found[0] if found else None


def check_node(node: Node) -> None:
    """What must hold of each float op."""
    reads = [stored_as(value) for value in node.inputs if value is not None]
    if node.op in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
        assert (reads[0] is None) == (reads[1] is None)
        assert reads[2:] in ([], [None]), "a bias is float"
    if node.op == "Concat":
        assert len(set(reads)) == 1
    if node.op in MOVERS and reads[0] is not None:
        made = {quantized_as(value) for value in node.outputs}
        assert made - {None} == {reads[0]}, "somebody reads it in 8 bits, by the same scale"
    if node.op == "Mul":
        assert None in reads
    if node.op in ("Relu", "Clip", "Sigmoid", "Softmax"):
        assert reads[0] is None


def check_numbers(graph: Graph) -> None:
    """What must hold of each quantize and dequantize."""
    readers: dict[Value, int] = {}
    for node in graph.nodes:
        if node.op == "q.dequantize":
            source = node.operand(0)
            readers[source] = readers.get(source, 0) + 1
            quant = source.tensor.quant
            assert quant is not None
            assert quant.storage == "int8"
            assert not any(quant.zero_point)
            assert all(0 < scale < np.inf for scale in quant.scale)
            assert source.is_constant or quant.axis is None
            assert node.output.users
        if node.op == "q.quantize":
            assert [user.op for user in node.output.users] == ["q.dequantize"]
    assert set(readers.values()) <= {1}


@settings(max_examples=40)
@given(st.lists(steps, min_size=1, max_size=9), st.integers(0, 255))
def test_what_holds_of_any_export(plan: list[tuple[str, int, int]], kept: int) -> None:
    graph = grown(plan, kept)
    check_export(graph, quantized(graph).graph)


@settings(max_examples=12)
@given(st.lists(steps, min_size=2, max_size=9), st.integers(0, 255))
def test_it_holds_after_refinement(plan: list[tuple[str, int, int]], kept: int) -> None:
    """With channels stretched, weights rounded, biases corrected, and noisy groups given up."""
    graph = grown(plan, kept)
    prepared = prepare(graph, backend=CONFIG)
    prepared.calibrate([feeds_for(graph, None, seed) for seed in range(4)])
    check_export(graph, convert(prepared).graph)


@settings(max_examples=12)
@given(st.lists(steps, min_size=3, max_size=9), st.integers(0, 255))
def test_nvidia_runs_it_in_int8(plan: list[tuple[str, int, int]], kept: int) -> None:
    """Transposed convolutions aside, which TensorRT-RTX computes in float."""
    pytest.importorskip("tensorrt_rtx")
    made = quantized(grown(plan, kept)).graph
    model = write_onnx(made)
    assert model is not None
    report = build(model.SerializeToString())
    assert (report.errors, report.warnings) == ((), ())
    layers = [node for node in made.nodes if node.op in ("Conv", "MatMul")]
    wanted = [node.name for node in layers if stored_as(node.operand(1)) is not None]
    assert report.others(wanted) == ()


def check_export(graph: Graph, made: Graph) -> None:
    """What must hold of ``made``, the NUMBERED form of ``graph``, and of its file."""
    verify(made, Stage.NUMBERED)
    sums = {node.name: node for node in graph.nodes if node.op == "Add"}
    for node in made.nodes:
        check_node(node)
        if node.name in sums and all(stored_as(node.operand(i)) for i in (0, 1)):
            assert fused_operand(sums[node.name]) is None, "a kernel can add it"
    check_numbers(made)
    for value in made.outputs:
        assert stored_as(value) is None
        assert value.tensor.storage == "float32"
    assert [v.name for v in made.outputs] == [v.name for v in graph.outputs]
    names = [node.name for node in made.nodes]
    assert len(set(names)) == len(names)
    model = write_onnx(made)
    assert model is not None
    onnx.checker.check_model(model, full_check=True)
    assert lint_model(model, "tensorrt").findings == ()
    check_results(model, made)


def check_results(model: onnx.ModelProto, made: Graph) -> None:
    """onnxruntime computes from the file what the reference computes from the graph."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = feeds_for(made, None, 7)
    for name, found in zip(
        (output.name for output in session.get_outputs()), session.run(None, feeds), strict=True
    ):
        wanted = evaluate(made, feeds)[name]
        noise = np.square(found - wanted, dtype=np.float64).sum()
        assert noise <= 1e-3 * np.square(wanted, dtype=np.float64).sum() + 1e-9
