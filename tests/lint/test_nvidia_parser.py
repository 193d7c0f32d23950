"""What NVIDIA's own parser and builder make of the models that the linter speaks of.

The rules are needed where it refuses a model, and more so where it takes one in silence and
computes it in float or with other numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from qcc.lint import fix_model, lint_model
from tests.lint.models import Net, random, stored_weight

trt: Any = pytest.importorskip("tensorrt_rtx")


@dataclass(frozen=True)
class Verdict:
    """What the parser said: whether it takes the model, and its words."""

    parsed: bool
    errors: str
    warnings: str
    int8_layers: int = 0


def verdict(model: ModelProto, build: bool = False) -> Verdict:
    """Parse a model, and build it if asked: then count the layers that read and multiply int8."""
    logger = _Logger()
    builder = trt.Builder(logger)
    network = builder.create_network()
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model.SerializeToString())
    errors = "\n".join(parser.get_error(i).desc() for i in range(parser.num_errors))
    count = 0
    if parsed and build:
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        engine = builder.build_serialized_network(network, config)
        errors = errors if engine is not None else "\n".join(logger.of(trt.ILogger.ERROR))
        count = sum(_multiplies_int8(line) for line in logger.of(trt.ILogger.VERBOSE))
        parsed = engine is not None
    return Verdict(parsed, errors, "\n".join(logger.of(trt.ILogger.WARNING)), count)


def _multiplies_int8(line: str) -> bool:
    """Whether a line of the builder's list of layers is one of an int8 operand and weight."""
    found = re.match(r"Name: .*Inputs: (.*)Constants: (.*)Outputs: ", line)
    return found is not None and all("Datatype: Int8" in part for part in found.groups())


class _Logger(trt.ILogger):  # type: ignore[misc]
    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[tuple[Any, str]] = []

    def log(self, severity: Any, message: str) -> None:
        self.lines += [(severity, line) for line in message.split("\n")]

    def of(self, severity: Any) -> list[str]:
        return [line for found, line in self.lines if found == severity]


def rules(model: ModelProto) -> set[str]:
    return {finding.rule for finding in lint_model(model, "tensorrt").errors}


def conv(activation: Callable[[Net, str], str], axis: int = 0, count: int = 16) -> ModelProto:
    net = Net()
    x = activation(net, net.input("x", [1, 16, 8, 8]))
    w = net.weight(random(count, 16, 3, 3), 0, written=axis)
    return net.model(net.node("Conv", x, w, net.constant(random(count)), name="conv"))


def pair(*parameters: Any, **more: Any) -> Callable[[Net, str], str]:
    return lambda net, x: net.pair(x, *parameters, **more)


def int32_bias() -> ModelProto:
    net = Net()
    x = net.pair(net.input("x", [1, 16, 8, 8]))
    bias = net.dequantize(net.constant(np.arange(16, dtype=np.int32)), 0.01, np.int32(0))
    return net.model(net.node("Conv", x, net.weight(random(16, 16, 3, 3), 0), bias, name="conv"))


def integer_product() -> ModelProto:
    net = Net()
    stored, scale = stored_weight(random(16, 8), None)
    parameters = [net.constant(np.float32(0.1)), net.constant(np.int8(0))]
    q = net.quantize(net.input("x", [4, 16]), 0.1)
    w = [net.constant(stored), net.constant(scale), net.constant(np.int8(0))]
    y = net.node("QLinearMatMul", q, *parameters, *w, *parameters, name="product")
    return net.model(net.dequantize(y, 0.1))


REFUSED = [
    ("E1", conv(pair(0.05, 0, element=TensorProto.INT16)), ""),
    ("E2", conv(pair(0.05, np.int8(3))), "zero point"),
    ("E3", conv(pair(0.0)), "positive"),
    ("E3", conv(pair(-0.5)), "positive"),
    ("E4", int32_bias(), "Int32"),
    ("E7", integer_product(), ""),
]


@pytest.mark.parametrize(("rule", "model", "reason"), REFUSED)
def test_what_the_parser_refuses_is_an_error(rule: str, model: ModelProto, reason: str) -> None:
    found = verdict(model)
    assert not found.parsed
    assert reason in found.errors
    assert rules(model) == {rule}


def test_uint8_is_taken_for_int8_with_a_warning_only() -> None:
    model = conv(pair(0.05, np.uint8(0)))
    found = verdict(model)
    assert found.parsed
    assert "INT8" in found.warnings
    assert rules(model) == {"E1"}
    assert verdict(fix_model(model, "tensorrt")[0]).warnings == ""


def test_a_missing_zero_point_is_taken_for_int8_in_silence() -> None:
    model = conv(lambda net, x: net.dequantize(net.quantize(x, 0.05, None), 0.05, None))
    found = verdict(model)
    assert (found.parsed, found.errors, found.warnings) == (True, "", "")
    assert rules(model) == {"E2"}


def test_an_axis_that_is_wrong_makes_the_layer_float_in_silence() -> None:
    good, wrong = conv(pair()), conv(pair(), axis=1)
    assert verdict(good, build=True).int8_layers == 1
    found = verdict(wrong, build=True)
    assert (found.parsed, found.errors, found.warnings) == (True, "", "")
    assert found.int8_layers == 0
    assert rules(wrong) == {"E6"}
    assert verdict(fix_model(wrong, "tensorrt")[0], build=True).int8_layers == 1


def test_scales_of_channels_on_an_activation_are_taken_in_silence() -> None:
    model = conv(pair(np.full(16, 0.05), np.zeros(16, np.int8), axis=1))
    assert verdict(model).parsed
    assert rules(model) == {"E5"}


def test_gathered_integers_parse_and_do_not_build() -> None:
    net = Net()
    rows = net.node("Gather", net.constant(np.ones((100, 16), np.int8)), net.constant(np.arange(4)))
    model = net.model(net.node("Relu", net.dequantize(rows)))
    assert verdict(model).parsed
    assert not verdict(model, build=True).parsed
    assert rules(model) == {"E8"}
    assert verdict(fix_model(model, "tensorrt")[0], build=True).parsed


@pytest.mark.parametrize(("rule", "model", "reason"), REFUSED)
def test_repaired_models_are_taken(rule: str, model: ModelProto, reason: str) -> None:
    del reason
    fixed, applied = fix_model(model, "tensorrt")
    if rule in {finding.rule for finding in applied}:
        assert verdict(fixed).parsed
    else:
        assert rule in ("E1", "E3", "E7")
