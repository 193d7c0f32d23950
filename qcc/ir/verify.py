"""The verifier: what holds of every graph, and of every graph in its stage.

* Structure: values are defined before they are used, bodies see the graphs around them, use lists
  agree with operands, names are unique over the whole tree, constants have data of their type.
* Ops: operands, results and attributes as the ONNX schema at the pinned opset or the
  :class:`qcc.ir.ops.OpDefinition` says; ops of other domains are not looked into.
* Stage: :data:`RULES` says which integer ops and whether quantized types are legal.
* Numbers: parameters of quantized types fit the tensor; each integer op's own ``check`` holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc import numerics
from qcc.errors import VerifyError
from qcc.ir import ops
from qcc.ir.core import Attribute, Graph, Node, RawAttribute, Stage, Use, Value
from qcc.ir.print import print_graph, print_type
from qcc.ir.syntax import array_element
from qcc.ir.types import Quant, TensorType, ValueType


@dataclass(frozen=True)
class StageRule:
    """What is legal in a stage: integer ops (None: those whose definition says so), Quant types."""

    integer_ops: frozenset[str] | None
    quantized: bool


RULES: Mapping[Stage, StageRule] = {
    Stage.FLOAT: StageRule(frozenset(), quantized=False),
    Stage.OBSERVED: StageRule(frozenset({"q.observe"}), quantized=False),
    Stage.NUMBERED: StageRule(frozenset({"q.quantize", "q.dequantize"}), quantized=True),
    Stage.LOWERED: StageRule(None, quantized=True),
}


def verify(graph: Graph, stage: Stage | None = None) -> None:
    """Check ``graph`` against the rules of ``stage`` (default: its own).

    Raises :class:`qcc.errors.VerifyError` with one sentence and the printed graph in which it
    stands under the guilty node.
    """
    _Verifier(graph, stage or graph.stage).run()


def describe(graph: Graph, notes: Mapping[Node, str] | None = None) -> str:
    """The printed graph; why it cannot be printed, where a broken one cannot."""
    try:
        return print_graph(graph, notes=notes)
    except Exception as error:
        # Any part of a broken graph can be anything; the message that is being made matters more.
        return f"(the graph cannot be printed: {type(error).__name__}: {error})"


class _Verifier:
    """One run over a graph and its bodies."""

    def __init__(self, graph: Graph, stage: Stage) -> None:
        self.graph = graph
        self.stage = stage
        self.names: dict[str, Value] = {}
        self.nodes: set[Node] = set()

    def run(self) -> None:
        """Raises VerifyError for the first rule that is broken."""
        self.check_graph(self.graph, frozenset(), self.stage)
        for value in self.names.values():
            self.check_uses(value)

    def fail(self, message: str, node: Node | None = None) -> VerifyError:
        """The error, with the graph and the message under ``node``."""
        text = describe(self.graph, {} if node is None else {node: message})
        where = "" if node is None else f" (at {node.op} '{node.label}')"
        label = None if node is None else node.label
        return VerifyError(f"{message}{where}", node=label, text=text)

    # -- structure ---------------------------------------------------------------------------------

    def check_graph(self, graph: Graph, around: frozenset[Value], stage: Stage) -> None:
        """A graph or body; ``around`` are the values of the graphs around it."""
        visible = set(around)
        for value in graph.inputs:
            if value.producer is not None or value.is_constant:
                raise self.fail(f"input '{value.name}' has a producer or is a constant")
            self.define(value, visible, stage, None)
        for key, value in graph.constants.items():
            if key != value.name:
                raise self.fail(f"constant '{value.name}' is listed under the name '{key}'")
            self.define(value, visible, stage, None)
            self.check_constant(value)
        for node in graph.nodes:
            self.check_node(node, graph, visible, stage)
        for index, value in enumerate(graph.outputs):
            if value not in visible:
                raise self.fail(f"output '{value.name}' of graph '{graph.name}' is not defined")
            if Use(graph, index) not in value._uses:
                raise self.fail(f"the use list of '{value.name}' lacks graph '{graph.name}'")

    def define(self, value: Value, visible: set[Value], stage: Stage, node: Node | None) -> None:
        """A definition: unique name, legal type."""
        if value.name and self.names.setdefault(value.name, value) is not value:
            raise self.fail(f"the name '%{value.name}' is given to two values", node)
        if not value.name and (value.uses or node is None):
            raise self.fail("a value without a name is used", node)
        problem = _type_problem(value.type, stage)
        if problem is not None:
            raise self.fail(f"%{value.name} is {print_type(value.type)}: {problem}", node)
        visible.add(value)

    def check_constant(self, value: Value) -> None:
        """The data have the element and shape that the type says."""
        if value.producer is not None or value.constant is None:
            raise self.fail(f"constant '{value.name}' has a producer or no data")
        data = np.asarray(value.constant)
        type = value.type
        if not isinstance(type, TensorType) or type.shape != data.shape:
            raise self.fail(
                f"constant '{value.name}' is {print_type(type)} and its data have the shape "
                f"{list(data.shape)}"
            )
        wanted = type.storage
        if type.quant is not None:
            wanted = str(numerics.storage_dtype(type.quant.storage))
        if array_element(data) not in (wanted, type.storage):
            raise self.fail(
                f"constant '{value.name}' is {print_type(type)} and its data are "
                f"{array_element(data)}"
            )

    def check_node(self, node: Node, graph: Graph, visible: set[Value], stage: Stage) -> None:
        """A node: place, operands, bodies, the op's own rules, results."""
        if node.graph is not graph or node in self.nodes:
            raise self.fail("the node does not know its graph or stands in two places", node)
        self.nodes.add(node)
        for index, operand in enumerate(node.inputs):
            if operand is None:
                continue
            if operand not in visible:
                raise self.fail(f"%{operand.name} is used where it is not defined yet", node)
            if Use(node, index) not in operand._uses:
                raise self.fail(f"the use list of %{operand.name} lacks this node", node)
        self.check_bodies(node, visible, stage)
        for problem in _op_problems(node, stage):
            raise self.fail(problem, node)
        for index, result in enumerate(node.outputs):
            if result.producer is not node or result.index != index:
                raise self.fail(f"%{result.name} does not know its producer", node)
            self.define(result, visible, stage, node)

    def check_bodies(self, node: Node, visible: set[Value], stage: Stage) -> None:
        """The graphs in attributes; those of regions are float graphs that see nothing around."""
        if not node.subgraphs:
            return
        region = node.op == "q.region"
        around: frozenset[Value] = frozenset() if region else frozenset(visible)
        for body in node.subgraphs:
            self.check_graph(body, around, Stage.FLOAT if region else stage)

    def check_uses(self, value: Value) -> None:
        """Every listed use is one."""
        for use in value._uses:
            user = use.user
            operands = user.outputs if isinstance(user, Graph) else user.inputs
            stands = use.index < len(operands) and operands[use.index] is value
            if not stands or (isinstance(user, Node) and user not in self.nodes):
                name = user.name if isinstance(user, Graph) else user.label
                raise self.fail(
                    f"the use list of '{value.name}' names '{name}', which does not use it"
                )


# -- types -----------------------------------------------------------------------------------------


def _type_problem(type: ValueType, stage: Stage) -> str | None:
    if not isinstance(type, TensorType) or type.quant is None:
        return None
    if not RULES[stage].quantized:
        return f"stage {stage.value} has no quantized types"
    return _quant_problem(type.quant, type)


def _quant_problem(quant: Quant, type: TensorType) -> str | None:
    low, high = numerics.STORAGE_RANGE[quant.storage]
    bottom, top = quant.range
    if not low <= bottom <= top <= high:
        return f"its bounds [{bottom}, {top}] are not within {quant.storage}"
    if any(not low <= zero <= high for zero in quant.zero_point):
        return f"a zero point is not within {quant.storage}"
    if any(float(np.float32(scale)) != scale for scale in quant.scale):
        return "a scale is not a float32"
    if quant.axis is None:
        return None
    if type.rank is not None and not 0 <= quant.axis < type.rank:
        return f"its axis {quant.axis} is none of a tensor of rank {type.rank}"
    dim = None if type.shape is None else type.shape[quant.axis]
    if isinstance(dim, int) and len(quant.scale) not in (dim,):
        return f"it has {len(quant.scale)} scales for {dim} channels"
    return None


# -- ops -------------------------------------------------------------------------------------------


def _op_problems(node: Node, stage: Stage) -> Iterator[str]:
    """What breaks a rule of the node's op, as sentences."""
    yield from _attribute_value_problems(node)
    if node.domain == "q":
        yield from _integer_problems(node, stage)
        return
    for value in (*node.inputs, *node.outputs):
        if (
            value is not None
            and isinstance(value.type, TensorType)
            and value.type.quant is not None
        ):
            yield f"%{value.name} is quantized, and {node.op} is a float op"
    if node.domain == "":
        yield from _schema_problems(node)


def _integer_problems(node: Node, stage: Stage) -> Iterator[str]:
    found = ops.definition(node.op)
    if found is None:
        yield f"the integer dialect has no op {node.op}"
        return
    legal = RULES[stage].integer_ops
    if stage not in found.stages or (legal is not None and node.op not in legal):
        yield f"{node.op} is not legal in stage {stage.value}"
    variadic = bool(found.operands) and found.operands[-1].variadic
    most = _UNBOUNDED if variadic else len(found.operands)
    least = sum(not operand.optional for operand in found.operands)
    yield from _count_problems(node, len(node.inputs), least, most, "operands")
    if found.outputs is not None:
        yield from _count_problems(node, len(node.outputs), found.outputs, found.outputs, "results")
    needed = [(o.name, not o.optional and not o.variadic) for o in found.operands]
    yield from _absence_problems(node, needed)
    for name in node.attributes:
        if name not in found.attributes:
            yield f"{node.op} has no attribute '{name}'"
    problem = _own_check(node, found)
    if problem is not None:
        yield problem


def _own_check(node: Node, found: ops.OpDefinition) -> str | None:
    """What the op's definition has against the node."""
    if found.check is None:
        return None
    try:
        return found.check(node)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        return f"{node.op} cannot be checked: {error}"


def _schema_problems(node: Node) -> Iterator[str]:
    found = ops.schema(node.op_type)
    if found is None or found.deprecated:
        yield f"ONNX has no op {node.op_type} at opset {ops.PINNED_OPSET}"
        return
    yield from _count_problems(node, len(node.inputs), found.min_input, found.max_input, "operands")
    yield from _count_problems(
        node, len(node.outputs), found.min_output, found.max_output, "results"
    )
    yield from _absence_problems(node, [(o.name, o.option.name == "Single") for o in found.inputs])
    for name, value in node.attributes.items():
        declared = found.attributes.get(name)
        if declared is None:
            yield f"{node.op} has no attribute '{name}' at opset {ops.PINNED_OPSET}"
        elif not _is_kind(value, declared.type.name):
            yield f"attribute '{name}' of {node.op} must be {declared.type.name}, not {value!r}"
    for name, declared in found.attributes.items():
        if declared.required and name not in node.attributes:
            yield f"{node.op} needs the attribute '{name}'"


_UNBOUNDED = 2**31 - 1
"""What the schemas say for any number."""


def _count_problems(node: Node, count: int, least: int, most: int, what: str) -> Iterator[str]:
    if not least <= count <= most:
        yield f"{node.op} has {_span(least, most)} {what}, not {count}"


def _absence_problems(node: Node, operands: list[tuple[str, bool]]) -> Iterator[str]:
    """``operands`` are names and whether each must be there."""
    for index, (name, needed) in enumerate(operands):
        if needed and node.input(index) is None:
            yield f"{node.op} needs the operand {name} (number {index})"


def _span(least: int, most: int) -> str:
    if most == _UNBOUNDED:
        return f"at least {least}"
    return str(least) if least == most else f"{least} to {most}"


_KINDS: Mapping[str, tuple[type, ...]] = {
    "INT": (int, np.integer),
    "FLOAT": (float, int, np.floating),
    "STRING": (str, bytes),
    "TENSOR": (np.ndarray,),
    "GRAPH": (Graph,),
    "INTS": (int, np.integer),
    "FLOATS": (float, int, np.floating),
    "STRINGS": (str, bytes),
    "TENSORS": (np.ndarray,),
    "GRAPHS": (Graph,),
}
"""ONNX attribute kind to the Python types of the value, or of a list's items."""


def _is_kind(value: Attribute, kind: str) -> bool:
    if isinstance(value, RawAttribute) or kind not in _KINDS:
        return isinstance(value, RawAttribute)
    if kind.endswith("S"):
        return isinstance(value, (list, tuple)) and all(isinstance(i, _KINDS[kind]) for i in value)
    return isinstance(value, _KINDS[kind])


_PLAIN: tuple[Any, ...] = (
    *(int, float, str, bytes, type(None), np.ndarray, np.integer, np.floating, np.bool_),
    *(Graph, RawAttribute),
)


def _attribute_value_problems(node: Node) -> Iterator[str]:
    for name, value in node.attributes.items():
        items = value if isinstance(value, (list, tuple)) else [value]
        for item in items:
            nested = item if isinstance(item, (list, tuple)) else [item]
            if not all(isinstance(part, _PLAIN) for part in nested):
                yield f"attribute '{name}' holds a {type(item).__name__}, which has no text form"
