"""Float convolutions against the reference of ``q.float_conv``, byte for byte."""

from __future__ import annotations

import ctypes
import dataclasses
import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.llvm import machine
from qcc.backends.llvm.float_schedule import FloatSchedule, candidates
from qcc.backends.llvm.isa import INSTRUCTION_SETS, host_instruction_set
from qcc.backends.llvm.kernels.float_conv import FloatConvKernel
from qcc.backends.llvm.kernels.nest import View, dense_view
from qcc.errors import ConfigError
from qcc.ir.core import Graph, Node
from qcc.ir.ops import definition
from qcc.ir.types import TensorType
from tests.backends.llvm.kernels.buffers import (
    FILL,
    FLOAT_ISAS,
    at_page_end,
    blank,
    bytes_of,
    constants,
)
from tests.backends.llvm.native import build, executable_form, run


@dataclass(frozen=True)
class Case:
    """A convolution on [N, H, W, C] with padding of ``pad`` pixels on every side."""

    images: int = 1
    size: tuple[int, int] = (6, 7)
    depth: int = 3
    columns: int = 5
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pad: int = 0
    residual: bool = False
    low: float | None = None
    high: float | None = None

    @property
    def channels(self) -> int:
        return self.groups * self.columns

    def outputs(self) -> tuple[int, int, int, int]:
        spans = [(self.kernel[i] - 1) * self.dilations[i] + 1 for i in range(2)]
        rows, columns = (
            (self.size[i] + 2 * self.pad - spans[i]) // self.strides[i] + 1 for i in range(2)
        )
        return (self.images, rows, columns, self.channels)

    def arrays(self) -> list[np.ndarray | None]:
        """Input, weight, bias, residual."""
        rng = np.random.default_rng(self.channels + self.depth)
        shapes = [
            (self.images, *self.size, self.groups * self.depth),
            (self.channels, self.depth, *self.kernel),
            (self.channels,),
            self.outputs(),
        ]
        found: list[np.ndarray | None] = [rng.normal(size=s).astype(np.float32) for s in shapes]
        return found if self.residual else [*found[:3], None]


def node_of(case: Case, arrays: list[np.ndarray | None]) -> Node:
    graph = Graph()
    values = [
        None if array is None else graph.add_input(f"x{i}", TensorType(array.shape, "float32"))
        for i, array in enumerate(arrays)
    ]
    return graph.create_node(
        "q.float_conv",
        values,
        [TensorType(case.outputs(), "float32")],
        attributes={
            "strides": list(case.strides),
            "pads": [case.pad] * 4,
            "dilations": list(case.dilations),
            "group": case.groups,
            "layout": "nhwc",
            "low": case.low,
            "high": case.high,
        },
    )


def reference(case: Case, arrays: list[np.ndarray | None]) -> np.ndarray:
    found = definition("q.float_conv")
    assert found is not None
    return np.asarray(found.evaluate(node_of(case, arrays), arrays)[0])


def kernel_of(case: Case, gap: int = 0, **changes: object) -> FloatConvKernel:
    """``gap``: channels between the pixels of the input and of the output."""
    rows, columns = (size + 2 * case.pad for size in case.size)
    outputs = case.outputs()
    kernel = FloatConvKernel(
        outputs,
        case.depth,
        _spread((case.images, rows, columns, case.groups * case.depth), gap),
        _spread(outputs, gap),
        case.kernel,
        case.strides,
        case.dilations,
        case.groups,
        dense_view(outputs, 4) if case.residual else None,
        case.low is not None,
        case.high is not None,
    )
    return dataclasses.replace(kernel, **changes)  # type: ignore[arg-type]


def _spread(shape: tuple[int, ...], gap: int) -> View:
    return dense_view((*shape[:3], shape[3] + gap), 4)


def padded(x: np.ndarray, pad: int, gap: int = 0) -> np.ndarray:
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    return np.pad(x, [(0, 0)] * 3 + [(0, gap)], constant_values=np.nan)


def check(
    case: Case,
    isa: str = "x86-avx2",
    threads: int = 1,
    gap: int = 0,
    arrays: list[np.ndarray | None] | None = None,
    **changes: object,
) -> None:
    arrays = case.arrays() if arrays is None else arrays
    x, weight, bias, residual = arrays
    assert x is not None
    wanted = reference(case, arrays)
    kernel = kernel_of(case, gap, **changes)
    target = executable_form(isa)
    output = blank(wanted[..., :1].nbytes * (case.channels + gap))
    operands = {"input": bytes_of(padded(x, case.pad, gap)), "output": output}
    if residual is not None:
        operands["residual"] = bytes_of(residual)
    packed = kernel.pack(target, weight=weight, bias=bias, low=case.low, high=case.high)
    run(kernel, target, {**operands, **constants(packed)}, threads)
    found = output.view(np.float32).reshape(*wanted.shape[:3], -1)
    assert found[..., : case.channels].tobytes() == wanted.tobytes()
    untouched = found[..., case.channels :].tobytes()
    assert untouched == bytes([FILL]) * len(untouched)


CASES = st.builds(
    Case,
    images=st.integers(1, 2),
    size=st.tuples(st.integers(5, 9), st.integers(5, 17)),
    depth=st.integers(1, 9),
    columns=st.integers(1, 37),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pad=st.integers(0, 2),
    residual=st.booleans(),
    low=st.sampled_from([None, 0.0, -0.5]),
    high=st.sampled_from([None, 0.75]),
)


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@settings(deadline=None, max_examples=10)
@given(case=CASES, threads=st.integers(1, 3), gap=st.sampled_from([0, 3]))
def test_dense(isa: str, case: Case, threads: int, gap: int) -> None:
    check(case, isa, threads, gap)


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@settings(deadline=None, max_examples=10)
@given(
    case=CASES,
    groups=st.integers(2, 50),
    depthwise=st.booleans(),
    threads=st.integers(1, 2),
)
def test_groups(isa: str, case: Case, groups: int, depthwise: bool, threads: int) -> None:
    if depthwise:
        case = dataclasses.replace(case, depth=1, columns=1, groups=groups)
    else:
        case = dataclasses.replace(
            case, groups=min(groups, 4), depth=min(case.depth, 4), columns=min(case.columns, 17)
        )
    check(case, isa, threads)


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@pytest.mark.parametrize(
    "case",
    [
        Case(size=(1, 40), depth=70, columns=35),
        Case(size=(1, 1), depth=200, columns=100),
        Case(size=(12, 12), depth=16, columns=24, kernel=(3, 3), pad=1, low=0.0),
        Case(size=(14, 14), depth=1, columns=1, groups=40, kernel=(5, 5), pad=2, low=0.0, high=6.0),
        Case(size=(15, 15), depth=3, columns=16, kernel=(7, 7), strides=(2, 2), pad=3),
        Case(size=(5, 1), depth=16, columns=16, kernel=(3, 1)),
    ],
)
def test_usual_shapes(isa: str, case: Case) -> None:
    check(case, isa, threads=2)


@pytest.mark.parametrize("tile", [(1, 1), (1, 12), (2, 4), (3, 3), (4, 3), (6, 2), (12, 1)])
@pytest.mark.parametrize("block", [1, 3])
def test_any_tile_gives_the_same_bytes(tile: tuple[int, int], block: int) -> None:
    for pad in (0, 1):
        case = Case(size=(9, 13), depth=5, columns=50, kernel=(3, 3), pad=pad)
        check(case, threads=2, schedule=FloatSchedule(*tile, block, 2))


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@pytest.mark.parametrize("parts", [2, 3, 6])
@pytest.mark.parametrize("pad", [0, 1])
def test_runs_in_parts_give_the_same_bytes(isa: str, parts: int, pad: int) -> None:
    case = Case(2, (5, 9), 12, 35, 2, kernel=(3, 2), pad=pad, residual=True, low=0.0)
    check(case, isa, 2, schedule=FloatSchedule(3, 2, 2, 2, parts))
    check(dataclasses.replace(case, kernel=(1, 1)), isa, schedule=FloatSchedule(4, 1, 3, 1, parts))


def test_what_is_not_finite() -> None:
    case = Case(size=(6, 8), depth=4, columns=9, kernel=(3, 3), pad=1, low=0.0, high=6.0)
    arrays = case.arrays()
    x, weight = arrays[0], arrays[1]
    assert x is not None
    assert weight is not None
    x[0, 0, :4, 0] = [np.inf, -np.inf, np.nan, 3e38]
    x[0, 3, :3, 1] = [-0.0, 1e-45, -1e-40]
    weight[0, 0, 0, 0] = np.inf
    weight[1] = 3e38
    weight[2] = 0.0
    weight[3] = 1e-38
    for low, high in ((None, None), (0.0, None), (-1.0, 6.0)):
        check(dataclasses.replace(case, low=low, high=high), arrays=arrays)


def test_zeros_keep_their_sign() -> None:
    case = Case(size=(1, 8), depth=1, columns=9)
    x, weight = np.full((1, 1, 8, 1), -1e-30, np.float32), np.full((9, 1, 1, 1), 1e-30, np.float32)
    start = np.array([0, -0.0] * 4 + [0], np.float32)
    check(case, arrays=[x, weight, start, None])
    check(dataclasses.replace(case, low=0.0), arrays=[x, weight, start, None])


@pytest.mark.parametrize(
    "case",
    [
        Case(size=(5, 5), depth=3, columns=5),
        Case(size=(7, 7), depth=2, columns=17, kernel=(3, 3)),
        Case(size=(7, 7), depth=1, columns=1, groups=13, kernel=(3, 3)),
    ],
)
def test_not_a_byte_past_the_end_is_touched(case: Case) -> None:
    arrays = case.arrays()
    x, weight, bias, _ = arrays
    assert x is not None
    wanted = reference(case, arrays)
    kernel, isa = kernel_of(case), host_instruction_set()
    loaded = machine.load_object(build(kernel, isa).object_code)
    output = at_page_end(np.zeros(wanted.shape, np.float32))
    packed = constants(kernel.pack(isa, weight=weight, bias=bias))
    operands = {"input": at_page_end(x), "output": output, **packed}
    pointers = [operands[name].ctypes.data for name in kernel.operands]
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(pointers), *[ctypes.c_int32] * 2)
    signature(loaded.address("kernel"))(*pointers, 0, 1)
    assert output.tobytes() == wanted.tobytes()


def test_the_inner_loop_holds_nothing_but_products() -> None:
    case = Case(size=(28, 28), depth=64, columns=64, kernel=(3, 3), pad=1)
    text = build(kernel_of(case), INSTRUCTION_SETS["x86-avx2"]).assembly
    assert "vfmadd" in text
    assert not any(word in text for word in ("vmulps", "callq"))
    spilled = [line for line in text.splitlines() if "ymm" in line and "%rsp" in line]
    assert spilled == []
    text = build(kernel_of(case), INSTRUCTION_SETS["arm-neon"]).assembly
    by_lane = re.search(r"fmla\tv\d+\.4s, v\d+\.4s, v\d+\.s\[3\]", text)
    assert by_lane
    loop = text[text.rindex("\n.L", 0, by_lane.start()) : by_lane.start()]
    assert "[sp" not in loop


def test_tiles_fit_the_registers() -> None:
    for isa in INSTRUCTION_SETS.values():
        for depthwise in (False, True):
            for rows, vectors in candidates(isa, depthwise=depthwise):
                assert rows * vectors < isa.vector_registers


def test_what_is_refused() -> None:
    kernel = kernel_of(Case())
    with pytest.raises(ConfigError, match="4 strides"):
        dataclasses.replace(kernel, input=View(0, (4, 4)))
    with pytest.raises(ConfigError, match="without elements"):
        dataclasses.replace(kernel, depth=0)
    with pytest.raises(ConfigError, match="groups"):
        dataclasses.replace(kernel, groups=3)
    isa = INSTRUCTION_SETS["x86-avx2"]
    with pytest.raises(ConfigError, match="does not fit"):
        kernel.pack(isa, weight=np.zeros((5, 2, 1, 1)))
    with pytest.raises(ConfigError, match="bounds"):
        kernel.pack(isa, weight=np.zeros((5, 3, 1, 1)), low=0.0)
