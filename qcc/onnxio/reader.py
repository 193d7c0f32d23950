"""Read an ONNX model into a :class:`qcc.ir.core.Graph` at the pinned opset."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from qcc.errors import ModelError
from qcc.ir.core import Graph, ModelInfo, Value
from qcc.ir.infer import infer_shapes
from qcc.ir.ops import PINNED_OPSET, schema
from qcc.ir.types import UNDEFINED
from qcc.onnxio.build import DEFAULT_DOMAIN, build_graph, metadata
from qcc.onnxio.functions import convert_functions
from qcc.onnxio.inferred import infer_types
from qcc.onnxio.opset import OLDEST_OPSET, convert_graph

PROTOBUF_LIMIT = 2**31 - 1


def read_onnx(
    source: str | os.PathLike[str] | bytes | ModelProto, *, folder: str | Path | None = None
) -> Graph:
    """Read a model and convert it to opset :data:`qcc.ir.ops.PINNED_OPSET`.

    ``source`` is a path, the bytes of a file, or a proto (which is not changed).  ``folder`` is
    where external data lie (default: the folder of the path); they are memory-mapped.
    Absent optional outputs of a node are values without a name and without uses.  A declared shape
    that contradicts what the nodes give is replaced, and ``graph.info.notes`` says so.  Raises
    :class:`qcc.errors.ModelError` for whatever cannot be read or converted.
    """
    if folder is None and isinstance(source, (str, os.PathLike)):
        folder = Path(source).parent
    model = source if isinstance(source, ModelProto) else read_proto(source)
    info = _model_info(model)
    version = _checked_opset(info)
    typed = infer_types(model)
    info.notes.extend(typed.notes)
    graph = build_graph(model.graph, typed, info, None if folder is None else Path(folder))
    convert_graph(graph, version, PINNED_OPSET)
    _check_ops(graph)
    info.opsets[""] = PINNED_OPSET
    info.functions = convert_functions(info.functions, PINNED_OPSET)
    if not all(map(_has_element, _values(graph))):
        infer_shapes(graph)
    return graph


def _check_ops(graph: Graph) -> None:
    """Refuse ops that stand in ONNX's own domain and are none of its ops."""
    for node in graph.walk():
        if node.domain == "" and schema(node.op_type) is None:
            raise ModelError(
                f"The model uses an op '{node.op_type}' of ONNX's own domain, which ONNX does not "
                "define; onnxruntime's optimizer writes such ops: give the model from before it.",
                node=node.label,
            )


def _values(graph: Graph) -> Iterator[Value]:
    yield from graph.values()
    for node in graph.walk():
        yield from node.outputs


def _has_element(value: Value) -> bool:
    return not value.name or getattr(value.type, "element", "") != UNDEFINED


def read_proto(source: str | os.PathLike[str] | bytes) -> ModelProto:
    """The proto in a file or its bytes, unchecked; raises ModelError where there is none."""
    origin = "The model" if isinstance(source, bytes) else f"'{os.fspath(source)}'"
    data = source if isinstance(source, bytes) else _file_bytes(Path(source))
    if not data:
        raise ModelError(f"{origin} is empty; give an ONNX file.")
    try:
        model: ModelProto = ModelProto.FromString(data)
    except (DecodeError, ValueError) as error:
        raise ModelError(
            f"{origin} is not an ONNX model or is truncated; export it or copy it again."
        ) from error
    if not model.HasField("graph") or not model.ir_version:
        raise ModelError(f"{origin} holds no ONNX graph; give a model written by an ONNX exporter.")
    return model


def _file_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise ModelError(f"'{path}' is a folder; give the ONNX file inside it.")
    try:
        if path.stat().st_size > PROTOBUF_LIMIT:
            raise ModelError(
                f"'{path}' is over 2 GB, which protobuf cannot read; save it with external data."
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"There is no file '{path}'.") from error
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror}.") from error


def _model_info(model: ModelProto) -> ModelInfo:
    opsets: dict[str, int] = {}
    for item in model.opset_import:
        domain = "" if item.domain == DEFAULT_DOMAIN else item.domain
        opsets[domain] = max(item.version, opsets.get(domain, 0))
    return ModelInfo(
        opsets=opsets,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc=model.doc_string,
        metadata=metadata(model.metadata_props),
        functions=[item.SerializeToString(deterministic=True) for item in model.functions],
        extra=_extra(model),
    )


def _extra(model: ModelProto) -> bytes:
    """The fields that a Graph has no place for, serialized as a model of their own."""
    rest = ModelProto()
    rest.training_info.extend(model.training_info)
    configuration: Any = getattr(model, "configuration", ())
    if configuration:
        rest.configuration.extend(configuration)
    rest.graph.quantization_annotation.extend(model.graph.quantization_annotation)
    if not rest.graph.quantization_annotation:
        rest.ClearField("graph")
    serialized: bytes = rest.SerializeToString(deterministic=True)
    return serialized


def _checked_opset(info: ModelInfo) -> int:
    newest = onnx.defs.onnx_opset_version()
    if not info.opsets:
        raise ModelError("The model declares no opset; it was written wrongly or is not ONNX.")
    version = info.opsets.get("", PINNED_OPSET)
    if version > newest:
        raise ModelError(
            f"The model uses opset {version} and the installed onnx {onnx.__version__} knows "
            f"opsets up to {newest}; upgrade onnx or export with an older opset."
        )
    if version < OLDEST_OPSET:
        raise ModelError(
            f"The model uses opset {version}, and opsets before {OLDEST_OPSET} are not read; "
            "convert it with onnx.version_converter or export it again."
        )
    return version
