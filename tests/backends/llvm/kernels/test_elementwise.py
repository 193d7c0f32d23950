"""Float32 elementwise kernels against their reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc import curves, numerics
from qcc.backends.llvm.isa import host_instruction_set
from qcc.backends.llvm.kernels.elementwise import FloatBinaryKernel, FloatUnaryKernel, UnaryOp
from qcc.backends.llvm.kernels.nest import broadcast_view, dense_view
from qcc.errors import ConfigError
from qcc.numerics import larger, smaller
from tests.backends.llvm.kernels.buffers import ISAS, blank, bytes_of, constants
from tests.backends.llvm.native import executable_form, run

NUMPY: dict[str, Any] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "minimum": smaller,
    "maximum": larger,
}
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, 1e-40], np.float32)


def values(shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 3, shape).astype(np.float32)
    return np.where(rng.random(shape) < 0.3, rng.choice(SPECIAL, shape), x).astype(np.float32)


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal numbers, signs of zeros included; any NaN is like another."""
    np.testing.assert_array_equal(found, wanted)
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.signbit(found)[numbers], np.signbit(wanted)[numbers])


def check(op: Any, shape_a: tuple[int, ...], shape_b: tuple[int, ...], isa: str) -> None:
    a, b = values(shape_a, 1), values(shape_b, 2)
    with np.errstate(all="ignore"):
        want = NUMPY[op](a, b)
    sizes = want.shape
    views = [broadcast_view(s, sizes, 4) for s in (shape_a, shape_b)]
    kernel = FloatBinaryKernel(op, sizes, views[0], views[1], dense_view(sizes, 4))
    output = blank(4 * want.size)
    operands = {"a": bytes_of(a), "b": bytes_of(b), "target": output}
    run(kernel, executable_form(isa), operands, 2)
    assert_same(output.view(np.float32), want.ravel())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", NUMPY)
@pytest.mark.parametrize(
    "shapes",
    [((3, 50), (3, 50)), ((2, 3, 41), (41,)), ((1,), (7, 9)), ((5, 7, 1), (5, 1, 9))],
)
def test_binary(op: str, shapes: tuple[tuple[int, ...], ...], isa: str) -> None:
    check(op, shapes[0], shapes[1], isa)


@settings(deadline=None, max_examples=15)
@given(data=st.data(), op=st.sampled_from(sorted(NUMPY)))
def test_any_broadcast(data: st.DataObject, op: str) -> None:
    sizes = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    a = tuple(n if data.draw(st.booleans()) else 1 for n in sizes)
    b = tuple(n if data.draw(st.booleans()) else 1 for n in sizes)
    check(op, a, b[data.draw(st.integers(0, len(b) - 1)) :], "x86-avx2")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("length", [1, 7, 16, 1000])
def test_unary_in_place(length: int, isa: str) -> None:
    form = executable_form(isa)
    x = values((length,), 3)
    view = dense_view((length,), 4)
    bounds = [(np.float32(low), np.float32(2)) for low in (-1.5, 0)]
    for op, (low, high), want in (
        ("relu", bounds[0], larger(x, np.float32(0))),
        ("neg", bounds[0], -x),
        *(("clip", (low, high), smaller(larger(x, low), high)) for low, high in bounds),
    ):
        kernel = FloatUnaryKernel(op, (length,), view, view)  # type: ignore[arg-type]
        buffer = bytes_of(x)
        packed = constants(kernel.pack(form, low=low, high=high))
        run(kernel, form, {"source": buffer, "target": buffer, **packed}, 3)
        assert_same(buffer.view(np.float32), want)


CURVES: dict[UnaryOp, tuple[tuple[float, ...], Callable[[np.ndarray], np.ndarray]]] = {
    "hard_sigmoid": ((0.2, 0.5), lambda x: curves.hard_sigmoid(x, 0.2, 0.5)),
    "hard_swish": ((), curves.hard_swish),
    "leaky_relu": ((0.1,), lambda x: curves.leaky_relu(x, 0.1)),
    "silu": ((), lambda x: x * numerics.sigmoid(x)),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", CURVES)
def test_piecewise_curves(op: UnaryOp, isa: str) -> None:
    numbers, function = CURVES[op]
    rng = np.random.default_rng(8)
    x = (rng.normal(size=203) * 4).astype(np.float32)
    x[:8] = [0.0, -0.0, np.inf, -3.0, 3.0, 1e-45, -1e-30, 3e38]
    if op != "silu":
        x[8:10] = [np.nan, -np.inf]
    view = dense_view(x.shape, 4)
    kernel = FloatUnaryKernel(op, x.shape, view, view, numbers)
    target = blank(x.nbytes)
    run(kernel, executable_form(isa), {"source": bytes_of(x), "target": target}, 2)
    assert target.tobytes() == np.asarray(function(x), np.float32).tobytes()


def test_clip_refuses_nan_bounds() -> None:
    view = dense_view((4,), 4)
    with pytest.raises(ConfigError, match="must be numbers"):
        FloatUnaryKernel("clip", (4,), view, view).pack(host_instruction_set(), low=np.nan)
