"""Lint a model: read it, index it, ask the rules of a target."""

from __future__ import annotations

import os
from pathlib import Path

import onnx.inliner
from onnx import ModelProto

from qcc.lint.findings import Finding, LintReport, Severity
from qcc.lint.index import ModelIndex
from qcc.lint.profiles import rules_of
from qcc.onnxio.reader import read_proto

_ORDER = {severity: place for place, severity in enumerate(Severity)}


def lint_model(
    model: ModelProto | str | os.PathLike[str], target: str, *, folder: Path | None = None
) -> LintReport:
    """Hold a Q/DQ model against the rules of ``target``, a key of ``PROFILES``.

    ``model`` is a path or a proto, which is not changed; ``folder`` is where a proto's external
    data lie.  Functions of the model are looked at where they are called.  Raises ModelError where
    the model or its data cannot be read, and ConfigError for an unknown target.

    This signature, that of ``fix_model``, and the fields of LintReport and Finding are stable.
    """
    rules = rules_of(target)
    index = open_index(model, folder)
    found: list[Finding] = []
    for rule in rules:
        found += map(rule.finding, rule.problems(index))
    return LintReport(target, tuple(sorted(found, key=lambda f: _ORDER[f.severity])))


def open_index(
    model: ModelProto | str | os.PathLike[str], folder: Path | None = None
) -> ModelIndex:
    """The index of a model with its functions written out; raises ModelError."""
    if not isinstance(model, ModelProto):
        folder = Path(model).parent
        model = read_proto(model)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return ModelIndex(model, folder)
