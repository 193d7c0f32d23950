"""Rules about Q/DQ models as files: what a runtime refuses, computes wrongly, or does not fuse."""

from __future__ import annotations

from qcc.lint.check import lint_model
from qcc.lint.findings import Finding, LintReport, Rule, Severity
from qcc.lint.fixes import fix_model
from qcc.lint.profiles import PROFILES, rules_of

__all__ = [
    "PROFILES",
    "Finding",
    "LintReport",
    "Rule",
    "Severity",
    "fix_model",
    "lint_model",
    "rules_of",
]
