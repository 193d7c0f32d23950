"""How far a compiled model's outputs are from the float model's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qcc.errors import DataError
from qcc.ir.core import Array
from qcc.runtime.runnable import OnnxModel, Runnable, open_runnable

PERFECT_SQNR_DB = 200.0
"""Reported where two outputs are equal to the last bit (the ratio would be infinite)."""


@dataclass(frozen=True)
class OutputDifference:
    """One output over all samples.

    ``sqnr_db`` is 20 log10(|x| / |x - y|); ``cosine`` the cosine similarity; ``largest`` the
    largest absolute difference; ``top1_agreement`` the share of rows with the same largest entry,
    for outputs of shape [rows, classes], else None.
    """

    name: str
    elements: int
    sqnr_db: float
    cosine: float
    largest: float
    top1_agreement: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass
class _Sums:
    """Running sums in float64; no output is kept."""

    elements: int = 0
    signal: float = 0.0
    noise: float = 0.0
    other: float = 0.0
    product: float = 0.0
    largest: float = 0.0
    rows: int = 0
    agreeing: int = 0
    ranks: set[int] = field(default_factory=set)

    def add(self, reference: Array, output: Array) -> None:
        x = np.asarray(reference, np.float64)
        y = np.asarray(output, np.float64)
        self.elements += x.size
        self.signal += float((x * x).sum())
        self.other += float((y * y).sum())
        self.product += float((x * y).sum())
        self.noise += float(((x - y) ** 2).sum())
        self.largest = max(self.largest, float(np.abs(x - y).max(initial=0.0)))
        self.ranks.add(x.ndim)
        if x.ndim == 2 and x.shape[1] > 1:
            self.rows += len(x)
            self.agreeing += int((x.argmax(1) == y.argmax(1)).sum())

    def difference(self, name: str) -> OutputDifference:
        norm = float(np.sqrt(self.signal * self.other))
        return OutputDifference(
            name,
            self.elements,
            sqnr_from_power(self.signal, self.noise),
            self.product / norm if norm else 1.0,
            self.largest,
            self.agreeing / self.rows if self.rows and self.ranks == {2} else None,
        )


def sqnr_from_power(signal: float, noise: float) -> float:
    """SQNR in dB from summed squares; :data:`PERFECT_SQNR_DB` without noise."""
    if noise <= 0.0:
        return PERFECT_SQNR_DB
    with np.errstate(divide="ignore"):  # infinite noise, of an overflow
        return float(10.0 * np.log10(max(signal, 1e-300) / noise))


def compare(
    reference: Runnable, other: Runnable, batches: Iterable[Mapping[str, Array]]
) -> list[OutputDifference]:
    """Differences of every numeric output over ``batches``; raises DataError without batches."""
    sums: dict[str, _Sums] = {}
    for batch in batches:
        feeds = _inputs_of(reference, batch)
        expected, got = reference.run(feeds), other.run(feeds)
        for name, array in expected.items():
            if not isinstance(array, np.ndarray) or array.dtype == object:
                continue
            if name not in got:
                raise DataError(f"the compiled model has no output '{name}'")
            sums.setdefault(name, _Sums()).add(array, got[name])
    if not sums:
        raise DataError("the data hold no samples; give at least one")
    return [total.difference(name) for name, total in sums.items()]


def _inputs_of(model: Runnable, batch: Mapping[str, Array]) -> dict[str, Array]:
    """The model's inputs out of a batch that may hold labels too; DataError where one is absent."""
    absent = [name for name in model.input_names if name not in batch]
    if absent:
        raise DataError(f"the data hold no array '{absent[0]}', which is an input of the model")
    return {name: batch[name] for name in model.input_names}


def compare_models(
    model: Path, compiled: Path, batches: Iterable[Mapping[str, Array]]
) -> list[OutputDifference]:
    """Compare ``compiled`` with the float model in onnxruntime."""
    return compare(OnnxModel(model), open_runnable(compiled), batches)
