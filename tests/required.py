"""What a machine must be able to run, so that nothing which CI needs can skip silently."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NoReturn

import pytest

VARIABLE = "QCC_REQUIRE_ISA"
"""Instruction sets, separated by commas, whose tests must not skip; those of AArch64 run under
emulation where the CPU has none."""


def required_rows() -> frozenset[str]:
    """Names of the instruction sets whose tests must not skip."""
    words = os.environ.get(VARIABLE, "").split(",")
    return frozenset(word.strip() for word in words if word.strip())


def skip_unless_required(rows: Iterable[str], reason: str) -> NoReturn:
    """Skip the test for ``reason``; fail it where one of ``rows`` is required."""
    required = sorted(required_rows().intersection(rows))
    if required:
        pytest.fail(f"{VARIABLE} has {', '.join(required)}, but {reason}")
    pytest.skip(reason)
