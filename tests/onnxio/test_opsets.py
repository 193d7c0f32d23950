"""Every op whose meaning was rewritten computes the same before and after the conversion."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, defs, helper

from qcc.errors import ModelError
from qcc.ir.ops import PINNED_OPSET
from qcc.onnxio import read_onnx, to_model_proto
from qcc.onnxio.opset import OLDEST_OPSET
from qcc.onnxio.upgrade import UPGRADES
from tests.onnxio.models import RUNTIME_OPSET, assert_same, model, run

Array = NDArray[Any]
NEWEST = defs.onnx_opset_version()

REWRITTEN = 1e-6
"""Tolerance where the two models compute by other ops, or in other libraries, in another order."""


def _floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _ints(*items: int) -> Array:
    return np.asarray(items, np.int64)


@dataclass(frozen=True)
class Case:
    """One op in one way of writing it, legal from opset ``first`` to ``last``."""

    name: str
    node: NodeProto | list[NodeProto]
    feeds: dict[str, Array]
    first: int = OLDEST_OPSET
    last: int = NEWEST
    constants: dict[str, Array] = field(default_factory=dict)
    tolerance: float = 0.0
    rank_only: bool = False

    @property
    def nodes(self) -> list[NodeProto]:
        return self.node if isinstance(self.node, list) else [self.node]

    @property
    def outputs(self) -> list[str]:
        return [name for name in self.nodes[-1].output if name]

    def opsets(self) -> Iterator[int]:
        """The opsets in which some op of the case was rewritten, and both ends."""
        found = {self.first, self.last}
        names = {node.op_type for node in self.nodes}
        for schema in defs.get_all_schemas_with_history():
            if schema.domain == "" and schema.name in names:
                found.update(v for v in (schema.since_version, schema.since_version - 1))
        yield from sorted(v for v in found if self.first <= v <= self.last)


X234, X2311, IMAGE = _floats(2, 3, 4), _floats(2, 3, 1, 1), _floats(1, 4, 6, 6)
make = helper.make_node


def _softmax_cases() -> Iterator[Case]:
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        node = make(op, ["x"], ["y"])
        yield Case(f"{op}-default", node, {"x": X234})
        yield Case(f"{op}-open", node, {"x": X234}, rank_only=True)
        yield Case(f"{op}-ones", node, {"x": X2311})
        yield Case(f"{op}-0", make(op, ["x"], ["y"], axis=0), {"x": X234})
        yield Case(f"{op}-2", make(op, ["x"], ["y"], axis=2), {"x": X234})
        yield Case(f"{op}-neg", make(op, ["x"], ["y"], axis=-2), {"x": X234}, first=11)


def _reduce_cases() -> Iterator[Case]:
    positive = {"x": np.abs(X234) + 1}
    ops = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"
    for op in (f"Reduce{name}" for name in ops.split()):
        border = 13 if op == "ReduceSum" else 18
        axes = {"axes": _ints(1)}
        yield Case(f"{op}-axes", make(op, ["x"], ["y"], axes=[1]), positive, last=border - 1)
        yield Case(f"{op}-all", make(op, ["x"], ["y"], keepdims=0), positive)
        yield Case(f"{op}-input", make(op, ["x", "axes"], ["y"]), positive, border, constants=axes)


def _axes_cases() -> Iterator[Case]:
    feeds, axes = {"x": _floats(2, 1, 3, 1)}, {"axes": _ints(1, 3)}
    for op in ("Squeeze", "Unsqueeze"):
        yield Case(f"{op}-axes", make(op, ["x"], ["y"], axes=[1, 3]), feeds, last=12)
        yield Case(f"{op}-input", make(op, ["x", "axes"], ["y"]), feeds, 13, constants=axes)
    yield Case("Squeeze-all", make("Squeeze", ["x"], ["y"]), feeds)
    feeds, sizes = {"x": _floats(2, 6)}, {"sizes": _ints(1, 3, 2)}
    outs = ["a", "b", "c"]
    yield Case("Split-equal", make("Split", ["x"], outs, axis=1), feeds, last=17)
    yield Case("Split-attr", make("Split", ["x"], outs, axis=1, split=[1, 3, 2]), feeds, last=12)
    yield Case(
        "Split-input", make("Split", ["x", "sizes"], outs, axis=1), feeds, 13, constants=sizes
    )
    yield Case("Split-count", make("Split", ["x"], outs, axis=1, num_outputs=3), feeds, 18)


def _attribute_to_input_cases() -> Iterator[Case]:
    x = {"x": X234 * 3}
    yield Case("Clip-attr", make("Clip", ["x"], ["y"], min=-1.0, max=2.0), x, last=10)
    yield Case("Clip-min", make("Clip", ["x"], ["y"], min=0.0), x, last=10)
    infinite = {"x": np.asarray([np.inf, -np.inf, 1], np.float32)}
    yield Case("Clip-none", make("Clip", ["x"], ["y"]), infinite, last=10)
    low = {"low": np.float32(-1) * np.ones((), np.float32)}
    yield Case("Clip-input", make("Clip", ["x", "low"], ["y"]), x, 11, constants=low)
    yield Case("Dropout", make("Dropout", ["x"], ["y"], ratio=0.3), x, last=11)
    yield Case("Dropout-input", make("Dropout", ["x"], ["y"]), x)
    pads = [0, 1, 2, 0, 0, 1]
    for mode in ("constant", "reflect", "edge"):
        yield Case(f"Pad-{mode}", make("Pad", ["x"], ["y"], mode=mode, pads=pads), x, last=10)
    yield Case("Pad-value", make("Pad", ["x"], ["y"], pads=pads, value=1.5), x, last=10)
    yield Case("Pad-input", make("Pad", ["x", "p"], ["y"]), x, 11, constants={"p": _ints(*pads)})
    slices: dict[str, Any] = {"starts": [1, 0], "ends": [2, -1], "axes": [1, 2]}
    yield Case("Slice-attr", make("Slice", ["x"], ["y"], **slices), x, last=9)
    yield Case("Slice-no-axes", make("Slice", ["x"], ["y"], starts=[1], ends=[9]), x, last=9)
    yield Case(
        "Slice-input",
        make("Slice", ["x", "s", "e"], ["y"]),
        x,
        10,
        constants={"s": _ints(1), "e": _ints(2)},
    )
    yield Case("TopK-attr", make("TopK", ["x"], ["v", "i"], k=2), x, last=9)
    yield Case("TopK-input", make("TopK", ["x", "k"], ["v", "i"]), x, 10, constants={"k": _ints(2)})


def _norm_cases() -> Iterator[Case]:
    channels = {name: np.abs(_floats(4, seed=i)) + 1 for i, name in enumerate("sbmv")}
    norm = make("BatchNormalization", ["x", *"sbmv"], ["y"], epsilon=1e-3)
    yield Case("BatchNorm", norm, {"x": IMAGE}, constants=channels)
    places = {name: np.abs(_floats(4, 6, 6, seed=i)) + 1 for i, name in enumerate("sbmv")}
    spatial = make("BatchNormalization", ["x", *"sbmv"], ["y"], spatial=0)
    yield Case(
        "BatchNorm-spatial", spatial, {"x": IMAGE}, last=8, constants=places, tolerance=REWRITTEN
    )
    groups = {"s": _floats(2), "b": _floats(2, seed=1)}
    group = make("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    yield Case("GroupNorm", group, {"x": IMAGE}, 18, 20, groups, REWRITTEN)
    yield Case("GroupNorm-fed", group, {"x": IMAGE, **groups}, 18, 20, tolerance=REWRITTEN)


def _resize_cases() -> Iterator[Case]:
    for mode in ("nearest", "linear"):
        up = [1.0, 1.0, 2.0, 1.5]
        scales = {"s": np.asarray(up, np.float32)}
        attr = make("Upsample", ["x"], ["y"], mode=mode, scales=up)
        yield Case(f"Upsample-attr-{mode}", attr, {"x": IMAGE}, last=8)
        fed = make("Upsample", ["x", "s"], ["y"], mode=mode)
        yield Case(f"Upsample-{mode}", fed, {"x": IMAGE}, 9, 9, scales)
        yield Case(f"Upsample-fed-{mode}", fed, {"x": IMAGE, **scales}, 9, 9)
        for name, factors in (("up", up), ("down", [1, 1, 0.5, 0.7]), ("mixed", [1, 1, 2, 0.5])):
            scales = {"s": np.asarray(factors, np.float32)}
            node = make("Resize", ["x", "s"], ["y"], mode=mode)
            yield Case(f"Resize10-{mode}-{name}", node, {"x": IMAGE}, 10, 10, scales)
            node = make("Resize", ["x", "r", "s"], ["y"], mode=mode)
            constants = scales | {"r": np.zeros(0, np.float32)}
            # onnx.reference, needed beyond, rounds some coordinates otherwise than onnxruntime.
            last = RUNTIME_OPSET
            yield Case(f"Resize11-{mode}-{name}", node, {"x": IMAGE}, 11, last, constants)
    sizes = {"e": np.zeros(0, np.float32), "z": _ints(1, 4, 9, 5)}
    node = make("Resize", ["x", "e", "e", "z"], ["y"], mode="nearest")
    # onnx.reference before onnx 1.23 refuses empty operands of Resize.
    yield Case("Resize-sizes", node, {"x": IMAGE}, 11, RUNTIME_OPSET, constants=sizes)


def _sampling_cases() -> Iterator[Case]:
    boxes = np.asarray([[0, 0, 4, 4], [1, 1, 5, 3]], np.float32)
    feeds = {"x": IMAGE, "b": boxes, "i": _ints(0, 0)}
    roi = make("RoiAlign", ["x", "b", "i"], ["y"], output_height=2, output_width=2)
    yield Case("RoiAlign", roi, feeds, 10, 21)
    grid = {"x": IMAGE, "g": np.clip(_floats(1, 3, 3, 2), -1, 1)}
    for old, new in (("bilinear", "linear"), ("bicubic", "cubic"), ("nearest", "nearest")):
        node = make("GridSample", ["x", "g"], ["y"], mode=old)
        yield Case(f"GridSample-{old}", node, grid, 16, 19)
        yield Case(
            f"GridSample-{new}-20", make("GridSample", ["x", "g"], ["y"], mode=new), grid, 20
        )
    yield Case("GridSample-default", make("GridSample", ["x", "g"], ["y"]), grid, 16)
    signal = {"x": _floats(1, 8, 4, 1)}
    yield Case("DFT", make("DFT", ["x"], ["y"], axis=2), signal, 17, 19)
    yield Case("DFT-default", make("DFT", ["x"], ["y"]), signal, 17)
    update = {"x": _floats(3, 3), "i": np.asarray([[1, 0, 2]]), "u": _floats(1, 3)}
    yield Case("Scatter", make("Scatter", ["x", "i", "u"], ["y"]), update, 9, 10)
    yield Case("ScatterElements", make("ScatterElements", ["x", "i", "u"], ["y"]), update, 11)


def _same_in_all_opsets() -> Iterator[Case]:
    w, b = _floats(2, 4, 3, 3), _floats(2)
    conv = make("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])
    yield Case("Conv", conv, {"x": IMAGE}, constants={"w": w, "b": b})
    yield Case("MaxPool", make("MaxPool", ["x"], ["y"], kernel_shape=[2, 2]), {"x": IMAGE})
    pool = make("AveragePool", ["x"], ["y"], kernel_shape=[2, 2])
    yield Case("AveragePool", pool, {"x": IMAGE}, tolerance=REWRITTEN)
    gemm = make("Gemm", ["x", "w", "b"], ["y"], transB=1)
    yield Case("Gemm", gemm, {"x": _floats(3, 4)}, constants={"w": _floats(2, 4), "b": b})
    for op in ("Relu", "Sigmoid", "Tanh", "Exp", "Elu", "LeakyRelu", "HardSigmoid", "Softplus"):
        yield Case(op, make(op, ["x"], ["y"]), {"x": X234})
    for op in ("Add", "Mul", "Sub", "Div", "PRelu"):
        yield Case(op, make(op, ["x", "z"], ["y"]), {"x": X234, "z": _floats(4) + 5})
    yield Case("Flatten", make("Flatten", ["x"], ["y"]), {"x": X234})
    yield Case("Transpose", make("Transpose", ["x"], ["y"]), {"x": X234})
    shape = {"s": _ints(4, -1)}
    yield Case("Reshape", make("Reshape", ["x", "s"], ["y"]), {"x": X234}, constants=shape)
    yield Case("Concat", make("Concat", ["x", "x"], ["y"], axis=1), {"x": X234})
    yield Case("Cast", make("Cast", ["x"], ["y"], to=onnx.TensorProto.INT32), {"x": X234})
    weights = {"w": _floats(1, 8, 3), "r": _floats(1, 8, 2), "b": _floats(1, 16)}
    lstm = make("LSTM", ["x", "w", "r", "b"], ["", "h", "c"], hidden_size=2)
    # onnx.reference before onnx 1.23 cannot leave out an LSTM's first output.
    yield Case("LSTM", lstm, {"x": _floats(4, 1, 3)}, last=RUNTIME_OPSET, constants=weights)


def _function_cases() -> Iterator[Case]:
    yield Case(
        "Swish", make("Swish", ["x"], ["y"], alpha=1.5), {"x": X234}, 24, tolerance=REWRITTEN
    )
    scale = {"s": _floats(4)}
    rms = make("RMSNormalization", ["x", "s"], ["y"], epsilon=1e-3)
    yield Case("RMSNorm", rms, {"x": X234}, 23, constants=scale, tolerance=REWRITTEN)
    heads = {name: _floats(1, 2, 3, 4, seed=i) for i, name in enumerate("qkv")}
    attention = make("Attention", ["q", "k", "v"], ["y"], is_causal=1)
    yield Case("Attention", attention, heads, 23, tolerance=REWRITTEN)
    swiglu = make("SwiGLU", ["x", "x"], ["y"])
    yield Case("SwiGLU", swiglu, {"x": X234}, 28, tolerance=REWRITTEN)


CASES = [
    *_softmax_cases(),
    *_reduce_cases(),
    *_axes_cases(),
    *_attribute_to_input_cases(),
    *_norm_cases(),
    *_resize_cases(),
    *_sampling_cases(),
    *_same_in_all_opsets(),
    *_function_cases(),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_conversion_computes_the_same(case: Case) -> None:
    for opset in case.opsets():
        before = model(
            case.nodes, case.feeds, case.outputs, opset, case.constants, rank_only=case.rank_only
        )
        graph = read_onnx(before)
        after = to_model_proto(graph)
        onnx.checker.check_model(after, full_check=True)
        assert [v.name for v in graph.outputs] == case.outputs
        tolerance = REWRITTEN if opset > RUNTIME_OPSET else case.tolerance
        assert_same(run(after, case.feeds), run(before, case.feeds), tolerance)


def _is_compatible(old: Any, new: Any) -> bool:
    """Whether a node of the old schema means the same under the new one, by what schemas say."""
    for name, attribute in old.attributes.items():
        if name not in new.attributes or new.attributes[name].type != attribute.type:
            return False
        if new.attributes[name].default_value != attribute.default_value:
            return False
    added = set(new.attributes) - set(old.attributes)
    if any(new.attributes[name].required for name in added):
        return False
    if len(new.inputs) < len(old.inputs) or len(new.outputs) < len(old.outputs):
        return False
    return all(a.name == b.name for a, b in zip(old.inputs, new.inputs, strict=False))


def test_every_rewritten_op_has_an_adapter() -> None:
    history: dict[str, dict[int, Any]] = defaultdict(dict)
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "":
            history[schema.name][schema.since_version] = schema
    missing = []
    for name, versions in history.items():
        steps = sorted(versions)
        for old, new in pairwise(steps):
            if not OLDEST_OPSET < new <= PINNED_OPSET:
                continue
            boundaries = {boundary for boundary, _ in UPGRADES.get(name, ())}
            if new not in boundaries and not _is_compatible(versions[old], versions[new]):
                missing.append((name, old, new))
    # Upsample leaves through its adapter at 10 from wherever it comes.
    assert missing == [("Upsample", 7, 9)]


def test_scan_of_opset_8_becomes_nested_scans() -> None:
    body = helper.make_graph(
        [make("Add", ["state", "item"], ["next"]), make("Mul", ["next", "item"], ["out"])],
        "body",
        [helper.make_tensor_value_info(name, 1, [2]) for name in ("state", "item")],
        [helper.make_tensor_value_info(name, 1, [2]) for name in ("next", "out")],
    )
    for directions in ([0], [1]):
        node = make(
            "Scan",
            ["", "s", "x"],
            ["last", "all"],
            body=body,
            num_scan_inputs=1,
            directions=directions,
        )
        feeds = {"s": _floats(3, 2), "x": _floats(3, 5, 2, seed=1)}
        before = model([node], feeds, ["last", "all"], 8)
        after = to_model_proto(read_onnx(before))
        assert_same(run(after, feeds), run(before, feeds))


def test_dropout_mask_keeps_its_type() -> None:
    x = {"x": X234}
    nodes = [make("Dropout", ["x"], ["y", "mask"]), make("Mul", ["x", "mask"], ["z"])]
    after = to_model_proto(read_onnx(model(nodes, x, ["y", "z"], 7)))
    assert run(after, x)[1].dtype == np.float32


def test_function_attribute_becomes_an_input_of_the_function() -> None:
    node = make("ReduceMean", ["x"], ["y"])
    axes = onnx.AttributeProto(name="axes", type=onnx.AttributeProto.INTS, ref_attr_name="dims")
    node.attribute.append(axes)
    function = helper.make_function(
        "mine", "mean", ["x"], ["y"], [node], [helper.make_opsetid("", 13)], ["dims"]
    )
    feeds = {"x": X234}
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("mine", 1)]
    before = model(
        [make("mean", ["x"], ["y"], domain="mine", dims=[2])],
        feeds,
        ["y"],
        13,
        functions=[function],
        opset_imports=imports,
    )
    after = to_model_proto(read_onnx(before))
    assert after.functions[0].opset_import[0].version == PINNED_OPSET
    assert_same(run(after, feeds), run(before, feeds))


REFUSED: list[tuple[str, Callable[[], onnx.ModelProto], str]] = [
    (
        "unknown opset",
        lambda: _at_opset(NEWEST + 1),
        "upgrade onnx",
    ),
    ("old opset", lambda: _at_opset(6), "before 7"),
    (
        "no such op",
        lambda: model([make("Swish", ["x"], ["y"], name="n")], {"x": X234}, ["y"], 20),
        "does not exist in opset 20",
    ),
    (
        "newer type",
        lambda: model(
            [make("BitCast", ["x"], ["y"], to=onnx.TensorProto.INT32, name="n")],
            {"x": X234},
            ["y"],
            26,
        ),
        "opset 21 has no BitCast",
    ),
]


def _at_opset(version: int) -> onnx.ModelProto:
    proto = model([make("Relu", ["x"], ["y"])], {"x": X234}, ["y"], 13)
    proto.opset_import[0].version = version
    return proto


@pytest.mark.parametrize(("build", "words"), [(b, w) for _, b, w in REFUSED])
def test_refusals_name_the_reason(build: Callable[[], onnx.ModelProto], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_onnx(build())


def test_an_op_that_onnx_does_not_define_is_refused_in_a_sentence() -> None:
    """As onnxruntime's optimizer writes them, in ONNX's own domain."""
    node = helper.make_node("SimplifiedLayerNormalization", ["x", "w"], ["y"], name="norm")
    x, w, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [2, 8]), ("w", [8]), ("y", [2, 8]))
    )
    model = helper.make_model(
        helper.make_graph([node], "g", [x, w], [y]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    with pytest.raises(ModelError, match="give the model from before it"):
        read_onnx(model)
