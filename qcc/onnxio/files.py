"""Writing files: atomically, and tensors outside of the model proto."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from qcc.errors import OutputError
from qcc.onnxio.tensors import describe_tensor, stored_bytes, stored_size, write_tensor

ALIGNMENT = 64
"""External tensors begin at multiples of this, so that a memory map of them is aligned."""

EXTERNAL_FROM = 1024
"""Smaller tensors (in bytes) stay inside the model: shapes are inferred from them."""


class ExternalTensors:
    """A sink that puts tensors into one data file, in the order in which they come."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.size = 0
        self._tensors: list[tuple[int, NDArray[Any], str]] = []

    def __call__(self, name: str, data: NDArray[Any], element: str) -> TensorProto:
        """Take a tensor; small ones and strings are written into the proto."""
        size = stored_size(data.shape, element)
        if size < EXTERNAL_FROM:
            return write_tensor(name, data, element)
        offset = -(-self.size // ALIGNMENT) * ALIGNMENT
        self.size = offset + size
        self._tensors.append((offset, data, element))
        tensor = describe_tensor(name, data.shape, element)
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", self.location), ("offset", offset), ("length", size)):
            tensor.external_data.add(key=key, value=str(text))
        return tensor

    def write(self, file: IO[bytes]) -> None:
        """Write the data, one tensor at a time."""
        for offset, data, element in self._tensors:
            file.write(b"\0" * (offset - file.tell()))
            file.write(stored_bytes(np.asarray(data), element))


def save(model: ModelProto, path: Path, external: ExternalTensors | None) -> None:
    """Write a model, and its data file if it has one; raises OutputError with nothing changed."""
    try:
        with _replacing(path) as file:
            file.write(model.SerializeToString(deterministic=True))
            if external is not None and external.size:
                with _replacing(path.parent / external.location) as data:
                    external.write(data)
    except OSError as error:
        raise OutputError(
            f"'{path}' cannot be written: {error.strerror or error}; choose another output path."
        ) from error


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file beside ``path`` that takes its place when all went well."""
    if path.is_dir():
        raise IsADirectoryError(None, "it is a folder")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, _permissions(path))
        os.replace(name, path)
    except BaseException:
        if os.path.exists(name):
            os.unlink(name)
        raise


def _permissions(path: Path) -> int:
    """Those of the file that is replaced, else what the process's mask allows."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
