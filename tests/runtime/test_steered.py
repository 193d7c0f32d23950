"""Models whose branches are chosen by an input: native code for values that samples gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcc
from qcc.backends.llvm.compile import compile_numbered
from qcc.backends.llvm.isa import host_instruction_set
from qcc.errors import DataError
from qcc.ir.core import Stage
from qcc.onnxio import read_onnx
from qcc.passes.steering import steering_inputs, with_values
from qcc.ref.evaluate import evaluate
from qcc.runtime.build import backend_of
from qcc.runtime.executable import Executable
from qcc.runtime.steered import steered_variants

TOLERANCE = 1e-5
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def branch(name: str, width: int, op: str) -> Any:
    """``op(x W + state)``, reading ``x`` and ``state`` from outside."""
    weight = np.random.default_rng(width).normal(size=(width, 6)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_product"]),
        helper.make_node("Add", [f"{name}_product", "state"], [f"{name}_sum"]),
        helper.make_node(op, [f"{name}_sum"], [f"{name}_y"]),
    ]
    output = helper.make_tensor_value_info(f"{name}_y", FLOAT, None)
    return helper.make_graph(
        nodes, name, [], [output], [numpy_helper.from_array(weight, f"{name}_w")]
    )


def model(op: str = "Tanh", condition: str = "rate") -> bytes:
    """Rate 16 takes 4 columns, any other rate takes 3."""
    compare = {
        "rate": helper.make_node("Equal", ["rate", "sixteen"], ["is_wide"]),
        "data": helper.make_node("Greater", ["state_sum", "zero"], ["is_wide"]),
    }[condition]
    nodes = [
        helper.make_node("ReduceSum", ["state"], ["state_sum"], keepdims=0),
        compare,
        helper.make_node(
            "If",
            ["is_wide"],
            ["y"],
            then_branch=branch("wide", 4, op),
            else_branch=branch("narrow", 3, "Sigmoid"),
        ),
    ]
    constants = {"sixteen": np.array(16), "zero": np.array(0, np.float32)}
    graph = helper.make_graph(
        nodes,
        "steered",
        [
            helper.make_tensor_value_info("x", FLOAT, [1, "columns"]),
            helper.make_tensor_value_info("state", FLOAT, [1, 6]),
            helper.make_tensor_value_info("rate", INT64, []),
        ],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    serialized: bytes = proto.SerializeToString()
    return serialized


def feeds(rate: int, columns: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(1, columns)).astype(np.float32),
        "state": rng.normal(size=(1, 6)).astype(np.float32),
        "rate": np.array(rate, np.int64),
    }


def compiled(op: str = "Tanh", rates: tuple[tuple[int, int], ...] = ((16, 4),)) -> Executable:
    executable = qcc.compile(model(op), [feeds(*rate, seed) for seed, rate in enumerate(rates)])
    assert isinstance(executable, Executable)
    return executable


def check(executable: Executable, given: dict[str, Any], op: str = "Tanh") -> None:
    session = ort.InferenceSession(model(op), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, given)
    np.testing.assert_allclose(executable.run(given)["y"], wanted, rtol=0, atol=TOLERANCE)


def kernels(executable: Executable, given: dict[str, Any]) -> set[str]:
    return {row.kernel for row in executable.profile(given, 3).rows}


def test_the_branch_of_a_known_value_is_native() -> None:
    executable = compiled()
    check(executable, feeds(16, 4, 9))
    assert "onnxruntime" not in kernels(executable, feeds(16, 4))
    assert any("With rate = 16" in note for note in executable.report.notes)


def test_other_values_and_shapes_run_in_onnxruntime() -> None:
    executable = compiled()
    for rate, columns in ((8, 3), (9, 3), (16, 4)):
        check(executable, feeds(rate, columns, rate))
    assert kernels(executable, feeds(8, 3)) == {"onnxruntime"}
    with pytest.raises(DataError, match="onnxruntime"):
        executable.run(feeds(16, 3))


def test_every_value_of_the_samples_gets_code() -> None:
    executable = compiled(rates=((16, 4), (8, 3)))
    for rate, columns in ((16, 4), (8, 3)):
        check(executable, feeds(rate, columns, rate))
        assert "onnxruntime" not in kernels(executable, feeds(rate, columns))


def test_a_branch_without_native_kernels_stays_in_onnxruntime() -> None:
    executable = compiled("Acosh")
    assert not any(variant.values for variant in executable.variants)
    assert kernels(executable, feeds(16, 4)) == {"onnxruntime"}


def test_an_artifact_keeps_the_values(tmp_path: Path) -> None:
    path = tmp_path / "steered.qcc"
    compiled().save(path)
    loaded = qcc.load(path)
    assert "onnxruntime" not in kernels(loaded, feeds(16, 4))
    check(loaded, feeds(16, 4, 3))
    check(loaded, feeds(8, 3, 3))


def test_native_code_gives_the_bytes_of_the_reference() -> None:
    graph = read_onnx(model())
    graph.stage = Stage.NUMBERED
    given = feeds(16, 4, 5)
    fixed = with_values(graph, {"rate": 16}, {k: v.shape for k, v in given.items()})
    isa = host_instruction_set()
    program = compile_numbered(fixed, isa, backend_of(isa).patterns, floats=True)
    wanted = evaluate(program.lowered, given)
    (variant,) = steered_variants(graph, [isa], [given])
    executable = compiled()
    assert executable.run(given)["y"].tobytes() == wanted["y"].tobytes()
    assert variant.values == (("rate", 16),)


def test_values_that_are_computed_from_data_steer_nothing() -> None:
    assert [value.name for value in steering_inputs(read_onnx(model()))] == ["rate"]
    assert steering_inputs(read_onnx(model(condition="data"))) == ()
    assert steered_variants(read_onnx(model(condition="data")), [], [feeds(16, 4)]) == []
