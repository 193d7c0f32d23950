"""``qcc lint``: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import Command
from tests.lint.models import Net, good_conv, random, run

Capture = pytest.CaptureFixture[str]


def write_good(path: str) -> None:
    onnx.save(good_conv().model("conv_y"), path)


def write_unsigned(path: str) -> None:
    """A model with an error that has a repair."""
    net = Net()
    zero = np.uint8(128)
    x = net.quantize(net.input("x", ["n", 16, 8, 8]), 0.05, zero, name="rounded")
    x = net.dequantize(x, 0.05, zero)
    onnx.save(
        net.model(net.node("Conv", x, net.weight(random(32, 16, 3, 3), 0), name="conv")), path
    )


def write_unnamed(path: str) -> None:
    """A model with a warning."""
    model = good_conv().model("conv_y")
    model.graph.node[0].name = ""
    onnx.save(model, path)


def write_dynamic(path: str) -> None:
    """A model with an error that has no repair."""
    net = Net()
    x = net.pair(net.input("x", ["n", 16, 8, 8]), net.input("s", []))
    onnx.save(net.model(net.node("Conv", x, net.weight(random(32, 16, 3, 3), 0))), path)


def test_a_clean_model_gives_0(qcc: Command, capsys: Capture) -> None:
    write_good("m.onnx")
    assert qcc("lint", "m.onnx", "--target", "tensorrt", "--strict") == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "0 errors, 0 warnings" in said.err


def test_errors_give_1_and_name_rule_node_and_advice(qcc: Command, capsys: Capture) -> None:
    write_unsigned("m.onnx")
    assert qcc("lint", "m.onnx", "--target", "tensorrt") == 1
    said = capsys.readouterr()
    words = " ".join(said.out.split())
    for part in ("E1", "rounded", "uint8", "store it as int8", "yes"):
        assert part in words
    assert "1 error, " in said.err


def test_warnings_give_0_and_1_when_strict(qcc: Command, capsys: Capture) -> None:
    write_unnamed("m.onnx")
    assert qcc("lint", "m.onnx", "--target", "tensorrt") == 0
    assert "W8" in capsys.readouterr().out
    assert qcc("lint", "m.onnx", "--target", "tensorrt", "--strict") == 1


def test_json_is_for_programs(qcc: Command, capsys: Capture) -> None:
    write_unsigned("m.onnx")
    assert qcc("lint", "m.onnx", "--target", "tensorrt", "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["target"], said["errors"]) == ("tensorrt", 1)
    found = said["findings"][0]
    assert (found["rule"], found["severity"], found["fixable"]) == ("E1", "error", True)
    assert set(found) == {"rule", "severity", "node", "message", "fixable"}


def test_repairs_are_written_and_what_is_left_counts(qcc: Command, capsys: Capture) -> None:
    write_unsigned("m.onnx")
    assert qcc("lint", "m.onnx", "--target", "tensorrt", "--fix", "fixed.onnx") == 0
    said = capsys.readouterr()
    assert "repaired in fixed.onnx" in said.out
    assert "0 errors" in said.err
    assert qcc("lint", "fixed.onnx", "--target", "tensorrt") == 0
    x = {"x": random(1, 16, 8, 8)}
    assert np.array_equal(run(onnx.load("m.onnx"), x)[0], run(onnx.load("fixed.onnx"), x)[0])


def test_what_has_no_repair_stays_an_error(qcc: Command, capsys: Capture) -> None:
    write_dynamic("m.onnx")
    assert qcc("lint", "m.onnx", "--target", "tensorrt", "--fix", "fixed.onnx", "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert said["repaired"] == []
    assert [f["rule"] for f in said["findings"]] == ["E3"]
    assert Path("fixed.onnx").exists()


def test_external_data_are_written_beside_the_repaired_model(qcc: Command) -> None:
    write_unsigned("m.onnx")
    expected = run(onnx.load("m.onnx"), {"x": random(1, 16, 8, 8)})[0]
    model = onnx.load("m.onnx")
    onnx.save(model, "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    Path("elsewhere").mkdir()
    assert qcc("lint", "m.onnx", "--target", "tensorrt", "--fix", "elsewhere/f.onnx") == 0
    assert sorted(p.name for p in Path("elsewhere").iterdir()) == ["f.onnx", "f.onnx.data"]
    found = run(onnx.load("elsewhere/f.onnx"), {"x": random(1, 16, 8, 8)})[0]
    assert np.array_equal(expected, found)


def test_a_model_that_the_checker_refuses_anyway_is_repaired_with_a_note(
    qcc: Command, capsys: Capture
) -> None:
    write_unsigned("m.onnx")
    model = onnx.load("m.onnx")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, "m.onnx")
    assert qcc("lint", "m.onnx", "--target", "tensorrt", "--fix", "f.onnx") == 0
    assert "onnx's checker refuses the model before and after" in capsys.readouterr().err


def test_bad_input_gets_one_sentence(qcc: Command, capsys: Capture) -> None:
    assert qcc("lint", "no.onnx", "--target", "tensorrt") == 1
    assert "no.onnx" in capsys.readouterr().err
    Path("text.onnx").write_text("no model")
    assert qcc("lint", "text.onnx", "--target", "onnx") == 1
    assert "text.onnx" in capsys.readouterr().err
    write_good("m.onnx")
    assert qcc("lint", "m.onnx", "--target", "z80") == 1
    assert "tensorrt, onnx, onnx-openvino, onnx-generic" in capsys.readouterr().err
    assert qcc("lint", "m.onnx") == 2
    capsys.readouterr()


def test_nothing_is_written_where_that_cannot_be(qcc: Command, capsys: Capture) -> None:
    write_unsigned("m.onnx")
    assert qcc("lint", "m.onnx", "--target", "tensorrt", "--fix", "no/folder/f.onnx") == 1
    assert "no/folder" in capsys.readouterr().err
    assert [p.name for p in Path().iterdir()] == ["m.onnx"]
