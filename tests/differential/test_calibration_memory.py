"""Quantizing takes the memory of one batch, however many samples there are."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.differential.models import ROOT

TOOL = ROOT / "tools" / "measure_calibration_memory.py"

FEW, MANY = "10", "300"
"""Numbers of samples; more than the 64 that are kept on disk, so that some are dropped."""

GROWTH_PERCENT = "5"


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("observer", ["mse", "histogram"])
def test_peak_does_not_grow_with_samples(observer: str) -> None:
    options = ["--observers", observer, "--samples", FEW, MANY, "--limit", GROWTH_PERCENT]
    options += ["--repeat", "1"]
    done = subprocess.run(
        [sys.executable, str(TOOL), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
