"""What TensorRT's kernels can use of a layer's surroundings: the checks of its BackendConfig.

The rules are those of NVIDIA's guide ("Q/DQ layer placement") and of ModelOpt's ONNX quantization.
"""

from __future__ import annotations

from heapq import heappop, heappush

from qcc.backends.patterns import nearest_resize
from qcc.ir.core import Graph, Node, Value
from qcc.ir.ops import attribute
from qcc.ir.pattern import Match
from qcc.ir.types import TensorType
from qcc.ref.evaluate import captured_values

BACKBONES = frozenset({"Conv", "ConvTranspose"})
"""Layers whose kernels can add a skip connection."""

FUSED = (
    *("Relu", "Clip", "LeakyRelu", "PRelu", "ThresholdedRelu", "Elu", "Selu", "Celu"),
    *("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Mish", "Softplus", "Softsign", "Erf"),
    *("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Sqrt", "Exp", "Log", "Abs", "Neg"),
    *("Reciprocal", "Sin", "Cos", "Floor", "Ceil", "Round", "Sign", "Cast", "Identity"),
    "BatchNormalization",
)
"""Pointwise ops: TensorRT computes them in the kernel of a layer in front of them."""

MOVES = frozenset({"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})

LEAST_CHANNELS = 16
CHANNEL_STEP = 8
"""int8 kernels work on so many channels at once; with fewer, float ones are as fast."""

LEAST_DEPTHWISE_KERNEL = 3

NO_SKIP = "it is no Add of a skip connection to a convolution, so it is cheapest in float"
OTHER_BRANCH = "the other operand of '{}' is the branch whose kernel adds it"
VECTOR = "the product of a matrix and a vector (its result is {}) is not faster in int8"
NARROW = "{} input channels a group and {} output channels are too few for TensorRT's int8 kernels"
NOT_AFTER_CONV = "its operand does not come out of a convolution"
NO_GATE = "neither operand is a gate (smaller, and broadcast), so it is fused with its neighbours"
NO_CHANNELS = "its constants are not one number a channel of an image"
FROM_KERNEL = "its operand comes out of a kernel that can compute it, too"


# -- skip connections ------------------------------------------------------------------------------


def fused_operand(add: Node) -> Value | None:
    """The operand of an Add that the kernel of its convolution can hold; None if it is no skip.

    Both operands must be computed, and as large as the result, as far as sizes are known.  Of the
    branches behind the place where they part, the one with more nodes is fused (of two with as many
    the later one), and it must have a convolution of its own that reaches the Add through pointwise
    ops; the other one is the skip connection.
    """
    if len(add.inputs) != 2 or add.graph is None:
        return None
    left, right = add.operand(0), add.operand(1)
    if left is right or any(v.producer is None or not _fills(v, add.output) for v in (left, right)):
        return None
    backbones = {value: _backbones(value) for value in (left, right)}
    if not any(backbones.values()):
        return None
    own = _branches(add.graph, left, right)
    able = [value for value in (left, right) if not backbones[value].isdisjoint(own[value])]
    return max(able, key=lambda value: (len(own[value]), _place(value)), default=None)


def _backbones(value: Value) -> frozenset[Node]:
    """The convolutions that give ``value`` through pointwise ops."""
    pending, seen, found = [value], {value}, set[Node]()
    while pending:
        node = pending.pop().producer
        if node is None:
            continue
        if node.op in BACKBONES:
            found.add(node)
        elif node.op in FUSED and not _joins(node):
            fresh = {v for v in node.inputs if v is not None} - seen
            seen |= fresh
            pending += fresh
    return frozenset(found)


def _joins(node: Node) -> bool:
    """Whether a node adds two branches: a kernel ends there."""
    return node.op == "Add" and not any(v is not None and v.is_constant for v in node.inputs)


def _branches(graph: Graph, left: Value, right: Value) -> dict[Value, set[Node]]:
    """The nodes that only the one and only the other of two values are computed from.

    Goes up from both, the last node of the schedule first, until all that is left is common.  What
    bodies of control flow read counts as read by the node that holds them.
    """
    nodes = graph.nodes
    places = {node: place for place, node in enumerate(nodes)}
    reached: dict[int, set[Value]] = {}
    pending: list[int] = []

    def reach(value: Value, ends: set[Value]) -> None:
        place = None if value.producer is None else places.get(value.producer)
        if place is None:
            return
        if place not in reached:
            heappush(pending, -place)
        reached[place] = reached.get(place, set()) | ends

    own: dict[Value, set[Node]] = {left: set(), right: set()}
    for end in own:
        reach(end, {end})
    while any(len(reached[-place]) == 1 for place in pending):
        place = -heappop(pending)
        ends = reached[place]
        if len(ends) == 1:
            own[next(iter(ends))].add(nodes[place])
        for value in captured_values(nodes[place]):
            reach(value, ends)
    return own


def _place(value: Value) -> int:
    """Where in the schedule ``value`` is computed."""
    node = value.producer
    assert node is not None
    assert node.graph is not None
    return node.graph.nodes.index(node)


def fused_roles(match: Match) -> tuple[str, ...]:
    """The operand of a matched Add (``a`` or ``b``) that stays float."""
    fused = fused_operand(match.node("add"))
    return tuple(name for name in ("a", "b") if fused is not None and match.value(name) is fused)


def adds_skip(match: Match) -> str | None:
    """A matched Add of a skip connection."""
    return None if fused_roles(match) else NO_SKIP


def adds_skip_to_conv(match: Match) -> str | None:
    """A matched Conv and Add, of which the Conv is the branch that is fused."""
    add, conv = match.node("add"), match.node("conv")
    sentence = takes_channels(match)
    if sentence is not None:
        return sentence
    fused = fused_operand(add)
    if fused is None:
        return NO_SKIP
    return None if fused is conv.output else OTHER_BRANCH.format(add.label)


def adds_stored(match: Match) -> str | None:
    """A matched Add of two images that convolutions give, and convolutions read anyway in 8 bits.

    No kernel in front of it can add them (pyramids: what was resized comes from the other image),
    so it reads them as they lie in memory.
    """
    whole = match.node("add").output
    for name in ("a", "b"):
        source = _lies_in(match.values[name])
        stored = bool(_backbones(source)) and _feeds_layer(source)
        if not (stored and _fills(match.values[name], whole)):
            return NO_SKIP
    return None if match.values["a"] is not match.values["b"] else NO_SKIP


def _lies_in(value: Value) -> Value:
    """The value that holds all elements of ``value``, some of which may be there more often."""
    while value.producer is not None and _copies(value.producer):
        value = value.producer.operand(0)
    return value


def _feeds_layer(value: Value) -> bool:
    """Whether a convolution reads ``value``, or what only holds elements of it."""
    return any(
        user.op in BACKBONES or (_copies(user) and _feeds_layer(user.output))
        for user in value.users
    )


def _copies(node: Node) -> bool:
    """Whether the result holds nothing but elements of the first operand."""
    nearest = node.op == "Resize" and nearest_resize(node) is None
    return nearest or node.op in MOVES or node.op == "MaxPool"


# -- sizes -----------------------------------------------------------------------------------------


def takes_channels(match: Match) -> str | None:
    """A matched Conv with channels enough for int8 kernels.

    Fewer than 16 input (a group) or output channels pay only where the kernel is square, one count
    is a multiple of 8 and, but for the first layer, one is at least 16; and in depthwise layers
    whose channels are a multiple of 8 and whose window is 3 or more along each axis.
    """
    conv = match.node("conv")
    shape = conv.operand(1).tensor.static_shape
    outputs, inputs, kernel = shape[0], shape[1], shape[2:]
    groups = int(conv.attributes.get("group", 1))
    if min(outputs, inputs) >= LEAST_CHANNELS:
        return None
    if groups == 1:
        whole = outputs % CHANNEL_STEP == 0 or inputs % CHANNEL_STEP == 0
        wide = max(outputs, inputs) >= LEAST_CHANNELS or _is_first(conv)
        fits = whole and wide and len(set(kernel)) == 1
    else:
        fits = outputs % CHANNEL_STEP == 0 and min(kernel) >= LEAST_DEPTHWISE_KERNEL
    return None if fits else NARROW.format(inputs, outputs)


def _is_first(conv: Node) -> bool:
    """Whether a Conv reads what the caller gives, moved at most."""
    return isinstance(conv.graph, Graph) and _moved_from(conv.operand(0)) in conv.graph.inputs


def is_no_vector(match: Match) -> str | None:
    """A matched matrix product of more than one row and column, or of higher rank than 2."""
    shape = _shape(match.node("matmul").output)
    if shape is not None and (len(shape) == 1 or (len(shape) == 2 and 1 in shape)):
        return VECTOR.format(list(shape))
    return None


# -- what reads a stored value in float ------------------------------------------------------------


def gate_roles(match: Match) -> tuple[str, ...]:
    """The operand of a matched Mul (``a`` or ``b``) that is a gate: smaller, and broadcast."""
    whole = match.node("mul").output
    gates = [name for name in ("a", "b") if _is_gate(match.values[name], whole)]
    others = [name for name in ("a", "b") if _fills(match.values[name], whole)]
    return tuple(gates) if len(gates) == len(others) == 1 else ()


def _is_gate(value: Value, whole: Value) -> bool:
    """Whether ``value`` is spread along some axes of ``whole``, and as large along the others."""
    sizes, full = _shape(value), _shape(whole)
    if sizes is None or full is None or len(sizes) != len(full):
        return False
    pairs = list(zip(sizes, full, strict=True))
    spread = [a for a, b in pairs if a == 1 != b]
    return bool(spread) and all(a == 1 or _may_agree(a, b) for a, b in pairs)


def scales_by_gate(match: Match) -> str | None:
    """A matched Mul of a tensor by a gate, as squeeze-and-excitation does."""
    return None if gate_roles(match) else NO_GATE


def normalizes_stored(match: Match) -> str | None:
    """A matched scale and shift, by channel, of an image that no kernel could apply it to.

    Those are what a Concat joins, and sums of branches that a layer or another sum reads, too.
    """
    image = match.value("a")
    assert image is not None
    shape = _shape(image)
    if shape is None or len(shape) < 3:
        return NO_CHANNELS
    for name in ("c", "d"):
        constant = match.values[name].tensor.static_shape
        tail = (1,) * (len(shape) - 2)
        if constant[-len(tail) :] != tail or any(d != 1 for d in constant[: -len(tail) - 1]):
            return NO_CHANNELS
    node = image.producer
    others = [user for user in image.users if user.op in BACKBONES or _joins(user)]
    kept = node is not None and _joins(node) and bool(others)
    joined = node is not None and node.op == "Concat" and attribute(node, "axis") == 1
    return None if kept or joined else FROM_KERNEL


def follows_conv(match: Match) -> str | None:
    """A matched normalization whose operand is a convolution's result, moved at most."""
    return None if _backbones(_moved_from(match.root.operand(0))) else NOT_AFTER_CONV


def _moved_from(value: Value) -> Value:
    """The value whose elements ``value`` holds in another order."""
    while value.producer is not None and value.producer.op in MOVES:
        value = value.producer.operand(0)
    return value


# -- shapes ----------------------------------------------------------------------------------------


def _fills(value: Value, whole: Value) -> bool:
    """Whether ``value`` is as large as ``whole``, as far as is known: sizes may be open."""
    sizes, full = _shape(value), _shape(whole)
    if sizes is None or full is None or len(sizes) != len(full):
        return False
    return all(_may_agree(a, b) for a, b in zip(sizes, full, strict=True))


def _may_agree(size: object, full: object) -> bool:
    """Whether two sizes are equal, or may be: an open size may be any but 1."""
    return size == full or (size != 1 and not (isinstance(size, int) and isinstance(full, int)))


def _shape(value: Value) -> tuple[object, ...] | None:
    type_ = value.type
    return type_.shape if isinstance(type_, TensorType) else None
