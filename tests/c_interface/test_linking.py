"""Which compiler links shared libraries, and what is said where none does."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from qcc.backends.llvm.c_interface.archive import archive_of
from qcc.backends.llvm.machine import host_architecture
from qcc.compiler import compile_file
from qcc.errors import ConfigError
from qcc.runtime import linking
from qcc.runtime.build import codegen
from qcc.runtime.linking import Linker, find_linker
from tests.c_interface.building import Machine, assert_outputs, output_names, write_feeds
from tests.emulation.programs import COMPILER, EMULATOR, LIBRARIES, require_emulator
from tests.runtime.models import small_net


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that alone is searched for programs; zig is not there either."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return folder


@pytest.mark.parametrize("target", ["arm-neon", "x86-avx2"])
def test_a_missing_linker_is_named_before_the_model_is_read(
    target: str, nothing_installed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "libmodel.so"
    with pytest.raises(ConfigError) as caught:
        compile_file(Path("missing.onnx"), output, calibration=None, target=target)
    architecture = "aarch64" if target == "arm-neon" else "x86_64"
    assert f"nothing here links a shared library for {architecture} Linux" in caught.value.message
    assert "pip install 'qcc[cross]'" in caught.value.message
    foreign = architecture != host_architecture()
    package = f"gcc-{architecture.replace('_', '-')}-linux-gnu"
    assert (package in caught.value.message) == foreign
    assert not (tmp_path / "model.h").exists()


def test_objects_and_archives_need_no_tools(nothing_installed: Path, tmp_path: Path) -> None:
    graph, _ = small_net()
    for target in ("arm-neon", "x86-avx2"):
        for name in ("model.o", "model.a"):
            codegen(graph, target).save(tmp_path / name)
            assert (tmp_path / name).stat().st_size > 0


def test_a_compiler_that_links_nothing_is_passed_over(nothing_installed: Path) -> None:
    for name in ("aarch64-linux-gnu-gcc", "zig"):
        program = nothing_installed / name
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    with pytest.raises(ConfigError, match="nothing here links"):
        find_linker("aarch64")


def test_a_compiler_for_another_machine_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Linker(("cc",), "x86_64").works:
        pytest.skip("there is no C compiler for x86-64")
    monkeypatch.setenv("CC", "cc -O1")
    assert find_linker("x86_64").command == ("cc", "-O1")
    assert not Linker(("cc",), "aarch64").works
    if shutil.which(COMPILER) is not None:
        assert find_linker("aarch64").command == (COMPILER,)
        monkeypatch.setenv("CC", COMPILER)
        assert find_linker("x86_64").command == ("cc",)


def test_a_library_that_does_not_link_is_refused_with_the_linkers_words() -> None:
    with pytest.raises(ConfigError, match="cannot link libnet"):
        find_linker(host_architecture()).link(b"no object code", "libnet.so")


def test_zig_from_pypi_links_for_another_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_emulator()
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("zig is not installed (pip install ziglang)")
    candidates = linking._candidates
    monkeypatch.setattr(
        linking, "_candidates", lambda arch: (c for c in candidates(arch) if "ziglang" in c)
    )
    graph, feeds = small_net()
    executable = codegen(graph, "arm-neon")
    executable.save(tmp_path / "libmodel.so")
    machine = Machine(COMPILER, (), (EMULATOR, "-cpu", "cortex-a53", "-L", LIBRARIES))
    machine.build(tmp_path, ["model_example.c", "libmodel.so", "-Wl,-rpath,$ORIGIN"], "example")
    files = [*write_feeds(executable, feeds, tmp_path), *output_names(executable)]
    machine.run(tmp_path, "./example", *files)
    assert_outputs(executable, codegen(graph).run(feeds), tmp_path)


@pytest.mark.parametrize("size", [6, 7])
def test_an_archive_is_what_ar_reads(size: int, tmp_path: Path) -> None:
    content = bytes(range(size))
    name = "a_long_name_of_an_object.o"
    (tmp_path / "net.a").write_bytes(archive_of(content, name, ["net_run", "net_init"]))

    def ar(*words: str) -> bytes:
        return subprocess.run(["ar", *words], cwd=tmp_path, capture_output=True, check=True).stdout

    assert ar("t", "net.a").decode().split() == [name]
    assert ar("p", "net.a") == content
