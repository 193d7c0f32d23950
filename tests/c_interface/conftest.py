"""C programs need a C compiler."""

from __future__ import annotations

import shutil

import pytest

from qcc.backends.llvm.isa import INSTRUCTION_SETS
from qcc.backends.llvm.machine import host_architecture
from tests.required import skip_unless_required

_TOOLS = ("cc", "c++", "ar", "nm", "readelf")


@pytest.fixture(autouse=True, scope="session")
def compiler() -> None:
    """Skips where the tools are missing; fails where a row of this machine is required."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    rows = [
        row.name for row in INSTRUCTION_SETS.values() if row.architecture == host_architecture()
    ]
    if missing:
        skip_unless_required(rows, f"{', '.join(missing)} are not installed")
