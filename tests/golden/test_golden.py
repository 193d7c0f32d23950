"""Golden tests: a pass list, a graph, and the text that must come out.

A case is ``tests/golden/NAME.qir``::

    // RUN: canonicalize,fold-constants
    // What the case shows, in a line.

    graph @g ... { ... }

    // EXPECT
    graph @g ... { ... }

``pytest tests/golden --update`` rewrites what stands behind ``// EXPECT``.  A refusal (an error
that a pass gives its user) is expected as ``// error: its sentence``.  Where every pass of the list
is declared exact, both graphs are also executed on the same seeded inputs and must give the same
bytes.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcc.errors import QccError
from qcc.ir.compare import graphs_equal
from qcc.ir.core import Array, Graph
from qcc.ir.parse import parse_graph
from qcc.ir.print import print_graph
from qcc.ir.types import TensorType
from qcc.passes.manager import PassManager, parse_pass_list

FOLDER = Path(__file__).parent
RUN = re.compile(r"^// RUN: (.+)$", re.MULTILINE)
EXPECT = "// EXPECT\n"
OPEN_SIZE = 3
"""The size that open dimensions get when a graph is executed."""


@dataclass(frozen=True)
class Case:
    """The three parts of a file."""

    path: Path
    passes: str
    given: str
    expected: str

    @classmethod
    def read(cls, path: Path) -> Case:
        given, mark, expected = path.read_text("utf-8").partition(EXPECT)
        runs = RUN.findall(given)
        assert len(runs) == 1, f"{path.name} needs exactly one line '// RUN: passes'"
        return cls(path, runs[0], given if mark else f"{given.rstrip()}\n\n", expected)

    def update(self, text: str) -> None:
        self.path.write_text(self.given + EXPECT + text, "utf-8")


def outcome(case: Case) -> tuple[str, Graph | None]:
    """The text that the passes give, and the graph unless they refuse."""
    graph = parse_graph(case.given)
    try:
        PassManager(parse_pass_list(case.passes), source=str(case.path)).run(graph)
    except QccError as error:
        return f"// error: {error.message}\n", None
    return print_graph(graph), graph


PATHS = sorted(FOLDER.glob("*.qir"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.stem))
def test_golden(path: Path, request: pytest.FixtureRequest) -> None:
    case = Case.read(path)
    text, _ = outcome(case)
    if request.config.getoption("--update"):
        case.update(text)
        return
    assert text == case.expected, "run pytest tests/golden --update and read the difference"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.stem))
def test_the_text_reads_back(path: Path) -> None:
    """What is given, and what comes out, survive printing and parsing."""
    case = Case.read(path)
    for graph in (parse_graph(case.given), outcome(case)[1]):
        if graph is not None:
            assert graphs_equal(graph, parse_graph(print_graph(graph, resources=True))) is None


def exact_cases() -> list[Path]:
    return [p for p in PATHS if all(one.exact for one in parse_pass_list(Case.read(p).passes))]


@pytest.mark.parametrize("path", exact_cases(), ids=lambda path: str(path.stem))
def test_exact_passes_change_no_result(path: Path) -> None:
    from qcc.ref.evaluate import evaluate

    case = Case.read(path)
    before, after = parse_graph(case.given), outcome(case)[1]
    if after is None:
        return
    random = np.random.default_rng(zlib.crc32(path.stem.encode()))
    for _ in range(3):
        feeds = {v.name: sample(v.type, random) for v in after.inputs}
        expected, actual = evaluate(before, feeds), evaluate(after, feeds)
        assert list(expected) == list(actual)
        for name, array in expected.items():
            assert array.dtype == actual[name].dtype
            assert array.shape == actual[name].shape
            assert array.tobytes() == actual[name].tobytes(), name


def sample(type: Any, random: np.random.Generator) -> Array:
    """Random data of a type; open dimensions have :data:`OPEN_SIZE`."""
    assert isinstance(type, TensorType)
    shape = [d if isinstance(d, int) else OPEN_SIZE for d in type.shape or ()]
    dtype = np.dtype(type.storage)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        low, high = (0, 4) if type.quant is None else type.quant.range
        return random.integers(low, high, shape, endpoint=True).astype(dtype)
    return (random.standard_normal(shape) * 3).astype(dtype)


def test_there_are_exact_cases() -> None:
    """The execution above is not vacuous."""
    assert exact_cases()
