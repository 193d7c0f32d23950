"""A small fluent builder of graphs, for tests and for passes that write several nodes.

::

    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 8, 8))
    y = b.op.Relu(b.op.Conv(x, weights, pads=[1, 1, 1, 1], _name="conv1"))
    q = b.op.q.quantize(y, _types=[TensorType((1, 8, 8, 8), Quant.make("uint8", 0.1, 128))])
    graph = b.output(q)

Operands are values, arrays and numbers (which become constants; a Python float is a float32, an int
an int64, a list of ints an int64 vector) or None where one is absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcc.ir.core import Array, Attribute, Graph, Node, Stage, Value
from qcc.ir.infer import infer_node
from qcc.ir.ops import PINNED_OPSET
from qcc.ir.types import UNKNOWN, TensorType, ValueType


class _Maker:
    """Creates nodes of one op."""

    def __init__(self, builder: GraphBuilder, op: str) -> None:
        self._builder = builder
        self._op = op

    def __call__(
        self,
        *operands: object,
        _name: str = "",
        _outputs: int | Sequence[str] = 1,
        _types: Sequence[ValueType] | None = None,
        **attributes: Attribute,
    ) -> Any:
        """Append the node; gives its result, or a tuple of them where ``_outputs`` asks for it."""
        node = self._builder.node(
            self._op,
            operands,
            attributes=attributes,
            name=_name,
            outputs=_outputs,
            types=_types,
        )
        return node.output if _outputs == 1 else node.outputs


class OpFactory:
    """``b.op``: makes nodes; ``b.op.q`` those of domain ``q``, ``b.op("a.b.Op", ...)`` of any."""

    def __init__(self, builder: GraphBuilder, domain: str = "") -> None:
        self._builder = builder
        self._domain = domain

    @property
    def q(self) -> OpFactory:
        """The ops of the integer dialect."""
        return OpFactory(self._builder, "q")

    def __getattr__(self, op_type: str) -> _Maker:
        if op_type.startswith("_"):
            raise AttributeError(op_type)
        return _Maker(self._builder, f"{self._domain}.{op_type}" if self._domain else op_type)

    def __call__(self, op: str, *operands: object, **options: Any) -> Any:
        """A node of a domain-qualified op."""
        return _Maker(self._builder, op)(*operands, **options)


class GraphBuilder:
    """Builds :attr:`graph` node by node, with types inferred (see :mod:`qcc.ir.infer`)."""

    def __init__(
        self, name: str = "main", *, stage: Stage = Stage.FLOAT, parent: Graph | None = None
    ) -> None:
        self.graph = Graph(name, parent)
        self.graph.stage = stage
        if parent is None:
            self.graph.info.opsets[""] = PINNED_OPSET
        self.op = OpFactory(self)

    def input(self, name: str, type: ValueType) -> Value:
        """Add a graph input."""
        return self.graph.add_input(name, type)

    def constant(self, data: object, name: str = "", type: TensorType | None = None) -> Value:
        """Add an initializer; ``type`` gives it a quantized or named type."""
        array = _array(data)
        return self.graph.add_constant(self.graph.fresh_name(name or "const"), array, type)

    def node(
        self,
        op: str,
        operands: Sequence[object],
        *,
        attributes: dict[str, Attribute] | None = None,
        name: str = "",
        outputs: int | Sequence[str] = 1,
        types: Sequence[ValueType] | None = None,
    ) -> Node:
        """Append a node.

        ``outputs`` is how many results it has, or their names; ``types`` their types, inferred by
        default.  Raises ModelError where onnx finds that operands or attributes do not fit.
        """
        values = [self._operand(item) for item in operands]
        names = [] if isinstance(outputs, int) else list(outputs)
        count = outputs if isinstance(outputs, int) else len(names)
        node = self.graph.create_node(
            op,
            values,
            list(types or [UNKNOWN] * count),
            attributes=attributes,
            name=self.graph.fresh_name(name or op.rpartition(".")[2].lower()),
            output_names=names,
        )
        if types is None:
            for value, type in zip(node.outputs, infer_node(node), strict=True):
                value.type = type
        return node

    def output(self, *values: Value) -> Graph:
        """Set the graph's outputs and give the graph."""
        self.graph.set_outputs(values)
        return self.graph

    def _operand(self, item: object) -> Value | None:
        return item if item is None or isinstance(item, Value) else self.constant(item)


def _array(data: object) -> Array:
    if isinstance(data, (np.ndarray, np.generic)):
        return np.asarray(data)
    if isinstance(data, float):
        return np.asarray(data, np.float32)
    array = np.asarray(data)
    return array.astype(np.float32) if array.dtype == np.float64 else array
