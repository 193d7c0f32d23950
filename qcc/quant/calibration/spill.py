"""Arrays that wait on disk: a bounded random choice of batches, and values between two layers."""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from qcc.errors import OutputError
from qcc.ir.core import Array


@dataclass(frozen=True)
class _Extent:
    """Where an array lies in the file."""

    offset: int
    size: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Spill:
    """A temporary file of arrays by name and sample number; nothing is held in memory.

    One open file for all: opening one an array costs more than a small layer's arithmetic.  Space
    that is dropped is used again for arrays of the same size.  The file has no name, so nothing is
    left behind however the process ends.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        file = tempfile.TemporaryFile(prefix="qcc-", buffering=0)  # noqa: SIM115 - lives as long
        self._file = self._open.enter_context(file)
        self._extents: dict[tuple[str, int], _Extent] = {}
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        self.size = 0

    def put(self, name: str, sample: int, array: Array) -> None:
        """Store ``array`` under a name and a sample number, replacing what was there.

        Raises OutputError where the disk is full.
        """
        data = np.ascontiguousarray(array)
        if data.dtype == object:
            data = data.astype(np.str_)
        self._release((name, sample))
        extent = _Extent(self._place(data.nbytes), data.nbytes, data.dtype, np.shape(array))
        self._file.seek(extent.offset)
        view = data.reshape(-1).view(np.uint8).data
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise OutputError(
                f"the folder for temporary files '{tempfile.gettempdir()}' cannot hold the samples "
                f"({error}): make room, or set TMPDIR to another folder"
            ) from None
        self._extents[name, sample] = extent

    def get(self, name: str, sample: int) -> Array:
        """What was stored; raises KeyError."""
        extent = self._extents[name, sample]
        data = np.empty(extent.shape, extent.dtype)
        self._file.seek(extent.offset)
        view = data.reshape(-1).view(np.uint8).data
        while view:
            view = view[self._file.readinto(view) :]
        return data

    def shape(self, name: str, sample: int) -> tuple[int, ...]:
        """That of what was stored; raises KeyError."""
        return self._extents[name, sample].shape

    def drop(self, name: str) -> None:
        """Forget every sample of a name."""
        for key in [key for key in self._extents if key[0] == name]:
            self._release(key)

    def close(self) -> None:
        """Remove the file with everything in it."""
        self._extents.clear()
        self._open.close()

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _place(self, size: int) -> int:
        if self._free[size]:
            return self._free[size].pop()
        self.size += size
        return self.size - size

    def _release(self, key: tuple[str, int]) -> None:
        extent = self._extents.pop(key, None)
        if extent is not None:
            self._free[extent.size].append(extent.offset)


class KeptSamples:
    """At most ``limit`` of the batches offered, each equally likely, on disk.

    Reservoir sampling (Vitter 1985, algorithm R) with a fixed seed: the choice depends only on the
    number of batches.
    """

    def __init__(self, limit: int = 64) -> None:
        self.limit = limit
        self.offered = 0
        self._spill = Spill()
        self._names: list[Sequence[str]] = []
        self._random = random.Random(0)

    def offer(self, batch: Mapping[str, Array]) -> None:
        """Consider one more batch."""
        place = self.offered
        if place >= self.limit:
            place = self._random.randrange(self.offered + 1)
        self.offered += 1
        if place >= self.limit:
            return
        if place == len(self._names):
            self._names.append(())
        self._names[place] = tuple(batch)
        for name, array in batch.items():
            self._spill.put(name, place, array)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Array]:
        return {name: self._spill.get(name, index) for name in self._names[index]}

    def close(self) -> None:
        """Remove the batches from disk."""
        self._names.clear()
        self._spill.close()
