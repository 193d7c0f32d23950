"""When onnxruntime's CPU provider replaces DequantizeLinear → op → QuantizeLinear by an integer op.

The conditions are those of its selectors (``qdq_selectors.cc``, onnxruntime 1.31).  They are asked
of each node of a model as it lies in a file, ours or not; the answer is a sentence about what is
missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from qcc.ir.core import Array

MOVED = frozenset(
    {"Expand", "Flatten", "Gather", "GatherElements", "Reshape", "Slice", "Squeeze", "Tile"}
    | {"Transpose", "Unsqueeze", "Split", "Resize", "MaxPool", "ReduceMax", "ReduceMin"}
    | {"DepthToSpace", "SpaceToDepth", "Identity"}
)
"""Ops that run on stored values where parameters are the same on both sides."""

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
FUNCTIONS = frozenset(
    {"AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax"}
    | {"Add", "Mul", "Concat", "Where"}
)
"""Ops with an integer form of their own parameters."""

UNKNOWN = frozenset({"ConvTranspose", "GlobalMaxPool", "Sub"})
"""Ops that other runtimes have integer forms of, and onnxruntime's CPU provider has not."""

JUDGED = MOVED | WEIGHTED | FUNCTIONS | UNKNOWN
"""Ops that a report speaks of."""

CARRIED = MOVED | {"ArgMax"}
"""Ops that may vanish: between equal parameters they can cancel or be folded."""

ACTIVATIONS = ("Relu", "Clip")
_INTEGER_RESULTS = ("Shape", "Size", "Cast", "NonZero", "ArgMax", "Range", "Equal")
_BITS = {"uint8": 8, "int8": 8, "uint16": 16, "int16": 16, "int32": 32}


@dataclass(frozen=True)
class Parameters:
    """Scale, zero point and stored type of one QuantizeLinear or DequantizeLinear.

    Arrays are None where they are computed; ``has_zero_point`` says that the input is there.
    """

    scale: Array | None
    zero_point: Array | None
    dtype: str
    has_zero_point: bool

    @property
    def is_scalar(self) -> bool:
        """Constant, and one number for the whole tensor."""
        arrays = (self.scale, self.zero_point)
        return all(array is not None and array.size == 1 for array in arrays)

    def equals(self, other: Parameters) -> bool:
        """Whether the same integers mean the same numbers."""
        return self.dtype == other.dtype and all(
            a is not None and b is not None and a.shape == b.shape and bool(np.array_equal(a, b))
            for a, b in ((self.scale, other.scale), (self.zero_point, other.zero_point))
        )


class QdqIndex:
    """Who makes and who reads each value of a graph, and what Q/DQ nodes say."""

    def __init__(self, graph: GraphProto) -> None:
        self.producer = {name: node for node in graph.node for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
        self.outputs = {value.name for value in graph.output}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._types = {
            value.name: value.type.tensor_type.elem_type
            for value in (*graph.input, *graph.value_info, *graph.output)
        }
        for node in graph.node:
            if node.op_type == "Constant":
                tensors = [item.t for item in node.attribute if item.name == "value"]
                self._tensors.update(dict.fromkeys(node.output, *tensors) if tensors else {})

    def constant(self, name: str) -> Array | None:
        """The data of an initializer or of a Constant node; None for anything else."""
        tensor = self._tensors.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def is_constant(self, name: str) -> bool:
        """Whether ``name`` is an initializer or a Constant node's result."""
        return name in self._tensors

    def is_float(self, node: NodeProto) -> bool:
        """Whether the node's first result is not known to be of another type than float32."""
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or not node.output:
            return False
        known = self._types.get(node.output[0], TensorProto.UNDEFINED)
        if known not in (TensorProto.UNDEFINED, TensorProto.FLOAT):
            return False
        return not self._moves_integers(node)

    def _moves_integers(self, node: NodeProto) -> bool:
        """Whether the value that a node moves is an integer: a shape, indices."""
        if not node.input:
            return False
        name = node.input[0]
        if name in self._tensors:
            return bool(self._tensors[name].data_type != TensorProto.FLOAT)
        if name in self.producer:
            return self.producer[name].op_type in _INTEGER_RESULTS
        known = self._types.get(name, TensorProto.UNDEFINED)
        return known not in (TensorProto.FLOAT, TensorProto.UNDEFINED)

    def dequantized(self, name: str) -> Parameters | None:
        """What the DequantizeLinear that makes ``name`` says; None where something else does."""
        node = self.producer.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        return self.parameters(node)

    def quantizers(self, name: str) -> list[NodeProto]:
        """The QuantizeLinear nodes that read a value."""
        return [node for node in self.readers[name] if node.op_type == "QuantizeLinear"]

    def parameters(self, node: NodeProto) -> Parameters:
        """What a QuantizeLinear or DequantizeLinear says."""
        named = len(node.input) > 2 and bool(node.input[2])
        zero_point = self.constant(node.input[2]) if named else np.zeros((), np.uint8)
        return Parameters(self.constant(node.input[1]), zero_point, self._stored(node), named)

    def _stored(self, node: NodeProto) -> str:
        if len(node.input) > 2 and node.input[2] in self._tensors:
            return _type_name(self._tensors[node.input[2]].data_type)
        if node.op_type == "DequantizeLinear":
            source = node.input[0]
            if source in self._tensors:
                return _type_name(self._tensors[source].data_type)
            maker = self.producer.get(source)
            if maker is not None and maker.op_type == "QuantizeLinear":
                return self._stored(maker)
            return _type_name(self._types.get(source, TensorProto.UINT8))
        asked = [item.i for item in node.attribute if item.name == "output_dtype"]
        return _type_name(asked[0]) if asked and asked[0] else "uint8"


def _type_name(kind: int) -> str:
    return str(helper.tensor_dtype_to_np_dtype(kind)) if kind else "uint8"


# -- what to expect --------------------------------------------------------------------------------


def is_expected(node: NodeProto, known: QdqIndex) -> bool:
    """Whether whoever quantized the model meant this node to run on integers.

    Its operands are dequantized, and its weight is stored in integers or its results go nowhere but
    into quantization.
    """
    operands = data_operands(node, known)
    if not operands or any(known.dequantized(name) is None for name in operands):
        return False
    if node.op_type in WEIGHTED:
        return True
    if node.op_type in UNKNOWN or _interpolates(node):
        return False
    return all(_only_quantized(name, known) for name in _used(node, known))


def _interpolates(node: NodeProto) -> bool:
    modes = [item.s for item in node.attribute if item.name == "mode"]
    return node.op_type == "Resize" and modes not in ([], [b"nearest"])


def data_operands(node: NodeProto, known: QdqIndex) -> list[str]:
    """The operands that an integer form reads as integers; a bias is not among them."""
    count = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "MatMul": 2, "Add": 2, "Mul": 2, "Sub": 2}
    if node.op_type == "Concat":
        return list(node.input)
    if node.op_type == "Where":
        return list(node.input[1:3])
    return [name for name in node.input[: count.get(node.op_type, 1)] if name]


def _used(node: NodeProto, known: QdqIndex) -> list[str]:
    return [name for name in node.output if name in known.outputs or known.readers[name]]


def _only_quantized(name: str, known: QdqIndex) -> bool:
    """Whether only QuantizeLinear nodes read a value, at once or behind one Relu or Clip."""
    readers = known.readers[name]
    if len(readers) == 1 and readers[0].op_type in ACTIVATIONS:
        name, readers = readers[0].output[0], known.readers[readers[0].output[0]]
    every = bool(readers) and all(reader.op_type == "QuantizeLinear" for reader in readers)
    return every and name not in known.outputs


def _quantized_behind(name: str, known: QdqIndex) -> bool:
    """Whether a value is quantized, at once or behind one Relu or Clip."""
    if known.quantizers(name):
        return True
    readers = known.readers[name]
    if len(readers) != 1 or readers[0].op_type not in ACTIVATIONS:
        return False
    return bool(known.quantizers(readers[0].output[0]))


# -- why not ---------------------------------------------------------------------------------------


def float_reason(node: NodeProto, known: QdqIndex) -> str:
    """The first condition of onnxruntime's fusion that a node fails; empty where all hold."""
    if node.op_type in UNKNOWN:
        return f"onnxruntime's CPU provider has no integer form of {node.op_type}"
    if _interpolates(node):
        return "onnxruntime's CPU provider resizes stored values by nearest only"
    floats = [name for name in data_operands(node, known) if known.dequantized(name) is None]
    if floats:
        kind = "a float constant" if known.is_constant(floats[0]) else "float"
        return f"its operand %{floats[0]} is {kind}, not dequantized"
    tests: tuple[Callable[[NodeProto, QdqIndex], str], ...] = (
        _operand_types,
        _bias,
        _output,
        _result_types,
        _same_parameters if node.op_type in MOVED else _no_further_test,
    )
    return next(filter(None, (test(node, known) for test in tests)), "")


def _no_further_test(node: NodeProto, known: QdqIndex) -> str:
    del node, known
    return ""


def _inputs(node: NodeProto, known: QdqIndex) -> list[Parameters]:
    found = [known.dequantized(name) for name in data_operands(node, known)]
    return [item for item in found if item is not None]


def _operand_types(node: NodeProto, known: QdqIndex) -> str:
    inputs = _inputs(node, known)
    wide = next((item.dtype for item in inputs if _BITS.get(item.dtype) != 8), None)
    if wide is not None:
        return f"an operand is {wide}: its integer form reads 8 bits"
    types = [item.dtype for item in inputs]
    if node.op_type in WEIGHTED:
        if types[0] == "int8" and types[1] != "int8":
            return f"its activation is int8, so its weight must be int8 too, not {types[1]}"
        return ""
    return (
        f"its operands are of different types ({', '.join(types)})" if len(set(types)) > 1 else ""
    )


def _bias(node: NodeProto, known: QdqIndex) -> str:
    if node.op_type == "Gemm":
        beta = [item.f for item in node.attribute if item.name == "beta"]
        if len(node.input) > 2 and node.input[2] and beta and beta[0] != 1.0:
            return f"it has beta {beta[0]:g}, and the integer form has none"
    if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or not node.input[2]:
        return ""
    bias = known.dequantized(node.input[2])
    if bias is None:
        if known.is_constant(node.input[2]) and _quantized_behind(node.output[0], known):
            return ""
        return (
            f"its bias %{node.input[2]} is float and no QuantizeLinear follows: only an int32 bias "
            "fuses there"
        )
    return "" if bias.dtype == "int32" else f"its bias is {bias.dtype}, not int32"


def _output(node: NodeProto, known: QdqIndex) -> str:
    if node.op_type in ("MatMul", "Gemm") and not _quantized_behind(node.output[0], known):
        return ""
    used = _used(node, known)
    for name in used:
        sentence = _one_quantizer(name, node, known)
        if sentence:
            return sentence
    return ""


def _one_quantizer(name: str, node: NodeProto, known: QdqIndex) -> str:
    """Why a result does not go into exactly one QuantizeLinear, with at most a clamp between."""
    readers = known.readers[name]
    if name in known.outputs:
        return (
            f"its result %{name} is an output of the graph: quantize and dequantize it in front "
            "of the output"
        )
    quantizers = known.quantizers(name)
    if len(quantizers) == 1 == len(readers):
        return ""
    if len(quantizers) > 1:
        return f"{len(quantizers)} QuantizeLinear nodes read its result %{name}: share one"
    if quantizers:
        other = next(reader for reader in readers if reader is not quantizers[0])
        return f"a {other.op_type} reads its result %{name} beside the QuantizeLinear"
    clamp = readers[0] if len(readers) == 1 and readers[0].op_type in ACTIVATIONS else None
    if clamp is None or not known.quantizers(clamp.output[0]):
        return f"no QuantizeLinear reads its result %{name}"
    return _clamp(clamp, known) or _one_quantizer(clamp.output[0], node, known)


def _clamp(clamp: NodeProto, known: QdqIndex) -> str:
    """Why a Relu or Clip in front of a QuantizeLinear is not implied by its saturation."""
    quantizer = known.quantizers(clamp.output[0])[0]
    params = known.parameters(quantizer)
    if not params.is_scalar or params.scale is None or params.zero_point is None:
        return f"the QuantizeLinear behind '{clamp.op_type}' has computed parameters"
    limits = np.iinfo(np.dtype(params.dtype))
    zero, scale = int(params.zero_point.reshape(-1)[0]), float(params.scale.reshape(-1)[0])
    low, high = _bounds(clamp, known)
    bottom, top = (limits.min - zero) * scale, (limits.max - zero) * scale
    step = scale * 1e-3
    if low is not None and bottom < low - step:
        return (
            f"the {clamp.op_type} in front of its QuantizeLinear cuts at {low:g}, and the stored "
            f"type begins at {bottom:g}: the zero point must lie at {limits.min}"
        )
    if high is not None and top > high + step:
        return (
            f"the {clamp.op_type} in front of its QuantizeLinear cuts at {high:g}, and the stored "
            f"type ends at {top:g}"
        )
    return ""


def _bounds(clamp: NodeProto, known: QdqIndex) -> tuple[float | None, float | None]:
    if clamp.op_type == "Relu":
        return 0.0, None
    stated = {item.name: item.f for item in clamp.attribute}
    found: list[float | None] = [stated.get("min"), stated.get("max")]
    for index, name in enumerate(clamp.input[1:3]):
        data = known.constant(name) if name else None
        if data is not None:
            found[index] = float(data.reshape(-1)[0])
    return found[0], found[1]


def _results(node: NodeProto, known: QdqIndex) -> list[Parameters]:
    found = []
    for name in _used(node, known):
        quantizers = known.quantizers(name)
        if not quantizers and known.readers[name]:
            quantizers = known.quantizers(known.readers[name][0].output[0])
        found += [known.parameters(item) for item in quantizers[:1]]
    return found


def _result_types(node: NodeProto, known: QdqIndex) -> str:
    first = _inputs(node, known)[0].dtype
    for item in _results(node, known):
        if item.dtype != first:
            return f"it reads {first} and gives {item.dtype}: both must be of one type"
    return ""


def _same_parameters(node: NodeProto, known: QdqIndex) -> str:
    (source,) = _inputs(node, known)
    results = _results(node, known)
    if any(not item.has_zero_point for item in (source, *results)):
        return "the QuantizeLinear or DequantizeLinear at it states no zero point"
    if not all(source.equals(item) and item.is_scalar for item in results):
        return f"{node.op_type} moves values, so both sides need the same scale and zero point"
    return ""
