"""Patterns over the graph, written as Python functions that are traced once.

::

    @pattern
    def conv_relu(op, x, w=const(), b=optional()):
        return op.Relu(op.Conv(x, w, b))

    found = conv_relu.match(node)       # node is the last op of the pattern, here the Relu
    # None: not this pattern;  Refusal: its shape, but a condition fails;  Match: it is.

The vocabulary, all of it on the first parameter or importable from here:

* a parameter is any operand; the same parameter used twice must meet the same value twice;
* ``w=const()`` must be an initializer; ``b=optional()`` may be absent; both take a ``check``;
* a Python number is a one-element constant of that value (to a relative 1e-6);
* ``op.Conv(...)``, ``op.q.conv(...)``, ``op("com.microsoft.Gelu", ...)`` are nodes, with keyword
  arguments for attributes: a value to be equal to, or a function of the attribute that tells
  whether it will do (schema defaults are applied first);
* ``op.any_of("Relu", "Clip")(...)`` is a node of any of these ops;
* ``rest("xs")`` as the last operand takes all further operands, as ``xs0``, ``xs1``, ...;
* ``node[1]`` is the second result of a node; a node term used twice is one node (a DAG);
* ``_role="conv"`` names a node in the match (default: its op type in lower case), ``_check`` is a
  function of the node that gives None or a sentence of refusal, and ``_shared=True`` allows
  results of an inner node to be used outside the match.

A node must have exactly the pattern's operands; operands that the pattern does not name must be
absent.  Two-operand commutative ops match both ways.  Results of inner nodes may be used only
inside the match.  Matching is plain backtracking over the terms (they are few).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from qcc.ir.core import Graph, Node, Value
from qcc.ir.matching import State, match_node, outside_use
from qcc.ir.terms import (
    Literal,
    NodeCheck,
    NodeTerm,
    Ops,
    Rest,
    ResultTerm,
    Term,
    ValueCheck,
    Variable,
    const,
    node_terms,
    optional,
    rest,
)

__all__ = [
    "Literal",
    "Match",
    "NodeCheck",
    "NodeTerm",
    "Ops",
    "Pattern",
    "Refusal",
    "Rest",
    "ResultTerm",
    "Term",
    "ValueCheck",
    "Variable",
    "const",
    "named_pattern",
    "optional",
    "pattern",
    "rest",
]


@dataclass(frozen=True)
class Refusal:
    """The node has the pattern's shape, but ``reason`` (a sentence) speaks against it."""

    pattern: Pattern
    node: Node
    reason: str

    def __str__(self) -> str:
        return f"{self.pattern.name} at '{self.node.label}': {self.reason}"


@dataclass(frozen=True)
class Match:
    """``nodes`` lists the matched nodes, operands before users and the root last."""

    pattern: Pattern
    nodes: tuple[Node, ...]
    roles: Mapping[str, Node]
    values: Mapping[str, Value]

    @property
    def root(self) -> Node:
        """The last op of the pattern."""
        return self.nodes[-1]

    def node(self, role: str) -> Node:
        """The node that plays ``role``; raises KeyError."""
        return self.roles[role]

    def value(self, name: str) -> Value | None:
        """The operand called ``name``; None where an optional one is absent."""
        return self.values.get(name)


@dataclass(frozen=True, repr=False)
class Pattern:
    """A named pattern; patterns compare equal, hash and print by name.

    ``term`` is the traced expression, ``function`` the Python function that it came from.
    """

    name: str
    term: NodeTerm = field(compare=False)
    function: Callable[..., Any] = field(compare=False)

    def __call__(self, op: Ops, *operands: object) -> NodeTerm:
        """Trace this pattern as a part of another one."""
        return _trace_with(self.function, op, operands)

    def __repr__(self) -> str:
        return self.name

    def describe(self) -> str:
        """The pattern as one line: ``Relu(Conv(%x, %w!, %b?))`` (! constant, ? may be absent)."""
        return str(self.term)

    @property
    def root_ops(self) -> tuple[str, ...]:
        """The (domain-qualified) ops that the last node may have."""
        return self.term.ops

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """The roles of the nodes, operands before users."""
        return tuple(term.role for term in node_terms(self.term))

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """The distinct operands, in the order in which the nodes use them."""
        operands = (operand for term in node_terms(self.term) for operand in term.operands)
        return tuple(dict.fromkeys(o for o in operands if isinstance(o, Variable)))

    def match(self, node: Node) -> Match | Refusal | None:
        """Match with ``node`` as the last op.

        None where the ops around ``node`` are not those of the pattern; a :class:`Refusal` where
        they are and a condition (constness, attribute, check, a use outside) fails.
        """
        if node.op not in self.term.ops or node.graph is None:
            return None
        refusal: Refusal | None = None
        for found in match_node(self.term, node, State(), node.graph):
            state = found.refuse(outside_use(found, self.term))
            if not state.refusals:
                return self._result(state)
            refusal = refusal or Refusal(self, node, state.refusals[0])
        return refusal

    def search(self, graph: Graph) -> Iterator[Match]:
        """All matches in ``graph`` (not in its subgraphs) in schedule order; they may overlap."""
        for node in graph.nodes:
            found = self.match(node) if node.graph is graph else None
            if isinstance(found, Match):
                yield found

    def _result(self, state: State) -> Match:
        terms = node_terms(self.term)
        return Match(
            self,
            tuple(state.nodes[term] for term in terms),
            {term.role: state.nodes[term] for term in terms},
            {name: value for name, value in state.values.items() if value is not None},
        )


def _trace_with(
    function: Callable[..., Any], op: Ops, operands: Sequence[object] | None
) -> NodeTerm:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    arguments: list[object] = list(operands or ())
    for parameter in parameters[len(arguments) :]:
        default = parameter.default
        if default is parameter.empty:
            default = Variable()
        if isinstance(default, Variable):
            default = replace(default, name=default.name or parameter.name)
        arguments.append(default)
    term = function(op, *arguments)
    if not isinstance(term, NodeTerm):
        raise TypeError(f"pattern '{function.__name__}' must return a node, such as op.Relu(x)")
    return term


def pattern(function: Callable[..., Any]) -> Pattern:
    """Trace ``function(op, operand, ...)`` once and make it a :class:`Pattern` of its name.

    Raises TypeError where the function does not return a node term.
    """
    return Pattern(function.__name__, _trace_with(function, Ops(), None), function)


def named_pattern(name: str, function: Callable[..., Any]) -> Pattern:
    """As :func:`pattern`, under another name (for patterns made in a loop)."""
    return replace(pattern(function), name=name)
