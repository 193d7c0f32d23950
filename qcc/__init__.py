"""qcc: a quantizing compiler for ONNX models.

The names below are loaded when they are first used, so ``import qcc`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qcc.compiler import compile
    from qcc.errors import QccError
    from qcc.exports import ExportedModel
    from qcc.ir.core import Graph
    from qcc.onnxio import read_onnx, write_onnx
    from qcc.pipeline import convert, prepare
    from qcc.quant.backend_config import BackendConfig
    from qcc.quant.qconfig import QConfig
    from qcc.quant.qconfig_mapping import QConfigMapping
    from qcc.runtime.artifact import load
    from qcc.runtime.build import codegen
    from qcc.runtime.executable import Executable

_HOMES = {
    "BackendConfig": "qcc.quant.backend_config",
    "Executable": "qcc.runtime.executable",
    "ExportedModel": "qcc.exports",
    "Graph": "qcc.ir.core",
    "QConfig": "qcc.quant.qconfig",
    "QConfigMapping": "qcc.quant.qconfig_mapping",
    "QccError": "qcc.errors",
    "codegen": "qcc.runtime.build",
    "compile": "qcc.compiler",
    "convert": "qcc.pipeline",
    "load": "qcc.runtime.artifact",
    "prepare": "qcc.pipeline",
    "read_onnx": "qcc.onnxio",
    "write_onnx": "qcc.onnxio",
}

__all__ = [
    "BackendConfig",
    "Executable",
    "ExportedModel",
    "Graph",
    "QConfig",
    "QConfigMapping",
    "QccError",
    "__version__",
    "codegen",
    "compile",
    "convert",
    "load",
    "prepare",
    "read_onnx",
    "write_onnx",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'qcc' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
