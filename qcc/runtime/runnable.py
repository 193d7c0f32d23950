"""One face for everything that can be run: a ``.qcc`` artifact, an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from qcc.errors import DataError, ModelError
from qcc.ir.core import Array


class Runnable(Protocol):
    """What benchmarks and comparisons need of an engine."""

    @property
    def engine(self) -> str:
        """What runs the model, for tables."""
        ...

    @property
    def input_names(self) -> Sequence[str]:
        """Names of the inputs, in order."""
        ...

    @property
    def input_types(self) -> Mapping[str, tuple[str, tuple[int | str | None, ...]]]:
        """numpy dtype name and shape of each input; symbols and None are free dimensions."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run on a full set of inputs; gives every output by name."""
        ...


_ORT_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(bool)": "bool",
}


class OnnxModel:
    """An ONNX model in onnxruntime on the CPU."""

    engine = "onnxruntime"

    def __init__(self, path: Path, threads: int = 1) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        try:
            self._session: Any = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise ModelError(f"onnxruntime cannot load {path}: {reason}") from None

    @property
    def input_names(self) -> Sequence[str]:
        """Names of the inputs, in order."""
        return [i.name for i in self._session.get_inputs()]

    @property
    def input_types(self) -> Mapping[str, tuple[str, tuple[int | str | None, ...]]]:
        """numpy dtype name and shape of each input."""
        return {
            i.name: (_ORT_DTYPES.get(i.type, i.type), tuple(i.shape))
            for i in self._session.get_inputs()
        }

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run on a full set of inputs."""
        names = [o.name for o in self._session.get_outputs()]
        try:
            outputs = self._session.run(names, dict(feeds))
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise DataError(f"onnxruntime cannot run on these inputs: {reason}") from None
        return dict(zip(names, outputs, strict=True))


def open_runnable(path: Path, *, threads: int = 1) -> Runnable:
    """The model at ``path``; its ending picks the engine.

    Raises ModelError for another ending or a file that does not load.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist")
    if path.suffix == ".onnx":
        return OnnxModel(path, threads)
    if path.suffix == ".qcc":
        from qcc.runtime.artifact import load

        return load(path, threads=threads)
    if path.suffix == ".plan":
        from qcc.runtime.tensorrt_engine import TensorRTEngine

        return TensorRTEngine(path)
    raise ModelError(f"{path} cannot be run: give a .qcc, .onnx or .plan file")
