"""The terms that a pattern is made of, and the ``op`` argument that makes them.

See :mod:`qcc.ir.pattern`, where the vocabulary is told and where its names are imported from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from qcc.ir.core import Node, Value

ValueCheck: TypeAlias = "Callable[[Value], str | None]"
NodeCheck: TypeAlias = "Callable[[Node], str | None]"


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


def node_terms(root: NodeTerm) -> tuple[NodeTerm, ...]:
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
