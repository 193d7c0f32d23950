"""What the C interface of a compiled model consists of, as data for the code and the header."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from qcc.backends.llvm.memory import ALIGNMENT, align
from qcc.backends.llvm.model import ArraySource, CompiledModel, NativeStep, RegionStep, TensorSpec
from qcc.errors import ConfigError

Quantization: TypeAlias = "tuple[float, int]"
"""Scale and zero point of a tensor that holds integers for real numbers."""


@dataclass(frozen=True)
class ElementType:
    """A dtype as C sees it: its number in ONNX's TensorProto, its constant and its C type."""

    number: int
    constant: str
    c_type: str
    bytes: int


ELEMENT_TYPES = {
    "float32": ElementType(1, "FLOAT32", "float", 4),
    "uint8": ElementType(2, "UINT8", "unsigned char", 1),
    "int8": ElementType(3, "INT8", "signed char", 1),
    "uint16": ElementType(4, "UINT16", "unsigned short", 2),
    "int16": ElementType(5, "INT16", "short", 2),
    "int32": ElementType(6, "INT32", "int", 4),
    "int64": ElementType(7, "INT64", "long", 8),
    "bool": ElementType(9, "BOOL", "unsigned char", 1),
    "float16": ElementType(10, "FLOAT16", "unsigned short", 2),
    "float64": ElementType(11, "FLOAT64", "double", 8),
    "uint32": ElementType(12, "UINT32", "unsigned int", 4),
    "uint64": ElementType(13, "UINT64", "unsigned long", 8),
    "bfloat16": ElementType(16, "BFLOAT16", "unsigned short", 2),
}
"""numpy dtype name to what C makes of it; 16-bit floats are given as their bits."""


@dataclass(frozen=True)
class Error:
    """A code that the functions return, and its sentence."""

    code: int
    constant: str
    sentence: str


ERRORS = (
    Error(0, "OK", "no error"),
    Error(1, "ERROR_NULL", "a pointer is null"),
    Error(2, "ERROR_WORKSPACE_ALIGNMENT", f"the workspace is not {ALIGNMENT}-byte aligned"),
    Error(3, "ERROR_NOT_INITIALIZED", "the workspace was not initialized for this model"),
    Error(4, "ERROR_THREADS", "the number of a thread or of threads is out of range"),
    Error(5, "ERROR_TENSOR_ALIGNMENT", "an input or output is not aligned for its elements"),
    Error(6, "ERROR_INDEX", "an index lies outside the table that it reads"),
    Error(7, "ERROR_WEIGHTS", "these are not the weights of this model, or they are cut short"),
    Error(8, "ERROR_WEIGHTS_ALIGNMENT", f"the weights are not {ALIGNMENT}-byte aligned"),
    Error(9, "ERROR_CPU", "this CPU lacks a feature that the code needs"),
)
"""The same numbers for every model; a number never changes its meaning."""

UNKNOWN_ERROR = "unknown error code"

ERROR_CODES = {error.constant: error.code for error in ERRORS}

MOST_THREADS = 1024
"""More threads than that on one call are refused."""


@dataclass(frozen=True)
class Tensor:
    """An input or output: static shape, bytes as they lie, dense and in row-major order."""

    name: str
    element: ElementType
    shape: tuple[int, ...]
    quantization: Quantization | None = None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size of the whole tensor."""
        return self.elements * self.element.bytes


@dataclass(frozen=True)
class Interface:
    """What C code sees of a model.

    ``prefix`` begins every symbol.  ``workspace_bytes`` are the memory of one call.  ``identity``
    (64 bits) tells this model's workspaces and weights from those of others.  ``weights_bytes``
    counts the packed weights; ``separate_weights`` says that they lie in a file of their own.
    ``sources`` says where each output comes from, ``step`` names the native function, if there is
    anything to compute.
    """

    prefix: str
    isa: str
    architecture: str
    cpu_features: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    sources: tuple[ArraySource, ...]
    step: str | None
    workspace_bytes: int
    weights_bytes: int
    separate_weights: bool
    identity: int


def describe(
    model: CompiledModel,
    prefix: str,
    *,
    separate_weights: bool = False,
    quantizations: Mapping[str, Quantization] | None = None,
) -> Interface:
    """The interface of ``model``, whose symbols begin with ``prefix`` (:func:`prefix_of`).

    ``quantizations`` gives scale and zero point of the inputs and outputs (by name) that hold
    integers for real numbers.  Raises ConfigError where a part of the model runs in onnxruntime,
    where the model was loaded from an artifact, and where a tensor has no C form.
    """
    _check(model, separate_weights)
    known = quantizations or {}
    native = [step for step in model.steps if isinstance(step, NativeStep)]
    return Interface(
        prefix=prefix,
        isa=model.isa.name,
        architecture=model.isa.architecture,
        cpu_features=tuple(sorted(model.isa.needs)),
        inputs=_tensors(model.inputs, known),
        outputs=_tensors(model.outputs, known),
        sources=model.output_sources,
        step=native[0].symbol if native else None,
        workspace_bytes=align(model.arena_bytes),
        weights_bytes=int(model.weights.size),
        separate_weights=separate_weights,
        identity=_identity(model, separate_weights),
    )


def _identity(model: CompiledModel, separate_weights: bool) -> int:
    """A workspace belongs to code that uses it in the same way, and weights to their code."""
    text = f"{model.isa.name} {model.arena_bytes} {separate_weights}\n{model.source}"
    digest = hashlib.blake2b(text.encode(), digest_size=8)
    digest.update(model.weights.tobytes())
    return int.from_bytes(digest.digest(), "little")


_AS_ARTIFACT = "a .qcc can"

_MOST_EMBEDDED = 1 << 30
"""Bytes of weights that addresses of the small code model surely reach."""


def _check(model: CompiledModel, separate_weights: bool) -> None:
    refuse_regions(model)
    if not model.source:
        raise ConfigError(
            "a loaded .qcc holds no code that could be given a C interface: compile the model "
            "again, and write it as .o, .so or .a at once"
        )
    if model.isa.emulated:
        raise ConfigError(
            f"emulated code for {model.isa.name} only runs here: compile for the target itself"
        )
    if model.weights.size > _MOST_EMBEDDED and not separate_weights:
        raise ConfigError(
            f"{model.weights.size} bytes of weights are too many for one object: give them a file "
            "of their own, --weights-file (weights_file=True in Python)"
        )


def refuse_regions(
    model: CompiledModel, reasons: Mapping[str, str] | None = None, advice: str = _AS_ARTIFACT
) -> None:
    """Raise ConfigError with the nodes that run in onnxruntime, and why, if there are any.

    ``reasons`` gives a node's own sentence by its name, where it is known; ``advice`` says what
    could be done.
    """
    nodes: dict[str, list[str]] = {}
    for step in model.steps:
        if isinstance(step, RegionStep):
            for name, op in _region_nodes(model.regions[step.model]):
                reason = (reasons or {}).get(name) or step.reason
                nodes.setdefault(reason, []).append(f"{name} ({op})")
    if nodes:
        listed = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in nodes.items())
        raise ConfigError(
            f"object code cannot call onnxruntime, which these nodes need ({advice}): {listed}"
        )


def _region_nodes(region: bytes) -> list[tuple[str, str]]:
    """Name and op of the nodes of a region (an ONNX model)."""
    import onnx

    nodes = onnx.load_from_string(region).graph.node
    return [(node.name or next(iter(node.output), ""), node.op_type) for node in nodes]


def _tensors(
    specs: Sequence[TensorSpec], quantizations: Mapping[str, Quantization]
) -> tuple[Tensor, ...]:
    return tuple(_tensor(spec, quantizations.get(spec.name)) for spec in specs)


def _tensor(spec: TensorSpec, quantization: Quantization | None) -> Tensor:
    element = ELEMENT_TYPES.get(spec.dtype)
    if element is None:
        raise ConfigError(f"'{spec.name}' holds {spec.dtype}, for which C has no type")
    shape = [] if spec.shape is None else [size for size in spec.shape if size is not None]
    if spec.shape is None or len(shape) < len(spec.shape):
        raise ConfigError(
            f"the shape of '{spec.name}' is not fixed, and an object has one: give sample inputs "
            "of the shapes that will come, --calib DATA (calibration=... in Python)"
        )
    return Tensor(spec.name, element, tuple(shape), quantization)


_REPLACED = "-. "
"""Characters of file names that become underscores in symbols."""


def prefix_of(stem: str) -> str:
    """The C identifier that a file's stem stands for; ConfigError where it stands for none."""
    prefix = "".join("_" if character in _REPLACED else character for character in stem)
    plain = prefix.isascii() and prefix.replace("_", "").isalnum()
    if not plain or not prefix[0].isalpha():
        raise ConfigError(
            f"symbols of the C interface begin with the file's name, and '{stem}' makes no C name: "
            "begin with a letter, and go on with letters, digits, '_' or '-'"
        )
    return prefix
