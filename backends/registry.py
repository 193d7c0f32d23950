"""Where BackendConfigs are found: those of the project, and those of installed packages.

A package outside the project registers a BackendConfig value in the entry-point group
``qcc.backends``, under the backend's name.
"""

from __future__ import annotations

import importlib
import importlib.metadata

from qcc.errors import ConfigError
from qcc.quant.backend_config import BackendConfig

ENTRY_POINTS = "qcc.backends"

BACKENDS = {
    "x86": "qcc.backends.x86.config",
    "x86-avx2": "qcc.backends.x86.avx2",
    "arm": "qcc.backends.arm.config",
    "qnnpack": "qcc.backends.arm.qnnpack",
    "xnnpack": "qcc.backends.arm.xnnpack",
    "onnx": "qcc.backends.onnx.config",
    "onnx-openvino": "qcc.backends.onnx.openvino",
    "onnx-generic": "qcc.backends.onnx.generic",
    "tensorrt": "qcc.backends.tensorrt.config",
}
"""Name of a backend to the module whose ``CONFIG`` it is."""


def backend_names() -> tuple[str, ...]:
    """Every known backend, the project's own first."""
    found = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return tuple(dict.fromkeys([*BACKENDS, *(point.name for point in found)]))


def backend_config(name: str) -> BackendConfig:
    """The BackendConfig called ``name``; raises ConfigError with the known names."""
    if name in BACKENDS:
        config = importlib.import_module(BACKENDS[name]).CONFIG
        assert isinstance(config, BackendConfig)
        return config
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS, name=name):
        loaded = point.load()
        if not isinstance(loaded, BackendConfig):
            raise ConfigError(f"the entry point '{name}' of {point.value} is no BackendConfig")
        return loaded
    known = ", ".join(backend_names())
    raise ConfigError(f"there is no backend '{name}'; choose one of: {known}")
