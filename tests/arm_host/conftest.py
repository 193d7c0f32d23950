"""The ARM host, unpacked once and used by every test."""

from __future__ import annotations

import pytest

from tests.required import skip_unless_required
from tests.tools.loading import load_tool

ARM_ROWS = ("arm-neon", "arm-dotprod", "arm-i8mm")


@pytest.fixture(scope="session")
def arm_host() -> object:
    """An ``ArmHost``; skips where there can be none, fails where a row of AArch64 is required."""
    tool = load_tool("arm_host")
    try:
        return tool.prepare(tool.default_folder())
    except tool.ArmHostError as error:
        skip_unless_required(ARM_ROWS, str(error))
