"""Observers by name, so that a spec can be read back from JSON.

:data:`OBSERVERS` holds qcc's own; a project with another observer adds it with
:func:`register_observer` before it reads a configuration that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qcc.errors import ConfigError
from qcc.quant.observers.base import Observer, ObserverSpec
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

OBSERVERS: dict[str, type[Observer]] = {
    observer.__name__: observer
    for observer in (
        MinMaxObserver,
        MovingAverageMinMaxObserver,
        PerChannelMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
        HistogramObserver,
        PercentileObserver,
        EntropyObserver,
        MSEObserver,
        FixedQParamsObserver,
        PlaceholderObserver,
        RecordingObserver,
        ReuseInputObserver,
    )
}
"""Every known observer class by its name."""


def register_observer(observer: type[Observer]) -> type[Observer]:
    """Make ``observer`` readable from JSON; raises ConfigError when its name is taken.

    Returns the class, so that it also works as a decorator.
    """
    known = OBSERVERS.setdefault(observer.__name__, observer)
    if known is not observer:
        raise ConfigError(
            f"there is an observer '{observer.__name__}' already: choose another name"
        )
    return observer


def observer_spec_from_dict(data: Any) -> ObserverSpec:
    """The spec that :meth:`ObserverSpec.to_dict` wrote; raises ConfigError for anything else."""
    if not isinstance(data, Mapping) or not isinstance(data.get("type"), str):
        raise ConfigError(
            f'an observer is written {{"type": name, argument: value, ...}}, got {data!r}'
        )
    name = data["type"]
    observer = OBSERVERS.get(name)
    if observer is None:
        raise ConfigError(f"there is no observer '{name}': use one of {', '.join(OBSERVERS)}")
    arguments = {
        key: observer_spec_from_dict(value) if isinstance(value, Mapping) else value
        for key, value in data.items()
        if key != "type"
    }
    return observer.with_args(**arguments)
