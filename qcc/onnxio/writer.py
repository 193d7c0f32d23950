"""Write a :class:`qcc.ir.core.Graph` as an ONNX model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx.helper
from onnx import GraphProto, ModelProto

from qcc.errors import ConfigError
from qcc.ir.core import Graph, ModelInfo
from qcc.ir.ops import PINNED_OPSET
from qcc.onnxio.emit import Emitter, TensorSink, fill, fill_metadata, names_in
from qcc.onnxio.files import ExternalTensors, save
from qcc.onnxio.functions import convert_functions
from qcc.onnxio.opset import convert_graph
from qcc.onnxio.tensors import stored_size, write_tensor

OLDEST_WRITTEN = 10
NEWEST_WRITTEN = 25
"""The opsets that models are written in."""

INLINE_LIMIT = 2**31 - 2**27
"""Models with more bytes of tensors than this get a data file: a proto ends at 2 GB."""


def write_onnx(
    graph: Graph,
    path: str | os.PathLike[str] | None = None,
    *,
    opset: int | None = None,
    external_data: bool | None = None,
) -> ModelProto | None:
    """Write a graph; returns the proto where no path is given.

    ``opset`` (10 to 25, default :data:`qcc.ir.ops.PINNED_OPSET`) is that of the default domain.
    ``external_data`` puts tensors of 1 KB and more into ``<path>.data``; by default only where the
    model would pass 2 GB.  A file that stands at ``path`` is replaced at once or not at all.

    Raises ConfigError for an opset or a graph that cannot be written, ModelError for a node that
    the opset has no words for, OutputError where the path cannot be written.
    """
    external = _external(graph, path, external_data)
    model = _model(graph, PINNED_OPSET if opset is None else opset, external or write_tensor)
    if path is None:
        return model
    save(model, Path(path), external)
    return None


def to_model_proto(graph: Graph, *, opset: int | None = None) -> ModelProto:
    """The graph as a proto that holds all tensors; errors as :func:`write_onnx`."""
    return _model(
        graph,
        PINNED_OPSET if opset is None else opset,
        _external(graph, None, False) or write_tensor,
    )


def attribute_bytes(graph: Graph) -> int:
    """Bytes of all tensors in attributes, which can only be written inside the model."""
    return sum(
        array.nbytes
        for node in graph.walk()
        for attribute in node.attributes.values()
        for array in (attribute if isinstance(attribute, list) else [attribute])
        if isinstance(array, np.ndarray)
    )


def tensor_bytes(graph: Graph) -> int:
    """Bytes of all constants of the graph and of the bodies inside it."""
    total = sum(
        stored_size(value.constant.shape, value.tensor.storage)
        for value in graph.constants.values()
        if value.constant is not None
    )
    return total + sum(tensor_bytes(body) for node in graph.nodes for body in node.subgraphs)


def _external(
    graph: Graph, path: str | os.PathLike[str] | None, wanted: bool | None
) -> ExternalTensors | None:
    if path is None and wanted:
        raise ConfigError("External data need a path to lie beside; give one.")
    inside = attribute_bytes(graph)
    if inside > INLINE_LIMIT:
        raise ConfigError(
            "The model holds over 2 GB of tensors in Constant nodes, which one ONNX proto cannot "
            "hold; fold the constants first."
        )
    too_big = tensor_bytes(graph) + inside > INLINE_LIMIT
    if too_big and (path is None or wanted is False):
        raise ConfigError(
            "The model holds over 2 GB of tensors, which one ONNX proto cannot hold; write it to a "
            "path and allow external data."
        )
    if path is None or not (too_big or wanted):
        return None
    return ExternalTensors(f"{Path(path).name}.data")


def _model(graph: Graph, opset: int, sink: TensorSink) -> ModelProto:
    if not OLDEST_WRITTEN <= opset <= min(NEWEST_WRITTEN, onnx.defs.onnx_opset_version()):
        raise ConfigError(
            f"Models are written in opsets {OLDEST_WRITTEN} to {NEWEST_WRITTEN}, not {opset}."
        )
    info, functions = graph.info, list(graph.info.functions)
    if opset != PINNED_OPSET:
        graph = graph.clone()
        convert_graph(graph, PINNED_OPSET, opset)
        functions = convert_functions(functions, opset)
    emitter = Emitter(names_in(graph), opset=opset, sink=sink)
    proto = emitter.graph(graph, info.overridable)
    proto.initializer.extend(emitter.shared)
    model: ModelProto = ModelProto.FromString(info.extra)
    model.graph.MergeFrom(proto)
    for function in functions:
        model.functions.append(onnx.FunctionProto.FromString(function))
    _describe(model, info, opset)
    return model


def model_around(graph: GraphProto, info: ModelInfo) -> ModelProto:
    """A model of a graph at the pinned opset that knows the domains and functions of ``info``."""
    model = ModelProto(graph=graph)
    model.functions.extend(onnx.FunctionProto.FromString(item) for item in info.functions)
    _describe(model, ModelInfo(opsets=info.opsets), PINNED_OPSET)
    return model


def _describe(model: ModelProto, info: ModelInfo, opset: int) -> None:
    fill(
        model,
        producer_name=info.producer_name,
        producer_version=info.producer_version,
        domain=info.domain,
        model_version=info.model_version,
        doc_string=info.doc,
    )
    fill_metadata(model.metadata_props, info.metadata)
    used = dict.fromkeys(sorted(_domains(model.graph)), 1)
    for domain, version in (info.opsets | {"": opset}).items():
        model.opset_import.add(domain=domain, version=version)
        used.pop(domain, None)
    for domain, version in used.items():
        model.opset_import.add(domain=domain, version=version)
    model.ir_version = max(_ir_versions(model))


def _domains(graph: GraphProto) -> set[str]:
    """The domains of all nodes, those in bodies included."""
    found = {node.domain for node in graph.node}
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                found |= _domains(body)
    return found


def _ir_versions(model: ModelProto) -> Iterator[int]:
    """The IR versions that the parts of a model need at least."""
    yield 4  # Initializers that are not inputs.
    yield onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    if model.functions:
        yield 8
    if _uses_metadata(model) or any(function.overload for function in model.functions):
        yield 10


def _uses_metadata(model: ModelProto) -> bool:
    """Whether something below the model itself has metadata entries."""
    graph = model.graph
    parts = (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer)
    return any(part.metadata_props for part in parts)
