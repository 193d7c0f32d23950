"""``tools/reduce.py`` makes models smaller, ``tools/replay.py`` runs them again."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from qcc.cli.crash import write_reproducer
from tests.fuzzing import subjects
from tests.fuzzing.cases import Case, Failure, random_case, save_case
from tests.fuzzing.cutting import extract, values_of
from tests.fuzzing.reduction import model_of, reduce_subject
from tests.fuzzing.subjects import Command, Subject, open_subject, save_subject
from tests.tools.loading import load_tool, needs_recent_onnxruntime


def with_op(op: str) -> Case:
    """The first random case of some size that has the op."""
    cases = (random_case(seed, ["x86-avx2", "onnx"]) for seed in range(1000))
    return next(
        case
        for case in cases
        if len(model_of(case).graph.node) > 8
        and op in {n.op_type for n in model_of(case).graph.node}
    )


@needs_recent_onnxruntime
@pytest.mark.parametrize("op", ["Softmax", "Split", "Resize", "Concat"])
def test_it_finds_the_guilty_op(op: str) -> None:
    def check(subject: Subject) -> Failure | None:
        assert isinstance(subject, Case)
        model = model_of(subject)
        try:
            values_of(model, subject.feeds)
        except Exception as error:
            return Failure(f"the model is invalid: {error}")
        guilty = [node.name for node in model.graph.node if node.op_type == op]
        return Failure(f"'{guilty[0]}' is {op}") if guilty else None

    case = with_op(op)
    small, failure = reduce_subject(case, check)
    assert isinstance(small, Case)
    (node,) = model_of(small).graph.node
    assert node.op_type == op
    assert failure.message == f"'{node.name}' is {op}"
    assert len(small.feeds) == len(small.targets) == small.threads == 1
    inputs = [item.name for item in model_of(small).graph.input]
    assert set(small.feeds[0]) == set(inputs)


def test_another_message_is_another_failure() -> None:
    def check(subject: Subject) -> Failure | None:
        count = len(model_of(subject).graph.node)
        return Failure("many nodes" if count > 4 else "few nodes")

    small, failure = reduce_subject(with_op("Softmax"), check)
    assert failure.message == "many nodes"
    assert len(model_of(small).graph.node) == 5


def test_what_passes_is_not_reduced() -> None:
    with pytest.raises(ValueError, match="nothing fails here"):
        reduce_subject(random_case(0, []), lambda _: None)


def test_time_is_bounded() -> None:
    case = with_op("Softmax")
    small, _ = reduce_subject(case, lambda _: Failure("always"), seconds=0)
    assert small == case


def test_extract_keeps_what_is_needed() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[2] a, float[2] b) => (float[2] y, float[2] z) <float[2] w = {1, 2}>
        { p = Relu(a)  q = Add(p, w)  y = Mul(q, b)  z = Neg(b) }""")
    part = extract(model, ["q"])
    assert part is not None
    assert [node.op_type for node in part.graph.node] == ["Relu", "Add"]
    assert [item.name for item in part.graph.input] == ["a"]
    assert [tensor.name for tensor in part.graph.initializer] == ["w"]
    assert extract(model, ["a"]) is None


def test_outputs_are_declared_as_they_are_now() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[1, 2, 4, 4] a) => (float[1, 2, 2, 2] y)
        { y = MaxPool<kernel_shape = [1, 1], strides = [2, 2]>(a) }""")
    del model.graph.node[0].attribute[1:]
    part = extract(model, ["y"])
    assert part is not None
    assert [d.dim_value for d in part.graph.output[0].type.tensor_type.shape.dim] == [1, 2, 4, 4]


# -- folders and commands --------------------------------------------------------------------------


def test_replay_says_that_it_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_case(random_case(1, ["onnx"], most_steps=2), tmp_path, Failure("once"))
    assert load_tool("replay").main([str(tmp_path / "model.onnx")]) == 0
    assert "passes" in capsys.readouterr().out


def test_replay_says_what_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_case(random_case(1, ["no-such-target"], most_steps=2), tmp_path, Failure("once"))
    assert load_tool("replay").main([str(tmp_path)]) == 1
    assert "KeyError: 'no-such-target'" in capsys.readouterr().out


def test_reduce_writes_a_smaller_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "case"
    save_case(random_case(1, ["no-such-target"], most_steps=3), folder, Failure("once"))
    assert load_tool("reduce").main([str(folder), "--seconds", "20"]) == 0
    assert "KeyError: 'no-such-target'" in capsys.readouterr().out
    small = open_subject(tmp_path / "case-reduced")
    assert len(model_of(small).graph.node) == 1


def test_what_cannot_be_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_tool("reduce").main([str(tmp_path)]) == 1
    assert "neither case.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        load_tool("replay").main([str(tmp_path)])


def test_a_folder_of_qcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs on the kept files, wherever the originals are."""
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "deep" / "model.onnx"
    model.parent.mkdir()
    model.write_bytes(random_case(0, []).model)
    bug = RuntimeError("a bug")
    folder = write_reproducer(bug, ["opt", "-p", "canonicalize", str(model), "-o", "/none/out.qir"])
    model.unlink()
    command = open_subject(folder)
    assert isinstance(command, Command)
    assert command.model_name == "model.onnx"
    assert subjects.fails(command) is None

    class Done:
        returncode, stderr = subjects.BUG, "this is a bug in qcc"

    monkeypatch.setattr("subprocess.run", lambda *_, **__: Done)
    failure = subjects.fails(command)
    assert failure is not None
    save_subject(command, tmp_path / "again", failure)
    assert open_subject(tmp_path / "again") == command
