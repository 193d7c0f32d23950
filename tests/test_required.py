"""What is required cannot skip."""

from __future__ import annotations

import pytest

from qcc.backends.llvm import machine
from tests.backends.llvm.native import native_or_skip
from tests.emulation import programs
from tests.required import VARIABLE, required_rows


@pytest.fixture(autouse=True)
def _bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "host_cpu_features", lambda: frozenset({"sse2"}))
    monkeypatch.setattr(programs, "missing_tools", lambda: ["qemu-aarch64"])


@pytest.mark.parametrize("rows", ["", "x86-avxvnni", "arm-neon, x86-avx512vnni"])
def test_what_is_not_required_skips(rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, rows)
    with pytest.raises(pytest.skip.Exception, match="cannot run x86-avx2"):
        native_or_skip("x86-avx2")


@pytest.mark.parametrize("rows", ["x86-avx2", "x86-avxvnni,x86-avx2", "x86-avx2, arm-neon"])
def test_a_required_row_of_a_list_fails(rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, rows)
    with pytest.raises(pytest.fail.Exception, match="x86-avx2, but this CPU cannot run"):
        native_or_skip("x86-avx2")


def test_an_emulator_is_required_with_any_row_of_aarch64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "x86-avx2")
    with pytest.raises(pytest.skip.Exception, match="qemu-aarch64"):
        programs.require_emulator()
    monkeypatch.setenv(VARIABLE, "x86-avx2,arm-dotprod")
    assert required_rows() == {"x86-avx2", "arm-dotprod"}
    with pytest.raises(pytest.fail.Exception, match=r"arm-dotprod, but .*qemu"):
        programs.require_emulator()
