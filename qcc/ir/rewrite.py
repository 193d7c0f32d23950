"""The rewriter: the one way in which passes change a graph.  It counts what it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qcc.ir.core import Array, Attribute, Graph, Node, Use, Value
from qcc.ir.types import TensorType, ValueType


class Rewriter:
    """Applies changes to ``graph`` (or one of its subgraphs) and counts them in ``changes``.

    ``refusals`` holds (node label, sentence) for what a pass would not change.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.changes = 0
        self.refusals: list[tuple[str, str]] = []

    def insert(
        self,
        op: str,
        inputs: Sequence[Value | None],
        output_types: Sequence[ValueType],
        *,
        attributes: Mapping[str, Attribute] | None = None,
        name: str = "",
        output_names: Sequence[str] | None = None,
        before: Node | None = None,
    ) -> Node:
        """Insert a new node before ``before`` (default: at the end); see Graph.create_node."""
        self.changes += 1
        graph = before.graph if before is not None and before.graph is not None else self.graph
        return graph.create_node(
            op,
            inputs,
            output_types,
            attributes=attributes,
            name=name,
            output_names=output_names,
            before=before,
        )

    def constant(self, base: str, data: Array, type: TensorType | None = None) -> Value:
        """Add an initializer under a fresh name built from ``base``."""
        self.changes += 1
        return self.graph.add_constant(self.graph.fresh_name(base), data, type)

    def replace_input(self, node: Node, index: int, value: Value) -> None:
        """Make operand ``index`` of ``node`` be ``value``."""
        if node.input(index) is value:
            return
        self.changes += 1
        self.graph.replace_use(Use(node, index), value)

    def set_inputs(self, node: Node, inputs: Sequence[Value | None]) -> None:
        """Replace the whole operand tuple of ``node``."""
        self.changes += 1
        self.graph._set_inputs(node, inputs)

    def replace_uses(self, old: Value, new: Value, *, except_node: Node | None = None) -> None:
        """Make every use of ``old`` a use of ``new`` (but those by ``except_node``).

        A graph output keeps its public name: when ``old`` is one and ``new`` is a node output that
        is not, the two exchange names.
        """
        if old is new:
            return
        renamed = old.is_output and not new.is_output and new.producer is not None
        for use in old.uses:
            if use.user is except_node:
                continue
            self.changes += 1
            self.graph.replace_use(use, new)
        if renamed and new.is_output:
            old.name, new.name = new.name, old.name

    def replace(self, node: Node, values: Sequence[Value]) -> None:
        """Replace all outputs of ``node`` by ``values`` and erase it."""
        for old, new in zip(node.outputs, values, strict=True):
            self.replace_uses(old, new)
        self.erase(node)

    def erase(self, node: Node) -> None:
        """Remove a node without uses; raises ValueError while an output is used."""
        self.changes += 1
        (node.graph or self.graph).remove_node(node)

    def move(self, node: Node, before: Node) -> None:
        """Move a node, uses and bodies included, to just before ``before``, in its graph."""
        self.changes += 1
        if node.graph is not None:
            node.graph.detach_node(node)
        (before.graph or self.graph).insert_node(node, before)
        for body in node.subgraphs:
            body.parent = before.graph

    def refuse(self, node: Node, sentence: str) -> None:
        """Note why a pass left ``node`` as it was; :attr:`refusals` keeps what was noted."""
        self.refusals.append((node.label, sentence))

    def erase_dead(self, value: Value | None) -> None:
        """Remove the producer of ``value``, and what it alone used, as far as nothing uses them."""
        stack = [value]
        while stack:
            current = stack.pop()
            if current is None or current.uses:
                continue
            node = current.producer
            if node is None:
                if self.graph.constants.get(current.name) is current:
                    self.changes += 1
                    self.graph.remove_constant(current)
                continue
            if node.graph is None or any(output.uses for output in node.outputs):
                continue
            stack.extend(node.inputs)
            self.erase(node)

    def set_type(self, value: Value, type: ValueType) -> None:
        """Change the type of a value."""
        if value.type != type:
            self.changes += 1
            value.type = type

    def remove_attribute(self, node: Node, name: str) -> None:
        """Remove one attribute of a node, if it has it."""
        if name in node.attributes:
            self.changes += 1
            del node.attributes[name]

    def set_attribute(self, node: Node, name: str, attribute: Attribute) -> None:
        """Set one attribute of a node."""
        self.changes += 1
        node.attributes[name] = attribute
