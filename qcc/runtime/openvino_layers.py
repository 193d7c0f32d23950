"""What OpenVINO's CPU plugin runs in the end for a model: the precision of every final layer."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcc.errors import ModelError

MULTIPLYING = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
"""Layer types that take the time of a network."""

MISSING = "OpenVINO is not installed, so its layers were not looked at: pip install openvino"


@dataclass(frozen=True)
class OpenvinoLayer:
    """One layer of the compiled model: its type, kernel, and the precisions it works in.

    ``sources`` names the nodes of the file that went into it; ``outputs`` are precisions such as
    ``u8`` or ``f32``.
    """

    name: str
    kind: str
    kernel: str
    precision: str
    outputs: str
    sources: tuple[str, ...]

    @property
    def is_integer(self) -> bool:
        """Whether its kernel computes on 8-bit values."""
        return self.precision in ("u8", "i8") and self.kernel.lower().endswith("i8")


def installed() -> bool:
    """Whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


def openvino_layers(model: Path | str | bytes) -> tuple[OpenvinoLayer, ...]:
    """The final layers of an ONNX ``model`` on this CPU, in execution order.

    Free dimensions are taken as 1.  What is not 8-bit computes in float32.  Raises ModelError where
    OpenVINO is not installed or refuses the model.
    """
    if not installed():
        raise ModelError(MISSING)
    import openvino as ov

    core = ov.Core()
    try:
        read = core.read_model(model if isinstance(model, bytes) else str(model))
        if read.is_dynamic():
            read.reshape({item: _fixed(item.get_partial_shape()) for item in read.inputs})
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}
        runtime = core.compile_model(read, "CPU", options).get_runtime_model()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"OpenVINO refuses the model: {reason}") from None
    return tuple(_layer(node) for node in runtime.get_ordered_ops())


def _fixed(shape: Any) -> list[int]:
    return [size.get_length() if size.is_static else 1 for size in shape]


def _layer(node: Any) -> OpenvinoLayer:
    facts = node.get_rt_info()

    def fact(key: str) -> str:
        return str(facts[key].astype(str)) if key in facts else ""

    return OpenvinoLayer(
        node.get_friendly_name(),
        fact("layerType"),
        fact("primitiveType"),
        fact("runtimePrecision"),
        fact("outputPrecisions"),
        tuple(filter(None, fact("originalLayersNames").split(","))),
    )


def float_layers(layers: tuple[OpenvinoLayer, ...]) -> list[OpenvinoLayer]:
    """The layers of :data:`MULTIPLYING` types that do not compute on 8-bit values."""
    return [layer for layer in layers if layer.kind in MULTIPLYING and not layer.is_integer]
