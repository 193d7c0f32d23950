"""Repairs of models: each one that a rule offers, and all of them for a target."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from qcc.lint.check import open_index
from qcc.lint.editing import Editor, along, drop_unused, used_names
from qcc.lint.findings import Finding
from qcc.lint.index import Array, ModelIndex, Operation, Tensor
from qcc.lint.profiles import rules_of
from qcc.lint.quantizers import QUANTIZE, Quantizer
from qcc.lint.repairs import (
    DequantizeFirst,
    FlattenScales,
    FloatBias,
    MakeSymmetric,
    NameNodes,
    Repair,
    RequantizeWeight,
    SetAxis,
    SetZeroScales,
    StoreSigned,
    UseOnnxDomain,
    WriteZeroPoint,
)
from qcc.onnxio.elements import element_dtype
from qcc.onnxio.tensors import write_tensor

ROUNDS = 16
"""Repairs that touch the same nodes wait for another look at the model, so many at most."""

LARGEST = {"int8": 127, "int4": 7}
"""The largest stored value of a weight that is quantized symmetrically."""

CLIP_OPERANDS_SINCE = 11


def fix_model(
    model: ModelProto | str | os.PathLike[str], target: str, *, folder: Path | None = None
) -> tuple[ModelProto, tuple[Finding, ...]]:
    """A copy of ``model`` in which everything is repaired that has a safe repair for ``target``.

    Gives the copy (functions of the model are written out in it; external data stay where they are,
    so read it with the same folder) and the findings that were repaired.  What is left is what
    ``lint_model`` finds in the copy.  Raises ModelError and ConfigError as ``lint_model`` does.
    """
    source = open_index(model, folder)
    fixed = ModelProto()
    fixed.CopyFrom(source.model)
    used = used_names(fixed)
    applied: list[Finding] = []
    for _ in range(ROUNDS):
        found = _one_round(ModelIndex(fixed, source.folder), target)
        if not found:
            break
        applied += found
    drop_unused(fixed, used)
    return fixed, tuple(applied)


def _one_round(index: ModelIndex, target: str) -> list[Finding]:
    """Do all repairs that do not meet at a node; the findings that they repair."""
    editor = Editor(index)
    touched: set[Operation] = set()
    done: set[Repair] = set()
    findings = []
    for rule in rules_of(target):
        for problem in list(rule.problems(index)):
            repair = problem.repair
            if repair is None:
                continue
            operations = _touches(repair)
            if repair not in done and touched & operations:
                continue
            findings.append(rule.finding(problem))
            if repair not in done:
                _REPAIRS[type(repair)](editor, repair)
                done.add(repair)
                touched |= operations
    return findings


def _touches(repair: Repair) -> set[Operation]:
    """The nodes that a repair changes, but for their names."""
    if isinstance(repair, (SetAxis, StoreSigned, MakeSymmetric, DequantizeFirst)):
        return set(repair.quantizers)
    if isinstance(repair, NameNodes):
        return set()
    if isinstance(repair, (WriteZeroPoint, UseOnnxDomain, FlattenScales)):
        return {repair.quantizer}
    return {repair.dequantize}


# -- each repair -----------------------------------------------------------------------------------


def _set_axis(editor: Editor, repair: SetAxis) -> None:
    for operation in repair.quantizers:
        editor.set_attribute(operation, "axis", repair.axis)


def _flatten_scales(editor: Editor, repair: FlattenScales) -> None:
    quantizer = Quantizer(editor.index, repair.quantizer)
    stem = f"{repair.quantizer.proto.output[0]}_scale"
    flat = np.asarray(quantizer.scale).reshape(-1)
    editor.read(repair.quantizer, 1, editor.constant(stem, flat, repair.quantizer.graph))
    if quantizer.zero_point is not None:
        zeros = np.broadcast_to(quantizer.zero_point.reshape(-1), flat.shape)
        _set_zero_point(editor, repair.quantizer, zeros)


def _write_zero_point(editor: Editor, repair: WriteZeroPoint) -> None:
    quantizer = Quantizer(editor.index, repair.quantizer)
    zeros = np.zeros(np.asarray(quantizer.scale).shape, repair.element)
    _set_zero_point(editor, repair.quantizer, zeros)


def _float_bias(editor: Editor, repair: FloatBias) -> None:
    operation = repair.dequantize
    bias = dequantized(Quantizer(editor.index, operation))
    name = operation.proto.output[0]
    editor.remove(operation)
    operation.graph.initializer.append(write_tensor(name, bias, str(bias.dtype)))


def _store_signed(editor: Editor, repair: StoreSigned) -> None:
    stored = editor.index.constant(repair.values[0])
    if stored is not None:
        signed = (np.asarray(stored, np.int16) - repair.shift).astype(np.int8)
        _replace_stored(editor, repair.values[0], signed)
    for value in repair.values:
        editor.declare(value, "int8")
    for operation in repair.quantizers:
        shape = np.asarray(Quantizer(editor.index, operation).scale).shape
        _set_zero_point(editor, operation, np.zeros(shape, np.int8))


def _make_symmetric(editor: Editor, repair: MakeSymmetric) -> None:
    lead = Quantizer(editor.index, repair.quantizers[0])
    scale = np.asarray(lead.scale)
    step = max(-repair.low, repair.high) / LARGEST["int8"]
    wide = np.full(scale.shape, step, scale.dtype)
    stored = editor.index.constant(repair.values[0])
    if stored is not None:
        zeros = 0 if lead.zeros is None else int(lead.zeros[0])
        numbers = (np.asarray(stored, np.float64) - zeros) * float(scale.reshape(-1)[0])
        signed = np.clip(np.rint(numbers / float(wide.reshape(-1)[0])), -128, 127)
        _replace_stored(editor, repair.values[0], signed.astype(np.int8))
    for value in repair.values:
        editor.declare(value, "int8")
    for operation in repair.quantizers:
        stem = f"{repair.values[0].name}_scale_int8"
        editor.read(operation, 1, editor.constant(stem, wide, operation.graph))
        _set_zero_point(editor, operation, np.zeros(scale.shape, np.int8))
        if operation.op in QUANTIZE:
            _clamp(editor, operation, repair, step)


def _replace_stored(editor: Editor, stored: Tensor, data: Array) -> None:
    """Let every reader of stored data read others."""
    name = editor.constant(f"{stored.name}_int8", data, stored.graph)
    for reader, place in stored.users:
        editor.read(reader, place, name)


def _clamp(editor: Editor, operation: Operation, repair: MakeSymmetric, step: float) -> None:
    """Keep the bounds at which a quantize node saturated, where int8 saturates elsewhere."""
    cuts_low = repair.low > -(LARGEST["int8"] - 0.5) * step
    cuts_high = repair.high < (LARGEST["int8"] - 0.5) * step
    source = operation.input(0)
    if source is None or not (cuts_low or cuts_high):
        return
    if repair.low == 0 and not cuts_high and _is_positive(editor.index, source.producer):
        return
    result = editor.fresh_value(f"{source.name}_clamped")
    name = editor.fresh_node(result)
    if repair.low == 0 and not cuts_high:
        node = helper.make_node("Relu", [source.name], [result], name=name)
    elif editor.index.opset < CLIP_OPERANDS_SINCE:
        low, high = repair.low, repair.high
        node = helper.make_node("Clip", [source.name], [result], name=name, min=low, max=high)
    else:
        element = editor.index.element(source) or "float32"
        names = [
            editor.constant(f"{result}_{role}", np.asarray(bound, element), operation.graph)
            for role, bound in (("low", repair.low), ("high", repair.high))
        ]
        node = helper.make_node("Clip", [source.name, *names], [result], name=name)
    editor.insert_before(operation, node)
    editor.read(operation, 0, result)


def _is_positive(index: ModelIndex, operation: Operation | None) -> bool:
    """Whether a node gives nothing below 0."""
    if operation is None:
        return False
    if operation.op == "Clip":
        low = index.constant(operation.input(1))
        bound = operation.attribute("min") if low is None else float(low.reshape(-1)[0])
        return bound is not None and bound >= 0
    return operation.op in ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp")


def _requantize_weight(editor: Editor, repair: RequantizeWeight) -> None:
    weight = Quantizer(editor.index, repair.dequantize)
    source = weight.made_by
    floats = source is not None and source.data is not None
    data = editor.index.constant(source.data) if source is not None and floats else None
    numbers = np.asarray(dequantized(weight) if data is None else data, np.float64)
    largest = LARGEST.get(weight.storage or "", LARGEST["int8"])
    scale = channel_scales(numbers, repair.axis, largest).astype(np.asarray(weight.scale).dtype)
    zeros = np.zeros(scale.shape, _dtype(weight))
    changed = [weight] if source is None else [source, weight]
    for quantizer in changed:
        operation = quantizer.operation
        stem = f"{operation.proto.output[0]}_scale"
        editor.read(operation, 1, editor.constant(stem, scale, operation.graph))
        _set_zero_point(editor, operation, zeros)
        editor.set_attribute(operation, "axis", repair.axis)
    if source is None and weight.data is not None:
        steps = along(scale.astype(np.float64), repair.axis, numbers.ndim)
        stored = np.clip(np.rint(numbers / steps), -largest, largest).astype(_dtype(weight))
        name = editor.constant(f"{weight.data.name}_axis{repair.axis}", stored, weight.data.graph)
        editor.read(weight.operation, 0, name)


def _set_zero_scales(editor: Editor, repair: SetZeroScales) -> None:
    scale = np.array(Quantizer(editor.index, repair.dequantize).scale)
    scale[scale == 0] = 1
    stem = f"{repair.dequantize.proto.output[0]}_scale"
    editor.read(repair.dequantize, 1, editor.constant(stem, scale, repair.dequantize.graph))


def _dequantize_first(editor: Editor, repair: DequantizeFirst) -> None:
    stored = repair.values[0]
    lead = Quantizer(editor.index, repair.quantizers[0])
    result = editor.fresh_value(f"{stored.name}_dequantized")
    names = [
        editor.constant(f"{result}_{role}", np.asarray(data), stored.graph)
        for role, data in (("scale", lead.scale), ("zero_point", lead.zero_point))
        if data is not None
    ]
    name = editor.fresh_node(result)
    node = helper.make_node("DequantizeLinear", [stored.name, *names], [result], name=name)
    editor.insert_before(stored.users[0][0], node)
    for reader, place in stored.users:
        editor.read(reader, place, result)
    for operation in repair.quantizers:
        source, given = operation.input(0), operation.output
        for reader, place in [] if given is None else given.users:
            editor.read(reader, place, "" if source is None else source.name)
        editor.remove(operation)
    for value in repair.values[1:]:
        editor.declare(value, str(np.asarray(lead.scale).dtype))


def _use_onnx_domain(editor: Editor, repair: UseOnnxDomain) -> None:
    del editor
    repair.quantizer.proto.ClearField("domain")


def _name_nodes(editor: Editor, repair: NameNodes) -> None:
    for operation in repair.operations:
        first = next((name for name in operation.proto.output if name), "")
        stem = operation.proto.name or f"{first}/{operation.proto.op_type}"
        operation.proto.name = editor.fresh_node(stem)


_REPAIRS: dict[type, Callable[[Editor, Any], None]] = {
    SetAxis: _set_axis,
    FlattenScales: _flatten_scales,
    RequantizeWeight: _requantize_weight,
    WriteZeroPoint: _write_zero_point,
    StoreSigned: _store_signed,
    MakeSymmetric: _make_symmetric,
    FloatBias: _float_bias,
    SetZeroScales: _set_zero_scales,
    DequantizeFirst: _dequantize_first,
    UseOnnxDomain: _use_onnx_domain,
    NameNodes: _name_nodes,
}
"""How each repair is done."""


# -- numbers ---------------------------------------------------------------------------------------


def dequantized(quantizer: Quantizer) -> Array:
    """The numbers that a dequantize node of stored data gives, computed as ONNX says.

    ``(x - zero_point) * scale`` in the scale's type; the data, scale and zero point are constants.
    """
    data = np.asarray(quantizer.index.constant(quantizer.data))
    scale = np.asarray(quantizer.scale)
    zeros = np.asarray(quantizer.zeros).reshape(-1)
    if quantizer.block_size:
        axis = quantizer.axis
        scale = np.repeat(scale, quantizer.block_size, axis).take(range(data.shape[axis]), axis)
    elif scale.size > 1:
        scale = along(scale, quantizer.axis, data.ndim)
        zeros = along(zeros, quantizer.axis, data.ndim) if zeros.size > 1 else zeros
    else:
        scale = scale.reshape(())
    less = data.astype(np.int64) - (zeros if zeros.size > 1 else int(zeros[0]))
    return np.asarray(less.astype(scale.dtype) * scale)


def channel_scales(numbers: Array, axis: int, largest: int) -> Array:
    """One scale a channel along ``axis``, so that its largest number is stored as ``largest``."""
    others = tuple(at for at in range(numbers.ndim) if at != axis)
    peaks = np.abs(numbers).max(axis=others, initial=0.0)
    return np.where(peaks > 0, peaks / largest, 1.0)


def _dtype(weight: Quantizer) -> Any:
    """The signed type that a weight is stored in anew: its own, or int8."""
    return element_dtype(weight.storage if weight.storage in LARGEST else "int8")


def _set_zero_point(editor: Editor, operation: Operation, zeros: Array) -> None:
    """Let a Q/DQ node read zero points, and say no other type than theirs."""
    if operation.op in QUANTIZE:
        editor.drop_attribute(operation, "output_dtype")
    stem = f"{operation.proto.output[0]}_zero_point"
    editor.read(operation, 2, editor.constant(stem, zeros, operation.graph))
