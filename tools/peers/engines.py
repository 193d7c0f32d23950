"""Every engine: how it quantizes a net, and how its file is opened for running.

A row of :data:`ENGINES` is one column of the comparison.  ``build`` gives the file to run, with a
note where a step had to be left out, or raises :class:`Unavailable` with the reason; ``runtime``
names the opener.  All imports of runtimes are inside the functions: a worker loads one of them.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from peers.nets import Feed, Net, Unavailable, load_feeds
from peers.structure import structure_of

Opened: TypeAlias = "tuple[Callable[[Feed], None], Callable[[], list[Any]]]"
"""``bind(feed)``, and ``run()`` giving the outputs as arrays: each runtime's quickest way.

The peers bind an input once and read it in place, which costs them less a run than handing it over
each time; qcc's call takes the arrays.
"""

LEAST_MATRIX_SHARE = 0.3
"""Share of MatMul and Gemm in a net's MACs from which quantizing only these is measured."""


@dataclass(frozen=True)
class Setting:
    """What a measurement chose: qcc's target and precision, the instruction set of all."""

    target: str = "host"
    isa: str | None = None
    matrix_share: float = 1.0
    precision: str = "int8"

    def environment(self) -> dict[str, str]:
        """Environment variables that hold peers to ``isa`` where they have such a switch."""
        return {"ONEDNN_MAX_CPU_ISA": "AVX2"} if self.isa == "avx2" else {}


@dataclass(frozen=True)
class Built:
    """A file to run, and what was left out in making it (empty: nothing)."""

    path: Path
    note: str = ""


Build: TypeAlias = "Callable[[Net, Path, Setting], Built]"


@dataclass(frozen=True)
class Engine:
    """One row: ``label`` is its name in tables, ``packages`` are what its files depend on."""

    name: str
    label: str
    runtime: str
    build: Build
    packages: tuple[str, ...]
    integer: bool = True
    properties: Mapping[str, str] = field(default_factory=dict)


# -- building --------------------------------------------------------------------------------------


def _build_qcc(net: Net, out: Path, setting: Setting) -> Built:
    import qcc

    quantized = structure_of(net.model).quantized
    calibration = None if quantized else load_feeds(net.calibration)
    path = out.with_suffix(".qcc")
    made = qcc.compile(net.model, calibration, target=setting.target, precision=setting.precision)
    made.save(path)
    return Built(path)


def _as_it_is(net: Net, out: Path, setting: Setting) -> Built:
    _need_float(net)
    return Built(net.model)


def _need_float(net: Net) -> None:
    if structure_of(net.model).quantized:
        raise Unavailable("the file is a quantized model already")


class _Reader:
    """Calibration feeds as onnxruntime reads them."""

    def __init__(self, feeds: list[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def _prepared(model: Path, out: Path, how: str) -> Path:
    """The model after onnxruntime's own preparation: ``full``, ``no-symbols`` or ``none``."""
    if how == "none":
        return model
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = out.with_suffix(f".{how}.onnx")
    quant_pre_process(str(model), str(path), skip_symbolic_shape=how == "no-symbols")
    return path


_PREPARATIONS = {
    "full": "",
    "no-symbols": "quant_pre_process without symbolic shapes",
    "none": "without quant_pre_process",
}
"""Ways to prepare a model, the documented one first, and what to say of the others."""


def _try_preparations(net: Net, out: Path, quantize: Callable[[Path, Path], None]) -> Built:
    path, failure = out.with_suffix(".onnx"), ""
    for how, note in _PREPARATIONS.items():
        try:
            quantize(_prepared(net.model, out, how), path)
            _open_onnxruntime(Opening(path, 1, {}))  # some quantized models are refused only here
            return Built(path, note)
        except Exception as error:
            failure = failure or one_line(error)
    raise Unavailable(f"onnxruntime: {failure}")


def _build_static(net: Net, out: Path, form: str, ops: list[str] | None = None) -> Built:
    from onnxruntime import quantization as q

    def quantize(source: Path, target: Path) -> None:
        q.quantize_static(
            str(source),
            str(target),
            _Reader(load_feeds(net.calibration)),
            quant_format=q.QuantFormat[form],
            per_channel=True,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            calibrate_method=q.CalibrationMethod.MinMax,
            op_types_to_quantize=ops,
        )

    return _try_preparations(net, out, quantize)


def _build_qdq(net: Net, out: Path, setting: Setting) -> Built:
    if structure_of(net.model).quantized:
        return Built(net.model, "the file as it is")
    return _build_static(net, out, "QDQ")


def _build_qoperator(net: Net, out: Path, setting: Setting) -> Built:
    _need_float(net)
    return _build_static(net, out, "QOperator")


def _build_matrices(net: Net, out: Path, setting: Setting) -> Built:
    _need_float(net)
    if setting.matrix_share < LEAST_MATRIX_SHARE:
        share = round(100 * setting.matrix_share)
        raise Unavailable(f"MatMul and Gemm do {share} % of the net's MACs")
    return _build_static(net, out, "QDQ", ["MatMul", "Gemm"])


def _build_dynamic(net: Net, out: Path, setting: Setting) -> Built:
    _need_float(net)
    from onnxruntime.quantization import quantize_dynamic

    return _try_preparations(net, out, lambda source, to: quantize_dynamic(str(source), str(to)))


def _build_bfloat16(net: Net, out: Path, setting: Setting) -> Built:
    _need_bfloat16(setting)
    _need_float(net)
    return Built(net.model)


def _need_bfloat16(setting: Setting) -> None:
    import openvino as ov

    if setting.isa == "avx2" or "BF16" not in ov.Core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        raise Unavailable("OpenVINO has no bf16 on this instruction set")


def _nncf(preset: str, bfloat16: bool = False) -> Build:
    def build(net: Net, out: Path, setting: Setting) -> Built:
        if bfloat16:
            _need_bfloat16(setting)
        _need_float(net)
        import nncf
        import openvino as ov

        feeds = load_feeds(net.calibration)
        attends = structure_of(net.model).attends
        quantized = nncf.quantize(
            ov.Core().read_model(str(net.model)),
            nncf.Dataset(feeds),
            preset=nncf.QuantizationPreset(preset),
            subset_size=len(feeds),
            model_type=nncf.ModelType.TRANSFORMER if attends else None,
        )
        path = out.with_suffix(".xml")
        ov.save_model(quantized, str(path), compress_to_fp16=False)
        return Built(path, "ModelType.TRANSFORMER" if attends else "")

    return build


_ORT = ("onnxruntime", "onnx")
_OV = ("openvino", "nncf")
_F32 = {"INFERENCE_PRECISION_HINT": "f32"}


def _onnxruntime(name: str, what: str, build: Build, integer: bool = True) -> Engine:
    return Engine(name, f"onnxruntime {what}", "onnxruntime", build, _ORT, integer)


def _openvino(name: str, what: str, build: Build, integer: bool = True) -> Engine:
    return Engine(name, f"OpenVINO {what}", "openvino", build, (*_OV, *_ORT), integer, _F32)


def _with_bfloat16(engine: Engine) -> Engine:
    """OpenVINO's own choice of precision, which is bf16 on CPUs that have it."""
    return replace(engine, properties={})


ENGINES: dict[str, Engine] = {
    row.name: row
    for row in (
        Engine("qcc", "qcc", "qcc", _build_qcc, ("llvmlite", "onnxruntime", "onnx", "numpy")),
        _onnxruntime("ort-f32", "float32", _as_it_is, integer=False),
        _onnxruntime("ort-qdq", "int8 QDQ", _build_qdq),
        _onnxruntime("ort-qop", "int8 QOperator", _build_qoperator),
        _onnxruntime("ort-dyn", "int8 dynamic", _build_dynamic),
        _onnxruntime("ort-mm", "int8 MatMul only", _build_matrices),
        _openvino("ov-f32", "float32", _as_it_is, integer=False),
        _with_bfloat16(_openvino("ov-bf16", "bf16", _build_bfloat16, integer=False)),
        _openvino("ov-nncf", "int8 NNCF performance", _nncf("performance")),
        _with_bfloat16(
            _openvino("ov-nncf-bf16", "int8 NNCF performance + bf16", _nncf("performance", True))
        ),
        _openvino("ov-mixed", "int8 NNCF mixed", _nncf("mixed")),
        _openvino("ov-qdq", "on onnxruntime's QDQ", _build_qdq),
    )
}
"""All engines by name, qcc first."""

FLOAT_ENGINES = ("qcc", "ort-f32", "ov-f32")
"""Those that compute in float32, where qcc is asked to."""


def check_installed(engine: Engine) -> None:
    """Raises Unavailable where a package is missing that ``engine`` needs."""
    for package in _OV if engine.runtime == "openvino" else ():
        if importlib.util.find_spec(package) is None:
            raise Unavailable(f"{package} is not installed; pip install 'qcc[bench]' brings it")


def one_line(error: BaseException) -> str:
    """An error as one line without folders, short enough for a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines) or type(error).__name__
    text = text.replace("|", "/")
    return text if len(text) <= 200 else text[:197] + "..."


# -- running ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opening:
    """How a file is opened; ``shapes`` are those of every feed, None where feeds differ in size."""

    path: Path
    threads: int
    properties: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]] | None = None


def _open_qcc(how: Opening) -> Opened:
    from qcc.runtime.artifact import load

    executable = load(how.path, threads=how.threads)
    bound: Feed = {}
    return bound.update, lambda: list(executable.run(bound).values())


def _open_onnxruntime(how: Opening) -> Opened:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = how.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(str(how.path), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    outputs = [output.name for output in session.get_outputs()]

    def bind(feed: Feed) -> None:
        binding.clear_binding_outputs()  # they keep the shapes of the last run
        for name in outputs:
            binding.bind_output(name)
        for name, array in feed.items():
            binding.bind_cpu_input(name, array)

    def run() -> list[Any]:
        session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())

    return bind, run


def _open_openvino(how: Opening) -> Opened:
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(how.path))
    if how.shapes and model.is_dynamic():
        model.reshape({name: list(shape) for name, shape in how.shapes.items()})
    config = {
        "INFERENCE_NUM_THREADS": str(how.threads),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        **how.properties,
    }
    request = core.compile_model(model, "CPU", config).create_infer_request()

    count = len(model.outputs)

    def bind(feed: Feed) -> None:
        for name, array in feed.items():
            request.set_tensor(name, ov.Tensor(array, shared_memory=True))

    def run() -> list[Any]:
        request.infer(share_outputs=True)
        return [request.get_output_tensor(index).data for index in range(count)]

    return bind, run


OPENERS: dict[str, Callable[[Opening], Opened]] = {
    "qcc": _open_qcc,
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
}
"""How each runtime opens a file."""


def import_runtime(runtime: str) -> None:
    """Load the runtime's modules, so that its size is not counted as the net's."""
    if runtime == "qcc":
        import qcc.runtime.artifact  # noqa: F401
    elif runtime == "onnxruntime":
        import onnxruntime  # noqa: F401
    else:
        import openvino  # noqa: F401


def pin(cores: int) -> None:
    """Hold this process to the first ``cores`` cores that it may use."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
