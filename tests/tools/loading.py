"""Scripts of ``tools/`` as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def load_tool(name: str) -> ModuleType:
    """The script ``tools/<name>.py``, loaded but not run."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def recent_onnxruntime() -> bool:
    """Whether onnxruntime is 1.24 or newer: older ones refuse or fail on some generated models."""
    import onnxruntime

    return tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 24)


needs_recent_onnxruntime = pytest.mark.skipif(
    not recent_onnxruntime(), reason="onnxruntime before 1.24 does not run every generated model"
)
