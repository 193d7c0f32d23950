"""``tools/check_emulated.py``: its lines, its exit code, and what it says without its tools."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.conformance.prepared import Prepared
from tests.emulation.comparison import EmulatedComparison
from tests.emulation.programs import require_emulator
from tests.tools.loading import load_tool

tool = load_tool("check_emulated")
Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


def outcome(monkeypatch: Patch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["check_emulated.py", *arguments])
    code: int = tool.main()
    return code


def test_a_model_is_right_on_a_row(monkeypatch: Patch, capsys: Capture) -> None:
    require_emulator()
    assert outcome(monkeypatch, "digits", "--isa", "arm-neon", "--batches", "1") == 0
    _, line = capsys.readouterr().out.splitlines()
    name, row, outputs, elements, differing, host, _ = line.split()
    assert (name, row, outputs, differing, host) == ("digits", "arm-neon", "1", "0", "0")
    assert int(elements) > 0


@pytest.mark.parametrize("wrong", [(1, 0), (0, 1)])
def test_a_differing_byte_is_an_error(
    wrong: tuple[int, int], monkeypatch: Patch, capsys: Capture
) -> None:
    require_emulator()
    found = EmulatedComparison(1, 10, *wrong)
    monkeypatch.setattr(tool, "compare_emulated", lambda *_, **__: found)
    assert outcome(monkeypatch, "digits", "--isa", "arm-dotprod", "--batches", "1") == 1
    assert " 1 " in capsys.readouterr().out


def test_a_wrong_network_is_named(monkeypatch: Patch, capsys: Capture) -> None:
    require_emulator()
    prepare = tool.prepared_network

    def spoiled(*arguments: object) -> Prepared:
        found: Prepared = prepare(*arguments)
        wanted = [array.copy() for array in found.wanted]
        wanted[0].view(np.uint8).reshape(-1)[0] ^= 1
        return dataclasses.replace(found, wanted=tuple(wanted))

    monkeypatch.setattr(tool, "prepared_network", spoiled)
    assert outcome(monkeypatch, "--networks", "1", "--isa", "arm-neon") == 1
    lines = capsys.readouterr().out
    assert "RandomNetwork 0 on arm-neon" in lines
    assert "1 graphs, 1 wrong" in lines


def test_missing_tools_are_named(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr(tool, "missing_tools", lambda: ["qemu-aarch64"])
    assert outcome(monkeypatch) == 2
    assert "Install qemu-aarch64" in capsys.readouterr().out
