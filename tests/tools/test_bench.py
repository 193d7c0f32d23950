"""``tools/bench.py``: counting, turns, tables and pages; nothing here asserts a time."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tools.loading import TOOLS, load_tool

sys.path.insert(0, str(TOOLS))

from peers.build import built, cache_key
from peers.engines import ENGINES, Setting
from peers.macs import count_macs
from peers.nets import HELD_OUT, Unavailable, load_feeds, made_net, random_feeds, save_feeds, split
from peers.peak import peak_macs
from peers.structure import structure_of
from peers.tables import (
    DETAILS,
    SUMMARY,
    Result,
    details,
    from_dict,
    geometric_mean,
    replace_section,
    summary,
)
from peers.turns import Measured, best_peer, output_sqnr, ratio, rotations

from qcc.backends.llvm.isa import host_instruction_set

Shapes = dict[str, tuple[int, ...]]


def save_model(
    path: Path,
    nodes: Sequence[Any],
    inputs: dict[str, tuple[str, Sequence[int | str]]],
    constants: Shapes,
    outputs: Sequence[str] = ("y",),
) -> Path:
    """A model of ``nodes`` with normal constants; the types of outputs are left to inference."""
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    element = {"float": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(n, element[t], s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
            for name, shape in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.save(model, str(path))
    return path


def node(op: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(op, inputs.split(","), [output], **attributes)


@pytest.fixture
def small_net(tmp_path: Path) -> Path:
    """Two convolutions and a product with a matrix, which has the most work."""
    nodes = [
        node("Conv", "x,w1,b1", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("Conv", "r,w2,b2", "d"),
        node("Flatten", "d", "f"),
        node("Gemm", "f,w3,b3", "y"),
    ]
    constants = {
        "w1": (8, 3, 3, 3), "b1": (8,), "w2": (4, 8, 1, 1), "b2": (4,), "w3": (256, 60), "b3": (60,)
    }  # fmt: skip
    (tmp_path / "nets").mkdir()
    path = tmp_path / "nets" / "small.onnx"
    return save_model(path, nodes, {"x": ("float", (1, 3, 8, 8))}, constants)


# -- counting --------------------------------------------------------------------------------------

MODELS: list[tuple[str, Any, Shapes, tuple[int, ...], int]] = [
    ("Conv", {"strides": [2, 2], "group": 2}, {"w": (6, 2, 3, 3)}, (1, 4, 9, 9), 16 * 6 * 18),
    ("ConvTranspose", {"strides": [2, 2]}, {"w": (4, 5, 2, 2)}, (1, 4, 3, 3), 9 * 4 * 20),
    ("MatMul", {}, {"w": (7, 5)}, (2, 3, 7), 2 * 3 * 7 * 5),
    ("Gemm", {"transA": 1}, {"w": (7, 5)}, (7, 3), 3 * 7 * 5),
    ("LSTM", {"hidden_size": 4}, {"w": (1, 16, 3), "r": (1, 16, 4)}, (5, 2, 3), 10 * 16 * 7),
    ("GRU", {"hidden_size": 4}, {"w": (1, 12, 3), "r": (1, 12, 4)}, (5, 2, 3), 10 * 12 * 7),
    ("Relu", {}, {}, (1, 4), 0),
]


@pytest.mark.parametrize(("op", "attributes", "constants", "shape", "macs"), MODELS)
def test_macs(
    op: str,
    attributes: dict[str, Any],
    constants: Shapes,
    shape: tuple[int, ...],
    macs: int,
    tmp_path: Path,
) -> None:
    inputs = ",".join(["x", *constants])
    path = save_model(
        tmp_path / "m.onnx",
        [node(op, inputs, **attributes)],
        {"x": ("float", ["n", *shape[1:]])},  # the first dimension is free: only a run tells it
        constants,
    )
    counted = count_macs(path, {"x": np.zeros(shape, np.float32)})
    assert sum(counted.values()) == macs
    assert set(counted) == ({op} if macs else set())


def test_macs_of_values_inside(small_net: Path) -> None:
    counted = count_macs(small_net, random_feeds(small_net, 1)[0])
    assert counted == {"Conv": 64 * 8 * 27 + 64 * 4 * 8, "Gemm": 256 * 60}


# -- feeds -----------------------------------------------------------------------------------------


def test_ids_stay_below_the_length_of_their_table(tmp_path: Path) -> None:
    path = save_model(
        tmp_path / "m.onnx", [node("Gather", "t,x")], {"x": ("int64", (1, 64))}, {"t": (5, 3)}
    )
    ids = np.concatenate([feed["x"] for feed in random_feeds(path, 4)])
    assert ids.dtype == np.int64
    assert (ids.min(), ids.max()) == (0, 4)


@pytest.mark.parametrize(("have", "samples"), [(5, 8), (12, 8), (100, 8), (101, 32)])
def test_held_out_feeds_calibrate_nothing(have: int, samples: int, tmp_path: Path) -> None:
    feeds = [{"a:b": np.array([i])} for i in range(have)]
    calibration, held_out = split(feeds, samples)
    chosen = [int(feed["a:b"][0]) for feed in (*calibration, *held_out)]
    assert len(held_out) == HELD_OUT
    assert len(calibration) == min(samples, have - HELD_OUT)
    assert len(set(chosen)) == len(chosen)
    save_feeds(tmp_path / "f.npz", feeds)
    assert load_feeds(tmp_path / "f.npz") == feeds


def test_structure(tmp_path: Path, small_net: Path) -> None:
    nodes = [node("Softmax", "x", "s"), node("MatMul", "s,v")]
    path = save_model(tmp_path / "m.onnx", nodes, {"x": ("float", (2, 3))}, {"v": (3, 3)})
    assert structure_of(path).attends
    assert not structure_of(small_net).attends
    assert not structure_of(small_net).quantized


# -- figures ---------------------------------------------------------------------------------------


def measured(engine: str, bursts: Sequence[float], reason: str = "", **more: Any) -> Measured:
    row = ENGINES[engine]
    return Measured(
        engine,
        row.label,
        row.integer,
        reason,
        bursts=list(bursts),
        clean=[True] * len(bursts),
        least_ms=1.0,
        **more,
    )


def test_ratio_is_the_median_of_rounds() -> None:
    ours, slow = measured("qcc", [1, 2, 4]), measured("ort-f32", [3, 4, 4])
    fast, absent = measured("ov-bf16", [2, 2, 2]), measured("ov-f32", [], "has no wings")
    assert best_peer([ours, slow, fast, absent]) is fast
    assert best_peer([ours, absent]) is None
    assert ratio(ours, slow) == 2.0
    ours.clean[1:] = [False, False]  # too few are left: all count
    assert ratio(ours, slow) == 2.0
    noisy = measured("ort-dyn", [9, 3, 3, 3, 9, 9, 9])
    noisy.clean = [False, True, True, True, False, False, False]
    assert noisy.median_ms == 3.0
    assert geometric_mean([1, 4]) == pytest.approx(2)


def test_everybody_begins_a_round() -> None:
    orders = list(rotations(3, 6))
    assert {order[0] for order in orders} == {0, 1, 2}
    assert all(sorted(order) == [0, 1, 2] for order in orders)


def test_sqnr_is_the_least_of_the_outputs(tmp_path: Path) -> None:
    exact = {"0": np.array([10.0]), "1": np.array([100], np.uint8), "2": np.array([3])}
    other = {"0": np.array([10.1]), "1": np.array([90], np.uint8), "2": np.array([7])}
    for name, arrays in (("exact", exact), ("other", other)):
        save_feeds(tmp_path / f"{name}.npz", [arrays, arrays])
    assert output_sqnr(tmp_path / "exact.npz", tmp_path / "other.npz") == pytest.approx(20)
    save_feeds(tmp_path / "labels.npz", [{"0": np.array([3])}])
    assert output_sqnr(tmp_path / "labels.npz", tmp_path / "labels.npz") is None


def test_peak_of_this_machine() -> None:
    for precision in ("int8", "float32"):
        assert math.isfinite(peak_macs(host_instruction_set(), precision))


# -- tables ----------------------------------------------------------------------------------------


def results() -> list[Result]:
    ran = [
        measured("ort-f32", [2.0, 2.0], sqnr_db=120.0),
        measured("qcc", [1.0, 1.0], sqnr_db=40.0),
        measured("ov-f32", [], "is not installed"),
        measured("ort-mm", [], "MatMul and Gemm do 0 % of the net's MACs"),
    ]
    lost = [
        measured("ort-f32", [2.0, 2.0]),
        measured("qcc", [], "The model is not valid."),
        measured("ov-f32", [], "is not installed"),
        measured("ort-mm", [4.0, 4.0]),
    ]
    return [Result("first", 1, 10**8, ran), Result("second", 1, 0, lost)]


@pytest.mark.parametrize(
    ("lines", "columns"), [(summary(results(), 2e11), SUMMARY), (details(results()), DETAILS)]
)
def test_every_line_has_all_columns(lines: list[str], columns: Sequence[str]) -> None:
    rows = [line for line in lines if line.startswith("|")]
    assert rows[0] == "| " + " | ".join(columns) + " |"
    assert all(line.count("|") == len(columns) + 1 for line in rows)
    assert len(rows) > 2


def test_summary_says_what_is_not_in_it() -> None:
    text = "\n".join(summary(results(), 2e11))
    assert "| first | 100.0 | 1.000 | 1.000 | 100.0 | 50 % | 40.0 |" in text
    assert "| **2.00** |" in text
    assert "Geometric mean of the 1 ratios: **2.00**; least: 2.00 (first); below 1: 0." in text
    assert "* second: The model is not valid." in text


def test_details_name_every_engine() -> None:
    lines = details(results())
    assert lines[2].startswith("| first | qcc |")  # the fastest first
    text = "\n".join(lines)
    assert "* OpenVINO float32: is not installed" in text
    assert "not run: MatMul and Gemm do 0 % of the net's MACs" in text
    assert "not run: The model is not valid." in text


def test_results_survive_json() -> None:
    for result in results():
        assert from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_only_the_section_between_markers_changes() -> None:
    page = replace_section("# Title\n\nwritten by hand\n", "a-1", "old")
    page = replace_section(page, "b-1", "other") + "\nthe end\n"
    changed = replace_section(page, "a-1", "new \\1")
    assert changed == page.replace("old", "new \\1")
    assert changed.startswith("# Title\n\nwritten by hand\n\n<!-- bench:begin a-1 -->\nnew")
    assert changed.endswith("<!-- bench:end -->\n\nthe end\n")
    assert changed.count("bench:end") == 2


# -- the whole way ---------------------------------------------------------------------------------


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def found(name: str, package: str | None = None) -> Any:
        return None if name in ("openvino", "nncf") else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", found)


def test_bench(small_net: Path, tmp_path: Path, without_openvino: None) -> None:
    page, data = tmp_path / "page.md", tmp_path / "r.json"
    page.write_text("# Speed\n\nby hand\n")
    words = ["--nets", str(small_net.parent), "--rounds", "2", "--samples", "8"]
    words += ["--work", str(tmp_path / "work"), "--json", str(data), "--out", str(page)]
    words += ["--engines", "qcc", "ort-f32", "ort-qdq", "ort-mm", "ov-nncf"]
    bench = load_tool("bench")
    assert bench.main(words) == 0
    text = page.read_text()
    assert text.startswith("# Speed\n\nby hand\n\n<!-- bench:begin nets-1 -->\n## Nets with random")
    assert "| small | 0.0 |" in text
    assert "* OpenVINO int8 NNCF performance: openvino is not installed; pip install" in text
    command = f"`python tools/bench.py --nets {small_net.parent} --rounds 2 --samples 8 --engines"
    assert f"{command} qcc ort-f32 ort-qdq ort-mm ov-nncf`" in text
    rows = json.loads(data.read_text())["results"][0]
    assert rows["macs"] == 64 * 8 * 27 + 64 * 4 * 8 + 256 * 60
    for row in rows["engines"][:3]:
        assert row["reason"] == ""
        assert len(row["bursts"]) == 2
        assert min(row["bursts"]) >= row["least_ms"] > 0
        assert row["sqnr_db"] > (100 if row["engine"] == "ort-f32" else 15)
    page.write_text("# Speed\n")
    assert bench.main([*words, "--render"]) == 0
    assert page.read_text().split("<!--")[1] == text.split("<!--")[1]


def test_bench_in_float32(small_net: Path, tmp_path: Path, without_openvino: None) -> None:
    page, data = tmp_path / "page.md", tmp_path / "r.json"
    words = ["--nets", str(small_net.parent), "--rounds", "2", "--samples", "2", "--precision"]
    words += ["float32", "--work", str(tmp_path / "work"), "--json", str(data), "--out", str(page)]
    assert load_tool("bench").main(words) == 0
    text = page.read_text()
    assert "<!-- bench:begin nets-float32-1 -->\n## Nets with random weights in float32" in text
    assert "Nothing is quantized" in text
    rows = json.loads(data.read_text())["results"][0]["engines"]
    assert [row["engine"] for row in rows] == ["qcc", "ort-f32", "ov-f32"]
    assert all(row["sqnr_db"] > 100 for row in rows[:2])


def test_quantized_files_are_kept(small_net: Path, tmp_path: Path) -> None:
    engine, setting = ENGINES["ort-qdq"], Setting()
    net = made_net(small_net, tmp_path, 4)
    first = built(engine, net, setting, tmp_path, 100)
    changed = first.path.stat().st_mtime_ns
    assert built(engine, net, setting, tmp_path, 100) == first
    assert first.path.stat().st_mtime_ns == changed
    keys = {
        cache_key(ENGINES["qcc"], net, Setting()),
        cache_key(ENGINES["qcc"], net, Setting("x86-avx512vnni")),
        cache_key(ENGINES["qcc"], net, Setting(precision="float32")),
        cache_key(ENGINES["ort-qop"], net, Setting()),
        cache_key(ENGINES["qcc"], made_net(small_net, tmp_path, 5), Setting()),
    }
    assert len(keys) == 5


def test_what_fails_has_a_reason(small_net: Path, tmp_path: Path) -> None:
    net = made_net(small_net, tmp_path, 4)
    (tmp_path / "models").mkdir()
    small_net.write_bytes(b"no model")
    with pytest.raises(Unavailable, match="onnx"):
        built(ENGINES["qcc"], net, Setting(), tmp_path, 100)


def test_nets_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = load_tool("bench")
    words = ["--work", str(tmp_path), "--torch-python", "/bin/false"]
    assert bench.main(["--nets", str(tmp_path), "lstm", *words]) == 2
    said = capsys.readouterr().err
    assert "making nets needs torch, which /bin/false does not have" in said
    assert bench.main(["--nets", str(tmp_path), "no_such_net", *words]) == 2
    assert "make_nets.py makes none" in capsys.readouterr().err
    assert bench.main(words) == 2
    assert "name a folder with --nets or --zoo" in capsys.readouterr().err
