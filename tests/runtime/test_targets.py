"""One file for several instruction sets: the best that a machine has runs, and is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qcc
from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import INSTRUCTION_SETS, host_instruction_set
from qcc.errors import ArtifactError, ConfigError
from qcc.runtime.artifact import load
from qcc.runtime.build import codegen, target_instruction_set
from qcc.runtime.contents import contents_of
from tests.runtime.models import net_with_free_batch, net_with_region, small_net
from tests.runtime.test_steered import feeds as steered_feeds
from tests.runtime.test_steered import model as steered_model

FOUR = "x86-avx2,x86-avx512vnni,arm-dotprod,arm-i8mm"
AVX2 = ("avx2", "fma", "bmi2", "f16c")
AVX512 = (*AVX2, "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd", "avx512vnni")

MACHINES = {
    "x86-avx2": ("x86_64", AVX2),
    "x86-avx512vnni": ("x86_64", AVX512),
    "arm-neon": ("aarch64", ("neon",)),
    "arm-dotprod": ("aarch64", ("neon", "dotprod")),
    "arm-i8mm": ("aarch64", ("neon", "dotprod", "i8mm")),
}
"""Machines by what ``host`` is on them."""


def pretend(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let this machine look like another one; code can be read then, not run."""
    architecture, features = MACHINES[name]
    monkeypatch.setattr(machine, "host_architecture", lambda: architecture)
    monkeypatch.setattr(machine, "host_cpu_features", lambda: frozenset(features))


@pytest.fixture(name="four", scope="module")
def _four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("targets") / "four.qcc"
    codegen(small_net()[0], FOUR).save(path)
    return path


@pytest.mark.parametrize("host", MACHINES)
def test_host_is_the_best_row_of_a_machine(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, host)
    assert host_instruction_set().name == host
    assert target_instruction_set("host").name == host


@pytest.mark.parametrize("host", ["x86-avx2", "x86-avx512vnni", "arm-dotprod", "arm-i8mm"])
def test_a_machine_loads_the_best_code_that_it_can_run(
    host: str, four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, host)
    loaded = load(four)
    assert [variant.model.isa.name for variant in loaded.variants] == [host]
    assert loaded.running == host
    assert loaded.targets == ("x86-avx512vnni", "x86-avx2", "arm-i8mm", "arm-dotprod")
    assert contents_of(four).running == host
    used = {node.isa for node in loaded.report.nodes if node.kernel}
    assert used == {host}
    assert loaded.report.arena_bytes == loaded.variants[0].model.arena_bytes
    assert loaded.report.weight_bytes == loaded.variants[0].model.weights.size


def test_the_file_runs_here_with_the_bytes_of_code_for_this_machine_alone(four: Path) -> None:
    graph, given = small_net()
    wanted = codegen(graph, "host").run(given)["y"]
    np.testing.assert_array_equal(load(four).run(given)["y"], wanted)


def test_saving_a_loaded_file_keeps_the_code_for_other_machines(four: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.qcc"
    load(four).save(again)
    assert again.read_bytes() == four.read_bytes()


@pytest.mark.parametrize(
    ("host", "target", "parts"),
    [
        ("arm-neon", FOUR, ["aarch64 CPU lacks dotprod;", "arm-neon, too"]),
        ("arm-neon", "arm-i8mm", ["lacks dotprod, i8mm", "--target arm-i8mm,arm-neon"]),
        ("x86-avx2", "arm-dotprod,arm-i8mm", ["this CPU is x86_64", "x86-avx2, too"]),
        ("arm-i8mm", "x86-avx2", ["this CPU is aarch64", "--target x86-avx2,arm-i8mm"]),
    ],
)
def test_a_machine_without_code_is_told_what_there_is_and_what_to_do(
    host: str, target: str, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.qcc"
    codegen(small_net()[0], target).save(path)
    pretend(monkeypatch, host)
    with pytest.raises(ArtifactError) as raised:
        load(path)
    sentence = str(raised.value)
    names = [row.instruction_set for row in contents_of(path).code]
    assert f"model.qcc holds code for {', '.join(names)}, and" in sentence
    for part in parts:
        assert part in sentence, sentence
    assert contents_of(path).running == ""
    assert "this machine runs none of it" in str(contents_of(path))


def test_free_dimensions_are_compiled_for_the_best_target_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, given = net_with_free_batch()
    path = tmp_path / "model.qcc"
    host = host_instruction_set().name
    codegen(graph, f"arm-i8mm,arm-neon,{host}").save(path)
    loaded = load(path)
    assert contents_of(path).code == ()
    assert loaded.running == host
    wanted = codegen(graph, "host").run(given)["y"]
    np.testing.assert_array_equal(loaded.run(given)["y"], wanted)
    assert [variant.model.isa.name for variant in loaded.variants] == [host]
    again = tmp_path / "again.qcc"
    loaded.save(again)
    # Code that a machine added is of use to its like only: another one compiles its own.
    pretend(monkeypatch, "arm-dotprod")
    elsewhere = load(again)
    assert elsewhere.running == "arm-neon"
    assert elsewhere.targets == ("x86-avx2", "arm-i8mm", "arm-neon") or host != "x86-avx2"


def test_free_dimensions_are_no_reason_to_compile_for_a_machine_that_nobody_named(
    tmp_path: Path,
) -> None:
    graph, _ = net_with_free_batch()
    path = tmp_path / "model.qcc"
    codegen(graph, "arm-i8mm").save(path)
    with pytest.raises(ArtifactError, match="holds code for arm-i8mm, and this CPU is"):
        load(path)


def test_steered_code_is_that_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = steered_feeds(16, 4)
    made = qcc.compile(steered_model(), [given], target="x86-avx2,arm-dotprod,arm-neon")
    assert isinstance(made, qcc.Executable)
    path = tmp_path / "steered.qcc"
    made.save(path)
    assert len([row for row in contents_of(path).code if row.values]) == 3
    wanted = made.run(given)["y"]
    np.testing.assert_array_equal(load(path).run(given)["y"], wanted)
    pretend(monkeypatch, "arm-dotprod")
    steered = [variant for variant in load(path).variants if variant.values]
    assert [variant.model.isa.name for variant in steered] == ["arm-dotprod"]


def test_regions_are_for_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.qcc"
    codegen(net_with_region()[0], FOUR).save(path)
    assert {row.regions for row in contents_of(path).code} == {1}
    pretend(monkeypatch, "arm-i8mm")
    variant = load(path).variants[0]
    assert len(variant.model.regions) == 1


def test_damage_in_code_for_others_is_found_where_it_is_read(
    four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "arm-i8mm")
    code = load(four).variants[0].model.object_code
    content = bytearray(four.read_bytes())
    content[content.index(code) + 100] ^= 1
    damaged = tmp_path / "damaged.qcc"
    damaged.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        load(damaged)
    pretend(monkeypatch, "x86-avx2")
    loaded = load(damaged)
    with pytest.raises(ArtifactError, match="damaged"):
        loaded.save(tmp_path / "again.qcc")
    assert not (tmp_path / "again.qcc").exists()


def test_a_cpu_of_another_kind_has_no_host(monkeypatch: pytest.MonkeyPatch, four: Path) -> None:
    monkeypatch.setattr(machine, "host_architecture", lambda: "riscv64")
    monkeypatch.setattr(machine, "host_cpu_features", lambda: frozenset({"v"}))
    with pytest.raises(ConfigError, match="none of the instruction sets"):
        host_instruction_set()
    with pytest.raises(ArtifactError, match="this CPU is riscv64; export the model to ONNX"):
        load(four)


def test_ranks_are_the_order_of_the_table() -> None:
    assert [row.rank for row in INSTRUCTION_SETS.values()] == list(range(len(INSTRUCTION_SETS)))
