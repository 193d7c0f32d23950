"""q.matmul of two activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcc import numerics
from qcc.backends.llvm.buffers import Stored, native_bounds, native_quant
from qcc.backends.llvm.kernels.dynamic_matmul import DynamicMatmulKernel
from qcc.backends.llvm.kernels.epilogue import Epilogue, Form, needs_float_clamp
from qcc.backends.llvm.kernels.nest import View
from qcc.backends.llvm.planner import Planner
from qcc.backends.llvm.selectors.views import view_of
from qcc.ir.core import Node
from qcc.ir.ops import attribute


def select_product(planner: Planner, node: Node) -> None:
    """Pack the second operand as it comes; leading axes broadcast."""
    a, b = (planner.source(node.operand(i)) for i in range(2))
    target = planner.result(node.output)
    rows, depth = a.shape[-2:] if len(a.shape) > 1 else (1, a.shape[0])
    columns = b.shape[-1]
    batch = target.shape[:-2]
    quant = node.output.tensor.quant
    scales = [np.float32(native_quant(node.operand(i))[0]) for i in range(2)]
    s_y = np.float32(1.0) if quant is None else quant.scales[0]
    multiplier = float(numerics.requantize_multiplier(scales[0], scales[1], s_y))
    bound = depth * 255 * 255
    form: Form = "float32" if quant is None else "uint8"
    clamp = form == "uint8" and needs_float_clamp(bound, multiplier)
    kernel = DynamicMatmulKernel(
        batch,
        rows,
        depth,
        columns,
        _matrix_view(a, batch),
        _matrix_view(b, batch),
        view_of(target),
        Epilogue(form, clamp_float=clamp),
    )
    constants: dict[str, Any] = {
        "multiplier": multiplier,
        "a_zero_point": native_quant(node.operand(0))[1],
        "b_zero_point": native_quant(node.operand(1))[1],
    }
    if quant is not None:
        low, high = native_bounds(quant, attribute(node, "low"), attribute(node, "high"))
        constants |= {
            "output_zero_point": native_quant(node.output)[1],
            "low": low,
            "high": high,
        }
    packed = kernel.pack(planner.isa, **constants)
    pointers = {"a": a.pointer, "b": b.pointer, "output": target.pointer}
    planner.emit(kernel, pointers, packed)


def _matrix_view(stored: Stored, batch: tuple[int, ...]) -> View:
    """The operand's view with a stride for every leading axis of the result."""
    view = view_of(stored)
    leading = stored.shape[:-2]
    strides = [0] * (len(batch) - len(leading))
    for size, stride in zip(leading, view.strides, strict=False):
        strides.append(0 if size == 1 else stride)
    return View(view.offset, (*strides, *view.strides[-2:]))
