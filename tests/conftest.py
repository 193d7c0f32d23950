"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A loaded machine draws slowly, which says nothing of the code under test.
settings.register_profile("qcc", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("qcc")

ZOO = Path(__file__).resolve().parents[2] / "shared" / "zoo"
"""Real models and data, beside the repository; not part of it."""


@pytest.fixture(scope="session")
def zoo() -> Path:
    """The folder of real models and data; skips where it is absent.

    With ``QCC_REQUIRE_SHARED=1`` in the environment an absent folder is a failure.
    """
    if not (ZOO / "models").is_dir():
        reason = f"the folder of real models '{ZOO}' is absent"
        if os.environ.get("QCC_REQUIRE_SHARED") == "1":
            pytest.fail(f"{reason} and QCC_REQUIRE_SHARED=1")
        pytest.skip(reason)
    return ZOO


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update`` rewrites what golden files expect."""
    parser.addoption("--update", action="store_true", help="rewrite the golden expectations")
