"""QConfig: how one op's activations and weight are observed, and each backend's default.

Names and defaults follow torch.ao.quantization.qconfig (torch 2.13), except that symmetric int8
weights use [-127, 127], that qcc's own backends observe activations by
:data:`default_activation_observer`, and that none of them needs ``reduce_range``: its kernels never
saturate on the way (numerics contract 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qcc.errors import ConfigError
from qcc.quant.json_text import check_keys
from qcc.quant.observers.base import Observer, ObserverSpec
from qcc.quant.observers.fixed import FixedQParamsObserver
from qcc.quant.observers.histogram import HistogramObserver
from qcc.quant.observers.minmax import MinMaxObserver, PerChannelMinMaxObserver
from qcc.quant.observers.mse import MSEObserver
from qcc.quant.observers.registry import observer_spec_from_dict


@dataclass(frozen=True)
class QConfig:
    """How to observe an op's activations and its weight.

    Each is an :class:`ObserverSpec`; an observer class stands for its defaults.  Raises ConfigError
    for anything else.
    """

    activation: ObserverSpec
    weight: ObserverSpec

    def __post_init__(self) -> None:
        """Turn classes into specs; raises ConfigError for what is neither."""
        object.__setattr__(self, "activation", _as_spec(self.activation, "activation"))
        object.__setattr__(self, "weight", _as_spec(self.weight, "weight"))

    def to_dict(self) -> dict[str, Any]:
        """The QConfig as JSON data."""
        return {"activation": self.activation.to_dict(), "weight": self.weight.to_dict()}

    @classmethod
    def from_dict(cls, data: Any) -> QConfig:
        """What :meth:`to_dict` wrote; raises ConfigError for anything else."""
        keys = ("activation", "weight")
        check_keys(data, keys, "a QConfig")
        missing = [key for key in keys if key not in data]
        if missing:
            raise ConfigError(f"a QConfig needs '{missing[0]}'")
        return cls(*(observer_spec_from_dict(data[key]) for key in keys))


def _as_spec(value: Any, role: str) -> ObserverSpec:
    if isinstance(value, ObserverSpec):
        return value
    if isinstance(value, type) and issubclass(value, Observer):
        return value.with_args()
    raise ConfigError(
        f"QConfig's {role} must be an observer such as MinMaxObserver.with_args(dtype='int8'), "
        f"got {value!r}"
    )


default_weight_observer = MinMaxObserver.with_args(dtype="int8", qscheme="per_tensor_symmetric")
"""int8 [-127, 127], one scale, ``absmax / 127``."""
default_per_channel_weight_observer = PerChannelMinMaxObserver.with_args(
    dtype="int8", qscheme="per_channel_symmetric"
)
"""int8 [-127, 127], one scale a channel of axis 0, ``absmax / 127``."""
default_histogram_observer = HistogramObserver.with_args()
"""uint8 [0, 255], affine, torch's histogram search."""

default_activation_observer = MSEObserver.with_args(norm=2.4)
"""uint8 [0, 255], affine, the range of least ``|error|**2.4`` over all samples.

The power is LAPQ's and BRECQ's: between least squares, which clips the rare large values that
detectors decide by, and the full range, which wastes steps on outliers (``docs/accuracy.md``).
"""

_SIGNED = default_activation_observer.with_args(dtype="int8")
_SYMMETRIC = _SIGNED.with_args(qscheme="per_tensor_symmetric", quant_min=-128, quant_max=127)
"""The whole range of int8, which is what QuantizeLinear gives: a narrower one would need a Clip."""
_REDUCED = HistogramObserver.with_args(reduce_range=True)
_XNNPACK_EPS = 2.0**-12
"""XNNPACK's factors of requantization lie in [2^-32, 256), which smaller scales could leave."""
_CHANNELS = default_per_channel_weight_observer

DEFAULT_QCONFIGS: dict[str, QConfig] = {
    "x86": QConfig(default_activation_observer, _CHANNELS),
    "x86-avx2": QConfig(default_activation_observer, _CHANNELS),
    "arm": QConfig(_SIGNED, _CHANNELS),
    "onnx": QConfig(default_activation_observer, _CHANNELS),
    "onnx-openvino": QConfig(default_activation_observer, _CHANNELS),
    "onnx-generic": QConfig(default_activation_observer, _CHANNELS),
    "tensorrt": QConfig(_SYMMETRIC, _CHANNELS),
    "onednn": QConfig(default_histogram_observer, _CHANNELS),
    "fbgemm": QConfig(_REDUCED, _CHANNELS),
    "qnnpack": QConfig(default_histogram_observer, default_weight_observer),
    "xnnpack": QConfig(
        HistogramObserver.with_args(dtype="int8", eps=_XNNPACK_EPS),
        default_per_channel_weight_observer.with_args(eps=_XNNPACK_EPS),
    ),
}
"""The default of qcc's backends, and of torch's under torch's names."""

FIXED_QPARAMS: dict[str, dict[str, tuple[float, int]]] = {
    "uint8": {"unit": (1 / 256, 0), "signed_unit": (1 / 128, 128)},
    "int8": {"unit": (1 / 256, -128), "signed_unit": (1 / 128, 0)},
    "int8_symmetric": {"unit": (1 / 127, 0), "signed_unit": (1 / 127, 0)},
}
"""Scale and zero point of outputs in [0, 1] and [-1, 1], by how activations are stored."""

FIXED_RANGE_OPS: dict[str, str] = {
    "Sigmoid": "unit",
    "HardSigmoid": "unit",
    "Softmax": "unit",
    "Tanh": "signed_unit",
}
"""ONNX ops whose output range is known without data."""


def get_default_qconfig(backend: str = "x86") -> QConfig:
    """The default post-training QConfig of a backend; raises ConfigError for an unknown one.

    qcc's are ``x86``, ``x86-avx2``, ``arm``, ``onnx``, ``onnx-openvino``, ``onnx-generic`` and
    ``tensorrt``; ``onednn``, ``fbgemm`` and ``qnnpack`` give what torch calls so, ``xnnpack`` what
    ExecuTorch's quantizer does.
    """
    try:
        return DEFAULT_QCONFIGS[backend]
    except KeyError:
        known = ", ".join(DEFAULT_QCONFIGS)
        raise ConfigError(
            f"there is no default QConfig for backend '{backend}': use one of {known}"
        ) from None


def fixed_qparams_qconfig(op_type: str, base: QConfig) -> QConfig:
    """``base`` with the fixed output parameters of an op of :data:`FIXED_RANGE_OPS`.

    The stored type and scheme are those of ``base.activation``.  Raises ConfigError for another op
    or a type without fixed parameters.
    """
    spec = base.activation
    symmetric = (spec.qscheme or "").endswith("symmetric")
    key = f"{spec.dtype}_symmetric" if symmetric else spec.dtype
    if op_type not in FIXED_RANGE_OPS or key not in FIXED_QPARAMS:
        raise ConfigError(f"{op_type} has no fixed parameters for {key} activations")
    scale, zero_point = FIXED_QPARAMS[key][FIXED_RANGE_OPS[op_type]]
    bounds = {"quant_min": -127, "quant_max": 127} if symmetric else {}
    activation = FixedQParamsObserver.with_args(
        dtype=spec.dtype, scale=scale, zero_point=zero_point, **bounds
    )
    return QConfig(activation, base.weight)
