"""From a model file to an executable or an exported model, for the command line and Python."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcc.errors import ConfigError, ModelError
from qcc.exports import TENSORRT, ExportedModel, ExportOptions, export_model, first_samples
from qcc.files import check_writable
from qcc.ir.core import Array, Graph
from qcc.outputs import check_form, check_output, output_notes, write_output, written_bytes
from qcc.quant.report import CompileReport

if TYPE_CHECKING:
    from qcc.pipeline import QuantizedModel
    from qcc.quant.calibration.data import SampleSource
    from qcc.quant.qconfig_mapping import QConfigMapping
    from qcc.runtime.executable import Executable

Progress = Callable[[str, int, "int | None"], None]

NEEDS_SAMPLES = (
    "a float model needs sample inputs to calibrate with: give --calib DATA "
    "(calibration=... in Python)"
)


def compile(
    model: Path | str | bytes | Graph,
    calibration: Iterable[Mapping[str, Array]] | None = None,
    *,
    target: str = "host",
    threads: int = 1,
    qconfig_mapping: QConfigMapping | None = None,
    observer: str | None = None,
    opset: int = 21,
    float_type: str = "float32",
    float_weights: bool = False,
    tune: float = 0.0,
    precision: str = "int8",
    progress: Progress | None = None,
) -> Executable | ExportedModel:
    """Quantize ``model`` and compile it.

    ``calibration`` yields ``{input name: array}`` and is consumed once; a model that already holds
    QuantizeLinear/DequantizeLinear needs none.  ``target`` is ``host``, an instruction set, or
    ``onnx``: native targets give an Executable, export targets an ExportedModel; both have
    ``save`` and ``report``.  ``observer`` names the activation observer of the default mapping.
    ``opset`` and ``float_type`` (``float32`` or ``float16``: what is not quantized) are those of an
    exported model, and ``float_weights`` leaves its weights float behind a QuantizeLinear.
    ``tune`` seconds go into measuring schedules of matrix kernels on this machine.
    ``progress(stage, done, total)`` is called on the way.

    With ``precision="float32"`` nothing is quantized, and what has float32 kernels is compiled as
    it is.  Sample inputs then only say the shapes of free dimensions, and are not needed otherwise.

    Raises ModelError, DataError or ConfigError in one sentence.
    """
    backend = backend_name(target)
    options = ExportOptions(opset, float_type, float_weights)
    if target not in export_targets() and options != ExportOptions(opset):
        raise ConfigError(
            f"float types and float weights are options of exported models, not of {target}"
        )
    _check_tuning(target, tune)
    quantizing = {"qconfig": qconfig_mapping, "observer": observer, "tune": tune}
    _check_precision(precision, target, quantizing)
    graph = model if isinstance(model, Graph) else read_graph(model)
    size = _model_bytes(model)
    if precision == "float32":
        return _compile_float(graph, calibration, target, threads, size)
    if precision in NARROW:
        quantized = _narrowed(graph, calibration, backend, precision, progress)
    else:
        quantized = quantize(graph, calibration, backend, qconfig_mapping, observer, progress)
    if target in export_targets():
        return export_model(quantized, target, options, size, progress)
    return _native(quantized, target, threads, size, tune)


NARROW = ("float8", "int4-weights")
"""What only TensorRT computes with."""

PRECISIONS = ("int8", "float32", *NARROW)
"""What ``compile`` computes with."""


def _check_precision(precision: str, target: str, quantizing: Mapping[str, Any]) -> None:
    """Refuse what makes no sense with a precision."""
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ConfigError(f"there is no precision '{precision}'; choose one of {known}")
    if precision in NARROW and target != TENSORRT:
        raise ConfigError(f"{precision} is for --target {TENSORRT}, not for {target}")
    if precision == "float32" and target in export_targets():
        raise ConfigError(
            f"target {target} is for quantized models: choose a native target for float32"
        )
    given = [name for name, value in quantizing.items() if value]
    if given and precision != "int8":
        what = "is not quantized and not tuned" if precision == "float32" else "chooses its own"
        raise ConfigError(f"{precision} code {what}: leave out {' and '.join(given)}")


def _narrowed(
    graph: Graph,
    samples: Iterable[Mapping[str, Array]] | None,
    backend: str,
    precision: str,
    progress: Progress | None,
) -> QuantizedModel:
    """The model in one of :data:`NARROW`."""
    from qcc.backends.registry import backend_config
    from qcc.narrow import quantize_activations_to_float8, store_weights_in_int4
    from qcc.pipeline import is_quantized
    from qcc.runtime.export_check import SAMPLES

    if is_quantized(graph):
        raise ConfigError(
            f"the model is quantized already: give the float model to make a {precision} one"
        )
    config = backend_config(backend)
    if precision == "int4-weights":
        return store_weights_in_int4(graph, samples, config, SAMPLES)
    if samples is None:
        raise ConfigError(NEEDS_SAMPLES)
    return quantize_activations_to_float8(graph, samples, config, progress)


def _compile_float(
    graph: Graph,
    samples: Iterable[Mapping[str, Array]] | None,
    target: str,
    threads: int,
    size: int,
) -> Executable:
    """Native float32 code of a FLOAT graph, for the shapes of the first sample if there is one."""
    import numpy as np

    from qcc.pipeline import is_quantized, keep_float
    from qcc.ref.evaluate import check_feeds
    from qcc.runtime.build import codegen

    if is_quantized(graph):
        raise ConfigError(
            "the model is quantized already, so it cannot be compiled as float32: leave the "
            "precision at int8, or give the float model"
        )
    first = None if samples is None else next(iter(samples), None)
    if first is None and _has_free_sizes(graph):
        raise ConfigError(
            "the model's inputs have free dimensions besides the first: give sample inputs of the "
            "shapes that will come, --calib DATA (calibration=... in Python)"
        )
    given = [] if first is None else [{name: np.asarray(array) for name, array in first.items()}]
    for feeds in given:
        check_feeds(graph, feeds)
    kept = keep_float(graph)
    shapes = _shapes_to_compile(kept, given)
    # Branches keep their free shapes; those that samples choose become native code by themselves.
    plain = not any(node.subgraphs for node in kept.nodes)
    executable = codegen(kept, target, threads, shapes=shapes, floats=plain, samples=given)
    notes = (*graph.info.notes, *executable.report.notes)
    executable.report = executable.report.with_(model_bytes=size, notes=notes)
    return executable


def _has_free_sizes(graph: Graph) -> bool:
    """Whether a dimension other than an input's first is symbolic, or a rank unknown."""
    shapes = [value.tensor.shape for value in graph.inputs]
    return any(
        shape is None or not all(isinstance(size, int) for size in shape[1:]) for shape in shapes
    )


def _check_tuning(target: str, tune: float) -> None:
    """Refuse before any work is done what cannot be tuned here."""
    if not tune:
        return
    if tune < 0:
        raise ConfigError(f"the seconds to tune for must be positive, got {tune:g}")
    if target in export_targets():
        raise ConfigError(f"target {target} gives an ONNX model, which has no kernels to tune")
    from qcc.backends.llvm.isa import can_run
    from qcc.runtime.build import target_instruction_sets

    foreign = [isa.name for isa in target_instruction_sets(target) if not can_run(isa)]
    if foreign:
        raise ConfigError(
            f"kernels for {', '.join(foreign)} cannot be measured on this CPU: compile without "
            "tuning, or on a machine that runs them"
        )


def quantize(
    graph: Graph,
    calibration: Iterable[Mapping[str, Array]] | None,
    backend: str,
    mapping: QConfigMapping | None = None,
    observer: str | None = None,
    progress: Progress | None = None,
) -> QuantizedModel:
    """The Q/DQ form of ``graph`` for ``backend``, by calibration or from its own Q/DQ nodes."""
    from qcc.backends.registry import backend_config
    from qcc.foreign import take_over
    from qcc.pipeline import convert, is_quantized, prepare

    config = backend_config(backend)
    if is_quantized(graph):
        chosen = _mapping(mapping, observer, config)
        return take_over(graph, config, calibration, chosen, progress)
    if calibration is None:
        raise ConfigError(NEEDS_SAMPLES)
    prepared = prepare(graph, _mapping(mapping, observer, config), config)
    prepared.calibrate(calibration, progress)
    return convert(prepared, progress)


def _mapping(mapping: QConfigMapping | None, observer: str | None, config: Any) -> Any:
    if observer is None:
        return mapping
    if mapping is not None:
        raise ConfigError("give either a QConfigMapping or an observer, not both")
    from qcc.quant.qconfig_mapping import mapping_with_observer

    return mapping_with_observer(observer, config.name)


def _native(
    quantized: QuantizedModel, target: str, threads: int, size: int, tune: float
) -> Executable:
    from qcc.runtime.build import codegen
    from qcc.runtime.export_check import float_outputs, output_sqnr
    from qcc.runtime.report import merge_reports

    samples = first_samples(quantized)
    shapes = _shapes_to_compile(quantized.graph, samples)
    executable = codegen(
        quantized.graph, target, threads, shapes=shapes, tune=tune, samples=samples
    )
    report = merge_reports(quantized.report, executable.report)
    runs_here = executable if executable.running else _for_this_machine(executable, shapes)
    if runs_here is not None:
        exact = float_outputs(quantized.float_graph, samples)
        sqnr = output_sqnr(exact, [runs_here.run(feeds) for feeds in samples[: len(exact)]])
        report = report.with_(output_sqnr_db=sqnr)
    executable.report = report.with_(model_bytes=size)
    return executable


def _for_this_machine(
    executable: Executable, shapes: Mapping[str, tuple[int, ...]]
) -> Executable | None:
    """The same numbers as code that runs here (every row gives the same bytes); None if none does.

    Only so can a machine say how good the code is that it compiles for others.
    """
    from qcc.backends.llvm.isa import INSTRUCTION_SETS, best_for_host
    from qcc.runtime.build import codegen

    host = best_for_host(INSTRUCTION_SETS.values())
    if host is None or executable.graph is None:
        return None
    return codegen(executable.graph, host.name, shapes=shapes)


def _shapes_to_compile(graph: Graph, samples: list[dict[str, Array]]) -> dict[str, tuple[int, ...]]:
    """Those of the first sample; without samples, the declared ones with 1 for what is free."""
    if samples:
        return {name: array.shape for name, array in samples[0].items()}
    return {
        value.name: tuple(d if isinstance(d, int) else 1 for d in value.tensor.shape or ())
        for value in graph.inputs
    }


def _model_bytes(model: Path | str | bytes | Graph) -> int:
    if isinstance(model, Graph):
        return 0
    return len(model) if isinstance(model, bytes) else Path(model).stat().st_size


# -- files -----------------------------------------------------------------------------------------


def compile_file(
    model: Path,
    output: Path,
    *,
    calibration: Iterable[Mapping[str, Array]] | None,
    target: str,
    qconfig: Path | None = None,
    observer: str | None = None,
    threads: int = 1,
    opset: int = 21,
    float_type: str = "float32",
    float_weights: bool = False,
    tune: float = 0.0,
    precision: str = "int8",
    weights_file: bool = False,
    calibration_cache: Path | None = None,
    progress: Progress | None = None,
) -> CompileReport:
    """Compile ``model`` and write ``output`` in the form that its ending asks for.

    ``weights_file`` keeps the weights out of object code, in a file beside it;
    ``calibration_cache`` is where the scales of activations are written for TensorRT 8 to 10.
    """
    check_output(output)
    _check_cache(calibration_cache, target)
    backend_name(target)
    check_form(output, target, target in export_targets(), weights_file)
    mapping = None if qconfig is None else _read_mapping(qconfig)
    compiled = compile(
        model,
        calibration,
        target=target,
        threads=threads,
        qconfig_mapping=mapping,
        observer=observer,
        opset=opset,
        float_type=float_type,
        float_weights=float_weights,
        tune=tune,
        precision=precision,
        progress=progress,
    )
    write_output(compiled, output, weights_file)
    if calibration_cache is not None and isinstance(compiled, ExportedModel):
        compiled.save_calibration_cache(calibration_cache)
    notes = (*compiled.report.notes, *output_notes(compiled, output))
    return compiled.report.with_(output_bytes=written_bytes(output, weights_file), notes=notes)


def _check_cache(path: Path | None, target: str) -> None:
    """Refuse a calibration cache that cannot be, before any work is done."""
    if path is None:
        return
    if target != "tensorrt":
        raise ConfigError(
            f"a calibration cache is for TensorRT, not for {target}: use --target tensorrt"
        )
    check_writable(path)


def _read_mapping(path: Path) -> QConfigMapping:
    from qcc.quant.qconfig_mapping import QConfigMapping

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the QConfigMapping {path}: {error}") from None
    return QConfigMapping.from_json(text)


def read_graph(source: Path | str | bytes) -> Graph:
    """A graph from ``.onnx``, ``.qir`` or standard input (``-``, as .qir text)."""
    from qcc.onnxio import read_onnx

    if isinstance(source, bytes):
        return read_onnx(source)
    if str(source) == "-":
        from qcc.ir.parse import parse_graph

        return parse_graph(sys.stdin.read())
    path = Path(source)
    if not path.is_file():
        raise ModelError(f"{path} does not exist" if not path.exists() else f"{path} is a folder")
    if path.suffix != ".qir":
        return read_onnx(path)
    from qcc.ir.parse import parse_graph

    try:
        return parse_graph(path.read_text())
    except UnicodeDecodeError:
        raise ModelError(f"{path} is not a text file") from None


def open_data(
    source: str,
    model: Path,
    *,
    samples: int | None = None,
    image_size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    layout: str = "nchw",
) -> SampleSource:
    """Sample inputs for the model in file ``model``; see :mod:`qcc.quant.calibration.data`."""
    from qcc.quant.calibration.batches import input_specs
    from qcc.quant.calibration.data import open_data as open_source
    from qcc.quant.calibration.images import ImageOptions

    images = ImageOptions(image_size, mean, std, layout)
    inputs = input_specs(read_graph(model))
    return open_source(source, inputs, samples=samples, images=images)


# -- what there is ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class TargetInfo:
    """One row of ``qcc targets``."""

    name: str
    kind: str
    status: str
    description: str

    def to_dict(self) -> dict[str, str]:
        """Plain data for JSON."""
        return asdict(self)


def backend_name(target: str) -> str:
    """The backend that serves a target; raises ConfigError with the known names."""
    from qcc.runtime.build import native_backend_name, native_targets

    native, exports = native_targets(), export_targets()
    if target in exports:
        return target
    names = [name.strip() for name in target.split(",")]
    unknown = [name for name in names if name not in (*native, *exports)]
    if unknown:
        known = f"{', '.join(exports)}, or one or more (with commas) of {', '.join(native)}"
        wrong = "' or '".join(unknown)
        raise ConfigError(f"there is no target '{wrong}'; choose {known}")
    mixed = [name for name in names if name in exports]
    if mixed:
        raise ConfigError(
            f"target {mixed[0]} writes an ONNX model and cannot be one of several: compile for "
            f"{mixed[0]} and for the others one after the other"
        )
    return native_backend_name(target)


def list_targets() -> list[TargetInfo]:
    """All targets, ``host`` first."""
    from qcc.backends.llvm.isa import INSTRUCTION_SETS, best_for_host, can_run
    from qcc.backends.registry import backend_config

    host = best_for_host(INSTRUCTION_SETS.values())
    status = "has none" if host is None else f"is {host.name}"
    rows = [TargetInfo("host", "native", status, "the best that this CPU can run")]
    for isa in INSTRUCTION_SETS.values():
        status = "runs" if can_run(isa) else "compiles only"
        what = f"{8 * isa.vector_bytes}-bit vectors, {isa.dot}"
        rows.append(TargetInfo(isa.name, "native", status, what))
    for name in export_targets():
        what = backend_config(name).description or "Q/DQ model for another runtime"
        rows.append(TargetInfo(name, "export", "exports", what))
    return rows


def export_targets() -> tuple[str, ...]:
    """Backends that are a file format: those whose BackendConfig names no LLVM target."""
    from qcc.backends.registry import backend_config, backend_names

    return tuple(name for name in backend_names() if not backend_config(name).target)


def explain_file(model: Path, target: str) -> CompileReport:
    """What each node of ``model`` would become, without calibration."""
    from qcc.backends.registry import backend_config
    from qcc.pipeline import explain

    return explain(read_graph(model), backend_config(backend_name(target)))
