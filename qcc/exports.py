"""Models for other runtimes: written, checked, and only then given to anybody.

An export is loaded and run in onnxruntime, held against the rules of its target, and for TensorRT
put through NVIDIA's own parser and builder where they are installed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qcc.errors import ConfigError, ModelError
from qcc.files import atomic_file
from qcc.ir.core import Array, Graph, Stage
from qcc.quant.report import CompileReport

if TYPE_CHECKING:
    from qcc.lint import LintReport
    from qcc.pipeline import QuantizedModel
    from qcc.runtime.export_check import ExportCheck
    from qcc.runtime.tensorrt_builder import BuilderReport

Progress = Callable[[str, int, "int | None"], None]

STAGE = "check export"

ONNXRUNTIME = "onnx"
"""The target whose exports onnxruntime fuses."""

TENSORRT = "tensorrt"
"""The target whose exports NVIDIA's builder can check."""

FLOAT_TYPES = ("float32", "float16")


GOOD_DB = 30.0
MOST_FLOAT16_LOSS_DB = 6.0
"""How many dB an export in float16 may lose against the one in float32, whose excess over
:data:`GOOD_DB` does not count."""


@dataclass(frozen=True)
class ExportOptions:
    """How an exported model is written.

    ``opset``: 10 to 25; ``float_type``: what everything that is not quantized computes in
    (``float32`` or ``float16``; the model's inputs and outputs keep their types);
    ``float_weights``: store weights as float behind a QuantizeLinear, not as integers.
    Raises ConfigError for others.
    """

    opset: int = 21
    float_type: str = "float32"
    float_weights: bool = False

    def __post_init__(self) -> None:
        """Check the names."""
        if self.float_type not in FLOAT_TYPES:
            known = " or ".join(FLOAT_TYPES)
            raise ConfigError(f"there is no float type '{self.float_type}': use {known}")


class ExportedModel:
    """A quantized model for another runtime: Q/DQ ONNX that was loaded and run before it is given.

    ``graph`` is the NUMBERED graph, ``report`` says what became of each node, ``lint`` what the
    rules of the target say of the file (None for a target without rules), ``built`` what NVIDIA's
    builder said, or the sentence why it was not asked or could not build the model (None for other
    targets), ``shapes`` those of a sample input, ``scales`` those of the activations of the float
    model by tensor name.
    """

    def __init__(
        self,
        graph: Graph,
        report: CompileReport,
        options: ExportOptions,
        lint: LintReport | None = None,
        built: BuilderReport | str | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        self.graph = graph
        self.report = report
        self.options = options
        self.lint = lint
        self.built = built
        self.shapes = dict(shapes or {})
        self.scales = dict(scales or {})

    def save(self, path: Path | str) -> None:
        """Write the model as ONNX (atomically); raises OutputError when that cannot be.

        For TensorRT, a script with the commands that build, time and compare it lies beside it.
        """
        from qcc.onnxio import write_onnx

        path = Path(path)
        write_onnx(self.graph, path, opset=self.options.opset)
        if self.report.target == TENSORRT:
            from qcc.runtime.tensorrt_script import write_script

            write_script(self.graph, path, self.shapes)

    def engine(self) -> bytes:
        """The engine that NVIDIA's builder made; raises ConfigError with the reason for none."""
        if self.built is None:
            raise ConfigError(f"an engine is TensorRT's: compile for {TENSORRT}")
        if isinstance(self.built, str) or self.built.engine is None:
            raise ConfigError(f"an engine cannot be built: {self.built}")
        return self.built.engine

    def save_calibration_cache(self, path: Path | str) -> None:
        """Write the scales of activations as a calibration cache (TensorRT 8 to 10, ModelOpt).

        Raises ConfigError for names that the format cannot hold, OutputError.
        """
        from qcc.backends.tensorrt.calibration_cache import cache_text

        text = cache_text(self.scales)
        with atomic_file(path) as file:
            file.write(text.encode())


def export_model(
    quantized: QuantizedModel,
    target: str,
    options: ExportOptions,
    model_bytes: int = 0,
    progress: Progress | None = None,
) -> ExportedModel:
    """Write a quantized model for ``target`` and check what was written.

    Raises ModelError where onnxruntime refuses the file or computes something else, and where it
    breaks a rule of the target: these are errors of qcc, not of the model.
    """
    from qcc.onnxio import write_onnx
    from qcc.runtime.export_check import check_export, float_outputs, output_sqnr

    graph = quantized.graph
    samples = first_samples(quantized)
    halved = options.float_type == "float16"
    say = progress or (lambda stage, done, total: None)
    with tempfile.TemporaryDirectory(prefix="qcc-export-") as folder:
        # A file, not a string: models over 2 GB cannot be serialized in one piece.
        path = Path(folder) / "model.onnx"
        written = _as_written(graph, options)
        write_onnx(written, path, opset=options.opset)
        say(STAGE, 1, 5)
        check = check_export(graph, path, samples, rounded=halved)
        say(STAGE, 2, 5)
        compared = _compared(graph, samples)
        say(STAGE, 3, 5)
        lint = _linted(path, target)
        fused = _fused_notes(path, target)
        say(STAGE, 4, 5)
        shapes = {name: array.shape for name, array in samples[0].items()} if samples else {}
        built = _built(path, target, shapes, quantized.float_graph)
        say(STAGE, 5, 5)
    exact = float_outputs(quantized.float_graph, samples)
    if halved:
        _check_float16(exact or check.expected, check)
    found = (*compared, *_lint_notes(lint), *fused, *_built_notes(graph, built))
    notes = (*quantized.report.notes, *found)
    report = quantized.report.with_(
        target=target,
        model_bytes=model_bytes,
        output_bytes=check.model_bytes,
        weight_bytes=check.weight_bytes,
        output_sqnr_db=output_sqnr(exact, check.outputs),
        notes=notes,
    )
    scales = {name: params.scale[0] for name, params in quantized.scales.items()}
    scales = scales or _stored_scales(graph)
    return ExportedModel(written, report, options, lint, built, shapes, scales)


def _stored_scales(graph: Graph) -> dict[str, float]:
    """The scales by which a model that came quantized stores its activations."""
    found = {}
    for node in graph.nodes:
        quant = node.output.tensor.quant if node.op == "q.quantize" else None
        if quant is not None and quant.per_tensor:
            found[node.operand(0).name] = quant.scale[0]
    return found


def _as_written(graph: Graph, options: ExportOptions) -> Graph:
    """``graph``, or a copy with weights or float values as ``options`` want them."""
    from qcc.passes.manager import PassManager, parse_pass_list

    passes = ["float-weights"] * options.float_weights
    passes += ["use-float16"] * (options.float_type == "float16")
    if not passes:
        return graph
    if graph.stage is not Stage.NUMBERED:
        raise ConfigError("float types and float weights are options of int8 exports only")
    copy = graph.clone()
    PassManager(parse_pass_list(",".join([*passes, "name-nodes"]))).run(copy)
    return copy


def first_samples(quantized: QuantizedModel) -> list[dict[str, Array]]:
    """A few of the kept calibration batches."""
    from qcc.runtime.export_check import SAMPLES

    kept = quantized.samples
    return [] if kept is None else [kept[index] for index in range(min(SAMPLES, len(kept)))]


def _check_float16(exact: Sequence[Mapping[str, Array]], check: ExportCheck) -> None:
    """Refuse an export in float16 that is much further from the float model than the float32 one.

    Roundings part at many places, by a step each, and later layers carry them on, so the two
    exports differ about as much as either differs from the float model.
    """
    from qcc.runtime.export_check import output_sqnr

    before, after = output_sqnr(exact, check.expected), output_sqnr(exact, check.outputs)
    for name, ratio in after.items():
        if not ratio >= min(before[name], GOOD_DB) - MOST_FLOAT16_LOSS_DB:
            raise ModelError(
                f"in float16 the output '{name}' has an SQNR of {ratio:.1f} dB, in float32 of "
                f"{before[name]:.1f} dB: numbers pass the range or the precision of float16; "
                "export the model with float32"
            )


def _compared(graph: Graph, samples: list[dict[str, Array]]) -> tuple[str, ...]:
    """What op by op on the first sample showed, in one sentence."""
    from qcc.backends.native_patterns import NATIVE_PATTERNS
    from qcc.runtime.op_by_op import compare_export

    if graph.stage is not Stage.NUMBERED:
        return ()
    found = compare_export(graph, NATIVE_PATTERNS, samples[:1])
    elements = sum(item.elements for item in found.stored)
    if not elements:
        return ()
    return (
        f"op by op in onnxruntime, {found.share:.2g} of {elements} stored values differ from the "
        f"reference, by at most {found.worst_steps} step(s)",
        *(f"op by op, {item.sentence}" for item in found.refused),
    )


def _linted(path: Path, target: str) -> LintReport | None:
    from qcc.lint import PROFILES, lint_model

    if target not in PROFILES:
        return None
    report = lint_model(path, target)
    if report.errors:
        raise ModelError(
            f"the export breaks a rule of {target}: {report.errors[0]}; this is an error of qcc: "
            "please report the model"
        )
    return report


def _lint_notes(lint: LintReport | None) -> tuple[str, ...]:
    return () if lint is None else tuple(str(finding) for finding in lint.warnings)


def _fused_notes(path: Path, target: str) -> tuple[str, ...]:
    """What onnxruntime makes of a file that is for it: how much is fused, and why not the rest."""
    if target != ONNXRUNTIME:
        return ()
    from qcc.runtime.fusion import fused_share, reasons

    report = fused_share(path)
    return (
        f"onnxruntime runs {report.fused} of {report.expected} quantized nodes on integers",
        *(f"{count} float there: {sentence}" for sentence, count in reasons(report.missing)),
    )


def _built(
    path: Path, target: str, shapes: Mapping[str, tuple[int, ...]], float_graph: Graph | None
) -> BuilderReport | str | None:
    """What NVIDIA's builder says of a file; None where it is not for TensorRT."""
    if target != TENSORRT:
        return None
    from qcc.runtime.tensorrt_check import check_with_builder

    return check_with_builder(path, shapes, float_graph)


def _built_notes(graph: Graph, built: BuilderReport | str | None) -> tuple[str, ...]:
    if built is None:
        return ()
    from qcc.runtime.tensorrt_check import builder_notes

    return builder_notes(graph, built)
