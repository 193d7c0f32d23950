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
from qcc.onnxio.elements import element_name
from qcc.onnxio.files import ExternalTensors, save
from qcc.onnxio.tensors import read_tensor

LARGEST_INLINE = 1 << 30
"""Models of more bytes are written with their tensors in a file of their own."""


def write_checked(
    fixed: ModelProto, path: Path, original: ModelProto, folder: Path | None = None
) -> tuple[str, ...]:
    """Write a repaired model to ``path`` once onnx's checker and onnxruntime accept it.

    ``folder`` is where external data of both models lie; those of the written one lie beside it in
    ``NAME.data``.  A judge who refuses the ``original`` too cannot judge the repairs: the sentences
    that are given back say so.  Raises ModelError, or OutputError with nothing written.
    """
    with tempfile.TemporaryDirectory(prefix="qcc-lint-") as scratch:
        trial = Path(scratch) / path.name
        _write(fixed, trial, folder)
        before = Path(scratch) / f"original-{path.name}"
        notes = []
        for judge, refusal in (("onnx's checker", _invalid), ("onnxruntime", _unloadable)):
            reason = refusal(trial)
            if reason is None:
                continue
            if not before.exists():
                _write(original, before, folder)
            if refusal(before) is None:
                raise ModelError(
                    f"{judge} takes the model but not its repaired form ({reason}): this is an "
                    "error of the repair; please report the model"
                )
            notes.append(f"{judge} refuses the model before and after the repairs: {reason}")
    _write(fixed, path, folder)
    return tuple(notes)


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
        name, element = tensor.name, element_name(tensor.data_type)
        if element is not None:
            tensor.CopyFrom(external(name, read_tensor(tensor, folder), element))
    save(written, path, external)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """The initializers of a graph and of the bodies inside it, and the data of Constant nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for body in bodies_of(attribute):
                yield from _tensors(body)


def _invalid(path: Path) -> str | None:
    """What is not ONNX in a model; None where all is."""
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error).strip().split("\n")[0]
    return None


def _unloadable(path: Path) -> str | None:
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
