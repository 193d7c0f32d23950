"""``qcc compile``: a float model and sample data in, int8 ONNX or native code out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qcc.cli.console import human_bytes, progress, result, result_json, words
from qcc.cli.options import (
    PLAIN,
    CalibrationOption,
    DataOptions,
    JsonOption,
    ModelArgument,
    TargetOption,
    ThreadsOption,
    takes_data_options,
)

_TOP_REASONS = 4


@takes_data_options
def compile_model(
    model: ModelArgument,
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="Where to write; its ending picks the form: "
            ".qcc .onnx .plan .qir .ll .s .o .so .a",
        ),
    ],
    calib: CalibrationOption = None,
    target: TargetOption = None,
    qconfig: Annotated[
        Path | None,
        typer.Option("--qconfig", metavar="FILE.json", help="A QConfigMapping as JSON."),
    ] = None,
    observer: Annotated[
        str | None,
        typer.Option("--observer", metavar="NAME", help="Activation observer for every node."),
    ] = None,
    threads: ThreadsOption = 1,
    opset: Annotated[
        int, typer.Option("--opset", help="Opset of an exported ONNX model (10 to 25).")
    ] = 21,
    float_type: Annotated[
        str,
        typer.Option(
            "--float-type",
            metavar="float32|float16",
            help="What everything that is not quantized computes in, in an exported model.",
        ),
    ] = "float32",
    float_weights: Annotated[
        bool,
        typer.Option(
            "--float-weights",
            help="Store weights of an exported model as float, each behind a QuantizeLinear.",
        ),
    ] = False,
    tune: Annotated[
        float,
        typer.Option(
            "--tune",
            metavar="SECONDS",
            min=0,
            help="Measure schedules of the kernels on this machine for so long.",
        ),
    ] = 0.0,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="int8|float32|float8|int4-weights",
            help="float32 compiles the model as it is, natively; float8 and int4-weights are for "
            "TensorRT.",
        ),
    ] = "int8",
    weights_file: Annotated[
        bool,
        typer.Option("--weights-file", help="Keep the weights of a .o, .so or .a beside it."),
    ] = False,
    calibration_cache: Annotated[
        Path | None,
        typer.Option(
            "--calibration-cache",
            metavar="FILE",
            help="Also write the scales as TensorRT 8 to 10 and ModelOpt read them.",
        ),
    ] = None,
    reading: DataOptions = PLAIN,
    as_json: JsonOption = False,
) -> None:
    """Quantize MODEL.onnx with sample data and write OUT.

    [bold]Examples[/]

      qcc compile model.onnx --calib samples.npz -o model.qcc

      qcc compile model.onnx --calib samples.npz -o model.int8.onnx

      qcc compile model.onnx --calib samples.npz --target tensorrt -o model.trt.onnx

      qcc compile model.onnx --calib photos/ --image-size 224 --mean 0.485,0.456,0.406
      --std 0.229,0.224,0.225 -o model.qcc

      qcc compile model.onnx --calib samples.npz --tune 60 -o model.qcc

      qcc compile model.onnx --precision float32 -o model.qcc

      qcc compile model.onnx --calib loader:batches --target x86-avx2 -o model.s

      qcc compile model.onnx --calib samples.npz --target arm-neon -o model.o
    """
    from qcc.compiler import compile_file
    from qcc.outputs import OUTPUT_FORMS, check_output

    form = check_output(output)
    chosen = target or OUTPUT_FORMS[form]
    with progress() as bars:
        batches = None if calib is None else reading.open(model, calib)
        report = compile_file(
            model,
            output,
            calibration=batches,
            target=chosen,
            qconfig=qconfig,
            observer=observer,
            threads=threads,
            opset=opset,
            float_type=float_type,
            float_weights=float_weights,
            tune=tune,
            precision=precision,
            weights_file=weights_file,
            calibration_cache=calibration_cache,
            progress=bars,
        )
    if as_json:
        result_json({"output": str(output), **report.to_dict()})
        return
    summarize(report, model, output)
    result(str(output))


def summarize(report: Any, model: Path, output: Path) -> None:
    """Say on stderr what a person wants to know after a compilation."""
    quantized = f"[bold]{report.int8_nodes}[/] nodes {report.quantized_type}"
    words.print(f"{quantized}, [bold]{report.float_nodes}[/] float")
    for reason, count in report.float_reasons()[:_TOP_REASONS]:
        words.print(f"  {count} float: {reason}", soft_wrap=True)
    before, after = report.model_bytes, report.output_bytes
    words.print(f"{human_bytes(before)} → {human_bytes(after)} ({before / max(after, 1):.1f}x)")
    for name, sqnr in report.output_sqnr_db.items():
        words.print(f"output '{name}': SQNR {sqnr:.1f} dB on calibration data")
    for note in report.notes:
        words.print(f"note: {note}", soft_wrap=True)
    words.print(f"{model} → {output} for {report.target}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("compile")(compile_model)
