"""Artifacts: what is saved runs the same, what is damaged says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qcc.backends.llvm.isa import INSTRUCTION_SETS, can_run
from qcc.errors import ArtifactError, OutputError
from qcc.ir.core import Array
from qcc.runtime import program
from qcc.runtime.artifact import FORMAT_VERSION, load
from qcc.runtime.build import codegen
from tests.runtime.models import net_with_free_batch, net_with_region, small_net


@pytest.fixture(autouse=True)
def _threads_for_small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "LEAST_MACS", 0)


@pytest.fixture(name="saved")
def _saved(tmp_path: Path) -> tuple[Path, dict[str, Array], dict[str, Array]]:
    graph, feeds = small_net()
    executable = codegen(graph)
    path = tmp_path / "model.qcc"
    executable.save(path)
    return path, feeds, executable.run(feeds)


def test_round_trip(saved: tuple[Path, dict[str, Array], dict[str, Array]]) -> None:
    path, feeds, wanted = saved
    for threads in (1, 2):
        executable = load(path, threads=threads)
        found = executable.run(feeds)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
        assert executable.report.int8_nodes == 6
        assert executable.input_names == ("x",)
        executable.close()


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.qcc", "b.qcc")]
    for path in paths:
        codegen(small_net()[0]).save(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_saving_a_loaded_artifact(
    saved: tuple[Path, dict[str, Array], dict[str, Array]], tmp_path: Path
) -> None:
    path, feeds, wanted = saved
    again = tmp_path / "again.qcc"
    load(path).save(again)
    found = load(again).run(feeds)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_any_flipped_byte_is_noticed(
    saved: tuple[Path, dict[str, Array], dict[str, Array]], tmp_path: Path
) -> None:
    path, feeds, wanted = saved
    content = path.read_bytes()
    damaged = tmp_path / "damaged.qcc"
    random = np.random.default_rng(0)
    positions = [0, 9, 20, 40, 60, *random.integers(64, len(content), 40).tolist()]
    for position in positions:
        changed = bytearray(content)
        changed[position] ^= 0x10
        damaged.write_bytes(bytes(changed))
        try:
            found = load(damaged).run(feeds)
        except ArtifactError:
            continue
        # Only padding between sections may change unnoticed.
        assert content[position] == 0
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_truncated_empty_missing_and_foreign_files(
    saved: tuple[Path, dict[str, Array], dict[str, Array]], tmp_path: Path
) -> None:
    path, _, _ = saved
    content = path.read_bytes()
    other = tmp_path / "other.qcc"
    for size in (1, 30, 56, 200, len(content) // 2, len(content) - 1):
        other.write_bytes(content[:size])
        with pytest.raises(ArtifactError):
            load(other)
    other.write_bytes(b"")
    with pytest.raises(ArtifactError, match="empty"):
        load(other)
    with pytest.raises(ArtifactError, match="No such file"):
        load(tmp_path / "missing.qcc")
    other.write_bytes(b"PK\3\4" * 100)
    with pytest.raises(ArtifactError, match=r"not a \.qcc artifact"):
        load(other)


def test_newer_version_is_refused(
    saved: tuple[Path, dict[str, Array], dict[str, Array]],
) -> None:
    path, _, _ = saved
    content = bytearray(path.read_bytes())
    content[8:12] = (FORMAT_VERSION + 1).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match="newer qcc"):
        load(path)


def test_code_for_another_cpu_is_refused(tmp_path: Path) -> None:
    missing = [name for name, isa in INSTRUCTION_SETS.items() if not can_run(isa)]
    if not missing:
        pytest.skip("this CPU runs every instruction set")
    path = tmp_path / "model.qcc"
    codegen(small_net()[0], missing[0]).save(path)
    with pytest.raises(ArtifactError, match=f"holds code for {missing[0]}, and this"):
        load(path)


def test_regions_survive(tmp_path: Path) -> None:
    graph, feeds = net_with_region()
    executable = codegen(graph)
    path = tmp_path / "model.qcc"
    executable.save(path)
    wanted, found = executable.run(feeds), load(path).run(feeds)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_free_dimensions_compile_after_loading(tmp_path: Path) -> None:
    graph, feeds = net_with_free_batch()
    executable = codegen(graph)
    wanted = executable.run(feeds)
    path = tmp_path / "model.qcc"
    executable.save(path)
    loaded = load(path)
    assert len(loaded.variants) == 1
    assert np.array_equal(loaded.run(feeds)["y"], wanted["y"])
    again = tmp_path / "again.qcc"
    loaded.save(again)
    three = np.ones((3, 3, 4, 4), np.float32)
    assert np.array_equal(loaded(three), executable(three))
    assert np.array_equal(load(again)(three), executable(three))


def test_loading_needs_neither_onnx_nor_onnxruntime(
    saved: tuple[Path, dict[str, Array], dict[str, Array]],
) -> None:
    path, feeds, wanted = saved
    np.savez(path.with_suffix(".npz"), x=feeds["x"], y=wanted["y"])
    script = (
        "import sys, numpy as np\n"
        "from qcc.runtime.artifact import load\n"
        f"data = np.load({str(path.with_suffix('.npz'))!r})\n"
        f"assert np.array_equal(load({str(path)!r})(data['x']), data['y'])\n"
        "heavy = {'onnx', 'onnxruntime', 'networkx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unwritable_path_is_an_output_error(tmp_path: Path) -> None:
    executable = codegen(small_net()[0])
    with pytest.raises(OutputError):
        executable.save(tmp_path / "no" / "folder" / "model.qcc")
