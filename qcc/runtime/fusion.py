"""Which nodes of a Q/DQ model onnxruntime turns into integer kernels, and why others stay float.

The model is loaded by onnxruntime's CPU provider with all of its optimizations, which writes what
it made of it; nodes carry their index in their names, which survive its rewriting.  What it can
fuse is known (:mod:`qcc.runtime.fusion_rules`), so every node that it leaves float has a reason.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto

from qcc.errors import ModelError
from qcc.runtime.fusion_rules import CARRIED, JUDGED, QdqIndex, float_reason, is_expected

INTEGER_KERNELS = frozenset(
    {"QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "ConvInteger"}
    | {"QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearWhere", "QLinearAveragePool"}
    | {"QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax"}
    | {"QLinearReduceMean", "MatMulInteger", "QLinearConvTranspose"}
)
"""Ops of onnxruntime that compute with stored integers."""

FLOAT_RESULTS = frozenset({"MatMulIntegerToFloat", "ConvInteger", "MatMulInteger"})
"""Those whose result is no stored value."""

EIGHT_BITS = (TensorProto.UINT8, TensorProto.INT8)
INLINE_BYTES = 1 << 30
"""Larger models are handed over with their tensors in a file of their own."""

_MARK = "qccnode{}end"
_MARKED = re.compile(r"qccnode(\d+)end")


@dataclass(frozen=True)
class NodeFusion:
    """What became of one node of the file.

    ``kernel`` is the op that runs in its place, empty where none is left (it was folded into
    another, or cancelled); ``expected`` says that quantize and dequantize stand around it, so it
    ought to run on integers; ``reason`` is the sentence why it does not, empty where it does.
    """

    name: str
    op: str
    kernel: str
    expected: bool
    fused: bool
    reason: str = ""


@dataclass(frozen=True)
class FusionReport:
    """Every node that onnxruntime has an integer form of, in file order."""

    nodes: tuple[NodeFusion, ...]

    @property
    def expected(self) -> int:
        """How many nodes stand between quantize and dequantize."""
        return sum(node.expected for node in self.nodes)

    @property
    def fused(self) -> int:
        """How many of the expected nodes run on integers."""
        return sum(node.expected and node.fused for node in self.nodes)

    @property
    def share(self) -> float:
        """The share of expected nodes that run on integers; 1 where none is expected."""
        return self.fused / self.expected if self.expected else 1.0

    @property
    def missing(self) -> tuple[NodeFusion, ...]:
        """The expected nodes that stayed float, each with its reason."""
        return tuple(node for node in self.nodes if node.expected and not node.fused)

    @property
    def floats(self) -> tuple[NodeFusion, ...]:
        """The nodes that nobody expects on integers, each with the reason."""
        return tuple(node for node in self.nodes if not node.expected and not node.fused)

    def by_op(self) -> dict[str, tuple[int, int, int]]:
        """For each op: how many nodes there are, how many are expected, how many of those fused."""
        found: dict[str, list[int]] = {}
        for node in self.nodes:
            row = found.setdefault(node.op, [0, 0, 0])
            row[0] += 1
            row[1] += node.expected
            row[2] += node.expected and node.fused
        return {op: (row[0], row[1], row[2]) for op, row in found.items()}


def fused_share(model: Path | str | bytes | ModelProto) -> FusionReport:
    """What onnxruntime's CPU provider makes of a Q/DQ ``model`` (a file, its bytes, or a proto).

    Only the main graph is looked at: bodies of control flow hold nothing quantized.  Raises
    ModelError where the file cannot be read or onnxruntime refuses it.
    """
    proto = _read(model)
    labels = [node.name or node.output[0] for node in proto.graph.node]
    for index, node in enumerate(proto.graph.node):
        node.name = _MARK.format(index)
    kernels = _kernels(_optimized(proto))
    known = QdqIndex(proto.graph)
    return FusionReport(
        tuple(
            _judge(labels[index], node, kernels.get(index), known)
            for index, node in enumerate(proto.graph.node)
            if known.is_float(node) and node.op_type in JUDGED
        )
    )


@dataclass(frozen=True)
class _Kernel:
    """A node of the optimized model: its op, and whether its result is stored in 8 bits."""

    op: str
    is_integer: bool


def _judge(label: str, node: NodeProto, kernel: _Kernel | None, known: QdqIndex) -> NodeFusion:
    expected = is_expected(node, known)
    carried = node.op_type in CARRIED
    fused = expected and carried if kernel is None else kernel.is_integer
    op = "" if kernel is None else kernel.op
    reason = "" if fused else float_reason(node, known) or _unexplained(op)
    return NodeFusion(label, node.op_type, op, expected, fused, reason)


def _unexplained(op: str) -> str:
    became = f"it runs as {op}" if op else "nothing of it is left under its name"
    return f"every known condition of onnxruntime's fusion holds, and yet {became}"


def _kernels(optimized: ModelProto) -> dict[int, _Kernel]:
    """By index in the file: what runs in the place of a node."""
    graph = optimized.graph
    # Names that its transformations made are not among the typed ones.
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types.update({value.name: value.type.tensor_type.elem_type for value in graph.input})
    found: dict[int, _Kernel] = {}
    for node in graph.node:
        kind = _result_type(node, types)
        types.update(dict.fromkeys(node.output, kind))
        marked = _MARKED.search(node.name)
        if marked is None or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        index = int(marked[1])
        is_integer = node.op_type in INTEGER_KERNELS or kind in EIGHT_BITS
        if index not in found or is_integer:
            found[index] = _Kernel(node.op_type, is_integer)
    return found


def _result_type(node: NodeProto, types: dict[str, int]) -> int:
    """The element type of an optimized node's first result, where it may be one of 8 bits."""
    moved = CARRIED | {"NhwcMaxPool"}
    if node.op_type in moved:
        return types.get(node.input[0], TensorProto.UNDEFINED)
    if node.op_type == "QuantizeLinear":
        named = len(node.input) > 2 and bool(node.input[2])
        return types.get(node.input[2], TensorProto.UINT8) if named else TensorProto.UINT8
    stores = node.op_type in INTEGER_KERNELS and node.op_type not in FLOAT_RESULTS
    return TensorProto.UINT8 if stores else TensorProto.UNDEFINED


def _read(model: Path | str | bytes | ModelProto) -> ModelProto:
    """A copy of the model that may be changed."""
    import onnx

    if isinstance(model, ModelProto):
        copy = ModelProto()
        copy.CopyFrom(model)
        return copy
    what = "the model" if isinstance(model, bytes) else str(model)
    try:
        return ModelProto.FromString(model) if isinstance(model, bytes) else onnx.load(model)
    except Exception as error:
        raise ModelError(f"{what} cannot be read as an ONNX model: {error}") from None


def _optimized(proto: ModelProto) -> ModelProto:
    """What onnxruntime makes of a model at its highest optimization level, without the tensors."""
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory(prefix="qcc-fusion-") as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "optimized.onnx"
        large = proto.ByteSize() > INLINE_BYTES
        onnx.save(proto, str(source), save_as_external_data=large, location="model.data")
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(target)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "optimized.data"
        )
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise ModelError(f"onnxruntime refuses the model: {reason}") from None
        made: ModelProto = onnx.load(str(target), load_external_data=False)
        return made


def reasons(nodes: Iterable[NodeFusion]) -> list[tuple[str, int]]:
    """The reasons of ``nodes`` with how many share each, the most frequent first.

    Names of values and nodes are left out, so that like reasons are one.
    """
    counts = Counter(f"{node.op}: {_nameless(node.reason)}" for node in nodes)
    return counts.most_common()


def _nameless(sentence: str) -> str:
    return re.sub(r"'[^']*'", "…", re.sub(r"%\S+", "…", sentence))


def table(reports: Sequence[tuple[str, FusionReport]]) -> list[str]:
    """A line a model: nodes that could be integer, expected, fused, share."""
    width = max((len(name) for name, _ in reports), default=0)
    lines = [f"{'model':{width}}  nodes  expected  fused    share"]
    for name, report in reports:
        lines.append(
            f"{name:{width}}  {len(report.nodes):5}  {report.expected:8}  {report.fused:5}  "
            f"{report.share:7.1%}"
        )
    return lines
