"""Read and write ONNX without loss."""

from __future__ import annotations

from qcc.onnxio.reader import read_onnx
from qcc.onnxio.writer import to_model_proto, write_onnx

__all__ = ["read_onnx", "to_model_proto", "write_onnx"]
