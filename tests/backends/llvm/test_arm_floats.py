"""The float32 contracts on AArch64: the object code, executed by an emulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qcc import curves, numerics
from qcc.backends.llvm.isa import instruction_set
from qcc.backends.llvm.kernels import Kernel
from qcc.backends.llvm.kernels.elementwise import FloatUnaryKernel, UnaryOp
from qcc.backends.llvm.kernels.float_matmul import FloatMatmulKernel
from qcc.backends.llvm.kernels.float_reduce import FloatReduceKernel
from qcc.backends.llvm.kernels.float_softmax import FloatSoftmaxKernel
from qcc.backends.llvm.kernels.layer_norm import LayerNormKernel
from qcc.backends.llvm.kernels.lookup import LookupKernel
from qcc.backends.llvm.kernels.nest import dense_view
from tests.backends.llvm.kernels.buffers import blank, bytes_of
from tests.emulation.kernels import run_in_emulator
from tests.emulation.programs import require_emulator

Case = tuple[Kernel, dict[str, np.ndarray], np.ndarray]


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0.5, 3, shape).astype(np.float32)


def rows_with_edges() -> np.ndarray:
    """Rows of which some hold what is not finite."""
    x = numbers(7, 37)
    x[0, :6] = [np.nan, -0.0, 1e-40, 3e38, 0.0, -3e38]
    x[1, 5], x[2, 36], x[3] = np.inf, -np.inf, -0.0
    return x


def unary(op: UnaryOp, function: Any) -> Case:
    x = rows_with_edges()
    view = dense_view(x.shape, 4)
    return FloatUnaryKernel(op, x.shape, view, view), {"source": x}, function(x)


def layer_norm() -> Case:
    x, scale, bias = rows_with_edges(), numbers(37), numbers(36 + 1) - 1
    view = dense_view(x.shape, 4)
    operands = {"source": x, "scale": scale, "bias": bias}
    wanted = numerics.layer_norm(x, scale, bias, 1e-5)
    return LayerNormKernel(x.shape, view, view, 1e-5), operands, wanted


def softmax() -> Case:
    x = rows_with_edges()
    view = dense_view(x.shape, 4)
    return FloatSoftmaxKernel(x.shape, view, view), {"source": x}, numerics.softmax(x)


def matmul() -> Case:
    a, b = numbers(2, 21, 19), numbers(2, 19, 37)
    a[0, 2, 3], b[0, 4, 5], b[1, 1, 1] = np.inf, np.nan, -np.inf
    views = [dense_view(shape, 4) for shape in (a.shape, b.shape, (2, 21, 37))]
    kernel = FloatMatmulKernel((2,), 21, 19, 37, *views)
    return kernel, {"a": a, "b": b}, numerics.matmul(a, b)


def lookup() -> Case:
    table, indices = numbers(5, 9), np.array([4, -5, 0, -1], np.int64)
    operands = {"source": table, "indices": indices, "fault": np.zeros(2, np.int64)}
    return LookupKernel(4, 5, 36, 8), operands, table[indices]


CASES: dict[str, Callable[[], Case]] = {
    "layer_norm": layer_norm,
    "softmax": softmax,
    "matmul": matmul,
    "lookup": lookup,
    "mean": lambda: (
        FloatReduceKernel("mean", 7, 37),
        {"source": rows_with_edges()},
        numerics.row_mean(rows_with_edges()),
    ),
    "length": lambda: (
        FloatReduceKernel("length", 7, 37),
        {"source": rows_with_edges()},
        numerics.row_length(rows_with_edges()),
    ),
    "sigmoid": lambda: unary("sigmoid", numerics.sigmoid),
    "tanh": lambda: unary("tanh", curves.tanh),
    "gelu": lambda: unary("gelu", curves.gelu),
    "gelu_tanh": lambda: unary("gelu_tanh", curves.gelu_tanh),
}


@pytest.mark.parametrize("isa", ["arm-neon", "arm-dotprod"])
@pytest.mark.parametrize("name", CASES)
def test_arm_object_code_gives_the_bytes_of_the_contract(name: str, isa: str) -> None:
    require_emulator()
    kernel, operands, wanted = CASES[name]()
    output = blank(wanted.nbytes)
    buffers = {key: bytes_of(array) for key, array in operands.items()}
    last = kernel.operands[-1]
    run_in_emulator(kernel, instruction_set(isa), {**buffers, last: output}, 3)
    assert output.tobytes() == np.ascontiguousarray(wanted).tobytes()
