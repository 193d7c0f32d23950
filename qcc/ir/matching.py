"""Matching of terms against the graph: plain backtracking, for patterns are small."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qcc.ir.core import Graph, Node, Value, constant_array
from qcc.ir.ops import attribute
from qcc.ir.terms import Literal, NodeTerm, Rest, ResultTerm, Term, Variable

COMMUTATIVE = frozenset(
    {"Add", "Mul", "Max", "Min", "Sum", "Mean", "And", "Or", "Xor", "Equal"}
    | {"BitwiseAnd", "BitwiseOr", "BitwiseXor"}
)
"""Default-domain ops whose two operands may be exchanged."""

_LITERAL_TOLERANCE = 1e-6


@dataclass(frozen=True)
class State:
    """What is bound so far; immutable, so that backtracking is free."""

    nodes: Mapping[NodeTerm, Node] = field(default_factory=dict)
    values: Mapping[str, Value | None] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()

    def bind_node(self, term: NodeTerm, node: Node) -> State:
        """With a node for a term."""
        return replace(self, nodes={**self.nodes, term: node})

    def bind_value(self, name: str, value: Value | None) -> State:
        """With a value (or none) for an operand's name."""
        return replace(self, values={**self.values, name: value})

    def refuse(self, reason: str | None) -> State:
        """With one more reason, if it is one."""
        return self if reason is None else replace(self, refusals=(*self.refusals, reason))


def _match_term(term: Term, value: Value | None, state: State, graph: Graph) -> Iterator[State]:
    if isinstance(term, NodeTerm):
        term = ResultTerm(term, 0)
    if isinstance(term, ResultTerm):
        if value is None or value.producer is None or value.index != term.index:
            return
        if value.producer.graph is graph:
            yield from match_node(term.node, value.producer, state, graph)
    elif isinstance(term, Literal):
        if _equals_literal(value, term.number):
            yield state
    elif isinstance(term, Variable):
        yield from _match_variable(term, value, state)


def _equals_literal(value: Value | None, number: float) -> bool:
    data = constant_array(value)
    if data is None or data.size != 1 or not np.issubdtype(data.dtype, np.number):
        return False
    return bool(np.isclose(float(data.reshape(())), number, rtol=_LITERAL_TOLERANCE, atol=0.0))


def _match_variable(term: Variable, value: Value | None, state: State) -> Iterator[State]:
    if value is None and not term.optional:
        return
    if term.name in state.values:
        if state.values[term.name] is value:
            yield state
        return
    state = state.bind_value(term.name, value)
    if value is not None:
        if term.constant and not value.is_constant:
            state = state.refuse(f"{value!r} ({term.name}) is not a constant")
        elif term.check is not None:
            state = state.refuse(term.check(value))
    yield state


def match_node(term: NodeTerm, node: Node, state: State, graph: Graph) -> Iterator[State]:
    """Every way in which ``node`` of ``graph`` can be ``term``, added to ``state``."""
    if term in state.nodes:
        if state.nodes[term] is node:
            yield state
        return
    if node.op not in term.ops or any(bound is node for bound in state.nodes.values()):
        return
    inner = state.bind_node(term, node).refuse(_attribute_refusal(term, node))
    if term.check is not None:
        inner = inner.refuse(term.check(node))
    for operands in _operand_orders(term, node):
        yield from _match_operands(term.operands, operands, inner, graph)


def _operand_orders(term: NodeTerm, node: Node) -> tuple[Sequence[Value | None], ...]:
    operands = node.inputs
    if len(operands) == 2 == len(term.operands) and node.op in COMMUTATIVE:
        return (operands, operands[::-1])
    return (operands,)


def _match_operands(
    terms: tuple[Term, ...], operands: Sequence[Value | None], state: State, graph: Graph
) -> Iterator[State]:
    if not terms:
        if all(value is None for value in operands):
            yield state
        return
    first, others = terms[0], terms[1:]
    if isinstance(first, Rest):
        for index, value in enumerate(operands):
            state = state.bind_value(f"{first.name}{index}", value)
        yield state
        return
    value = operands[0] if operands else None
    for bound in _match_term(first, value, state, graph):
        yield from _match_operands(others, operands[1:], bound, graph)


def _attribute_refusal(term: NodeTerm, node: Node) -> str | None:
    for name, wanted in term.attributes.items():
        actual = attribute(node, name)
        if callable(wanted):
            accepted = bool(wanted(actual))
            wish = ""
        else:
            accepted = _same_attribute(actual, wanted)
            wish = f", the pattern needs {wanted!r}"
        if not accepted:
            return f"{node.op} '{node.label}' has {name}={actual!r}{wish}"
    return None


def _same_attribute(actual: Any, wanted: Any) -> bool:
    if isinstance(actual, np.ndarray) or isinstance(wanted, np.ndarray):
        return bool(np.array_equal(actual, wanted))
    if isinstance(actual, bytes) and isinstance(wanted, str):
        return actual == wanted.encode()
    if isinstance(wanted, (list, tuple)):
        return isinstance(actual, (list, tuple)) and list(actual) == list(wanted)
    return bool(actual == wanted)


def outside_use(state: State, root: NodeTerm) -> str | None:
    """The sentence that names a use of an inner node's result outside the match, if any."""
    inside = {id(node) for node in state.nodes.values()}
    for term, node in state.nodes.items():
        if term is root or term.shared:
            continue
        for output in node.outputs:
            for use in output.uses:
                if isinstance(use.user, Graph):
                    return f"{output!r} is also an output of the graph"
                if id(use.user) not in inside:
                    return f"{output!r} is also used by node '{use.user.label}'"
    return None
