"""A TensorRT engine (``.plan``) as something that runs: needs a GPU and the library that built it.

Device memory comes from the CUDA driver itself (``libcuda``), which is there wherever an engine can
run, so no CUDA toolkit and no further package is needed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from qcc.errors import DataError, ModelError
from qcc.ir.core import Array
from qcc.runtime.tensorrt_builder import MISSING, installed, new_log

DRIVER = "libcuda.so.1"


class TensorRTEngine:
    """An engine file, loaded; one stream, inputs and outputs copied for each run.

    Raises ModelError where the library, a GPU or its driver is missing, or the file is for others.
    """

    def __init__(self, path: Path) -> None:
        library = installed()
        if library is None:
            raise ModelError(f"{path} is a TensorRT engine: {MISSING}")
        self._library = library
        self._device = Device()
        self.engine = f"{library.__name__} {library.__version__}"
        log = new_log(library)
        self._runtime = library.Runtime(log)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            said = [text for level, text in log.lines if "ERROR" in level]
            reason = said[0] if said else "no reason given"
            raise ModelError(
                f"{self.engine} cannot load {path}: {reason}; an engine runs on the kind of "
                "GPU and with the version of the library that it was built for"
            )
        self._context = self._engine.create_execution_context()

    @property
    def input_names(self) -> Sequence[str]:
        """Names of the inputs, in order."""
        return [name for name in self._names() if self._is_input(name)]

    @property
    def input_types(self) -> Mapping[str, tuple[str, tuple[int | str | None, ...]]]:
        """numpy dtype name and shape of each input; None for a free dimension."""
        return {
            name: (
                self._dtype(name).name,
                tuple(None if d < 0 else int(d) for d in self._engine.get_tensor_shape(name)),
            )
            for name in self.input_names
        }

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run on a full set of inputs; raises DataError for what the engine refuses."""
        with ExitStack() as buffers:
            for name in self.input_names:
                array = np.ascontiguousarray(feeds[name], self._dtype(name))
                if not self._context.set_input_shape(name, array.shape):
                    raise DataError(
                        f"the engine was not built for inputs '{name}' of shape {list(array.shape)}"
                    )
                address = self._device.allocate(array.nbytes, buffers)
                self._device.upload(address, array)
                self._context.set_tensor_address(name, address)
            results, places = {}, {}
            for name in self._names():
                if self._is_input(name):
                    continue
                shape = tuple(self._context.get_tensor_shape(name))
                results[name] = np.empty(shape, self._dtype(name))
                places[name] = self._device.allocate(results[name].nbytes, buffers)
                self._context.set_tensor_address(name, places[name])
            if not self._context.execute_async_v3(self._device.stream):
                raise DataError("the engine cannot run on these inputs")
            self._device.wait()
            for name, array in results.items():
                self._device.download(array, places[name])
        return results

    def _names(self) -> list[str]:
        count = self._engine.num_io_tensors
        return [self._engine.get_tensor_name(index) for index in range(count)]

    def _is_input(self, name: str) -> bool:
        mode = self._engine.get_tensor_mode(name)
        return bool(mode == self._library.TensorIOMode.INPUT)

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind: np.dtype[Any] = np.dtype(self._library.nptype(self._engine.get_tensor_dtype(name)))
        return kind


class Device:
    """The first CUDA device: memory, and one stream.  Raises ModelError where there is none."""

    def __init__(self) -> None:
        try:
            self._driver = ctypes.CDLL(DRIVER)
        except OSError:
            raise ModelError(
                "engines run on a GPU, and this machine has no CUDA driver (libcuda.so.1)"
            ) from None
        self._call("cuInit", 0)
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = stream.value or 0

    def allocate(self, size: int, buffers: ExitStack) -> int:
        """The address of ``size`` bytes, given back when ``buffers`` closes."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        buffers.callback(self._call, "cuMemFree_v2", address)
        return address.value

    def upload(self, address: int, array: Array) -> None:
        """Copy an array to the device."""
        source = array.ctypes.data_as(ctypes.c_void_p)
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), source, _size(array))

    def download(self, array: Array, address: int) -> None:
        """Copy device memory into an array."""
        target = array.ctypes.data_as(ctypes.c_void_p)
        self._call("cuMemcpyDtoH_v2", target, ctypes.c_uint64(address), _size(array))

    def wait(self) -> None:
        """Wait until the stream is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(code, ctypes.byref(text))
            reason = (text.value or b"unknown error").decode()
            raise ModelError(f"the CUDA driver cannot {name} ({reason}): engines run on a GPU")


def _size(array: Array) -> ctypes.c_size_t:
    return ctypes.c_size_t(array.nbytes)
