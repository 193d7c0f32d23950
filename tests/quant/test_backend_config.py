from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

import qcc.quant as quant
from qcc.backends.registry import backend_config, backend_names
from qcc.errors import ConfigError
from qcc.quant import (
    BackendConfig,
    BackendPatternConfig,
    DTypeConfig,
    DTypeWithConstraints,
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    ObservationType,
    PlaceholderObserver,
    Placement,
    QConfig,
    QuantParams,
    get_default_qconfig,
)
from qcc.quant.qconfig import default_per_channel_weight_observer as channels
from qcc.quant.qconfig_mapping import get_default_qconfig_mapping


def conv_relu(op: Any, x: Any, w: Any, b: Any) -> Any:
    return op.Relu(op.Conv(x, w, b))


def sigmoid(op: Any, x: Any) -> Any:
    return op.Sigmoid(x)


def few_channels(match: Any) -> str | None:
    return None if match else "the convolution has too few channels"


def gemm_axis(match: Any) -> int:
    return 0 if match else 1


def float_operand(match: Any) -> tuple[str, ...]:
    return ("x",) if match else ()


STATIC = DTypeConfig(
    input="uint8",
    output="uint8",
    weight=DTypeWithConstraints("int8", quant_min_lower_bound=-127, quant_max_upper_bound=127),
    bias="int32",
)
SYMMETRIC = DTypeConfig(
    input=DTypeWithConstraints("int8", scale_min_lower_bound=2.0**-12),
    output=DTypeWithConstraints("int8", scale_min_lower_bound=2.0**-12),
    weight="int8",
)
FIXED = DTypeConfig(
    input="uint8",
    output=DTypeWithConstraints("uint8", 0, 255, None, None, 1 / 256, 0),
)
DYNAMIC = DTypeConfig(input="uint8", output="float32", weight="int8", is_dynamic=True)

CONV = BackendPatternConfig(
    "conv_relu",
    conv_relu,
    dtype_configs=(STATIC,),
    lowering="q.conv",
    check=few_channels,
    weight_role="w",
    weight_axis=0,
    bias_role="b",
)
GEMM = BackendPatternConfig(
    "gemm", conv_relu, dtype_configs=(STATIC,), weight_role="w", weight_axis=gemm_axis
)
SIGMOID = BackendPatternConfig(
    "sigmoid", sigmoid, dtype_configs=(FIXED,), lowering="q.lut", fixed_output=(1 / 256, 0)
)
CONCAT = BackendPatternConfig(
    "concat",
    sigmoid,
    ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT,
    dtype_configs=(STATIC, SYMMETRIC),
    shared_inputs=("x",),
    num_tensor_args_to_observation_type=(
        (1, ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT),
        (2, ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT),
    ),
)
BACKEND = BackendConfig(
    "test",
    "x86_64-unknown-linux-gnu",
    ("avx2",),
    (CONV, GEMM, SIGMOID, CONCAT),
    get_default_qconfig("x86"),
)

U8 = HistogramObserver.with_args()
S8 = HistogramObserver.with_args(dtype="int8")


@pytest.mark.parametrize(
    ("config", "qconfig", "sentence"),
    [
        (STATIC, QConfig(U8, channels), None),
        (STATIC, QConfig(S8, channels), "the input is int8, but the backend takes uint8"),
        (
            STATIC,
            QConfig(U8, MinMaxObserver.with_args(dtype="int8")),
            "the weight's stored range [-128, 127] is not within the backend's [-127, 127]",
        ),
        (
            STATIC,
            QConfig(U8, PlaceholderObserver.with_args(dtype="int8")),
            "the weight's observer states no range, but the backend limits it",
        ),
        (
            SYMMETRIC,
            QConfig(S8, channels),
            f"the input's eps {2.0**-23} is below the backend's least scale, {2.0**-12}",
        ),
        (SYMMETRIC, QConfig(S8.with_args(eps=2.0**-12), channels), None),
        (
            FIXED,
            QConfig(U8, channels),
            "the output needs a FixedQParamsObserver with scale 0.00390625 and zero point 0",
        ),
        (FIXED, QConfig(FixedQParamsObserver.with_args(scale=1 / 256), channels), None),
        (
            FIXED,
            QConfig(FixedQParamsObserver.with_args(scale=1 / 128), channels),
            "the output has the fixed scale 0.0078125 and zero point 0, "
            "but the backend needs scale 0.00390625 and zero point 0",
        ),
        (
            DYNAMIC,
            QConfig(U8, channels),
            "the activation is static, but the backend's op is dynamic",
        ),
        (
            DYNAMIC,
            QConfig(PlaceholderObserver.with_args(dtype="uint8", is_dynamic=True), channels),
            None,
        ),
        (
            STATIC,
            QConfig(PlaceholderObserver.with_args(dtype="uint8", is_dynamic=True), channels),
            "the activation is dynamic, but the backend's op is static",
        ),
        (DTypeConfig(), QConfig(S8, U8), None),
    ],
)
def test_match_rule(config: DTypeConfig, qconfig: QConfig, sentence: str | None) -> None:
    assert config.refusal(qconfig) == sentence


def test_fake_quantize_is_judged_by_its_observer() -> None:
    fixed = FixedQParamsObserver.with_args(scale=1 / 256)
    qconfig = QConfig(quant.FakeQuantize.with_args(observer=fixed), channels)
    assert FIXED.refusal(qconfig) is None


def test_the_output_may_be_observed_apart() -> None:
    float_output = DTypeConfig(input="uint8", output="float32", weight="int8")
    qconfig = QConfig(U8, channels)
    assert "output is uint8, but the backend takes float32" in str(float_output.refusal(qconfig))
    assert float_output.refusal(qconfig, PlaceholderObserver.with_args()) is None


def test_a_dynamic_output_is_float() -> None:
    config = DTypeConfig(input="uint8", output="uint8", is_dynamic=True)
    activation = PlaceholderObserver.with_args(dtype="uint8", is_dynamic=True)
    sentence = config.refusal(QConfig(activation, channels))
    assert sentence == "a dynamic op's output is float32, but the backend's is uint8"


def test_supports_gives_the_first_match_or_every_reason() -> None:
    assert CONCAT.supports(QConfig(U8, channels)) is STATIC
    assert CONCAT.supports(QConfig(S8.with_args(eps=0.001), channels)) is SYMMETRIC
    assert CONCAT.supports(QConfig(S8, channels)) == (
        "pattern 'concat' does not take this QConfig: "
        "the input is int8, but the backend takes uint8; and "
        f"the input's eps {2.0**-23} is below the backend's least scale, {2.0**-12}"
    )
    bare = CONV.set_dtype_configs(())
    assert bare.supports(QConfig(U8, channels)) == "pattern 'conv_relu' has no dtype config"
    assert bare.add_dtype_config(STATIC).supports(QConfig(U8, channels)) is STATIC


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        (QuantParams.make(0.5, 0, "int8"), None),
        (QuantParams.make(0.5, 0, "uint8"), "the input is uint8, but the backend takes int8"),
        (
            QuantParams.make(0.125, 0, "int8"),
            "the input's scale 0.125 is below the backend's least, 0.25",
        ),
        (
            QuantParams.make([0.5, 2.0], 0, "int8", axis=0),
            "the input's scale 2.0 is above the backend's greatest, 1.0",
        ),
    ],
)
def test_numbers_are_checked_too(params: QuantParams, sentence: str | None) -> None:
    wanted = DTypeWithConstraints("int8", -128, 127, 0.25, 1.0)
    assert wanted.params_refusal(params, "input") == sentence


def test_symmetric_numbers_have_the_zero_point_0() -> None:
    wanted = DTypeWithConstraints("int8", symmetric=True)
    affine = MinMaxObserver.with_args(dtype="int8")
    symmetric = affine.with_args(qscheme="per_tensor_symmetric")
    offset = FixedQParamsObserver.with_args(dtype="int8", scale=1 / 256, zero_point=-128)
    centred = FixedQParamsObserver.with_args(dtype="int8", scale=1 / 128, zero_point=0)
    assert wanted.spec_refusal(symmetric, "input") is None
    assert wanted.spec_refusal(centred, "output") is None
    for spec in (affine, offset):
        assert "the output's zero point may be other" in str(wanted.spec_refusal(spec, "output"))
    assert wanted.params_refusal(QuantParams.make([0.5, 1], 0, "int8", axis=0), "weight") is None
    moved = QuantParams.make([0.5, 1], [0, 1], "int8", axis=0)
    assert "the weight's zero point may be other" in str(wanted.params_refusal(moved, "weight"))
    assert DTypeWithConstraints.from_data(wanted.to_data()) == wanted
    assert wanted.to_data() == {"dtype": "int8", "symmetric": True}


def test_exact_numbers() -> None:
    wanted = FIXED.constraints("output")
    assert wanted is not None
    assert wanted.params_refusal(QuantParams.make(1 / 256, 0, "uint8"), "output") is None
    sentence = wanted.params_refusal(QuantParams.make(1 / 256, 1, "uint8"), "output")
    assert "fixed scale 0.00390625 and zero point 1" in str(sentence)
    limited = DTypeWithConstraints("uint8", scale_max_upper_bound=0.5)
    fixed = FixedQParamsObserver.with_args(scale=1.0)
    assert "above the backend's greatest" in str(limited.spec_refusal(fixed, "output"))


def test_observation_type_depends_on_the_number_of_tensors() -> None:
    assert CONCAT.observation_type_for(1) is ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT
    assert CONCAT.observation_type_for(2) is ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT
    assert CONCAT.observation_type_for(7) is CONCAT.observation_type


def test_setters_return_new_values() -> None:
    other = SIGMOID.set_pattern(conv_relu).set_observation_type(
        ObservationType.INPUT_OUTPUT_NOT_OBSERVED
    )
    changed = BACKEND.set_backend_pattern_configs([other, CONV]).set_name("new")
    assert changed.patterns == (CONV, GEMM, other, CONCAT)
    assert changed.pattern("sigmoid").pattern is conv_relu
    assert BACKEND.pattern("sigmoid").pattern is sigmoid
    assert changed.set_target("aarch64-linux-gnu", ["dotprod"]).features == ("dotprod",)
    assert changed.set_default_qconfig(None).default_qconfig is None
    added = BackendConfig("empty").set_backend_pattern_config(CONV)
    assert added.configs == (CONV,)
    assert hash(BACKEND) == hash(BACKEND.set_name("test"))


def test_configs_print_as_input() -> None:
    names = {**vars(quant), **globals()}
    for value in (STATIC, SYMMETRIC, FIXED, DYNAMIC, CONV, GEMM, SIGMOID, CONCAT, BACKEND):
        assert eval(repr(value), names) == value
    assert repr(DYNAMIC) == (
        "DTypeConfig(input='uint8', output='float32', weight='int8', is_dynamic=True)"
    )


def test_json_round_trip() -> None:
    text = BACKEND.to_json()
    assert BackendConfig.from_json(text, BACKEND.patterns) == BACKEND
    changed = text.replace('"avx2"', '"avx512f"').replace('"q.lut"', '"q.sigmoid"')
    read = BackendConfig.from_json(changed, BACKEND.patterns)
    assert read.features == ("avx512f",)
    assert read.pattern("sigmoid").lowering == "q.sigmoid"
    assert read.pattern("sigmoid").pattern is sigmoid
    assert read.pattern("conv_relu").check is few_channels
    assert read.pattern("gemm").weight_axis is gemm_axis


EXPORT = BackendConfig(
    "export",
    patterns=(replace(CONV, float_roles=("x",)),),
    placement=Placement.BEFORE_READERS,
    fuses=("Relu", "Sigmoid"),
    concat_shares_scale=True,
    keeps=("use-lookups",),
    export_passes="share-dequantize,name-nodes",
    clamps_results=False,
    description="a runtime",
)


def test_what_an_export_needs_is_written_and_read() -> None:
    assert BackendConfig.from_json(EXPORT.to_json(), [CONV]) == EXPORT
    data = json.loads(EXPORT.to_json())
    assert data["placement"] == "before_readers"
    assert data["patterns"][0]["float_roles"] == ["x"]
    assert eval(repr(EXPORT), {**vars(quant), **globals()}) == EXPORT


def test_float_roles_that_are_code_stay_those_at_hand() -> None:
    row = replace(CONV, float_roles=float_operand)
    backend = BackendConfig("export", patterns=(row,))
    assert "float_roles" not in json.loads(backend.to_json())["patterns"][0]
    assert BackendConfig.from_json(backend.to_json(), [row]) == backend


def test_a_text_without_the_newer_fields_reads_as_the_defaults() -> None:
    data = json.loads(BACKEND.to_json())
    for key in ("placement", "fuses", "concat_shares_scale", "keeps", "export_passes"):
        del data[key]
    assert BackendConfig.from_json(json.dumps(data), BACKEND.patterns) == BACKEND


@pytest.mark.parametrize("name", backend_names())
def test_every_backend_survives_json(name: str) -> None:
    config = backend_config(name)
    assert BackendConfig.from_json(config.to_json(), config.patterns) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"placement": "nowhere"}, "no placement 'nowhere': use one of behind_producers, before"),
        ({"fuses": "Relu"}, "'fuses' must be a list"),
        ({"keeps": 3}, "'keeps' must be a list"),
        ({"patterns": [{"name": "gemm", "float_roles": 1}]}, "'float_roles' is malformed"),
        ({"patterns": [{"name": "magic"}]}, "no pattern 'magic' at hand: use one of conv_relu"),
        ({"patterns": [{"name": "gemm", "colour": 1}]}, "pattern 'gemm' has no entry 'colour'"),
        (
            {"patterns": [{"name": "gemm", "observation_type": "no"}]},
            "pattern 'gemm': 'observation_type' is malformed",
        ),
        (
            {"patterns": [{"name": "gemm", "dtype_configs": [{"input": "int9"}]}]},
            "there is no dtype 'int9'",
        ),
        ({"patterns": [{"name": "gemm", "dtype_configs": [{"in": 1}]}]}, "has no entry 'in'"),
        ({"patterns": [{"name": "gemm"}, {"name": "gemm"}]}, "two patterns named 'gemm'"),
        ({"patterns": [{"name": "gemm", "check": "x"}]}, "'check' is code and cannot be read"),
        ({"patterns": [{"name": "gemm", "lowering": 3}]}, "'lowering' is malformed"),
        ({"patterns": [{"name": "gemm", "fixed_output": [1]}]}, "'fixed_output' is malformed"),
        (
            {"patterns": [{"name": "gemm", "dtype_configs": [{"input": {"dtype": 3}}]}]},
            "there is no dtype '3'",
        ),
        ({"patterns": 7}, "'patterns' must be a list"),
        ({"name": None}, "needs a 'name'"),
        ({"format": "x"}, 'must say "format": "qcc.backend_config"'),
    ],
)
def test_bad_json_is_refused(change: dict[str, Any], message: str) -> None:
    data = {**json.loads(BACKEND.to_json()), **change}
    with pytest.raises(ConfigError, match=message):
        BackendConfig.from_json(json.dumps(data), BACKEND.patterns)


def test_bad_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="there is no dtype 'quint8'"):
        DTypeConfig(input="quint8")
    with pytest.raises(ConfigError, match="there is no dtype 'int33'"):
        DTypeConfig(bias="int33")
    with pytest.raises(ConfigError, match="zero_point_exact_match together"):
        DTypeWithConstraints("uint8", scale_exact_match=0.5)
    with pytest.raises(ConfigError, match="quant_min_lower_bound must be a number or None"):
        DTypeWithConstraints("uint8", "low")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs a name"):
        BackendPatternConfig("", conv_relu)
    with pytest.raises(ConfigError, match="a weight_axis but no weight_role"):
        BackendPatternConfig("x", conv_relu, weight_axis=0)
    with pytest.raises(ConfigError, match="backend 'test' has no pattern 'magic'"):
        BACKEND.pattern("magic")
    with pytest.raises(ConfigError, match="needs 'dtype'"):
        DTypeWithConstraints.from_data({})


def test_a_backend_with_a_name_of_its_own_says_what_it_quantizes_by() -> None:
    qconfig = get_default_qconfig("onnx")
    mine = BackendConfig("mine").set_default_qconfig(qconfig)
    assert mine.default_mapping.global_qconfig == qconfig
    assert mine.default_mapping == get_default_qconfig_mapping("onnx")
    with pytest.raises(ConfigError, match="'mine' has no default QConfig"):
        _ = BackendConfig("mine").default_mapping
