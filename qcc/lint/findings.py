"""What the linter says: findings about a model, and the rules that find them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, TypeAlias

from qcc.lint.index import ModelIndex, Operation
from qcc.lint.repairs import Repair


class Severity(str, Enum):
    """How bad it is.

    ``ERROR``: the target refuses the model or computes wrong numbers.  ``WARNING``: the numbers are
    right and something is slower or less exact than it could be.  ``NOTE``: right on this target,
    worth knowing on some machines.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing that a rule found.

    ``node`` is the node's name, or its op and output where it has none; ``message`` one sentence
    that says what is wrong and what to do; ``fixable`` whether ``fix_model`` repairs it.
    """

    rule: str
    severity: Severity
    node: str
    message: str
    fixable: bool = False

    def __str__(self) -> str:
        fixable = " [--fix repairs it]" if self.fixable else ""
        return f"{self.rule} {self.severity.value}: {self.node}: {self.message}{fixable}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "severity": self.severity.value}


@dataclass(frozen=True)
class Problem:
    """What a rule's function found at a node, and the repair where there is a safe one."""

    operation: Operation
    message: str
    repair: Repair | None = None


Check: TypeAlias = Callable[[ModelIndex], Iterator[Problem]]


@dataclass(frozen=True)
class Rule:
    """A rule: ``check`` yields the problems of a model, ``title`` says what must be so."""

    id: str
    severity: Severity
    title: str
    check: Check

    def problems(self, index: ModelIndex) -> Iterator[Problem]:
        """Every problem of the model that this rule knows of, each once."""
        return iter(dict.fromkeys(self.check(index)))

    def finding(self, problem: Problem) -> Finding:
        """What is said of a problem."""
        fixable = problem.repair is not None
        return Finding(self.id, self.severity, problem.operation.label, problem.message, fixable)


@dataclass(frozen=True)
class LintReport:
    """The findings for one target, errors first; ``str()`` gives one line a finding."""

    target: str
    findings: tuple[Finding, ...]

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(f for f in self.findings if f.severity is severity)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What the target refuses or computes wrongly."""
        return self.of(Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What is slower or less exact than it could be."""
        return self.of(Severity.WARNING)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What is worth knowing and not wrong."""
        return self.of(Severity.NOTE)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: target, the number of each severity, findings."""
        return {
            "target": self.target,
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "notes": len(self.notes),
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))
