"""Schedules that are measured: winners, budgets and the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qcc
from qcc.backends.llvm import tuning
from qcc.backends.llvm.isa import INSTRUCTION_SETS, host_instruction_set
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.conv import ConvKernel, matmul_kernel
from qcc.backends.llvm.kernels.conv_plan import ConvPlan
from qcc.backends.llvm.schedule import GemmSchedule
from qcc.backends.llvm.tuning import Tuner
from qcc.errors import ConfigError
from tests.backends.llvm.conv_case import ConvCase, check_conv

WEIGHT = np.random.default_rng(0).integers(-127, 128, (64, 48))
ARGUMENTS: dict[str, Any] = {"multiplier": np.float32(1e-3), "input_zero_point": 3}


def kernel() -> ConvKernel:
    return matmul_kernel(30, 64, 48, WEIGHT, **ARGUMENTS)


def pack(form: ConvKernel) -> Packed:
    return form.pack(host_instruction_set(), weight=WEIGHT.T[:, :, None, None], **ARGUMENTS)


def timed(monkeypatch: pytest.MonkeyPatch, winner: int) -> None:
    """Let candidate ``winner`` be the fastest."""
    order: list[ConvKernel] = []

    class Timed:
        def __init__(self, form: ConvKernel, isa: object, packed: Packed) -> None:
            assert packed.keys() == {"weight", "parameters"}
            self.place = len(order)
            order.append(form)

        def seconds(self) -> float:
            return 1.0 if self.place == winner else 2.0

    monkeypatch.setattr(tuning, "_Run", Timed)


def test_the_fastest_schedule_wins_and_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    isa, cache = host_instruction_set(), tmp_path / "folder" / "schedules.json"
    choices = ConvPlan.of(kernel(), isa).alternatives()
    assert len(choices) == len(set(choices)) > 2
    timed(monkeypatch, 2)
    tuner = Tuner(isa, 60, cache)
    chosen = tuner.choose(kernel(), pack)
    assert isinstance(chosen, ConvKernel)
    assert chosen.schedule == choices[2]
    assert tuner.choose(kernel(), pack) == chosen
    assert (tuner.measured, tuner.known, tuner.skipped) == (1, 1, 0)
    tuner.save()
    assert len(json.loads(cache.read_text())) == 1

    def refuse(*_: object) -> None:
        raise AssertionError("what is known is not measured again")

    monkeypatch.setattr(tuning, "_Run", refuse)
    again = Tuner(isa, 1e-9, cache)
    assert again.choose(kernel(), pack) == chosen
    assert "1 were known" in again.note


def test_the_model_is_kept_where_nothing_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    isa = host_instruction_set()
    timed(monkeypatch, -1)
    chosen = Tuner(isa, 60, tmp_path / "s.json").choose(kernel(), pack)
    assert isinstance(chosen, ConvKernel)
    assert chosen.schedule == ConvPlan.of(kernel(), isa).schedule


def test_without_time_the_model_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 1)
    tuner = Tuner(host_instruction_set(), 1e-9, tmp_path / "s.json")
    tuner.choose(kernel(), pack)
    other = matmul_kernel(31, 64, 48, WEIGHT, **ARGUMENTS)
    assert tuner.choose(other, pack) == other
    assert "1 had no time left" in tuner.note


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"a": 1}', '{"a": [1, 2]}', '{"a": [0, 1, 1, 1]}']
)
def test_a_damaged_cache_is_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    cache = tmp_path / "s.json"
    cache.write_text(text)
    timed(monkeypatch, 1)
    tuner = Tuner(host_instruction_set(), 60, cache)
    tuner.choose(kernel(), pack)
    assert tuner.measured == 1
    tuner.save()
    assert len(json.loads(cache.read_text())) == 1


def test_measuring_really_runs_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "ROUNDS", 1)
    monkeypatch.setattr(tuning, "TURN_SECONDS", 0.0)
    isa = host_instruction_set()
    chosen = Tuner(isa, 60, tmp_path / "s.json").choose(kernel(), pack)
    assert isinstance(chosen, ConvKernel)
    assert chosen.schedule in ConvPlan.of(kernel(), isa).alternatives()


CASES = {
    "in place": ConvCase(height=5, width=7, channels=40, outputs=72),
    "taps": ConvCase(kernel=(3, 3), pads=(1, 1, 1, 1), channels=24, outputs=40, residual=True),
    "few channels": ConvCase(kernel=(5, 5), pads=(2, 2, 2, 2), channels=3, outputs=24),
}


@pytest.mark.parametrize("name", ["x86-avx2", "x86-avx512vnni"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_alternative_gives_the_same_bytes(
    case: ConvCase, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    isa = INSTRUCTION_SETS[name].for_emulation()
    plain = ConvPlan.of
    seen: list[GemmSchedule] = []
    for number in range(5):

        def of(form: ConvKernel, row: Any, number: int = number) -> ConvPlan:
            choices = plain(form, row).alternatives()
            seen.append(choices[number % len(choices)])
            object.__setattr__(form, "schedule", seen[-1])
            return plain(form, row)

        monkeypatch.setattr(ConvPlan, "of", staticmethod(of))
        check_conv(case, isa)
    assert len(set(seen)) > 2


def test_code_for_other_machines_is_not_tuned(tmp_path: Path) -> None:
    emulated = host_instruction_set().for_emulation()
    for isa in (emulated, INSTRUCTION_SETS["arm-dotprod"]):
        with pytest.raises(ConfigError, match="cannot be measured on this CPU"):
            Tuner(isa, 1, tmp_path / "s.json")
    for target in ("arm-dotprod", "onnx"):
        with pytest.raises(ConfigError, match="tun"):
            qcc.compile(b"", None, target=target, tune=1)
