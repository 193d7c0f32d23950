from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcc.quant.observers import OBSERVERS
from qcc.quant.qparams import QuantParams
from tests.quant.torch_cases import CASES, Case, torch_numbers

RECORDED = Path(__file__).with_name("torch_recorded.json")

SCALE_TOLERANCE = 1e-6
"""Relative; float32 sums in torch depend on its vector width."""


@cache
def recorded() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(RECORDED.read_text())
    return table


def our_numbers(case: Case) -> QuantParams:
    observer = OBSERVERS[case.observer].with_args(**case.arguments)()
    for batch in case.batches():
        observer.update(batch)
    return observer.qparams()


def check(case: Case, expected: dict[str, Any]) -> None:
    params = our_numbers(case)
    np.testing.assert_allclose(params.scale, expected["scale"], rtol=SCALE_TOLERANCE)
    zero_points = expected["zero_point"]
    if len(zero_points) != len(params.zero_point):
        zero_points = zero_points * len(params.zero_point)
    assert list(params.zero_point) == zero_points


def test_the_table_holds_every_case() -> None:
    assert {case.key for case in CASES} == set(recorded()) - {"torch"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_recorded_torch_numbers(case: Case) -> None:
    check(case, recorded()[case.key])


@pytest.mark.filterwarnings("ignore")
def test_installed_torch() -> None:
    pytest.importorskip("torch")
    for case in CASES[::7]:
        check(case, torch_numbers(case))
