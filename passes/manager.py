"""Passes, their options as text, and the manager that runs a list of them with checks between.

A pass list is ``canonicalize,fold-batchnorm{keep-names=true},fold-constants``: names in order, each
with the options that differ from their defaults.  An option is a field of the pass, its name
written with dashes.  Values are ``true``/``false``, numbers, text (in double quotes where it holds
one of ``,{}[]"``) and, for tuples, items in square brackets.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import json
import math
import re
import shlex
import time
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from types import GenericAlias
from typing import Any, ClassVar

from qcc.errors import ConfigError, ParseError, PassError, QccError, VerifyError
from qcc.ir.core import Graph, Stage
from qcc.ir.rewrite import Rewriter

ENTRY_POINTS = "qcc.passes"
"""The entry-point group in which packages outside the project register passes."""


@dataclass(frozen=True)
class Pass(ABC):
    """A graph-to-graph pass: a frozen dataclass whose fields are its options.

    ``requires`` is the stage that the graph must have (None: any), ``produces`` the stage that it
    has afterwards (None: the same).  ``exact`` declares that the pass changes no result at all;
    tests execute such passes' graphs before and after.
    """

    name: ClassVar[str]
    requires: ClassVar[Stage | None] = None
    produces: ClassVar[Stage | None] = None
    exact: ClassVar[bool] = False

    @abstractmethod
    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` in place; changes are counted by ``rewriter``."""

    def __str__(self) -> str:
        """The pass as a pass list writes it: options that differ from their defaults."""
        given = [
            f"{_dashed(f.name)}={_write_value(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != _default(f)
        ]
        return self.name + (f"{{{','.join(given)}}}" if given else "")


@dataclass(frozen=True)
class PassRecord:
    """What one pass did: its wall-clock ``seconds`` and the number of ``changes`` it made.

    ``refusals`` are (node label, sentence) for what it would not change.
    """

    name: str
    seconds: float
    changes: int
    refusals: tuple[tuple[str, str], ...] = ()


# -- the manager -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PassManager:
    """Runs passes in order on one graph.

    ``verify`` checks the graph before the first pass and after each.  ``print_after`` is called
    with the printed graph after every pass, ``time_passes`` with each record.  ``source`` is the
    file named by the command that reproduces a failure.
    """

    passes: Sequence[Pass]
    verify: bool = True
    print_after: Callable[[str], object] | None = None
    time_passes: Callable[[PassRecord], object] | None = None
    source: str = "MODEL"

    def run(self, graph: Graph) -> list[PassRecord]:
        """Run all passes on ``graph`` in place.

        Raises QccError where a pass says that its input or options are wrong, and
        :class:`qcc.errors.PassError` (with the graph, the guilty node, the pass and the command
        that reproduces it) where a pass fails or leaves an invalid graph behind.
        """
        if self.verify:
            _verify(graph)
        return [self._run_one(index, graph) for index in range(len(self.passes))]

    def command(self, index: int) -> str:
        """The command that repeats the passes up to and including number ``index``."""
        chosen = ",".join(map(str, self.passes[: index + 1]))
        return shlex.join(["qcc", "opt", "-p", chosen, self.source])

    def _run_one(self, index: int, graph: Graph) -> PassRecord:
        chosen = self.passes[index]
        _check_stage(chosen, graph)
        rewriter = Rewriter(graph)
        start = time.perf_counter()
        try:
            chosen.run(graph, rewriter)
            if chosen.produces is not None:
                graph.stage = chosen.produces
        except QccError:
            raise
        except Exception as error:
            raise self._failure(index, graph, f"{type(error).__name__}: {error}") from error
        seconds = time.perf_counter() - start
        if self.verify:
            self._verify_after(index, graph)
        if self.print_after is not None:
            self.print_after(f"// after {chosen}\n{_text(graph)}")
        record = PassRecord(chosen.name, seconds, rewriter.changes, tuple(rewriter.refusals))
        if self.time_passes is not None:
            self.time_passes(record)
        return record

    def _verify_after(self, index: int, graph: Graph) -> None:
        try:
            _verify(graph)
        except VerifyError as error:
            raise PassError(
                f"{error.message} after pass '{self.passes[index]}'; repeat it with: "
                f"{self.command(index)}",
                node=error.node,
                text=error.text,
            ) from error

    def _failure(self, index: int, graph: Graph, reason: str) -> PassError:
        return PassError(
            f"pass '{self.passes[index]}' failed with {reason}; repeat it with: "
            f"{self.command(index)}",
            text=_text(graph),
        )


def _verify(graph: Graph) -> None:
    from qcc.ir.verify import verify

    verify(graph)


def _text(graph: Graph) -> str:
    from qcc.ir.verify import describe

    return describe(graph)


def _check_stage(chosen: Pass, graph: Graph) -> None:
    if chosen.requires is None or graph.stage is chosen.requires:
        return
    raise ConfigError(
        f"Pass '{chosen.name}' needs a graph in stage {chosen.requires.value}, and this one is in "
        f"stage {graph.stage.value}; run it elsewhere in the list."
    )


# -- the registry ----------------------------------------------------------------------------------


@functools.cache
def _registered() -> Mapping[str, type[Pass]]:
    from qcc.passes.registry import PASS_MODULES

    found: dict[str, type[Pass]] = {}
    for module in PASS_MODULES:
        for kind in _passes_in(importlib.import_module(module)):
            _register(kind, found)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        loaded = entry.load()
        kinds = [loaded] if isinstance(loaded, type) else _passes_in(loaded)
        for kind in kinds:
            _register(kind, found)
    return found


def pass_registry() -> Mapping[str, type[Pass]]:
    """Every known pass: name to class, those of the table first and in its order.

    The table is :data:`qcc.passes.registry.PASS_MODULES`; an entry point of the group
    :data:`ENTRY_POINTS` names a Pass class or a module of them.
    """
    return dict(_registered())


def _passes_in(module: Any) -> Iterator[type[Pass]]:
    for item in vars(module).values():
        # Python 3.10 calls an alias such as dict[str, int] a type, but issubclass refuses it.
        if isinstance(item, GenericAlias) or not isinstance(item, type):
            continue
        if issubclass(item, Pass) and item.__module__ == module.__name__:
            yield item


def _register(kind: type[Pass], found: dict[str, type[Pass]]) -> None:
    if kind.__abstractmethods__:
        return
    other = found.setdefault(kind.name, kind)
    if other is not kind:
        raise ConfigError(
            f"Two passes are called '{kind.name}' ({other.__module__} and {kind.__module__}); "
            "remove one of the packages."
        )


# -- pass lists ------------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z][\w.-]*")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_BARE = re.compile(r'[^,{}"\[\]]+')


def parse_pass_list(text: str) -> list[Pass]:
    """``"a,b{x=1,y=[2,3]}"`` as passes.

    Raises ParseError for a list that is not well formed and ConfigError, with close matches, for
    an unknown pass or option or a value that an option does not take.
    """
    return list(_ListParser(text).passes())


class _ListParser:
    """Reads a pass list from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def passes(self) -> Iterator[Pass]:
        """All passes of the list."""
        if not self.text.strip():
            return
        while True:
            name = self.token(_NAME, "the name of a pass")
            yield make_pass(name, self.options(name) if self.take("{") else {})
            if not self.take(","):
                break
        if self.position < len(self.text):
            raise self.error("',' or the end of the list")

    def options(self, owner: str) -> dict[str, str | tuple[str, ...]]:
        """The options up to the closing brace."""
        found: dict[str, str | tuple[str, ...]] = {}
        while not self.take("}"):
            name = self.token(_NAME, "the name of an option")
            if not self.take("="):
                raise self.error(f"'=' after option '{name}'")
            if _dashed(name) in found:
                raise ConfigError(f"Pass '{owner}' takes option '{name}' once; it is given twice.")
            found[_dashed(name)] = self.value()
            if not self.take(",") and not self.text.startswith("}", self.position):
                raise self.error("',' or '}'")
        return found

    def value(self) -> str | tuple[str, ...]:
        """Quoted or bare text, or a tuple of such."""
        if not self.take("["):
            return self.scalar()
        items: list[str] = []
        while not self.take("]"):
            items.append(self.scalar())
            if not self.take(",") and not self.text.startswith("]", self.position):
                raise self.error("',' or ']'")
        return tuple(items)

    def scalar(self) -> str:
        """One piece of text."""
        if self.text.startswith('"', self.position):
            start = self.position
            try:
                return str(json.loads(self.token(_QUOTED, "a closing '\"'"), strict=False))
            except ValueError:
                self.position = start
                raise self.error("text that is quoted as in JSON") from None
        return self.token(_BARE, "a value").strip()

    def token(self, pattern: re.Pattern[str], what: str) -> str:
        """The text that ``pattern`` matches here."""
        self.skip_spaces()
        found = pattern.match(self.text, self.position)
        if found is None:
            raise self.error(what)
        self.position = found.end()
        self.skip_spaces()
        return found.group()

    def take(self, mark: str) -> bool:
        """Whether ``mark`` stands here; it is skipped."""
        found = self.text.startswith(mark, self.position)
        self.position += len(mark) * found
        if found:
            self.skip_spaces()
        return found

    def skip_spaces(self) -> None:
        """Skip white space."""
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1

    def error(self, expected: str) -> ParseError:
        """An error at the current position."""
        return ParseError(
            f"The pass list '{self.text}' needs {expected} here.", line=1, column=self.position + 1
        )


def make_pass(name: str, options: Mapping[str, str | tuple[str, ...]]) -> Pass:
    """The pass called ``name`` with options given as text; raises ConfigError."""
    registry = _registered()
    kind = registry.get(name)
    if kind is None:
        raise ConfigError(f"There is no pass '{name}'{_suggestion(name, registry)}.")
    known = {_dashed(f.name): f for f in fields(kind)}
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for option, text in options.items():
        field = known.get(_dashed(option))
        if field is None:
            raise ConfigError(
                f"Pass '{name}' has no option '{option}'{_suggestion(option, known)}."
            )
        values[field.name] = _read_value(hints[field.name], text, f"'{option}' of pass '{name}'")
    missing = [_dashed(f.name) for f in fields(kind) if f.name not in values and _required(f)]
    if missing:
        raise ConfigError(f"Pass '{name}' needs the option '{missing[0]}'; add {missing[0]}=....")
    return kind(**values)


def _suggestion(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(_dashed(name), names, n=3, cutoff=0.5)
    if close:
        return f"; the closest are {', '.join(repr(item) for item in close)}"
    return f"; there are {', '.join(names)}" if names else "; it has none"


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


# -- option values ---------------------------------------------------------------------------------

_BOOLS = {"true": True, "false": False}


def _read_bool(text: str) -> bool:
    return _BOOLS[text.lower()]


def _read_float(text: str) -> float:
    number = float(text)
    if math.isnan(number):
        raise ValueError(text)
    return number


_READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    bool: (_read_bool, "true or false"),
    int: (int, "an integer"),
    float: (_read_float, "a number"),
    str: (str, "text"),
}
"""Option type to its reader (raises KeyError or ValueError) and what it takes, in words."""


def _read_value(hint: Any, text: str | tuple[str, ...], what: str) -> Any:
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        items = text if isinstance(text, tuple) else (text,)
        return tuple(_read_value(item, part, what) for part in items)
    if hint not in _READERS:
        raise ConfigError(f"Option {what} cannot be given as text; set it from Python.")
    reader, wanted = _READERS[hint]
    if isinstance(text, tuple):
        raise ConfigError(f"Option {what} takes {wanted}, not a list.")
    try:
        return reader(text)
    except (KeyError, ValueError):
        raise ConfigError(f"Option {what} takes {wanted}, not '{text}'.") from None


def _write_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{','.join(map(_write_value, value))}]"
    text = str(value)
    plain = _BARE.fullmatch(text) is not None and text == text.strip()
    return text if plain or not isinstance(value, str) else json.dumps(text)
