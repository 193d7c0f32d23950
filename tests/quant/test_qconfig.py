from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qcc.quant as quant
from qcc.errors import ConfigError
from qcc.quant import (
    HistogramObserver,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QConfig,
    QConfigMapping,
    get_default_qconfig,
    get_default_qconfig_mapping,
)
from qcc.quant.qconfig import (
    DEFAULT_QCONFIGS,
    FIXED_RANGE_OPS,
    default_per_channel_weight_observer,
    fixed_qparams_qconfig,
)
from qcc.quant.qconfig_mapping import scope_parts


def qconfig(mark: int) -> QConfig:
    """A QConfig that can be told from others by its quant_max."""
    return QConfig(
        MinMaxObserver.with_args(quant_min=0, quant_max=mark), default_per_channel_weight_observer
    )


A, B, C, D, E = (qconfig(mark) for mark in (101, 102, 103, 104, 105))

FULL = (
    QConfigMapping()
    .set_global(A)
    .set_object_type("Conv", B)
    .set_object_type("Relu", None)
    .set_module_name_regex(r"layer2.*conv\d", C)
    .set_module_name_regex("layer2", None)
    .set_module_name("layer3", D)
    .set_module_name("layer3.0", None)
    .set_module_name_object_type_order("layer3/0", "Conv", 1, E)
)


@pytest.mark.parametrize(
    ("name", "op_type", "index", "expected"),
    [
        ("/layer1/Add", "Add", 0, A),
        ("/layer1/conv/Conv", "Conv", 0, B),
        ("/layer1/Relu", "Relu", 0, None),
        ("/layer2/conv1/Conv", "Conv", 0, C),
        ("layer2.conv1.Conv", "Conv", 0, C),
        ("/layer2/Add", "Add", 0, None),
        ("/not/layer2/Conv", "Conv", 0, B),
        ("/layer3/1/Relu", "Relu", 0, D),
        ("/layer30/1/Add", "Add", 0, A),
        ("/layer3/0/Conv", "Conv", 0, None),
        ("/layer3/0/Conv_1", "Conv", 1, E),
        ("/layer3/0/Conv_1", "Conv", None, None),
        ("/layer3/0/deep/Conv", "Conv", 1, None),
        ("/layer3/0/Relu_1", "Relu", 1, None),
        ("layer3", "Conv", 0, D),
        ("Conv_17", "Conv", 3, B),
    ],
)
def test_precedence(name: str, op_type: str, index: int | None, expected: QConfig | None) -> None:
    assert FULL.resolve(name, op_type, index) == expected


def test_a_scope_may_be_given_and_the_empty_one_is_the_top() -> None:
    mapping = QConfigMapping().set_module_name_object_type_order("", "Conv", 0, A)
    assert mapping.resolve("Conv_0", "Conv", 0) == A
    assert mapping.resolve("/a/Conv", "Conv", 0) is None
    assert mapping.resolve("/a/Conv", "Conv", 0, scope="") == A


def test_the_first_matching_regex_wins_and_setting_again_keeps_its_place() -> None:
    mapping = (
        QConfigMapping()
        .set_module_name_regex("a", A)
        .set_module_name_regex("a/b", B)
        .set_module_name_regex("a", C)
    )
    assert mapping.module_name_regex == (("a", C), ("a/b", B))
    assert mapping.resolve("/a/b", "Conv") == C


def test_setters_leave_the_mapping_alone() -> None:
    empty = QConfigMapping()
    empty.set_global(A).set_object_type("Conv", B)
    assert empty == QConfigMapping()
    assert empty.resolve("x", "Conv") is None


@given(parts=st.lists(st.from_regex(r"[A-Za-z0-9_]+", fullmatch=True), max_size=4))
def test_both_separators_name_the_same_scope(parts: list[str]) -> None:
    assert scope_parts("/" + "/".join(parts)) == scope_parts(".".join(parts)) == tuple(parts)


names = st.text("abc/.", max_size=6)
marks = st.one_of(st.none(), st.sampled_from([A, B, C]))


@given(
    rules=st.lists(st.tuples(names, marks), max_size=5),
    default=marks,
    index=st.integers(0, 3),
)
def test_mappings_print_as_input_and_pass_through_json(
    rules: list[tuple[str, QConfig | None]], default: QConfig | None, index: int
) -> None:
    mapping = QConfigMapping().set_global(default)
    for name, value in rules:
        mapping = (
            mapping.set_object_type(name, value)
            .set_module_name_regex(name, value)
            .set_module_name(name, value)
            .set_module_name_object_type_order(name, "Conv", index, value)
        )
    assert eval(repr(mapping), dict(vars(quant))) == mapping
    assert QConfigMapping.from_json(mapping.to_json()) == mapping
    assert hash(mapping) == hash(QConfigMapping.from_json(mapping.to_json()))


HEAD = {"format": "qcc.qconfig_mapping", "version": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"version": 1}, 'must say "format": "qcc.qconfig_mapping"'),
        ({**HEAD, "version": 9}, "is of version 9"),
        ({**HEAD, "objects": []}, "has no entry 'objects': it has global, object_type"),
        ({**HEAD, "object_type": ["Conv"]}, "object_type must be a list of lists with 2"),
        ({**HEAD, "object_type": [[3, None]]}, "an entry of object_type starts with str"),
        (
            {**HEAD, "module_name_object_type_order": [["a", "Conv", True, None]]},
            "starts with str, str, int",
        ),
        ({**HEAD, "global": {"activation": {}}}, "a QConfig needs 'weight'"),
        ({**HEAD, "global": {"activations": {}}}, "a QConfig has no entry 'activations'"),
        ({**HEAD, "global": 5}, "a QConfig must be a JSON object"),
        (
            {**HEAD, "global": {"activation": {"type": "Magic"}, "weight": {}}},
            "there is no observer 'Magic'",
        ),
        ({**HEAD, "module_name_regex": [["(", None]]}, r"'\(' is not a regular expression"),
        ([], "must be a JSON object, not list"),
    ],
)
def test_bad_json_is_refused(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QConfigMapping.from_json(json.dumps(data))


def test_malformed_json_is_located() -> None:
    with pytest.raises(ConfigError, match=r"not valid JSON: .* at line 2, column 3"):
        QConfigMapping.from_json("{\n  format: 1}")


def test_a_rule_needs_a_qconfig() -> None:
    bad: Any = MinMaxObserver
    with pytest.raises(ConfigError, match="a rule maps to a QConfig or to None"):
        QConfigMapping().set_global(bad)
    with pytest.raises(ConfigError, match="QConfig's weight must be an observer"):
        QConfig(MinMaxObserver.with_args(), "int8")  # type: ignore[arg-type]


def test_a_class_stands_for_its_defaults() -> None:
    bare: Any = HistogramObserver
    weight: Any = PerChannelMinMaxObserver
    made = QConfig(activation=bare, weight=weight)
    assert made.activation == HistogramObserver.with_args()
    assert eval(repr(made), dict(vars(quant))) == made
    assert QConfig.from_dict(made.to_dict()) == made


@pytest.mark.parametrize("backend", DEFAULT_QCONFIGS)
def test_defaults(backend: str) -> None:
    made = get_default_qconfig(backend)
    assert made.weight.dtype == "int8"
    assert made.weight.quant_range == (-127, 127)
    weight = made.weight()
    weight.update(np.array([[-254.0, 3.0], [1.0, 127.0]], np.float32))
    assert weight.qparams().scale[0] == 2.0
    assert weight.qparams().zero_point[0] == 0
    assert get_default_qconfig_mapping(backend).resolve("/a/Conv", "Conv") == made


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigError, match="no default QConfig for backend 'gpu': use one of x86"):
        get_default_qconfig("gpu")


@pytest.mark.parametrize(
    ("backend", "op_type", "scale", "zero_point"),
    [
        ("x86", "Sigmoid", 1 / 256, 0),
        ("x86", "Tanh", 1 / 128, 128),
        ("arm", "Softmax", 1 / 256, -128),
        ("arm", "Tanh", 1 / 128, 0),
        ("tensorrt", "HardSigmoid", 1 / 127, 0),
        ("tensorrt", "Tanh", 1 / 127, 0),
    ],
)
def test_fixed_ranges(backend: str, op_type: str, scale: float, zero_point: int) -> None:
    made = get_default_qconfig_mapping(backend).resolve("/x/y", op_type)
    assert made is not None
    assert made.activation.fixed == (scale, zero_point)
    low, high = (float(bound[0]) for bound in made.activation().qparams().real_range)
    assert low <= (0 if FIXED_RANGE_OPS[op_type] == "unit" else -1) + 2 * scale
    assert high >= 1 - 2 * scale


def test_other_ops_have_no_fixed_range() -> None:
    with pytest.raises(ConfigError, match="Conv has no fixed parameters"):
        fixed_qparams_qconfig("Conv", get_default_qconfig())


def test_the_package_is_light() -> None:
    heavy = ("onnx", "onnxruntime", "llvmlite", "torch")
    code = f"import sys, qcc.quant; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
