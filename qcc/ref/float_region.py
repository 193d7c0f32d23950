"""Float nodes run by onnxruntime: regions of a graph, and whole graphs for calibration.

A region is a self-contained ONNX model made from a list of nodes.  The reference evaluator and the
runtime both run it through :class:`FloatRegion`, so they give the same bytes.

onnxruntime may optimize as it likes but for Q/DQ: it would fuse them into integer kernels that
compute something else than the graph says.  ``onnx`` is needed to make a model, not to run one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcc.errors import ConfigError, DataError, ModelError
from qcc.ir.core import Array, Graph, ModelInfo, Node, Value
from qcc.ir.types import UNDEFINED, TensorType

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

REGION_LIMIT = 2**31 - 2**20
"""Bytes that one serialized region may have; protobuf ends at 2 GB."""

SHARED_FROM = 1 << 20
"""Constants of at least so many bytes are lent to onnxruntime instead of being serialized."""


def region_model(nodes: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value]) -> bytes:
    """A serialized ONNX model of ``nodes`` that computes ``outputs`` from ``inputs``.

    Constants that the nodes (or bodies inside them) use are part of the model; every other value
    that they use from outside must be in ``inputs``, which :func:`region_inputs` lists.  Quantized
    inputs and outputs are stored integers.  Raises ValueError where an input is missing, ModelError
    where a type is unknown or the model passes 2 GB.
    """
    needed = region_inputs(nodes)
    missing = [value.name for value in needed if value not in set(inputs)]
    if missing:
        raise ValueError(f"the region also reads {', '.join(missing)}")
    _require_types(inputs)
    constants = [value for value in _outside(nodes) if value.is_constant and value not in inputs]
    constants += [v for v in outputs if v.is_constant and v not in constants and v not in inputs]
    size = sum(value.constant.nbytes for value in constants if value.constant is not None)
    if size > REGION_LIMIT:
        raise ModelError(
            f"A float region holds {size} bytes of constants and one ONNX model ends at 2 GB; "
            "quantize more of the model or split it."
        )
    info = _info_of(nodes)
    model = _model(info, nodes, inputs, outputs, constants, None)
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def region_inputs(nodes: Sequence[Node]) -> list[Value]:
    """The values that ``nodes`` and the bodies inside them read from outside, but for constants."""
    return [value for value in _outside(nodes) if not value.is_constant]


class FloatRegion:
    """Runs a region's model on ``threads`` threads; the session is made at the first run."""

    def __init__(self, model: bytes, threads: int = 1) -> None:
        self.model = model
        self.threads = threads
        self._session: Any = None
        self._inputs: list[str] = []

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs for the inputs, both in the order of the region's model.

        Raises ModelError where onnxruntime cannot load the region, DataError where it refuses the
        arrays.
        """
        if self._session is None:
            self._session = _session(self.model, self.threads, {})
            self._inputs = [item.name for item in self._session.get_inputs()]
        return _run(self._session, None, dict(zip(self._inputs, arrays, strict=True)))


class FloatRunner:
    """Runs a whole graph and gives any of its values; made for calibration.

    ``outputs`` are values of the main graph.  They are the graph's own: what onnxruntime fuses
    never hides a value that is asked for.  Large constants are shared with the graph, not copied,
    so the size of the model does not matter.  Raises ConfigError for a value inside a control-flow
    body.
    """

    def __init__(self, graph: Graph, outputs: Sequence[Value], *, threads: int = 1) -> None:
        for value in outputs:
            _require_fetchable(graph, value)
        self.outputs = tuple(dict.fromkeys(outputs))
        self._inputs = {value.name: value for value in graph.inputs}
        _require_types(graph.inputs)
        lent = _Lent(graph)
        model = _model(
            graph.info, graph.nodes, graph.inputs, self.outputs, graph.constants.values(), lent
        )
        self._session = _session(model.SerializeToString(), threads, lent.tensors)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """The outputs by value name; ``feeds`` maps each graph input's name to an array.

        Raises DataError where the feeds do not fit the graph, ModelError where a value has another
        shape than its type says.
        """
        unknown = [name for name in feeds if name not in self._inputs]
        absent = [name for name in self._inputs if name not in feeds]
        if unknown or absent:
            wrong = f"has no input '{unknown[0]}'" if unknown else f"needs the input '{absent[0]}'"
            raise DataError(f"The model {wrong}; its inputs are {', '.join(self._inputs)}.")
        names = [value.name for value in self.outputs]
        results = _run(self._session, names, {k: np.asarray(v) for k, v in feeds.items()})
        for value, array in zip(self.outputs, results, strict=True):
            _require_shape(value, array)
        return dict(zip(names, results, strict=True))


# -- making models ---------------------------------------------------------------------------------


def _model(
    info: ModelInfo,
    nodes: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: Iterable[Value],
    lent: _Lent | None,
) -> ModelProto:
    from qcc.onnxio.emit import Emitter, names_of
    from qcc.onnxio.tensors import write_tensor
    from qcc.onnxio.writer import model_around

    emitter = Emitter(names_of(nodes, [*inputs, *constants]), sink=lent or write_tensor)
    graph = emitter.region("region", nodes, inputs, outputs, constants)
    graph.initializer.extend(emitter.shared)
    return model_around(graph, info)


class _Lent:
    """A sink that leaves big constants of the main graph out of the proto and lends them."""

    def __init__(self, graph: Graph) -> None:
        self._main = set(graph.constants)
        self.tensors: dict[str, NDArray[Any]] = {}

    def __call__(self, name: str, data: NDArray[Any], element: str) -> TensorProto:
        from onnx import TensorProto

        from qcc.onnxio.tensors import describe_tensor, write_tensor

        plain = data.dtype.kind in "fiub" and str(data.dtype) == element
        if name not in self._main or data.nbytes < SHARED_FROM or not plain:
            return write_tensor(name, data, element)
        self.tensors[name] = np.ascontiguousarray(data)
        tensor = describe_tensor(name, data.shape, element)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="lent")
        return tensor


def _info_of(nodes: Sequence[Node]) -> ModelInfo:
    graph = nodes[0].graph if nodes else None
    return ModelInfo() if graph is None else graph.info


def _outside(nodes: Sequence[Node]) -> list[Value]:
    """Every value that the nodes or bodies inside them use and do not make, in order of use."""
    found: dict[Value, None] = {}
    made: set[Value] = set()
    _collect(nodes, made, found)
    return [value for value in found if value not in made]


def _collect(nodes: Iterable[Node], made: set[Value], found: dict[Value, None]) -> None:
    for node in nodes:
        found.update(dict.fromkeys(value for value in node.inputs if value is not None))
        made.update(node.outputs)
        for body in node.subgraphs:
            made.update(body.inputs, body.constants.values())
            _collect(body.nodes, made, found)
            found.update(dict.fromkeys(body.outputs))


def _require_types(inputs: Sequence[Value]) -> None:
    for value in inputs:
        if isinstance(value.type, TensorType) and value.type.storage == UNDEFINED:
            raise ModelError(
                f"The element type of '{value.name}' is not known, and onnxruntime needs it; "
                "declare it in the model (value_info)."
            )


def _require_shape(value: Value, array: Array) -> None:
    """A model may declare what no inference can refute; what it computes then shows it."""
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    if shape is None:
        return
    wrong = len(shape) != array.ndim or any(
        isinstance(dim, int) and dim != size for dim, size in zip(shape, array.shape, strict=True)
    )
    if wrong:
        declared = ", ".join("?" if dim is None else str(dim) for dim in shape)
        raise ModelError(
            f"The model says that '{value.name}' has the shape [{declared}], and its nodes give "
            f"{list(array.shape)}; correct or remove the shapes that it declares of outputs and "
            "inner values."
        )


def _require_fetchable(graph: Graph, value: Value) -> None:
    producer = value.producer
    if producer is not None and producer.graph is not graph:
        raise ConfigError(
            f"'{value.name}' lies inside a control-flow body, where its values cannot be fetched; "
            "ask for values of the main graph.",
            node=producer.label,
        )
    if not value.name:
        raise ConfigError("An absent optional output cannot be fetched; ask for another value.")


# -- running models --------------------------------------------------------------------------------


def _session(model: bytes, threads: int, lent: Mapping[str, NDArray[Any]]) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if lent:
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in lent.values()]
        options.add_external_initializers(list(lent), values)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(
            f"onnxruntime {ort.__version__} cannot load the float part of the model: "
            f"{_reason(error)}"
        ) from error


def _run(session: Any, names: list[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
    try:
        results: list[Array] = session.run(names, dict(feeds))
    except Exception as error:
        raise DataError(f"onnxruntime refuses the data: {_reason(error)}") from error
    return results


def _reason(error: Exception) -> str:
    """The message of onnxruntime on one line, without its code prefix."""
    return " ".join(str(error).split(" : ", 3)[-1].split()) or type(error).__name__
