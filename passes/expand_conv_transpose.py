"""Transposed convolutions become convolutions that compute all phases of the output, interleaved.

``y[q s + r - p]`` of a ConvTranspose with stride ``s`` and begin pad ``p`` sums
``x[q - j] w[r + j s]`` over ``j``: for each phase ``r`` a convolution over ``x`` with every
``s``-th tap.  The phases are output channels of one Conv; DepthToSpace puts them side by side, and
a Slice cuts what the pads take away.  So nothing is multiplied with zeros that stand between
pixels, and the Conv is quantized like any other.  Source: the sub-pixel convolution of Shi et al.
2016 (arXiv:1609.05158), and their note on deconvolution (arXiv:1609.07009).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcc.ir.core import Array, Attribute, Graph, Node, Stage, Value
from qcc.ir.infer import infer_shapes
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Shape, TensorType, ValueType
from qcc.passes.canonical_pooling import per_dimension
from qcc.passes.constants import ints
from qcc.passes.manager import Pass
from qcc.passes.replacement import supersede

ACTIVATIONS = ("Relu", "Clip")
"""Ops by element that move in front of the DepthToSpace, where they fuse with the Conv."""


@dataclass(frozen=True)
class ExpandConvTranspose(Pass):
    """Turn each two-dimensional ConvTranspose by a constant weight into a Conv and movements."""

    name: ClassVar[str] = "expand-conv-transpose"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` and its subgraphs in place."""
        expanded = False
        for node in [n for n in graph.walk() if n.op == "ConvTranspose"]:
            found = _Geometry.of(node)
            if isinstance(found, str):
                rewriter.refuse(node, found)
                continue
            _expand(node, found, rewriter)
            expanded = True
        if expanded:
            infer_shapes(graph)


@dataclass(frozen=True)
class _Geometry:
    """One stride for both axes; ``taps`` of a phase, what is cut off, by axis."""

    stride: int
    groups: int
    kernel: tuple[int, int]
    taps: tuple[int, int]
    begin: tuple[int, int]
    end: tuple[int, int]

    @classmethod
    def of(cls, node: Node) -> _Geometry | str:
        """That of a ConvTranspose, or the sentence why it has none."""
        label, weight = node.label, node.operand(1).constant
        bias = node.input(2)
        if weight is None or (bias is not None and bias.constant is None):
            return f"the weight or bias of '{label}' is not constant"
        if np.ndim(weight) != 4 or np.dtype(weight.dtype) != np.float32:
            return f"'{label}' is no two-dimensional float32 convolution"
        mode = attribute(node, "auto_pad")
        if mode not in (None, b"NOTSET", "NOTSET") or ints(node, "output_shape"):
            return f"the pads of '{label}' follow from its output shape"
        strides, dilations = (per_dimension(node, name, 2) for name in ("strides", "dilations"))
        if strides[0] != strides[1] or dilations != [1, 1]:
            return f"'{label}' has dilations, or another stride for each axis"
        stride, kernel = strides[0], (int(weight.shape[2]), int(weight.shape[3]))
        pads, extra = ints(node, "pads") or [0] * 4, ints(node, "output_padding") or [0, 0]
        taps = tuple(-(-size // stride) for size in kernel)
        end = tuple(stride * taps[i] - kernel[i] - extra[i] + pads[2 + i] for i in range(2))
        if min(end) < 0 or min(pads) < 0:
            return f"'{label}' is padded beyond what its taps reach"
        groups = int(attribute(node, "group") or 1)
        begin = (pads[0], pads[1])
        return cls(stride, groups, kernel, (taps[0], taps[1]), begin, (end[0], end[1]))

    @property
    def mode(self) -> str:
        """Phases before channels where that is possible: whole pixels move together then."""
        return "DCR" if self.groups == 1 else "CRD"

    def weight(self, weight: Array) -> Array:
        """Weight [C, O / groups, kh, kw] as that of the Conv [O s s, C / groups, th, tw]."""
        s, g, (th, tw) = self.stride, self.groups, self.taps
        inputs, outputs = weight.shape[0] // g, weight.shape[1]
        padded = np.zeros((g, inputs, outputs, th * s, tw * s), np.float32)
        padded[..., : self.kernel[0], : self.kernel[1]] = weight.reshape(
            g, inputs, outputs, *self.kernel
        )
        # Tap j of phase r is place r + j s; the first tap meets the last pixel.
        phases = padded.reshape(g, inputs, outputs, th, s, tw, s)[:, :, :, ::-1, :, ::-1]
        # The axes are now group, input, output, tap, phase, tap, phase.
        order = (0, 4, 6, 2, 1, 3, 5) if self.mode == "DCR" else (0, 2, 4, 6, 1, 3, 5)
        return np.ascontiguousarray(phases.transpose(order).reshape(-1, inputs, th, tw))

    def bias(self, bias: Array) -> Array:
        """Bias [O] as that of the Conv [O s s]."""
        phases = self.stride**2
        return np.tile(bias, phases) if self.mode == "DCR" else np.repeat(bias, phases)


def _expand(node: Node, geometry: _Geometry, rewriter: Rewriter) -> None:
    last = _activation(node)
    value, old = _conv(node, geometry, rewriter), node.inputs[1:]
    if last is not None:
        others = last.inputs[1:]
        value = _put(last.op, [value, *others], value.type, node, rewriter, dict(last.attributes))
    final = node if last is None else last
    attributes: dict[str, Attribute] = {"blocksize": geometry.stride, "mode": geometry.mode}
    cut = [*geometry.begin, *geometry.end]
    if any(cut):
        value = _put(
            "DepthToSpace", [value], TensorType(None, "float32"), node, rewriter, attributes
        )
        starts, ends = np.asarray(cut[:2], np.int64), np.asarray(cut[2:], np.int64)
        ends = np.where(ends == 0, np.iinfo(np.int64).max, -ends)
        bounds = [
            rewriter.constant(f"{node.label}_{name}", data)
            for name, data in (("starts", starts), ("ends", ends), ("axes", np.asarray([2, 3])))
        ]
        supersede(final, "Slice", [value, *bounds], rewriter)
    else:
        supersede(final, "DepthToSpace", [value], rewriter, attributes)
    if last is not None:
        rewriter.erase(node)
    for operand in old:
        if operand is not None:
            rewriter.erase_dead(operand)


def _activation(node: Node) -> Node | None:
    """The activation that alone reads the result, with constant limits."""
    value = node.output
    if value.is_output or len(value.uses) != 1:
        return None
    user = value.users[0]
    if user.op not in ACTIVATIONS or user.graph is not node.graph or user.operand(0) is not value:
        return None
    return user if all(v is None or v.is_constant for v in user.inputs[1:]) else None


def _conv(node: Node, geometry: _Geometry, rewriter: Rewriter) -> Value:
    weight, bias = node.operand(1), node.input(2)
    assert weight.constant is not None
    phased = geometry.weight(np.asarray(weight.constant))
    inputs: list[Value | None] = [node.operand(0)]
    inputs.append(rewriter.constant(f"{weight.name}_phases", phased))
    if bias is not None:
        data = geometry.bias(np.asarray(bias.constant, np.float32))
        inputs.append(rewriter.constant(f"{bias.name}_phases", data))
    reach = [tap - 1 for tap in geometry.taps]
    attributes: dict[str, Attribute] = {
        "kernel_shape": list(geometry.taps),
        "pads": reach * 2,
        "strides": [1, 1],
        "dilations": [1, 1],
        "group": geometry.groups,
    }
    shape = _conv_shape(node.operand(0), len(phased), reach)
    return _put("Conv", inputs, TensorType(shape, "float32"), node, rewriter, attributes)


def _conv_shape(x: Value, channels: int, reach: list[int]) -> Shape:
    shape = x.tensor.shape
    if shape is None or len(shape) != 4:
        return None
    sizes = [d + r if isinstance(d, int) else None for d, r in zip(shape[2:], reach, strict=True)]
    return (shape[0], channels, *sizes)


def _put(
    op: str,
    inputs: Sequence[Value | None],
    type_: ValueType,
    before: Node,
    rewriter: Rewriter,
    attributes: Mapping[str, Attribute],
) -> Value:
    name = rewriter.graph.fresh_name(f"{before.label}_{op.lower()}")
    made = rewriter.insert(op, inputs, [type_], attributes=attributes, name=name, before=before)
    return made.output
