"""What a batch of sample inputs must look like, and one clear sentence for each way to be wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from qcc.errors import DataError
from qcc.ir.core import Array, Graph
from qcc.ir.types import Shape, TensorType

Batch: TypeAlias = "Mapping[str, Array]"
"""One feed of the model: every input's array, by name."""


@dataclass(frozen=True)
class InputSpec:
    """One input of the model: its name, its shape (symbols and None are free) and numpy dtype."""

    name: str
    shape: Shape
    dtype: str

    @property
    def rank(self) -> int | None:
        """Number of dimensions, or None where unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def text(self) -> str:
        """The input as messages show it: ``'x' (float32 [N, 3, 224, 224])``."""
        if self.shape is None:
            return f"'{self.name}' ({self.dtype})"
        dims = ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"'{self.name}' ({self.dtype} [{dims}])"


def input_specs(graph: Graph) -> tuple[InputSpec, ...]:
    """The inputs of a model that a feed must give, in order (tensors only)."""
    return tuple(
        InputSpec(value.name, value.type.shape, value.type.storage)
        for value in graph.inputs
        if isinstance(value.type, TensorType)
    )


def check_batch(batch: Any, inputs: Sequence[InputSpec], where: str) -> dict[str, Array]:
    """``batch`` as arrays by input name; raises DataError with a sentence that names ``where``.

    Checked: that it is a mapping with exactly the model's input names, and for each array the
    dtype, the rank, the fixed dimensions, that it is not empty, and that floats are finite.
    """
    if not isinstance(batch, Mapping):
        raise DataError(
            f"{where} is a {type(batch).__name__}: give a dict that maps each input name to an "
            "array"
        )
    _check_names(batch, inputs, where)
    return {spec.name: _check_array(batch[spec.name], spec, where) for spec in inputs}


def _check_names(batch: Mapping[str, Any], inputs: Sequence[InputSpec], where: str) -> None:
    known = {spec.name for spec in inputs}
    unknown = [str(name) for name in batch if name not in known]
    missing = [spec.name for spec in inputs if spec.name not in batch]
    if not unknown and not missing:
        return
    wrong = [f"has '{name}', which the model does not take" for name in unknown[:1]]
    wrong += [f"lacks the input '{name}'" for name in missing[:1]]
    takes = ", ".join(spec.text for spec in inputs) or "no inputs"
    raise DataError(f"{where} {' and '.join(wrong)}: the model takes {takes}")


def _check_array(data: Any, spec: InputSpec, where: str) -> Array:
    array = np.asarray(data)
    wanted = spec.dtype
    if wanted not in ("undefined", "string") and str(array.dtype) != wanted:
        raise DataError(
            f"{where} gives {array.dtype} for the input {spec.text}: convert it with "
            f"astype('{wanted}')"
        )
    if spec.shape is not None:
        _check_shape(array, spec, spec.shape, where)
    if array.size == 0:
        raise DataError(f"{where} gives an empty array for the input {spec.text}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        found = "NaN" if np.isnan(array).any() else "infinite values"
        raise DataError(f"{where} holds {found} in the input '{spec.name}': clean the data")
    return array


def _check_shape(array: Array, spec: InputSpec, shape: Sequence[Any], where: str) -> None:
    have = list(array.shape)
    if array.ndim != len(shape):
        raise DataError(
            f"{where} gives shape {have} for the input {spec.text}, which has {len(shape)} "
            "dimensions: reshape it or add the batch dimension"
        )
    for axis, (want, got) in enumerate(zip(shape, array.shape, strict=True)):
        if isinstance(want, int) and want != got:
            raise DataError(
                f"{where} gives shape {have} for the input {spec.text}: dimension {axis} must be "
                f"{want}"
            )


def checked_batches(
    batches: Iterable[Any], inputs: Sequence[InputSpec]
) -> Iterator[dict[str, Array]]:
    """The batches one by one, each checked; raises DataError for a bad one, or if there is none."""
    count = 0
    for batch in batches:
        yield check_batch(batch, inputs, f"calibration batch {count}")
        count += 1
    if count == 0:
        raise DataError("the calibration data hold no samples: give at least one")
