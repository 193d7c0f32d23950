"""Signal and noise of pairs of arrays, with the extremes that attention masks hold."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from qcc.passes.walk import Noise

LEAST = np.finfo(np.float32).min


def ratio(exact: list[float], approximate: list[float]) -> float:
    noise = Noise()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        noise.add(np.asarray(exact, np.float32), np.asarray(approximate, np.float32))
        return noise.sqnr_db


def test_the_least_float_counts_with_its_full_power() -> None:
    found = ratio([LEAST, 1.0], [LEAST / 2, 0.0])
    assert found == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_infinite_elements_are_not_compared() -> None:
    found = ratio([-np.inf, 10.0, np.nan, np.inf], [-128.0, 9.0, 0.0, np.inf])
    assert found == pytest.approx(20.0)


def test_ordinary_values_are_compared_in_full() -> None:
    assert ratio([3.0, 4.0], [3.0, 3.5]) == pytest.approx(20.0)
