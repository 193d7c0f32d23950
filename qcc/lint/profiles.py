"""The rules of each target, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from qcc.errors import ConfigError
from qcc.lint import attention, joins, names, standard, tensorrt_errors, tensorrt_layers
from qcc.lint import onnxruntime as ort
from qcc.lint import onnxruntime_x86 as x86
from qcc.lint.axes import unfitting
from qcc.lint.findings import Rule, Severity

_E = Severity.ERROR
_W = Severity.WARNING
_N = Severity.NOTE

TENSORRT = (
    Rule(
        "E1", _E, "stored types are int8, fp8 e4m3, fp4, and int4 of weights", tensorrt_errors.types
    ),
    Rule("E2", _E, "zero points are written, and 0", tensorrt_errors.zero_points),
    Rule("E3", _E, "scales are constants, positive and finite", tensorrt_errors.scales),
    Rule("E4", _E, "biases are float32, not dequantized int32", tensorrt_errors.biases),
    Rule("E5", _E, "activations have one scale", tensorrt_errors.activations),
    Rule("E6", _E, "scales of weights lie along the output channels", tensorrt_errors.weight_axes),
    Rule("E7", _E, "quantization is Q/DQ around float ops of ONNX", tensorrt_errors.integer_ops),
    Rule("E8", _E, "only DequantizeLinear reads stored integers", tensorrt_errors.constants),
    Rule("W1", _W, "weighted ops have both operands quantized", tensorrt_layers.half_quantized),
    Rule("W2", _W, "Q/DQ stand behind activations", tensorrt_layers.early_quantization),
    Rule("W3", _W, "of a skip connection the skip is quantized, only", joins.skip_connections),
    Rule("W4", _W, "a concatenation has one scale", joins.concat_scales),
    Rule("W5", _W, "attention is quantized whole or not at all", attention.partly_quantized),
    Rule("W6", _W, "nothing is stored as uint8", tensorrt_errors.small_unsigned),
    Rule("W7", _W, "quantized layers are large enough", tensorrt_layers.small_layers),
    Rule("W8", _W, "every node has a name of its own", names.node_names),
)

STANDARD = (
    Rule("G1", _E, "stored types are known to the model's opset", standard.types),
    Rule("G2", _E, "scales are positive and finite", standard.scales),
    Rule("G3", _E, "zero points are of the type of the data", standard.zero_points),
    Rule("G3", _W, "QuantizeLinear says its type", standard.missing_zero_points),
    Rule("G4", _E, "scales fit the tensor and its axis", unfitting),
)
"""What ONNX itself says, which holds for every runtime."""

ONNXRUNTIME = (
    *STANDARD,
    Rule("R1", _W, "results of quantized convolutions are quantized", ort.unquantized_convolutions),
    Rule("R2", _W, "activations are implied by zero points", ort.clamps),
    Rule("R3", _W, "operands and results are of types that kernels take", ort.operand_types),
    Rule("R4", _E, "int32 biases have the scale of the products", ort.wrong_biases),
    Rule("R4", _W, "stored biases are int32", ort.bias_types),
    Rule("R5", _W, "a quantized Gemm has beta 1", ort.factors),
    Rule("R6", _W, "moved values keep scale and zero point", ort.moved_values),
    Rule("R7", _W, "results of integers are no outputs of the model", ort.outputs_of_the_model),
    Rule("R8", _W, "every Q/DQ serves an integer kernel", ort.islands),
    Rule("R9", _N, "weights of 7 bits for x86 without VNNI", x86.saturating_weights),
    Rule("R10", _E, "scales of weights lie along the output channels", ort.weight_axes),
    Rule("R11", _W, "a quantized result has one QuantizeLinear", ort.shared_results),
    Rule("R12", _W, "a Gemm with a float result has an int32 bias", ort.last_biases),
    Rule("R13", _E, "no two nodes have one name", names.shared_names),
    Rule("R14", _W, "int8 values become uint8 on x86, or stay int8, alike", x86.mixed_types),
)

GENERIC = (
    *STANDARD,
    Rule("G5", _E, "all ops are ONNX's own", standard.foreign_ops),
    Rule("G6", _W, "scales of weights lie along the output channels", standard.weight_axes),
)

OPENVINO = (
    *STANDARD,
    Rule("G5", _W, "all ops are ONNX's own", standard.foreign_ops),
    Rule("G6", _W, "scales of weights lie along the output channels", standard.weight_axes),
    Rule("G7", _W, "weighted ops have both operands quantized", tensorrt_layers.half_quantized),
    Rule("G8", _W, "weighted ops read 8 bits or less", standard.wide_operands),
)

PROFILES: Mapping[str, tuple[Rule, ...]] = {
    "tensorrt": TENSORRT,
    "onnx": ONNXRUNTIME,
    "onnx-openvino": OPENVINO,
    "onnx-generic": GENERIC,
}
"""Target to rules.  Two rows of one id are one rule of two severities."""


def rules_of(target: str) -> tuple[Rule, ...]:
    """The rules of a target; raises ConfigError naming the targets there are."""
    if target not in PROFILES:
        raise ConfigError(f"there are no rules for '{target}'; choose {', '.join(PROFILES)}")
    return PROFILES[target]
