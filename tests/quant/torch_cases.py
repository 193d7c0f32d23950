"""Observer cases that are run both here and in torch, and how torch runs them.

Data come from ``RandomState``, whose streams numpy keeps for good, so that numbers recorded with
one version of numpy hold for all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """An observer by name, its arguments, and the recipe of its batches."""

    observer: str
    data: str
    seed: int
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        arguments = ",".join(f"{k}={v}" for k, v in self.arguments.items())
        return f"{self.observer}({arguments})/{self.data}/{self.seed}"

    def batches(self) -> list[FloatArray]:
        return RECIPES[self.data](np.random.RandomState(self.seed))


def _normal(random: np.random.RandomState) -> list[FloatArray]:
    return [random.normal(0.3, 1.5, (4, 6, 50)).astype(np.float32) for _ in range(4)]


def _growing(random: np.random.RandomState) -> list[FloatArray]:
    return [
        random.normal(-0.5, 0.7 * 1.6**i, (4, 6, 40 + 7 * i)).astype(np.float32) for i in range(6)
    ]


def _relu(random: np.random.RandomState) -> list[FloatArray]:
    return [np.maximum(random.normal(0, 2 + i, (4, 6, 80)), 0).astype(np.float32) for i in range(3)]


def _heavy(random: np.random.RandomState) -> list[FloatArray]:
    return [random.standard_t(2.5, (4, 6, 300)).astype(np.float32) for _ in range(3)]


def _negative(random: np.random.RandomState) -> list[FloatArray]:
    return [-random.gamma(2.0, 1.0, (4, 6, 60)).astype(np.float32) for _ in range(2)]


def _tiny(random: np.random.RandomState) -> list[FloatArray]:
    return [(random.normal(size=(2, 6, 9)) * 1e-9).astype(np.float32)]


def _constant(random: np.random.RandomState) -> list[FloatArray]:
    value = np.full((2, 6, 5), random.normal(), np.float32)
    return [value, value]


def _constant_then_wide(random: np.random.RandomState) -> list[FloatArray]:
    value = np.full((2, 6, 5), random.normal(), np.float32)
    return [value, value, random.normal(size=(2, 6, 200)).astype(np.float32)]


def _zero(random: np.random.RandomState) -> list[FloatArray]:
    return [np.zeros((3, 6, 4), np.float32)]


RECIPES = {
    "normal": _normal,
    "growing": _growing,
    "relu": _relu,
    "heavy": _heavy,
    "negative": _negative,
    "tiny": _tiny,
    "constant": _constant,
    "constant_then_wide": _constant_then_wide,
    "zero": _zero,
}

U8: dict[str, Any] = {"dtype": "uint8", "quant_min": 0, "quant_max": 255}
S8: dict[str, Any] = {"dtype": "int8", "quant_min": -128, "quant_max": 127}
NARROW: dict[str, Any] = {"dtype": "int8", "quant_min": -127, "quant_max": 127}
REDUCED: dict[str, Any] = {"dtype": "uint8", "reduce_range": True}
COARSE: dict[str, Any] = {**S8, "eps": 2.0**-12}
SYMMETRIC: dict[str, Any] = {"qscheme": "per_tensor_symmetric"}
CHANNEL_SYMMETRIC: dict[str, Any] = {"qscheme": "per_channel_symmetric"}

TENSOR = [U8, S8, NARROW | SYMMETRIC, S8 | SYMMETRIC, U8 | SYMMETRIC, REDUCED, COARSE]
CHANNEL = [{**U8, "ch_axis": 1}, NARROW | CHANNEL_SYMMETRIC, {**S8, "ch_axis": 2}]

CASES = [
    Case(observer, data, seed, arguments)
    for observers, choices, seeds in (
        (("MinMaxObserver", "MovingAverageMinMaxObserver"), TENSOR, (0,)),
        (("PerChannelMinMaxObserver", "MovingAveragePerChannelMinMaxObserver"), CHANNEL, (0,)),
        (("HistogramObserver",), TENSOR, (0, 1, 2)),
    )
    for observer in observers
    for arguments in choices
    for data in RECIPES
    for seed in seeds
    if not (data in ("growing", "constant_then_wide") and arguments.get("ch_axis") == 2)
]


def torch_numbers(case: Case) -> dict[str, Any]:
    """Scale and zero point that torch's observer gives for a case."""
    import torch
    from torch.ao.quantization import observer as torch_observers

    arguments = dict(case.arguments)
    arguments["dtype"] = {"uint8": torch.quint8, "int8": torch.qint8}[arguments["dtype"]]
    if "qscheme" in arguments:
        arguments["qscheme"] = getattr(torch, arguments["qscheme"])
    observer = getattr(torch_observers, case.observer)(**arguments)
    for batch in case.batches():
        observer(torch.from_numpy(batch))
    scale, zero_point = observer.calculate_qparams()
    return {
        "scale": [float(s) for s in scale.reshape(-1)],
        "zero_point": [int(z) for z in zero_point.reshape(-1)],
    }
