"""External data, big models, and files that cannot be read or written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from qcc.errors import ConfigError, ModelError, OutputError
from qcc.ir.core import Graph
from qcc.onnxio import read_onnx, to_model_proto, write_onnx
from qcc.onnxio.writer import INLINE_LIMIT
from qcc.ref.float_region import FloatRunner
from tests.onnxio.models import assert_same, model, run_in_runtime

X = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
WEIGHTS = {"w": np.arange(64 * 64, dtype=np.float32).reshape(64, 64), "b": X[0]}


def linear() -> ModelProto:
    """One MatMul with a bias."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["y"]),
    ]
    return model(nodes, {"x": X}, ["y"], 21, WEIGHTS)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A model with external data."""
    path = tmp_path / "m.onnx"
    write_onnx(read_onnx(linear()), path, external_data=True)
    return path


def test_external_data_are_mapped_and_written_back(stored: Path, tmp_path: Path) -> None:
    graph = read_onnx(stored)
    assert isinstance(graph.constants["w"].constant, np.memmap)
    assert not isinstance(graph.constants["b"].constant, np.memmap)
    np.testing.assert_array_equal(graph.constants["w"].constant, WEIGHTS["w"])
    assert_same(run_in_runtime(str(stored), {"x": X}), run_in_runtime(linear(), {"x": X}))
    assert (tmp_path / "m.onnx.data").stat().st_size == WEIGHTS["w"].nbytes
    assert to_model_proto(graph) == to_model_proto(read_onnx(linear()))


def test_a_model_may_be_written_over_the_data_that_it_maps(stored: Path) -> None:
    graph = read_onnx(stored)
    write_onnx(graph, stored, external_data=True)
    assert_same(run_in_runtime(str(stored), {"x": X}), run_in_runtime(linear(), {"x": X}))


def test_external_data_of_a_proto_need_a_folder(stored: Path) -> None:
    proto = onnx.load(stored, load_external_data=False)
    with pytest.raises(ModelError, match=r"'w'.*read the model from its path"):
        read_onnx(proto)
    graph = read_onnx(proto, folder=stored.parent)
    np.testing.assert_array_equal(graph.constants["w"].constant, WEIGHTS["w"])


def edit_entry(stored: Path, key: str, text: str) -> None:
    """Change one entry of the external tensor of a file."""
    proto = onnx.load(stored, load_external_data=False)
    (tensor,) = (t for t in proto.graph.initializer if t.data_location == TensorProto.EXTERNAL)
    next(entry for entry in tensor.external_data if entry.key == key).value = text
    stored.write_bytes(proto.SerializeToString())


@pytest.mark.parametrize(
    "location", ["../m.onnx.data", "/etc/passwd", "", ".", "sub/../m.onnx.data"]
)
def test_paths_that_leave_the_folder_are_refused(stored: Path, location: str) -> None:
    (stored.parent.parent / "m.onnx.data").write_bytes(b"\0" * WEIGHTS["w"].nbytes)
    edit_entry(stored, "location", location)
    with pytest.raises(ModelError, match="leaves the model's folder"):
        read_onnx(stored)


def test_links_that_leave_the_folder_are_refused(stored: Path) -> None:
    data = stored.parent / "m.onnx.data"
    outside = stored.parent.parent / "outside.data"
    data.rename(outside)
    data.symlink_to(outside)
    with pytest.raises(ModelError, match="leaves the model's folder"):
        read_onnx(stored)


def test_data_in_a_folder_below_are_read(stored: Path) -> None:
    (stored.parent / "weights").mkdir()
    (stored.parent / "m.onnx.data").rename(stored.parent / "weights" / "w.bin")
    edit_entry(stored, "location", "weights/w.bin")
    np.testing.assert_array_equal(read_onnx(stored).constants["w"].constant, WEIGHTS["w"])


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("location", "gone.data", "'gone.data'.*is missing"),
        ("offset", "64", "truncated"),
        ("offset", "-4", "truncated"),
        ("length", "8", "8 bytes where its shape"),
        ("length", "many", "not a number"),
    ],
)
def test_wrong_external_entries_are_refused(stored: Path, key: str, text: str, words: str) -> None:
    edit_entry(stored, key, text)
    with pytest.raises(ModelError, match=words):
        read_onnx(stored)


def test_external_tensors_in_attributes_are_read(stored: Path) -> None:
    proto = onnx.load(stored, load_external_data=False)
    (tensor,) = (t for t in proto.graph.initializer if t.data_location == TensorProto.EXTERNAL)
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    del proto.graph.initializer[0]
    stored.write_bytes(proto.SerializeToString())
    np.testing.assert_array_equal(read_onnx(stored).nodes[0].attributes["value"], WEIGHTS["w"])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"not a model, just text", "not an ONNX model|holds no ONNX graph"),
        (linear().SerializeToString()[:-100], "truncated"),
        (ModelProto(ir_version=8).SerializeToString(), "holds no ONNX graph"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "not an ONNX model|holds no ONNX graph"),
    ],
)
def test_files_that_are_not_models_are_refused(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(ModelError, match=words):
            read_onnx(source)


def test_every_truncation_of_a_file_is_refused_or_read() -> None:
    data = linear().SerializeToString()
    for end in range(0, len(data), 97):
        with pytest.raises(ModelError):
            read_onnx(data[:end])


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no file"):
        read_onnx(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        read_onnx(tmp_path)


def test_damaged_tensors_are_refused() -> None:
    proto = linear()
    proto.graph.initializer[0].raw_data = b"\0" * 12
    with pytest.raises(
        ModelError, match=r"'w' holds 12 bytes where its shape \[64, 64\] needs 16384"
    ):
        read_onnx(proto)
    proto.graph.initializer[0].data_type = 99
    with pytest.raises(ModelError, match="element type code 99"):
        read_onnx(proto)
    proto = linear()
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer[0].float_data.extend([1.0, 2.0])
    with pytest.raises(ModelError, match="4096 values"):
        read_onnx(proto)


# -- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("external", [False, True])
def test_a_failed_write_leaves_the_old_file(
    external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_onnx(read_onnx(linear()), path, external_data=external)
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]


def test_a_model_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    with pytest.raises(ConfigError):
        write_onnx(read_onnx(linear()), path, opset=5)
    assert path.read_bytes() == b"old"


def test_unwritable_paths_are_refused(tmp_path: Path) -> None:
    graph = read_onnx(linear())
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        write_onnx(graph, tmp_path / "absent" / "m.onnx")
    with pytest.raises(OutputError, match="it is a folder"):
        write_onnx(graph, tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="Not a directory"):
        write_onnx(graph, tmp_path / "file" / "m.onnx")


def test_external_data_need_a_path() -> None:
    with pytest.raises(ConfigError, match="need a path"):
        write_onnx(read_onnx(linear()), external_data=True)


def test_permissions_of_a_replaced_file_stay(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"")
    path.chmod(0o640)
    write_onnx(read_onnx(linear()), path)
    assert path.stat().st_mode & 0o777 == 0o640


def big_graph() -> Graph:
    """A graph with over 2 GB of constants, none of which are really in memory."""
    graph = Graph("big")
    graph.info.opsets[""] = 21
    x = graph.add_input("x", graph.add_constant("one", np.ones((1, 3), np.float32)).type)
    total = x
    for index in range(3):
        data = np.broadcast_to(np.float32(index + 1), (INLINE_LIMIT // 32, 3))
        weight = graph.add_constant(f"w{index}", data)
        row = graph.add_constant(f"i{index}", np.asarray([index], np.int64))
        picked = graph.create_node("Gather", [weight, row], [total.type])
        total = graph.create_node("Add", [total, picked.output], [total.type]).output
    graph.set_outputs([total])
    return graph


def test_models_over_two_gigabytes_need_a_path() -> None:
    graph = big_graph()
    for write in (to_model_proto, write_onnx):
        with pytest.raises(ConfigError, match="over 2 GB"):
            write(graph)


def test_data_move_out_where_the_model_would_be_too_big(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qcc.onnxio.writer.INLINE_LIMIT", WEIGHTS["w"].nbytes)
    write_onnx(read_onnx(linear()), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").stat().st_size == WEIGHTS["w"].nbytes


@pytest.mark.slow
def test_models_over_two_gigabytes_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    with pytest.raises(ConfigError, match="over 2 GB"):
        write_onnx(big_graph(), path, external_data=False)
    write_onnx(big_graph(), path)
    assert path.stat().st_size < 10_000
    assert (tmp_path / "big.onnx.data").stat().st_size > INLINE_LIMIT
    graph = read_onnx(path)
    assert isinstance(graph.constants["w2"].constant, np.memmap)
    assert graph.constants["w2"].constant[-1, -1] == 3.0
    x = {"x": np.ones((1, 3), np.float32)}
    wanted = [np.full((1, 3), 7, np.float32)]
    assert_same(run_in_runtime(str(path), x), wanted)
    assert_same(list(FloatRunner(graph, graph.outputs).run(x).values()), wanted)
