"""Arrays and texts in and out of files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qcc.errors import DataError
from qcc.files import atomic_file
from qcc.ir.core import Array


def load_arrays(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """The arrays of an ``.npz`` file, or the one of an ``.npy`` file for a model with one input.

    Raises DataError when the file is missing, damaged, or holds pickled objects.
    """
    try:
        loaded: Any = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError):
        raise DataError(f"{path} is not an .npz or .npy file of plain arrays") from None
    if isinstance(loaded, np.ndarray):
        if len(names) != 1:
            raise DataError(f"{path} holds one array, but the model has inputs {list(names)}")
        return {names[0]: loaded}
    with loaded:
        return {name: loaded[name] for name in loaded.files if name in names} or dict(loaded)


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name as ``.npz``; raises OutputError when that cannot be."""
    with atomic_file(path) as file:
        np.savez(file, **{name: np.asarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8; raises OutputError when that cannot be."""
    with atomic_file(path) as file:
        file.write(text.encode())
