"""Writing object code with a C interface: the object, its header, an example, perhaps weights.

``model.o``, ``model.a`` and ``libmodel.so`` come with ``model.h`` and ``model_example.c`` in the
same folder; symbols begin with ``model``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qcc.backends.llvm.c_interface.archive import archive_of
from qcc.backends.llvm.c_interface.description import (
    Interface,
    Quantization,
    describe,
    prefix_of,
    refuse_regions,
)
from qcc.backends.llvm.c_interface.example import example_text
from qcc.backends.llvm.c_interface.header import header_text
from qcc.backends.llvm.c_interface.module import exported_symbols
from qcc.backends.llvm.c_interface.object_code import interface_object
from qcc.backends.llvm.c_interface.weights_file import weights_content
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.model import CompiledModel
from qcc.errors import ConfigError
from qcc.files import check_writable, write_files
from qcc.ir.core import Value
from qcc.runtime.executable import Executable
from qcc.runtime.linking import find_linker

_NOTHING_QUANTIZED = (
    "as nothing of the model is quantized, --precision float32 may compile them, too"
)

OBJECT_SUFFIXES = (".o", ".so", ".a")
"""Endings of files with a C interface."""


@dataclass(frozen=True)
class ObjectFiles:
    """The paths that belong to one object file, and the stem that they and the symbols share."""

    path: Path
    stem: str

    @staticmethod
    def at(path: Path | str) -> ObjectFiles:
        """Those of ``path``; ConfigError where its stem makes no C name."""
        whole = Path(path)
        stem = whole.stem
        if whole.suffix in (".so", ".a") and stem.startswith("lib") and stem != "lib":
            stem = stem.removeprefix("lib")
        prefix_of(stem)
        return ObjectFiles(whole, stem)

    @property
    def prefix(self) -> str:
        """Beginning of the symbols."""
        return prefix_of(self.stem)

    @property
    def header(self) -> Path:
        """``model.h``."""
        return self.path.with_name(f"{self.stem}.h")

    @property
    def example(self) -> Path:
        """``model_example.c``."""
        return self.path.with_name(f"{self.stem}_example.c")

    @property
    def weights(self) -> Path:
        """``model.weights``, where they are separate."""
        return self.path.with_name(f"{self.stem}.weights")


def check_object_output(path: Path, isa: InstructionSet, weights_file: bool = False) -> None:
    """Raise before any work is done what :func:`save_object` would raise for this path and target.

    ConfigError where symbols cannot be named so, or there is no linker; OutputError where a file
    cannot be written.
    """
    files = ObjectFiles.at(path)
    beside = [files.path, files.header, files.example]
    for file in [*beside, files.weights] if weights_file else beside:
        check_writable(file)
    if path.suffix == ".so":
        find_linker(isa.architecture)


def save_object(executable: Executable, path: Path | str, weights_file: bool = False) -> None:
    """Write an object file with its header and example, all of them or none.

    ``weights_file`` keeps the weights out of the object, in ``model.weights``.  Raises ConfigError
    with the nodes that need onnxruntime where there are any, for a model without fixed shapes, and
    where symbols cannot be named by the path; OutputError where a file cannot be written.
    """
    files = ObjectFiles.at(path)
    model = object_model(executable)
    check_object_output(files.path, model.isa, weights_file)
    interface = describe(
        model,
        files.prefix,
        separate_weights=weights_file,
        quantizations=_quantizations(executable),
    )
    contents = {
        files.header: header_text(interface).encode(),
        files.example: example_text(interface, files.stem, files.path.name).encode(),
    }
    if weights_file:
        contents[files.weights] = weights_content(interface.identity, model.weights)
    contents[files.path] = _library(interface, interface_object(model, interface), files)
    write_files(contents)


def _library(interface: Interface, object_code: bytes, files: ObjectFiles) -> bytes:
    """The object in the form that the path's ending asks for."""
    if files.path.suffix == ".so":
        return find_linker(interface.architecture).link(object_code, files.path.name)
    if files.path.suffix == ".a":
        return archive_of(object_code, f"{files.stem}.o", exported_symbols(interface))
    return object_code


def object_model(executable: Executable) -> CompiledModel:
    """The code of an executable that is right for all values of its inputs, without regions.

    Raises ConfigError where there is none, or code for several instruction sets.
    """
    models = [variant.model for variant in executable.variants if not variant.values]
    sets = dict.fromkeys(model.isa.name for model in models)
    if len(sets) > 1:
        raise ConfigError(
            f"an object holds code for one instruction set, not for {', '.join(sets)}: compile for "
            "one of them, or write a .qcc, which holds them all"
        )
    if not models:
        raise ConfigError(
            "object code needs fixed shapes, and the model's inputs have free dimensions: give "
            "sample inputs of the shapes that will come, or write a .qcc, which is compiled for "
            "the shapes that it meets"
        )
    rows = executable.report.nodes
    reasons = {row.name: row.reason for row in rows}
    if executable.floats or any(row.is_int8 for row in rows):
        refuse_regions(models[0], reasons)
    else:
        refuse_regions(models[0], reasons, _NOTHING_QUANTIZED)
    return models[0]


def _quantizations(executable: Executable) -> dict[str, Quantization]:
    """Scale and zero point of inputs and outputs that are stored as integers."""
    graph = executable.graph
    if graph is None:
        return {}
    found = {value.name: _quantization(value) for value in (*graph.inputs, *graph.outputs)}
    return {name: known for name, known in found.items() if known is not None}


def _quantization(value: Value) -> Quantization | None:
    quant = value.tensor.quant
    if quant is None or not quant.per_tensor:
        return None
    return float(quant.scale[0]), int(quant.zero_point[0])
