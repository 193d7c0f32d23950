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
from typing import Any, TypeAlias

import numpy as np

from qcc.ir.core import Graph, Node, Value, constant_array
from qcc.ir.ops import attribute

COMMUTATIVE = frozenset(
    {"Add", "Mul", "Max", "Min", "Sum", "Mean", "And", "Or", "Xor", "Equal"}
    | {"BitwiseAnd", "BitwiseOr", "BitwiseXor"}
)
"""Default-domain ops whose two operands may be exchanged."""

_LITERAL_TOLERANCE = 1e-6

ValueCheck: TypeAlias = "Callable[[Value], str | None]"
NodeCheck: TypeAlias = "Callable[[Node], str | None]"


# -- terms ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variable:
    """An operand of the pattern.  ``check`` gives None or a sentence of refusal."""

    name: str = ""
    constant: bool = False
    optional: bool = False
    check: ValueCheck | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"%{self.name}" + ("!" if self.constant else "") + ("?" if self.optional else "")


@dataclass(frozen=True)
class Literal:
    """A one-element constant of this value."""

    number: float

    def __str__(self) -> str:
        return f"{self.number:g}"


@dataclass(frozen=True)
class Rest:
    """All further operands of a variadic op."""

    name: str

    def __str__(self) -> str:
        return f"*%{self.name}"


@dataclass(frozen=True, eq=False)
class NodeTerm:
    """A node of one of ``ops``; compared by identity, so that using a term twice means one node."""

    ops: tuple[str, ...]
    operands: tuple[Term, ...]
    attributes: Mapping[str, Any]
    role: str
    check: NodeCheck | None = None
    shared: bool = False

    def __getitem__(self, index: int) -> ResultTerm:
        """Result ``index`` of the node."""
        return ResultTerm(self, index)

    def __str__(self) -> str:
        return f"{'|'.join(self.ops)}({', '.join(map(str, self.operands))})"


@dataclass(frozen=True)
class ResultTerm:
    """A result of a node other than its first."""

    node: NodeTerm
    index: int

    def __str__(self) -> str:
        return f"{self.node}[{self.index}]"


Term: TypeAlias = "Variable | Literal | Rest | NodeTerm | ResultTerm"


def const(name: str = "", check: ValueCheck | None = None) -> Variable:
    """An operand that must be an initializer; as a default argument it takes the parameter name."""
    return Variable(name, constant=True, check=check)


def optional(
    name: str = "", *, constant: bool = False, check: ValueCheck | None = None
) -> Variable:
    """An operand that may be absent; as a default argument it takes the parameter's name."""
    return Variable(name, constant=constant, optional=True, check=check)


def rest(name: str) -> Rest:
    """All further operands of a variadic op, bound as ``name0``, ``name1``, ..."""
    return Rest(name)


def _term(operand: object) -> Term:
    if isinstance(operand, Variable) and not operand.name:
        raise TypeError("an operand written inside the pattern needs a name: const('w')")
    if isinstance(operand, (Variable, Literal, Rest, NodeTerm, ResultTerm)):
        return operand
    if isinstance(operand, (int, float)):
        return Literal(float(operand))
    raise TypeError(f"{operand!r} cannot be an operand of a pattern")


class _OpCall:
    """Makes node terms of the given ops; calling it is the tracing."""

    def __init__(self, tracer: Ops, ops: tuple[str, ...]) -> None:
        self._tracer = tracer
        self._ops = ops

    def __call__(
        self,
        *operands: object,
        _role: str = "",
        _check: NodeCheck | None = None,
        _shared: bool = False,
        **attributes: Any,
    ) -> NodeTerm:
        terms = tuple(map(_term, operands))
        if any(isinstance(term, Rest) for term in terms[:-1]):
            raise TypeError("rest(...) must be the last operand")
        role = self._tracer.role(_role, self._ops)
        return NodeTerm(self._ops, terms, attributes, role, _check, _shared)


class _Domain:
    """``op.q``: gives the ops of one domain."""

    def __init__(self, tracer: Ops, domain: str) -> None:
        self._tracer = tracer
        self._domain = domain

    def __getattr__(self, op_type: str) -> _OpCall:
        return _OpCall(self._tracer, (f"{self._domain}.{op_type}",))


class Ops:
    """The ``op`` argument of a pattern function; it names the nodes' roles as they are traced."""

    def __init__(self) -> None:
        self._roles: set[str] = set()
        self.q = _Domain(self, "q")

    def __getattr__(self, op_type: str) -> _OpCall:
        if op_type.startswith("_"):
            raise AttributeError(op_type)
        return _OpCall(self, (op_type,))

    def __call__(self, op: str, *operands: object, **options: Any) -> NodeTerm:
        """A node of a domain-qualified op."""
        return _OpCall(self, (op,))(*operands, **options)

    def any_of(self, *ops: str) -> _OpCall:
        """A node of any of these (domain-qualified) ops."""
        return _OpCall(self, ops)

    def role(self, wanted: str, ops: tuple[str, ...]) -> str:
        """A role no other node has; raises ValueError when ``wanted`` is taken."""
        if wanted and wanted in self._roles:
            raise ValueError(f"two nodes of the pattern have the role '{wanted}'")
        stem = wanted or "_or_".join(op.rpartition(".")[2].lower() for op in ops)
        role, count = stem, 0
        while role in self._roles:
            count += 1
            role = f"{stem}_{count}"
        self._roles.add(role)
        return role


# -- results -------------------------------------------------------------------------------------


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


# -- matching ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _State:
    """What is bound so far; immutable, so that backtracking is free."""

    nodes: Mapping[NodeTerm, Node] = field(default_factory=dict)
    values: Mapping[str, Value | None] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()

    def bind_node(self, term: NodeTerm, node: Node) -> _State:
        return replace(self, nodes={**self.nodes, term: node})

    def bind_value(self, name: str, value: Value | None) -> _State:
        return replace(self, values={**self.values, name: value})

    def refuse(self, reason: str | None) -> _State:
        return self if reason is None else replace(self, refusals=(*self.refusals, reason))


def _match_term(term: Term, value: Value | None, state: _State, graph: Graph) -> Iterator[_State]:
    if isinstance(term, NodeTerm):
        term = ResultTerm(term, 0)
    if isinstance(term, ResultTerm):
        if value is None or value.producer is None or value.index != term.index:
            return
        if value.producer.graph is graph:
            yield from _match_node(term.node, value.producer, state, graph)
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


def _match_variable(term: Variable, value: Value | None, state: _State) -> Iterator[_State]:
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


def _match_node(term: NodeTerm, node: Node, state: _State, graph: Graph) -> Iterator[_State]:
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
    terms: tuple[Term, ...], operands: Sequence[Value | None], state: _State, graph: Graph
) -> Iterator[_State]:
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


def _outside_use(state: _State, root: NodeTerm) -> str | None:
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


# -- the pattern ---------------------------------------------------------------------------------


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
        return tuple(term.role for term in _node_terms(self.term))

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """The distinct operands, in the order in which the nodes use them."""
        operands = (operand for term in _node_terms(self.term) for operand in term.operands)
        return tuple(dict.fromkeys(o for o in operands if isinstance(o, Variable)))

    def match(self, node: Node) -> Match | Refusal | None:
        """Match with ``node`` as the last op.

        None where the ops around ``node`` are not those of the pattern; a :class:`Refusal` where
        they are and a condition (constness, attribute, check, a use outside) fails.
        """
        if node.op not in self.term.ops or node.graph is None:
            return None
        refusal: Refusal | None = None
        for found in _match_node(self.term, node, _State(), node.graph):
            state = found.refuse(_outside_use(found, self.term))
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

    def _result(self, state: _State) -> Match:
        terms = _node_terms(self.term)
        return Match(
            self,
            tuple(state.nodes[term] for term in terms),
            {term.role: state.nodes[term] for term in terms},
            {name: value for name, value in state.values.items() if value is not None},
        )


def _node_terms(root: NodeTerm) -> tuple[NodeTerm, ...]:
    """The node terms below ``root``, operands before users, each once."""
    found: dict[NodeTerm, None] = {}

    def visit(term: Term) -> None:
        node = term.node if isinstance(term, ResultTerm) else term
        if not isinstance(node, NodeTerm) or node in found:
            return
        for operand in node.operands:
            visit(operand)
        found[node] = None

    visit(root)
    return tuple(found)


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
