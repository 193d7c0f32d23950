"""Observers, fake quantization, and the configuration of what is quantized and how.

Calibration lives in :mod:`qcc.quant.calibration` and is imported where it is needed.
"""

from qcc.quant.backend_config import (
    BackendConfig,
    BackendPatternConfig,
    ObservationType,
    Placement,
)
from qcc.quant.dtype_config import DTypeConfig, DTypeWithConstraints
from qcc.quant.fake_quantize import FakeQuantize, fake_quantize
from qcc.quant.observers import (
    EntropyObserver,
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    MSEObserver,
    Observer,
    ObserverSpec,
    PercentileObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
    RecordingObserver,
    ReuseInputObserver,
)
from qcc.quant.qconfig import QConfig, get_default_qconfig
from qcc.quant.qconfig_mapping import QConfigMapping, get_default_qconfig_mapping
from qcc.quant.qparams import QuantParams, affine_qparams

__all__ = [
    "BackendConfig",
    "BackendPatternConfig",
    "DTypeConfig",
    "DTypeWithConstraints",
    "EntropyObserver",
    "FakeQuantize",
    "FixedQParamsObserver",
    "HistogramObserver",
    "MSEObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "ObservationType",
    "Observer",
    "ObserverSpec",
    "PerChannelMinMaxObserver",
    "PercentileObserver",
    "PlaceholderObserver",
    "Placement",
    "QConfig",
    "QConfigMapping",
    "QuantParams",
    "RecordingObserver",
    "ReuseInputObserver",
    "affine_qparams",
    "fake_quantize",
    "get_default_qconfig",
    "get_default_qconfig_mapping",
]
