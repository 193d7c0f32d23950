"""Executables: names, checks, shapes, threads."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from qcc.backends.llvm.isa import INSTRUCTION_SETS, can_run
from qcc.errors import ArtifactError, ConfigError, DataError, ModelError
from qcc.ir.core import Array, Graph
from qcc.passes.lower import lower
from qcc.passes.outline_float import outline_float
from qcc.passes.specialize import specialize_graph
from qcc.ref.evaluate import evaluate
from qcc.runtime import program
from qcc.runtime.build import backend_of, codegen, native_targets, target_instruction_set
from tests.runtime.models import net_with_free_batch, net_with_region, small_net


def reference(graph: Graph, feeds: dict[str, Array]) -> dict[str, Array]:
    lowered = graph.clone()
    report = lower(lowered, backend_of(target_instruction_set("host")).patterns)
    outline_float(lowered, report.refusals)
    return evaluate(lowered, feeds)


def assert_same(found: dict[str, Array], wanted: dict[str, Array]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        assert np.array_equal(found[name], value)


@pytest.fixture(autouse=True)
def _threads_for_small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "LEAST_MACS", 0)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bytes_are_the_reference_s(threads: int) -> None:
    graph, feeds = small_net()
    executable = codegen(graph, threads=threads)
    for _ in range(5):
        assert_same(executable.run(feeds), reference(graph, feeds))
    executable.close()


@pytest.mark.parametrize("target", [name for name in INSTRUCTION_SETS if name.startswith("x86")])
def test_every_x86_row_by_emulation(target: str) -> None:
    graph, feeds = small_net(3)
    executable = codegen(graph, target, emulate=True)
    assert_same(executable.run(feeds), reference(graph, feeds))


def test_regions_run_inside_the_executable() -> None:
    graph, feeds = net_with_region()
    executable = codegen(graph, threads=2)
    assert_same(executable.run(feeds), reference(graph, feeds))
    reasons = {row.name: row.reason for row in executable.report.nodes if not row.is_int8}
    assert set(reasons) == {"erf", "softplus"}
    assert all(reasons.values())
    executable.close()


def test_report_names_kernels_and_fusions() -> None:
    graph, _ = small_net()
    report = codegen(graph).report
    rows = {row.name: row for row in report.nodes}
    assert rows["add"].fused == ("conv_2", "add", "relu_2")
    assert "_1x8x8x8_8" in rows["add"].kernel
    assert rows["add"].output_scale == pytest.approx(0.2)
    assert report.int8_nodes == len(report.nodes) == 6
    assert report.arena_bytes > 0
    assert report.weight_bytes > 0


def test_calls_by_position_and_keyword() -> None:
    graph, feeds = small_net()
    executable = codegen(graph)
    y = executable.run(feeds)["y"]
    assert np.array_equal(executable(feeds["x"]), y)
    assert np.array_equal(executable(x=feeds["x"]), y)
    assert executable.input_types == {"x": ("float32", (1, 3, 8, 8))}
    assert "x: float32[1, 3, 8, 8]" in repr(executable)


def test_strided_inputs_are_made_contiguous() -> None:
    graph, feeds = small_net()
    executable = codegen(graph)
    strided = np.asfortranarray(feeds["x"])
    assert np.array_equal(executable(strided), executable(feeds["x"]))


def test_wrong_inputs_are_named() -> None:
    graph, feeds = small_net()
    executable, x = codegen(graph), feeds["x"]
    cases: dict[str, Callable[[], object]] = {
        "missing input 'x'": lambda: executable.run({}),
        "unknown input 'z'": lambda: executable.run({"x": x, "z": x}),
        "must be float32, not float64": lambda: executable(x.astype(np.float64)),
        r"must have the shape \[1, 3, 8, 8\]": lambda: executable(x[0]),
        "1 inputs, not 2": lambda: executable(x, x),
        "given twice": lambda: executable(x, x=x),
    }
    for sentence, call in cases.items():
        with pytest.raises(DataError, match=sentence):
            call()


def test_many_python_threads_at_once() -> None:
    graph, _ = small_net()
    executable = codegen(graph, threads=2)
    random = np.random.default_rng(5)
    inputs = [random.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(24)]
    wanted = [executable(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(executable, inputs))
    assert all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True))
    executable.close()
    assert np.array_equal(executable(inputs[0]), wanted[0])
    executable.close()


def test_a_forked_process_has_threads_of_its_own() -> None:
    graph, feeds = small_net()
    executable = codegen(graph, threads=2)
    wanted = executable.run(feeds)["y"]
    child = os.fork()
    if child == 0:
        same = np.array_equal(executable.run(feeds)["y"], wanted)
        os._exit(0 if same else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert np.array_equal(executable.run(feeds)["y"], wanted)
    executable.close()


def test_a_dropped_executable_stops_its_threads() -> None:
    graph, feeds = small_net()
    executable = codegen(graph, threads=3)
    executable.run(feeds)
    assert sum(t.name.startswith("qcc-worker") for t in threading.enumerate()) >= 2
    before = {t for t in threading.enumerate() if t.name.startswith("qcc-worker")}
    del executable
    gc.collect()
    assert not [t for t in before if t.is_alive()]


def test_free_dimensions_are_compiled_when_met() -> None:
    graph, _ = net_with_free_batch()
    executable = codegen(graph)
    assert executable.input_types["x"] == ("float32", (None, 3, 4, 4))
    assert not executable.variants
    for batch in (1, 3, 1):
        x = np.random.default_rng(batch).normal(size=(batch, 3, 4, 4)).astype(np.float32)
        fixed = specialize_graph(graph, {"x": x.shape})
        assert_same(executable.run({"x": x}), reference(fixed, {"x": x}))
    assert [variant.shapes for variant in executable.variants] == [((1, 3, 4, 4),), ((3, 3, 4, 4),)]


def test_targets() -> None:
    graph, feeds = small_net()
    assert native_targets()[0] == "host"
    with pytest.raises(ConfigError, match="no instruction set"):
        codegen(graph, "x86-mmx")
    with pytest.raises(ConfigError, match="at least 1 thread"):
        codegen(graph, threads=0)
    float_graph = graph.clone()
    float_graph.stage = type(graph.stage).FLOAT
    with pytest.raises(ModelError, match="convert it"):
        codegen(float_graph)
    missing = [name for name, isa in INSTRUCTION_SETS.items() if not can_run(isa)]
    if missing:
        executable = codegen(graph, missing[0])
        with pytest.raises(ArtifactError, match="compile the model for"):
            executable.run(feeds)
