"""The commands that build, time and compare an export with TensorRT's own tools, as a script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote

from qcc.files import atomic_file
from qcc.ir.core import Graph, Value

SUFFIX = ".trt"

_SCRIPT = """\
#!/bin/sh
# Build, time and compare {model} with TensorRT, on the machine and GPU that will run it.
# Needs trtexec of TensorRT 10.12 or newer; the comparison needs: pip install polygraphy onnxruntime
set -eu
cd "$(dirname "$0")"

# The engine, and the type and time of each of its layers ({stem}.layers.json, {stem}.profile.json).
# Types are those of the model: --int8, --fp16 and --best must not be given.
trtexec --onnx={model} --stronglyTyped --saveEngine={stem}.plan{build_shapes} \\
    --profilingVerbosity=detailed --dumpLayerInfo --exportLayerInfo={stem}.layers.json \\
    --separateProfileRun --dumpProfile --exportProfile={stem}.profile.json

# Latency and throughput, without copies between host and device.
trtexec --loadEngine={stem}.plan --warmUp=500 --duration=10 --useCudaGraph --noDataTransfers{shapes}

# The results beside onnxruntime's. Both compute what the Q/DQ nodes say, in another order of float
# sums: a value that falls between two steps may be rounded either way, so look at the mean.
polygraphy run {model} --trt --strongly-typed --onnxrt --atol 1e-2 --rtol 1e-2 \\
    --check-error-stat mean{compared_shapes}
"""


def script_path(model: Path) -> Path:
    """``m.trt.sh`` beside ``m.trt.onnx`` or ``m.onnx``."""
    stem = model.name.removesuffix(".onnx").removesuffix(SUFFIX)
    return model.with_name(f"{stem}{SUFFIX}.sh")


def write_script(graph: Graph, model: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """Write the script of an export beside it; gives its path.

    ``shapes`` are those of sample inputs, for inputs with free dimensions.  Raises OutputError.
    """
    path = script_path(model)
    with atomic_file(path) as file:
        file.write(script(graph, model.name, shapes).encode())
    path.chmod(path.stat().st_mode | 0o111)
    return path


def script(graph: Graph, model: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The text of the script for a model file called ``model``."""
    free = [value for value in graph.inputs if _is_free(value)]
    least = {value.name: _least(value, shapes) for value in free}
    usual = {value.name: _usual(value, shapes) for value in free}
    ranges = (("min", least), ("opt", usual), ("max", usual))
    build = "".join(_option(f"--{kind}Shapes=", table, "x", ",") for kind, table in ranges)
    compared = "".join(_listed(f"--trt-{kind}-shapes", table) for kind, table in ranges)
    return _SCRIPT.format(
        model=quote(model),
        stem=quote(model.removesuffix(".onnx").removesuffix(SUFFIX)),
        build_shapes=build,
        shapes=_option("--shapes=", usual, "x", ","),
        compared_shapes=compared + _listed("--input-shapes", usual),
    )


def _is_free(value: Value) -> bool:
    return not all(isinstance(size, int) for size in value.tensor.shape or (None,))


def _usual(value: Value, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    given = shapes.get(value.name)
    if given is not None:
        return tuple(given)
    return tuple(d if isinstance(d, int) else 1 for d in value.tensor.shape or ())


def _least(value: Value, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """One sample of the batch; what else is free is as in the samples."""
    usual = _usual(value, shapes)
    declared = value.tensor.shape
    batch = declared is not None and len(declared) > 0 and not isinstance(declared[0], int)
    return (1, *usual[1:]) if batch else usual


def _option(option: str, table: Mapping[str, tuple[int, ...]], times: str, comma: str) -> str:
    if not table:
        return ""
    items = comma.join(f"{name}:{times.join(map(str, shape))}" for name, shape in table.items())
    return f" \\\n    {option}{quote(items)}"


def _listed(option: str, table: Mapping[str, tuple[int, ...]]) -> str:
    if not table:
        return ""
    items = " ".join(
        quote(f"{name}:[{','.join(map(str, shape))}]") for name, shape in table.items()
    )
    return f" \\\n    {option} {items}"
