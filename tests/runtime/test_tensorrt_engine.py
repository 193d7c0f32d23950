"""Engines without a GPU: what is said, and the order of calls against a library that stands in."""

from __future__ import annotations

import enum
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qcc.errors import DataError, ModelError
from qcc.ir.core import Array
from qcc.runtime import tensorrt_engine
from qcc.runtime.runnable import open_runnable
from qcc.runtime.tensorrt_engine import Device, TensorRTEngine


class Memory:
    """Device memory as a table of arrays; a stand-in for :class:`Device`."""

    stream = 7

    def __init__(self) -> None:
        self.bytes: dict[int, Any] = {}
        self.waited = False

    def allocate(self, size: int, buffers: ExitStack) -> int:
        address = 0x1000 * (len(self.bytes) + 1)
        self.bytes[address] = bytearray(size)
        buffers.callback(self.bytes.pop, address)
        return address

    def upload(self, address: int, array: Array) -> None:
        self.bytes[address][:] = array.tobytes()

    def download(self, array: Array, address: int) -> None:
        assert self.waited
        array[...] = np.frombuffer(self.bytes[address], array.dtype).reshape(array.shape)

    def wait(self) -> None:
        self.waited = True


class Mode(enum.Enum):
    INPUT = 0
    OUTPUT = 1


class Context:
    """Doubles a float32 matrix of at most 4 rows."""

    def __init__(self, memory: Memory) -> None:
        self.memory, self.places = memory, dict[str, int]()
        self.shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return shape[0] <= 4

    def set_tensor_address(self, name: str, address: int) -> None:
        self.places[name] = address

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == Memory.stream
        x = np.frombuffer(self.memory.bytes[self.places["x"]], np.float32)
        self.memory.bytes[self.places["y"]][:] = (2 * x).tobytes()
        return True


def library(memory: Memory, loads: bool = True) -> Any:
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: "xy"[index],
        get_tensor_mode=lambda name: Mode.INPUT if name == "x" else Mode.OUTPUT,
        get_tensor_dtype=lambda name: "FLOAT",
        get_tensor_shape=lambda name: (-1, 3),
        create_execution_context=lambda: Context(memory),
    )
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: engine if loads else None)
    return SimpleNamespace(
        __name__="tensorrt",
        __version__="0",
        ILogger=type("ILogger", (), {}),
        Runtime=lambda log: runtime,
        TensorIOMode=Mode,
        nptype=lambda kind: np.float32,
    )


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "model.plan"
    path.write_bytes(b"engine")
    return path


def loaded(plan: Path, monkeypatch: pytest.MonkeyPatch) -> TensorRTEngine:
    memory = Memory()
    monkeypatch.setattr(tensorrt_engine, "installed", lambda: library(memory))
    monkeypatch.setattr(tensorrt_engine, "Device", lambda: memory)
    return TensorRTEngine(plan)


def test_an_engine_runs_on_what_it_is_given(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = loaded(plan, monkeypatch)
    assert engine.engine == "tensorrt 0"
    assert engine.input_types == {"x": ("float32", (None, 3))}
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(engine.run({"x": x})["y"], 2 * x)
    np.testing.assert_array_equal(engine.run({"x": x[:, ::-1]})["y"], 2 * x[:, ::-1])


def test_memory_is_given_back(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    monkeypatch.setattr(tensorrt_engine, "installed", lambda: library(memory))
    monkeypatch.setattr(tensorrt_engine, "Device", lambda: memory)
    TensorRTEngine(plan).run({"x": np.ones((1, 3), np.float32)})
    assert memory.bytes == {}


def test_a_shape_that_the_engine_lacks_is_named(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"not built for inputs 'x' of shape \[5, 3\]"):
        loaded(plan, monkeypatch).run({"x": np.ones((5, 3), np.float32)})


def test_an_engine_of_other_versions_is_refused(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    monkeypatch.setattr(tensorrt_engine, "installed", lambda: library(memory, loads=False))
    monkeypatch.setattr(tensorrt_engine, "Device", lambda: memory)
    with pytest.raises(ModelError, match="the version of the library that it was built for"):
        TensorRTEngine(plan)


def test_a_machine_without_the_library_says_how_to_get_it(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_engine, "installed", lambda: None)
    with pytest.raises(ModelError, match=r"pip install 'qcc\[tensorrt\]'"):
        open_runnable(plan)


def test_a_machine_without_a_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_engine, "DRIVER", "libcuda-that-is-not-there.so.1")
    with pytest.raises(ModelError, match="this machine has no CUDA driver"):
        Device()
