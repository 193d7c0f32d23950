"""The forms that a compiled model is written in: endings, what each asks for, and the writing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcc.errors import ConfigError, OutputError
from qcc.files import atomic_file, check_writable

if TYPE_CHECKING:
    from qcc.runtime.executable import Executable

OUTPUT_FORMS = {
    ".qcc": "host",
    ".onnx": "onnx",
    ".qir": "host",
    ".ll": "host",
    ".s": "host",
    ".o": "host",
    ".so": "host",
    ".a": "host",
    ".plan": "tensorrt",
}
"""Endings of output files, and the target that each means when none is named."""


def check_output(path: Path) -> str:
    """The ending of an output path, checked; raises OutputError before any work is done."""
    if path.suffix not in OUTPUT_FORMS:
        known = " ".join(OUTPUT_FORMS)
        raise OutputError(f"the ending of {path} names no output form; use one of {known}")
    check_writable(path)
    return path.suffix


def check_form(path: Path, target: str, exports: bool, weights_file: bool = False) -> None:
    """Refuse before any work is done what cannot be written at ``path``.

    ``exports`` says that the (known) target gives an ONNX model.  Raises ConfigError where the
    target has no such form, and what :func:`qcc.runtime.object_files.check_object_output` raises.
    """
    suffix = path.suffix
    if suffix == ".onnx" and not exports:
        raise ConfigError(f"target {target} is native code: it cannot be written as .onnx")
    if suffix == ".plan":
        _check_engine(target)
        return
    if suffix not in (".onnx", ".qir") and exports:
        raise ConfigError(f"target {target} gives an ONNX model: write it as .onnx or .qir")
    if suffix not in (".qcc", ".onnx", ".qir") and "," in target:
        raise ConfigError(
            f"{suffix} holds code for one instruction set, not for {target}: name one of them, or "
            "write a .qcc, which holds them all"
        )
    from qcc.runtime.object_files import OBJECT_SUFFIXES, check_object_output

    if suffix in OBJECT_SUFFIXES:
        from qcc.runtime.build import target_instruction_set

        check_object_output(path, target_instruction_set(target), weights_file)
    elif weights_file:
        raise ConfigError(
            f"only {' '.join(OBJECT_SUFFIXES)} have a separate file of weights, not {path}"
        )


def _check_engine(target: str) -> None:
    """Refuse an engine that nothing here can build; raises ConfigError."""
    from qcc.runtime.tensorrt_builder import MISSING, installed

    if target != "tensorrt":
        raise ConfigError(f".plan is TensorRT's engine, not for {target}: use --target tensorrt")
    if installed() is None:
        raise ConfigError(f"an engine cannot be built: {MISSING}")


def write_output(compiled: Any, path: Path, weights_file: bool = False) -> None:
    """Write an Executable or ExportedModel in the form that the ending asks for (atomically).

    Raises OutputError where that cannot be written, ConfigError where the model has no such form.
    """
    from qcc.runtime.object_files import OBJECT_SUFFIXES

    if path.suffix in OBJECT_SUFFIXES:
        compiled.save(path, weights_file=weights_file)
    elif path.suffix in (".qcc", ".onnx"):
        compiled.save(path)
    elif path.suffix == ".plan":
        with atomic_file(path) as file:
            file.write(compiled.engine())
    else:
        with atomic_file(path) as file:
            file.write(_text(compiled, path.suffix).encode())


def written_bytes(path: Path, weights_file: bool = False) -> int:
    """Size of what :func:`write_output` has written: the model, and its weights where they are."""
    from qcc.runtime.object_files import ObjectFiles

    own = path.stat().st_size
    return own + ObjectFiles.at(path).weights.stat().st_size if weights_file else own


def output_notes(compiled: Any, path: Path) -> tuple[str, ...]:
    """Sentences about the form: the shapes that an object is compiled for, where they were free."""
    from qcc.runtime.object_files import OBJECT_SUFFIXES, object_model

    if path.suffix not in OBJECT_SUFFIXES or not compiled.has_free_dimensions:
        return ()
    inputs = object_model(compiled).inputs
    shapes = ", ".join(f"{spec.name} {list(spec.shape or ())}" for spec in inputs)
    return (f"object code has fixed shapes, those of the first sample: {shapes}",)


def _text(compiled: Any, suffix: str) -> str:
    if suffix == ".qir":
        from qcc.ir.print import print_graph

        return print_graph(compiled.graph, resources=True)
    executable: Executable = compiled
    if not executable.variants:
        raise ConfigError(
            f"{suffix} needs fixed shapes, and the model's inputs have free dimensions: "
            "write a .qcc, which is compiled for the shapes that it meets"
        )
    code = executable.variants[0].model
    return code.llvm_ir if suffix == ".ll" else code.assembly
