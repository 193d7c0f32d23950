"""Calibration: the float model runs batch by batch, observers look, nothing is kept.

Memory is that of one chunk of observed values of one batch, however many batches there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from qcc.errors import DataError
from qcc.ir.core import Array, Graph, Value
from qcc.ir.types import TensorType
from qcc.quant.calibration.batches import checked_batches, input_specs
from qcc.quant.calibration.spill import KeptSamples
from qcc.quant.observers import Observer, ObserverSpec
from qcc.quant.qparams import QuantParams
from qcc.ref.float_region import FloatRunner

Progress: TypeAlias = "Callable[[str, int, int | None], None]"
"""Called as ``progress(stage, done, total)``; the total is None while it is not known."""

STAGE = "calibrate"

CHUNK_BYTES = 1 << 28
"""Observed values that are fetched in one run of the model."""

UNKNOWN_BYTES = 1 << 24
"""What a value of unknown size is taken for."""


class Calibrator:
    """Runs batches through a float graph and shows the observed values to their observers.

    ``specs`` maps value names of ``graph`` to observer specs; ``channels`` those of some of the
    same names to specs of a second observer.  ``kept`` holds a bounded choice of the batches on
    disk, for measurements that follow.
    """

    def __init__(
        self,
        graph: Graph,
        specs: Mapping[str, ObserverSpec],
        *,
        channels: Mapping[str, ObserverSpec] | None = None,
        threads: int = 1,
        kept: int = 64,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.graph = graph
        self.observers: dict[str, Observer] = {name: spec(name) for name, spec in specs.items()}
        self.channels: dict[str, Observer] = {
            name: spec(name) for name, spec in (channels or {}).items()
        }
        self.kept = KeptSamples(kept)
        self._threads = threads
        self._chunk_bytes = chunk_bytes
        self._runners: list[FloatRunner] | None = None

    def run(self, batches: Iterable[Any], progress: Progress | None = None) -> int:
        """Calibrate on all ``batches`` (consumed once); gives their number.

        Raises DataError for a batch that does not fit the model, for NaN, and for no batches.
        """
        total = getattr(batches, "count", None)
        if total is None or not isinstance(total, int):
            total = len(batches) if isinstance(batches, Sequence) else None
        done = 0
        if progress is not None:
            progress(STAGE, 0, total)
        for batch in checked_batches(batches, input_specs(self.graph)):
            self.see(batch)
            done += 1
            if progress is not None:
                progress(STAGE, done, total)
        return done

    def see(self, batch: Mapping[str, Array]) -> None:
        """Run one checked batch and update every observer."""
        for value in self.graph.inputs:
            if value.name in self.observers:
                self._update(value.name, batch[value.name])
        if self._runners is None:
            self._runners = self._make_runners(batch)
        for runner in self._runners:
            for name, array in runner.run(batch).items():
                self._update(name, array)
        self.kept.offer(batch)

    def _update(self, name: str, array: Array) -> None:
        self.observers[name].update(array)
        if name in self.channels:
            self.channels[name].update(array)

    def parameters(self, name: str) -> QuantParams:
        """The parameters that the observer of value ``name`` gives; raises DataError."""
        if name not in self.observers:
            raise DataError(
                f"'{name}' was not observed during calibration: calibrate again with this "
                "configuration"
            )
        return self.observers[name].qparams()

    def _make_runners(self, batch: Mapping[str, Array]) -> list[FloatRunner]:
        inputs = {value.name for value in self.graph.inputs}
        by_name = {value.name: value for value in self.graph.values()}
        wanted = [by_name[name] for name in self.observers if name not in inputs]
        sizes = _symbol_sizes(self.graph, batch)
        chunks: list[list[Value]] = []
        room = 0
        for value in wanted:
            size = _bytes_of(value, sizes)
            if not chunks or size > room:
                chunks.append([])
                room = self._chunk_bytes
            chunks[-1].append(value)
            room -= size
        return [FloatRunner(self.graph, chunk, threads=self._threads) for chunk in chunks]


def _symbol_sizes(graph: Graph, batch: Mapping[str, Array]) -> dict[str, int]:
    """The sizes of symbolic dimensions in a batch."""
    sizes: dict[str, int] = {}
    for value in graph.inputs:
        if not isinstance(value.type, TensorType) or value.type.shape is None:
            continue
        pairs = zip(value.type.shape, batch[value.name].shape, strict=True)
        sizes.update({dim: size for dim, size in pairs if isinstance(dim, str)})
    return sizes


def _bytes_of(value: Value, sizes: Mapping[str, int]) -> int:
    if not isinstance(value.type, TensorType) or value.type.shape is None:
        return UNKNOWN_BYTES
    total = 4
    for dim in value.type.shape:
        known = sizes.get(dim) if isinstance(dim, str) else dim
        if known is None:
            return UNKNOWN_BYTES
        total *= known
    return total
