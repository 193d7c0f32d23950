"""Where sample inputs come from: ``.npz``, ``.npy``, folders of them, images, Python functions.

:func:`open_data` reads lazily: one sample (or one file) is in memory at a time, except for a single
``.npz`` or ``.npy`` file, whose arrays ``numpy`` loads whole (``.npy`` is memory-mapped).
"""

from __future__ import annotations

import importlib
import itertools
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qcc.errors import DataError
from qcc.ir.core import Array
from qcc.quant.calibration.batches import Batch, InputSpec
from qcc.quant.calibration.images import IMAGE_SUFFIXES, ImageOptions, read_images

ARRAY_SUFFIXES = (".npz", ".npy")

UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
"""What numpy raises for files that are cut short, damaged or hold pickled objects."""


@dataclass(frozen=True)
class SampleSource:
    """Batches that can be counted and, unless they come from a generator, iterated again.

    ``count`` is the number of batches, or None where it is not known beforehand.
    """

    read: Callable[[], Iterator[Batch]]
    count: int | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self.read()

    def limited(self, samples: int | None) -> SampleSource:
        """At most the first ``samples`` batches."""
        if samples is None:
            return self
        known = None if self.count is None else min(self.count, samples)
        return SampleSource(lambda: itertools.islice(self.read(), samples), known)


def open_data(
    source: str | Path,
    inputs: Sequence[InputSpec],
    *,
    samples: int | None = None,
    images: ImageOptions | None = None,
) -> SampleSource:
    """The sample inputs at ``source`` for a model with these ``inputs``.

    * ``data.npz``: one array an input, by input name.  An array with one more dimension than its
      input holds one sample an entry; one of the input's rank is cut along its first axis into
      pieces of the input's fixed batch size, else of 1.  Inputs of rank 0 may be given once.
    * ``data.npy``: the same for a model with a single input.
    * a folder of ``.npz``/``.npy`` files: each is one batch (or several, cut as above), in
      name order.
    * a folder of images, or one image: see :mod:`qcc.quant.calibration.images`.
    * ``module:function``: the function's result is iterated; it yields ``{input: array}``.

    ``samples`` caps the number of batches.  Raises DataError in one sentence when the source does
    not exist, is of no known kind, is empty or does not fit; the arrays themselves are checked when
    they are used (:func:`qcc.quant.calibration.batches.check_batch`).
    """
    path = Path(source)
    if path.is_dir():
        found = _folder(path, inputs, images or ImageOptions())
    elif path.is_file():
        found = _file(path, inputs, images or ImageOptions())
    elif isinstance(source, str) and ":" in source:
        found = _function(source)
    else:
        raise DataError(
            f"there are no calibration data at '{source}': give an .npz or .npy file, a folder of "
            "them or of images, or module:function"
        )
    return found.limited(samples)


def _file(path: Path, inputs: Sequence[InputSpec], images: ImageOptions) -> SampleSource:
    suffix = path.suffix.lower()
    if suffix in ARRAY_SUFFIXES:
        return _batches_of_arrays(_load_arrays(path, inputs), inputs, path)
    if suffix in IMAGE_SUFFIXES:
        return SampleSource(lambda: read_images([path], inputs, images), 1)
    raise DataError(
        f"'{path}' is no calibration file: give .npz, .npy or an image "
        f"({', '.join(IMAGE_SUFFIXES)})"
    )


def _folder(folder: Path, inputs: Sequence[InputSpec], images: ImageOptions) -> SampleSource:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    arrays = [path for path in files if path.suffix.lower() in ARRAY_SUFFIXES]
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if arrays and pictures:
        raise DataError(f"the folder '{folder}' holds arrays and images: keep one kind")
    if pictures:
        return SampleSource(lambda: read_images(pictures, inputs, images), len(pictures))
    if not arrays:
        raise DataError(f"the folder '{folder}' holds no .npz, .npy or image files")

    def read() -> Iterator[Batch]:
        for path in arrays:
            yield from _batches_of_arrays(_load_arrays(path, inputs), inputs, path)

    return SampleSource(read)


def _load_arrays(path: Path, inputs: Sequence[InputSpec]) -> dict[str, Array]:
    """The arrays of a file by input name; raises DataError when it cannot be read or named."""
    try:
        loaded = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)
    except UNREADABLE as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"the calibration file '{path}' cannot be read: {reason}") from None
    if isinstance(loaded, np.ndarray):
        if len(inputs) != 1:
            names = ", ".join(f"'{spec.name}'" for spec in inputs)
            raise DataError(
                f"'{path}' holds one array but the model takes {len(inputs)} inputs: give an .npz "
                f"with the arrays {names}"
            )
        return {inputs[0].name: loaded}
    with loaded:
        try:
            arrays = {name: np.asarray(loaded[name]) for name in loaded.files}
        except UNREADABLE as error:
            raise DataError(f"the calibration file '{path}' cannot be read: {error}") from None
    if list(arrays) == ["arr_0"] and len(inputs) == 1:
        return {inputs[0].name: arrays["arr_0"]}
    return arrays


def _batches_of_arrays(
    arrays: dict[str, Array], inputs: Sequence[InputSpec], path: Path
) -> SampleSource:
    """Cut arrays that hold many samples into batches; see :func:`open_data`."""
    specs = {spec.name: spec for spec in inputs}
    cuts: dict[str, Callable[[int], Array]] = {}
    counts: dict[str, int] = {}
    for name, array in arrays.items():
        cut, count = _cut(array, specs.get(name), f"'{path}'")
        cuts[name] = cut
        if count is not None:
            counts[name] = count
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} in '{name}'" for name, count in counts.items())
        raise DataError(f"the arrays of '{path}' hold different numbers of samples: {told}")
    total = next(iter(counts.values()), 1)

    def read() -> Iterator[Batch]:
        for index in range(total):
            yield {name: cut(index) for name, cut in cuts.items()}

    return SampleSource(read, total)


def _cut(
    array: Array, spec: InputSpec | None, where: str
) -> tuple[Callable[[int], Array], int | None]:
    """How to take batch ``i`` out of ``array``, and how many there are (None: always the same)."""
    rank = None if spec is None else spec.rank
    if spec is None or rank is None or array.ndim not in (rank, rank + 1) or array.ndim == 0:
        return (lambda _: array), None
    if array.ndim == rank + 1:
        return (lambda i: np.asarray(array[i])), len(array)
    assert spec.shape is not None
    fixed = spec.shape[0]
    step = fixed if isinstance(fixed, int) and fixed > 0 else 1
    if len(array) % step:
        raise DataError(
            f"{where} holds {len(array)} samples for the input {spec.text}: the number must be a "
            f"multiple of its batch size {step}"
        )
    return (lambda i: np.asarray(array[i * step : (i + 1) * step])), len(array) // step


def _function(source: str) -> SampleSource:
    """Batches that ``module:function`` yields; the current folder is importable."""
    module_name, _, function_name = source.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise DataError(
            f"the calibration module '{module_name}' cannot be imported: {error}"
        ) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise DataError(f"the module '{module_name}' has no function '{function_name}'")

    def read() -> Iterator[Batch]:
        yielded: Any = function()
        if not isinstance(yielded, Iterable):
            raise DataError(f"{source} must yield dicts of input arrays, not {type(yielded)}")
        yield from yielded

    return SampleSource(read)
