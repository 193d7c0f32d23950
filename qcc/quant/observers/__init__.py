"""Observers: what a tensor's values are, in bounded memory, and the parameters that follow."""

from qcc.quant.observers.base import (
    Observer,
    ObserverArguments,
    ObserverSpec,
    UniformArguments,
    UniformObserver,
)
from qcc.quant.observers.entropy import EntropyObserver
from qcc.quant.observers.fixed import (
    FixedQParamsObserver,
    PlaceholderObserver,
    RecordingObserver,
    ReuseInputObserver,
)
from qcc.quant.observers.histogram import HistogramObserver
from qcc.quant.observers.minmax import (
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)
from qcc.quant.observers.mse import MSEObserver
from qcc.quant.observers.percentile import PercentileObserver
from qcc.quant.observers.registry import OBSERVERS, observer_spec_from_dict, register_observer

__all__ = [
    "OBSERVERS",
    "EntropyObserver",
    "FixedQParamsObserver",
    "HistogramObserver",
    "MSEObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "Observer",
    "ObserverArguments",
    "ObserverSpec",
    "PerChannelMinMaxObserver",
    "PercentileObserver",
    "PlaceholderObserver",
    "RecordingObserver",
    "ReuseInputObserver",
    "UniformArguments",
    "UniformObserver",
    "observer_spec_from_dict",
    "register_observer",
]
