"""Check a repaired model and write it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, TensorProto

from qcc.errors import ModelError
from qcc.onnxio.declared import bodies_of
from qcc.onnxio.files import ExternalTensors, save
from qcc.onnxio.tensors import read_tensor

LARGEST_INLINE = 1 << 30
"""Models of more bytes are written with their tensors in a file of their own."""


def write_checked(
    fixed: ModelProto, path: Path, folder: Path | None = None, *, original: Path | None = None
) -> None:
    """Write a repaired model to ``path`` once onnx's checker and onnxruntime accept it.

    ``folder`` is where its external data lie; the written model's lie beside it in
    ``NAME.data``.  onnxruntime is asked where it is installed and loads the ``original`` model:
    what it lacks an op for, it cannot judge.  Raises ModelError, or OutputError with nothing
    written.
    """
    with tempfile.TemporaryDirectory(prefix="qcc-lint-") as scratch:
        trial = Path(scratch) / path.name
        _write(fixed, trial, folder)
        _check(trial, original)
    _write(fixed, path, folder)


def _write(model: ModelProto, path: Path, folder: Path | None) -> None:
    stored = list(_tensors(model.graph))
    outside = any(t.data_location == TensorProto.EXTERNAL for t in stored)
    if not outside and model.ByteSize() <= LARGEST_INLINE:
        save(model, path, None)
        return
    written = ModelProto()
    written.CopyFrom(model)
    external = ExternalTensors(f"{path.name}.data")
    for tensor in _tensors(written.graph):
        name, element = tensor.name, _element(tensor)
        if element is not None:
            tensor.CopyFrom(external(name, read_tensor(tensor, folder), element))
    save(written, path, external)


def _element(tensor: TensorProto) -> str | None:
    from qcc.onnxio.elements import element_name

    return element_name(tensor.data_type)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """The initializers of a graph and of the bodies inside it, and the data of Constant nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for body in bodies_of(attribute):
                yield from _tensors(body)


def _check(path: Path, original: Path | None) -> None:
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"what can be repaired does not make the model valid ONNX ({reason}); correct what "
            "`qcc lint` finds and cannot repair first"
        ) from None
    problem = _refusal(path)
    if problem is not None and (original is None or _refusal(original) is None):
        raise ModelError(
            f"onnxruntime loads the model but not its repaired form ({problem}): this is an error "
            "of the repair; please report the model"
        )


def _refusal(path: Path) -> str | None:
    """Why onnxruntime does not load a model; None where it does, or is not installed."""
    try:
        import onnxruntime as ort
    except ModuleNotFoundError:
        return None
    options: Any = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 4
    try:
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return str(error).strip().split("\n")[0]
    return None
