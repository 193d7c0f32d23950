"""Products of two activations against numpy, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from qcc import numerics
from qcc.backends.llvm.isa import INSTRUCTION_SETS
from qcc.backends.llvm.kernels.dynamic_matmul import MAX_DEPTH, DynamicMatmulKernel
from qcc.backends.llvm.kernels.epilogue import Epilogue, Form
from qcc.backends.llvm.kernels.nest import View
from qcc.errors import ConfigError
from tests.backends.llvm.kernels.buffers import ISAS
from tests.backends.llvm.native import aligned, build, executable_form, run

SHAPES = [(1, 1, 1, 1), (2, 3, 7, 5), (1, 9, 32, 33), (3, 16, 64, 64), (2, 17, 31, 70)]
NUMBERS = {"a_zero_point": 131, "b_zero_point": 90, "output_zero_point": 77, "low": 3, "high": 240}


def padded(values: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Columns padded to a multiple of 4 with noise, and readable slack."""
    columns = -(-values.shape[-1] // 4) * 4
    result = random.integers(0, 256, (*values.shape[:-1], columns)).astype(np.uint8)
    result[..., : values.shape[-1]] = values
    return aligned(result.reshape(-1))


def view(batch: int, rows: int, columns: int, element: int = 1) -> View:
    stride = -(-columns // 4) * 4 * element
    return View(0, (rows * stride if batch > 1 else 0, stride, element))


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["uint8", "float32"])
@pytest.mark.parametrize("threads", [1, 3])
def test_products(name: str, shape: tuple[int, ...], form: Form, threads: int) -> None:
    batch, m, depth, n = shape
    random = np.random.default_rng(depth)
    a = random.integers(0, 256, (batch, m, depth)).astype(np.uint8)
    b = random.choice([0, 255, 7], (batch, depth, n)).astype(np.uint8)
    element = 1 if form == "uint8" else 4
    kernel = DynamicMatmulKernel(
        (batch,), m, depth, n, view(batch, m, depth), view(batch, depth, n),
        view(batch, m, n, element), Epilogue(form),
    )  # fmt: skip
    isa = executable_form(name)
    acc = (a.astype(np.int64) - 131) @ (b.astype(np.int64) - 90)
    factor = np.float32(0.003)
    stride = -(-n // 4) * 4
    out = aligned(np.full(batch * m * stride * element, 0x5A, np.uint8))
    operands = {"a": padded(a, random), "b": padded(b, random), "output": out}
    packed = kernel.pack(isa, multiplier=float(factor), **NUMBERS)
    operands["parameters"] = aligned(packed["parameters"])
    run(kernel, isa, operands, threads)
    found = out.view(np.uint8 if form == "uint8" else np.float32).reshape(batch, m, stride)
    if form == "float32":
        wanted = numerics.dequantize_accumulator(acc, factor)
    else:
        wanted = numerics.requantize(acc, factor, 77, 3, 240).astype(np.uint8)
    assert np.array_equal(found[..., :n], wanted)
    assert (out.reshape(batch, m, -1)[..., n * element :] == 0x5A).all()


def test_a_broadcast_operand_stands_still() -> None:
    random = np.random.default_rng(0)
    a = random.integers(0, 256, (3, 4, 8)).astype(np.uint8)
    b = random.integers(0, 256, (8, 8)).astype(np.uint8)
    still = View(0, (0, 8, 1))
    kernel = DynamicMatmulKernel((3,), 4, 8, 8, View(0, (32, 8, 1)), still, View(0, (32, 8, 1)))
    isa = executable_form("x86-avx2")
    out = aligned(np.zeros(96, np.uint8))
    packed = kernel.pack(isa, multiplier=0.01, **NUMBERS)
    operands = {
        "a": aligned(a.reshape(-1)),
        "b": aligned(b.reshape(-1)),
        "parameters": aligned(packed["parameters"]),
        "output": out,
    }
    run(kernel, isa, operands)
    acc = (a.astype(np.int64) - 131) @ (b.astype(np.int64) - 90)
    wanted = numerics.requantize(acc, np.float32(0.01), 77, 3, 240)
    assert np.array_equal(out.reshape(3, 4, 8), wanted)


def test_too_deep_products_are_refused() -> None:
    deep = MAX_DEPTH + 1
    a, b, y = (View(0, (stride, 1)) for stride in (deep, 4, 4))
    with pytest.raises(ConfigError, match="keep it in float"):
        DynamicMatmulKernel((), 1, deep, 4, a, b, y)


@pytest.mark.parametrize(
    ("row", "instruction"), [("arm-neon", "smlal2"), ("arm-dotprod", "sdot"), ("arm-i8mm", "sdot")]
)
def test_aarch64_multiplies_elements_of_rows(row: str, instruction: str) -> None:
    a, b, y = (View(0, (stride, 1)) for stride in (32, 16, 16))
    kernel = DynamicMatmulKernel((), 8, 32, 16, a, b, y)
    lines = build(kernel, INSTRUCTION_SETS[row]).assembly.splitlines()
    products = [line for line in lines if f"\t{instruction}\t" in line]
    # By an element (``v0.4b[1]``, ``v0.h[1]``): nothing is spread over a register first.
    assert sum(line.endswith("]") for line in products) >= 16
