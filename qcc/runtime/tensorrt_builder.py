"""NVIDIA's own ONNX parser and builder, where one is installed: does it take a model, and in int8?

Two Python packages hold them: ``tensorrt`` (needs a GPU to build) and ``tensorrt_rtx``
(``pip install 'qcc[tensorrt]'``), which builds engines on machines without one.  What the builder
says about its final layers (names, types of operands, the ONNX nodes that they stand for) is read
from its verbose log, which both write alike.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qcc.errors import ConfigError

PACKAGES = ("tensorrt", "tensorrt_rtx")
"""Import names, the one with a data centre's kernels first."""

MISSING = (
    "NVIDIA's ONNX parser is not installed here, so the model was not put through it: "
    "pip install 'qcc[tensorrt]' (no GPU needed)"
)

POINTWISE = "kgen"
"""The kind of layers that hold pointwise arithmetic, whatever they stand beside."""


@dataclass(frozen=True)
class BuiltLayer:
    """A layer of an engine.

    ``kind`` is NVIDIA's name (``correlation``, ``gemm``, ``kgen``, ...); ``inputs``, ``constants``
    and ``outputs`` are the types of its tensors (``"Int8"``, ``"Float"``, ...); ``origins`` names
    the ONNX nodes that it stands for.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    origins: tuple[str, ...] = ()

    def multiplies(self, number: str) -> bool:
        """Whether it multiplies values of type ``number`` (by such weights, if it has any)."""
        if self.kind == POINTWISE or self.inputs[:1] != (number,):
            return False
        return not self.constants or self.constants[0] == number


@dataclass(frozen=True)
class BuilderReport:
    """What the parser and the builder said.

    ``library`` names the package and its version; ``errors`` and ``warnings`` are sentences, with
    the node where one is named; ``engine`` is the serialized engine, None where none was built.
    """

    library: str
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    layers: tuple[BuiltLayer, ...] = ()
    engine: bytes | None = field(repr=False, default=None)

    def others(self, nodes: Iterable[str], number: str = "Int8") -> tuple[str, ...]:
        """Those of ``nodes`` (names) that no layer computes on values of type ``number``."""
        found = {name for item in self.layers if item.multiplies(number) for name in item.origins}
        return tuple(name for name in nodes if name not in found)

    def types_of(self, node: str) -> str:
        """The layers that stand for ``node``, with their types, in one line."""
        rows = [
            f"{layer.kind} ({', '.join(layer.inputs)} x {', '.join(layer.constants[:1]) or '-'} "
            f"-> {', '.join(layer.outputs)})"
            for layer in self.layers
            if node in layer.origins
        ]
        return "; ".join(rows) or "no layer of its own"


def installed() -> Any | None:
    """The package that is there, or None."""
    return next((found for name in PACKAGES if (found := _import(name)) is not None), None)


def _import(name: str) -> Any | None:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # OSError: a package without its libraries
        return None


def build(model: bytes | Path, shapes: Mapping[str, Sequence[int]] | None = None) -> BuilderReport:
    """Parse and build the engine of an ONNX ``model``: serialized, or a file with its data beside.

    ``shapes`` gives those of inputs with free dimensions (1 for each that is not named); an engine
    also takes fewer of a free batch.  Errors of NVIDIA's are in the report.  Raises ConfigError
    where no package is installed, or none of them works without a GPU here.
    """
    library, builder, log = _builder()
    network = builder.create_network(_flags(library))
    parser = library.OnnxParser(network, log)
    title = f"{library.__name__} {library.__version__}"
    in_file = isinstance(model, Path)
    if not (parser.parse_from_file(str(model)) if in_file else parser.parse(model)):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        texts = tuple(
            f"'{e.node_name()}': {e.desc()}" if e.node_name() else e.desc() for e in errors
        )
        return BuilderReport(title, texts, _said(log, "WARNING"))
    config = builder.create_builder_config()
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    _choose_shapes(builder, network, config, dict(shapes or {}))
    engine = builder.build_serialized_network(network, config)
    layers = tuple(found for _, text in log.lines if (found := read_layer(text)) is not None)
    errors_said = (*_said(log, "INTERNAL_ERROR"), *_said(log, "ERROR"))
    if engine is None and not errors_said:
        errors_said = ("the builder gave no engine and no reason",)
    content = None if engine is None else bytes(memoryview(engine))
    return BuilderReport(title, errors_said, _said(log, "WARNING"), layers, content)


def _builder() -> tuple[Any, Any, Any]:
    """The first package whose builder can be made, that builder, and its log."""
    reason = MISSING
    for name in PACKAGES:
        library = _import(name)
        if library is None:
            continue
        log = new_log(library)
        try:
            return library, library.Builder(log), log
        except (TypeError, RuntimeError):  # how the bindings say that there is no GPU
            reason = f"the builder of {name} needs a GPU, and finds none here"
    raise ConfigError(reason)


def _flags(library: Any) -> int:
    """Strong typing, where it is not the only way (before TensorRT 11)."""
    flag = getattr(getattr(library, "NetworkDefinitionCreationFlag", None), "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _choose_shapes(builder: Any, network: Any, config: Any, shapes: dict[str, Any]) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    if not any(-1 in tuple(tensor.shape) for tensor in inputs):
        return
    profile = builder.create_optimization_profile()
    for tensor in inputs:
        if tensor.is_shape_tensor:
            continue
        declared = tuple(tensor.shape)
        usual = tuple(shapes.get(tensor.name) or [1 if d == -1 else d for d in declared])
        open_batch = declared[:1] == (-1,)
        profile.set_shape(tensor.name, (1, *usual[1:]) if open_batch else usual, usual, usual)
    config.add_optimization_profile(profile)


def _said(log: Any, severity: str) -> tuple[str, ...]:
    found = dict.fromkeys(text for level, text in log.lines if level == severity)
    return tuple(found)


def new_log(library: Any) -> Any:
    """A logger that keeps every line with the name of its severity."""

    class Log(library.ILogger):  # type: ignore[misc]
        """Keeps what is said."""

        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            """Called by the library."""
            self.lines += [(severity.name, line) for line in text.split("\n")]

    return Log()


# -- the log ---------------------------------------------------------------------------------------

_LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), ")
_TYPE = re.compile(r"Datatype: (\w+)")
_ORIGIN = re.compile(r"\[ONNX Layer: (.*)\]", re.DOTALL)
_PARTS = ("Inputs: ", "Constants: ", "Outputs: ", "TacticName: ")


def read_layer(line: str) -> BuiltLayer | None:
    """The layer that a line of the builder's log describes; None where it describes none."""
    found = _LAYER.match(line)
    if found is None:
        return None
    items = line.partition("Metadata: ")[2].split("\x1f")
    named = (origin[1] for item in items if (origin := _ORIGIN.match(item)) is not None)
    origins = dict.fromkeys(name for item in named for name in item.split("\x1e"))
    inputs, constants, outputs = (_types(line, part) for part in _PARTS[:3])
    return BuiltLayer(found["name"], found["kind"], inputs, constants, outputs, tuple(origins))


def _types(line: str, part: str) -> tuple[str, ...]:
    if part not in line:
        return ()
    text = line.split(part, 1)[1]
    ends = [text.index(other) for other in _PARTS if other in text]
    return tuple(_TYPE.findall(text[: min(ends, default=len(text))]))
