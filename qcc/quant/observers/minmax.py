"""Observers that keep only extremes: running or moving averages, per tensor or per channel.

Algorithms: torch.ao's MinMaxObserver, MovingAverageMinMaxObserver, PerChannelMinMaxObserver and
MovingAveragePerChannelMinMaxObserver (torch 2.13), in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qcc.errors import ConfigError, DataError
from qcc.quant.observers.base import (
    Observer,
    ObserverArguments,
    ObserverSpec,
    State,
    UniformArguments,
    UniformObserver,
)
from qcc.quant.qparams import QuantParams

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class PerChannelArguments(UniformArguments):
    """:class:`UniformArguments` with a channel axis (negative counts from the end)."""

    qscheme: str = "per_channel_affine"
    ch_axis: int = 0


@dataclass(frozen=True)
class MovingAverageArguments(UniformArguments):
    """:class:`UniformArguments` with the weight of a new batch, in (0, 1]."""

    averaging_constant: float = 0.01

    def check(self, observer: str) -> None:
        """Raise ConfigError, naming ``observer``, unless the arguments fit together."""
        super().check(observer)
        check_averaging_constant(observer, self.averaging_constant)


@dataclass(frozen=True)
class MovingAveragePerChannelArguments(PerChannelArguments):
    """:class:`PerChannelArguments` with the weight of a new batch, in (0, 1]."""

    averaging_constant: float = 0.01

    def check(self, observer: str) -> None:
        """Raise ConfigError, naming ``observer``, unless the arguments fit together."""
        super().check(observer)
        check_averaging_constant(observer, self.averaging_constant)


def check_averaging_constant(observer: str, constant: float) -> None:
    """Raise ConfigError unless ``constant`` lies in (0, 1]."""
    if not 0 < constant <= 1:
        raise ConfigError(f"{observer}: averaging_constant must lie in (0, 1], got {constant}")


class _Extremes(UniformObserver):
    """Keeps one (min, max) pair, 0-D per tensor or 1-D per channel; None before any data."""

    def __init__(self, spec: ObserverSpec, name: str = "") -> None:
        super().__init__(spec, name)
        self.low: FloatArray | None = None
        self.high: FloatArray | None = None

    def qparams(self) -> QuantParams:
        """The parameters of the kept range; raises DataError when nothing was seen."""
        if self.low is None or self.high is None:
            raise self.nothing_seen()
        return self.arguments.qparams(self.low, self.high, axis=self.spec.ch_axis)

    def update(self, array: Any) -> None:
        """See a float tensor: of any shape, or with the same number of channels each time."""
        extremes = self._batch_extremes(array)
        if extremes is not None:
            self._absorb(*extremes)

    def _batch_extremes(self, array: Any) -> tuple[FloatArray, FloatArray] | None:
        """Least and greatest finite value of a tensor, or None when it has no such value."""
        axis = self.spec.ch_axis
        if axis is None:
            values = self.finite(array)
            return (
                None if values.size == 0 else (np.asarray(values.min()), np.asarray(values.max()))
            )
        return self._channel_extremes(np.asarray(array, np.float32), axis)

    def _channel_extremes(
        self, values: FloatArray, axis: int
    ) -> tuple[FloatArray, FloatArray] | None:
        if values.size == 0:
            return None
        if not -values.ndim <= axis < values.ndim:
            raise DataError(
                f"{self.label} looks at channel axis {axis}, but was given a tensor of rank "
                f"{values.ndim}: choose another ch_axis or a per-tensor observer"
            )
        channels = values.shape[axis]
        if self.low is not None and len(self.low) != channels:
            raise DataError(
                f"{self.label} saw {len(self.low)} channels before and {channels} now: "
                f"the channel axis must have a fixed size"
            )
        rest = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
        low, high = values.min(axis=rest), values.max(axis=rest)
        if np.isfinite(low).all() and np.isfinite(high).all():
            return low, high
        kept = self.finite(values)
        if kept.size == 0:
            return None
        # A channel of infinities only contributes 0, which every range includes anyway.
        usable = np.isfinite(values)
        low = np.where(usable, values, np.float32(np.inf)).min(axis=rest)
        high = np.where(usable, values, np.float32(-np.inf)).max(axis=rest)
        zero = np.float32(0)
        return np.where(np.isinf(low), zero, low), np.where(np.isinf(high), zero, high)

    def _absorb(self, low: FloatArray, high: FloatArray) -> None:
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)

    def merge(self, other: Observer) -> None:
        """Take in what ``other`` has seen; the result is that of one observer seeing it all."""
        self.check_mergeable(other)
        assert isinstance(other, _Extremes)
        self.infinite += other.infinite
        if other.low is not None and other.high is not None:
            self._check_channels(other.low)
            self._absorb(other.low, other.high)

    def _check_channels(self, low: FloatArray) -> None:
        if self.low is not None and self.low.shape != low.shape:
            raise DataError(
                f"{self.label} cannot be merged: one part saw {self.low.size} channels, "
                f"the other {low.size}"
            )

    def state(self) -> State:
        """``min_val`` and ``max_val`` (float32; empty before any data) and ``infinite``."""
        empty = np.zeros(0, np.float32)
        return {
            "min_val": empty if self.low is None else np.asarray(self.low),
            "max_val": empty if self.high is None else np.asarray(self.high),
            "infinite": np.asarray(self.infinite, np.int64),
        }

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replace what was seen; raises DataError for a state of another observer."""
        low = self.state_entry(state, "min_val").astype(np.float32)
        high = self.state_entry(state, "max_val").astype(np.float32)
        rank = 0 if self.spec.ch_axis is None else 1
        if low.shape != high.shape or (low.size and low.ndim != rank):
            raise DataError(f"the saved state of {self.label} does not fit: calibrate again")
        self.low, self.high = (low, high) if low.size else (None, None)
        self.infinite = int(self.state_entry(state, "infinite"))


class _MovingAverage(_Extremes):
    """Extremes that move towards each batch's: ``low += c * (batch_low - low)``.

    Besides the averages it keeps the first batch's extremes and the number of batches, which make
    a merge exact: a batch sequence ``other`` that follows this one gives
    ``other + (1 - c)^n * (self - other's first)`` with ``n`` batches in ``other``.
    """

    def __init__(self, spec: ObserverSpec, name: str = "") -> None:
        super().__init__(spec, name)
        self.first: tuple[FloatArray, FloatArray] | None = None
        self.batches = 0

    @property
    def constant(self) -> float:
        """The weight of a new batch."""
        return float(getattr(self.spec.arguments, "averaging_constant"))  # noqa: B009

    def _absorb(self, low: FloatArray, high: FloatArray) -> None:
        self.batches += 1
        if self.low is None or self.high is None:
            self.low, self.high = self.first = low, high
            return
        c = np.float32(self.constant)
        self.low = self.low + c * (low - self.low)
        self.high = self.high + c * (high - self.high)

    def merge(self, other: Observer) -> None:
        """Take in what ``other`` saw, as if its batches had come after this one's."""
        self.check_mergeable(other)
        assert isinstance(other, _MovingAverage)
        self.infinite += other.infinite
        if other.low is None or other.high is None or other.first is None:
            return
        if self.low is None or self.high is None:
            self.low, self.high, self.first = other.low, other.high, other.first
        else:
            self._check_channels(other.low)
            weight = np.float32((1.0 - self.constant) ** other.batches)
            self.low = other.low + weight * (self.low - other.first[0])
            self.high = other.high + weight * (self.high - other.first[1])
        self.batches += other.batches

    def state(self) -> State:
        """The averages, the first batch's extremes, ``batches`` and ``infinite``."""
        empty = np.zeros(0, np.float32)
        first = (empty, empty) if self.first is None else self.first
        return {
            **super().state(),
            "first_min": np.asarray(first[0]),
            "first_max": np.asarray(first[1]),
            "batches": np.asarray(self.batches, np.int64),
        }

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replace what was seen; raises DataError for a state of another observer."""
        super().load_state(state)
        low = self.state_entry(state, "first_min").astype(np.float32)
        high = self.state_entry(state, "first_max").astype(np.float32)
        self.first = (low, high) if low.size else None
        self.batches = int(self.state_entry(state, "batches"))


class MinMaxObserver(_Extremes):
    """The running least and greatest value of a tensor."""

    arguments_type: ClassVar[type[ObserverArguments]] = UniformArguments


class MovingAverageMinMaxObserver(_MovingAverage):
    """The moving average of each batch's least and greatest value (constant 0.01 by default)."""

    arguments_type: ClassVar[type[ObserverArguments]] = MovingAverageArguments


class PerChannelMinMaxObserver(_Extremes):
    """The running extremes of every channel along ``ch_axis``."""

    arguments_type: ClassVar[type[ObserverArguments]] = PerChannelArguments


class MovingAveragePerChannelMinMaxObserver(_MovingAverage):
    """The moving average of every channel's extremes along ``ch_axis``."""

    arguments_type: ClassVar[type[ObserverArguments]] = MovingAveragePerChannelArguments
