"""Arrays that wait on disk: a bounded random choice of batches, and values between two layers."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from qcc.ir.core import Array


class Spill:
    """A temporary folder of arrays by key; nothing is held in memory.  Remove it with close()."""

    def __init__(self, purpose: str = "qcc") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{purpose}-"))
        self._numbers: dict[tuple[str, int], int] = {}
        self._next = 0

    def put(self, name: str, sample: int, array: Array) -> None:
        """Store ``array`` under a name and a sample number, replacing what was there."""
        key = (name, sample)
        if key not in self._numbers:
            self._numbers[key] = self._next
            self._next += 1
        np.save(self._path(key), np.asarray(array), allow_pickle=False)

    def get(self, name: str, sample: int) -> Array:
        """What was stored; raises KeyError."""
        path = self._path((name, sample))
        loaded: Array = np.load(path, allow_pickle=False)
        return loaded

    def drop(self, name: str) -> None:
        """Remove every sample of a name."""
        for key in [key for key in self._numbers if key[0] == name]:
            self._path(key).unlink(missing_ok=True)
            del self._numbers[key]

    def close(self) -> None:
        """Remove the folder with everything in it."""
        self._numbers.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        folder = getattr(self, "folder", None)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _path(self, key: tuple[str, int]) -> Path:
        return self.folder / f"{self._numbers[key]}.npy"


class KeptSamples:
    """At most ``limit`` of the batches offered, each equally likely, on disk.

    Reservoir sampling (Vitter 1985, algorithm R) with a fixed seed: the choice depends only on the
    number of batches.
    """

    def __init__(self, limit: int = 64) -> None:
        self.limit = limit
        self.offered = 0
        self._spill = Spill("qcc-samples")
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
