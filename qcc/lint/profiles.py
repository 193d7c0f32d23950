"""The rules of each target, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from qcc.errors import ConfigError
from qcc.lint import tensorrt_errors
from qcc.lint.findings import Rule, Severity

_E = Severity.ERROR

TENSORRT = (
    Rule(
        "E1", _E, "stored types are int8, fp8 e4m3, fp4, or int4 for weights", tensorrt_errors.types
    ),
    Rule("E2", _E, "zero points are written and 0", tensorrt_errors.zero_points),
    Rule("E3", _E, "scales are constants, positive and finite", tensorrt_errors.scales),
    Rule("E4", _E, "biases are float32, not dequantized int32", tensorrt_errors.biases),
    Rule("E5", _E, "activations have one scale", tensorrt_errors.activations),
    Rule("E6", _E, "scales of weights lie along the right axis", tensorrt_errors.weight_axes),
    Rule("E7", _E, "quantization is Q/DQ around float ops of ONNX", tensorrt_errors.integer_ops),
    Rule("E8", _E, "quantized constants feed DequantizeLinear only", tensorrt_errors.constants),
)

PROFILES: Mapping[str, tuple[Rule, ...]] = {
    "tensorrt": TENSORRT,
}
"""Target to rules."""


def rules_of(target: str) -> tuple[Rule, ...]:
    """The rules of a target; raises ConfigError naming the targets there are."""
    if target not in PROFILES:
        raise ConfigError(f"there are no rules for '{target}'; choose {', '.join(PROFILES)}")
    return PROFILES[target]
