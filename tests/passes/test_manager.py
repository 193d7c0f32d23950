"""Pass lists as text, the registry, and what the manager does when a pass fails."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcc.errors import ConfigError, ParseError, PassError, VerifyError
from qcc.ir.core import Graph, Stage
from qcc.ir.parse import parse_graph
from qcc.ir.print import print_graph
from qcc.ir.rewrite import Rewriter
from qcc.passes import manager
from qcc.passes.manager import Pass, PassManager, PassRecord, parse_pass_list, pass_registry
from qcc.passes.registry import PASS_MODULES

GRAPH = """graph @g stage(float) opsets{"": 21} (%x: f32[2]) {
  %a: f32[2] = Relu(%x) "first"
  %b: f32[2] = Relu(%a) "second"
  return %b
}
"""


@dataclass(frozen=True)
class Options(Pass):
    """Has an option of every kind."""

    name: ClassVar[str] = "options"

    flag: bool = False
    count_of_things: int = 3
    ratio: float = 0.5
    text: str = ""
    names: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1, 2)

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        rewriter.refuse(graph.nodes[0], "nothing to do")


@dataclass(frozen=True)
class Needs(Pass):
    """Has an option without a default, and one that has no text form."""

    name: ClassVar[str] = "needs"

    level: int
    extra: Any = None

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        graph.stage = Stage.LOWERED


@dataclass(frozen=True)
class Swap(Pass):
    """Breaks the order of the nodes."""

    name: ClassVar[str] = "swap"

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        graph.reorder(graph.nodes[::-1])


@dataclass(frozen=True)
class Crash(Pass):
    """Fails."""

    name: ClassVar[str] = "crash"
    requires: ClassVar[Stage | None] = Stage.FLOAT

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        raise KeyError("oops")


@dataclass(frozen=True)
class Number(Pass):
    """Moves the graph to another stage; erases the last Relu."""

    name: ClassVar[str] = "number"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    produces: ClassVar[Stage | None] = Stage.NUMBERED

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        last = graph.nodes[-1]
        rewriter.replace(last, [last.operand(0)])


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[type[Pass]] = [Options, Needs, Swap, Crash, Number]
    monkeypatch.setattr(manager, "_registered", lambda: {kind.name: kind for kind in kinds})


# -- pass lists ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" options ,swap", [Options(), Swap()]),
        ("options{}", [Options()]),
        ("options{flag=true}", [Options(flag=True)]),
        ("options{ count-of-things = -7 , ratio=1e-3 }", [Options(False, -7, 0.001)]),
        ("options{count_of_things=4}", [Options(count_of_things=4)]),
        ("options{text=N=1;H=2}", [Options(text="N=1;H=2")]),
        ('options{text=" a, {b} \\"c\\" "}', [Options(text=' a, {b} "c" ')]),
        ('options{names=[a,"b,c"],sizes=[]}', [Options(names=("a", "b,c"), sizes=())]),
        ("options{sizes=5}", [Options(sizes=(5,))]),
        ("needs{level=2},options", [Needs(2), Options()]),
    ],
)
def test_lists_are_read(text: str, expected: list[Pass]) -> None:
    found = parse_pass_list(text)
    assert found == expected
    assert parse_pass_list(",".join(map(str, found))) == expected


@pytest.mark.usefixtures("known")
def test_options_that_differ_are_written() -> None:
    assert str(Options()) == "options"
    assert str(Options(flag=True, names=("a b", "c,d"))) == 'options{flag=true,names=[a b,"c,d"]}'


@given(
    flag=st.booleans(),
    count=st.integers(),
    ratio=st.floats(allow_nan=False),
    text=st.text(max_size=8),
    names=st.lists(st.text(max_size=5), max_size=3).map(tuple),
)
def test_every_value_reads_back(
    flag: bool, count: int, ratio: float, text: str, names: tuple[str, ...]
) -> None:
    chosen = Options(flag, count, ratio, text, names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manager, "_registered", lambda: {"options": Options})
        assert parse_pass_list(str(chosen)) == [chosen]


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optoins", "There is no pass 'optoins'; the closest are 'options'"),
        ("zzz", "There is no pass 'zzz'; there are options, needs"),
        ("options{count=1}", "has no option 'count'; the closest are 'count-of-things'"),
        ("swap{x=1}", "Pass 'swap' has no option 'x'; it has none"),
        ("options{flag=yes}", "'flag' of pass 'options' takes true or false, not 'yes'"),
        ("options{count-of-things=1.5}", "takes an integer, not '1.5'"),
        ("options{ratio=nan}", "takes a number, not 'nan'"),
        ("options{flag=[true]}", "takes true or false, not a list"),
        ("options{sizes=[1,x]}", "takes an integer, not 'x'"),
        ("needs", "needs the option 'level'"),
        ("needs{level=1,extra=2}", "'extra' of pass 'needs' cannot be given as text"),
        ("options{text=a,text=b}", "takes option 'text' once; it is given twice"),
    ],
)
def test_wrong_names_and_values_are_config_errors(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_pass_list(text)
    assert message in caught.value.message


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("options,", 9),
        (",options", 1),
        ("options swap", 9),
        ("options{flag}", 13),
        ("options{flag=true", 18),
        ("options{flag=}", 14),
        ('options{text="a}', 14),
        ('options{text="\\q"}', 14),
        ("options{sizes=[1", 17),
        ("options}", 8),
        ("{", 1),
    ],
)
def test_broken_lists_are_parse_errors(text: str, column: int) -> None:
    with pytest.raises(ParseError) as caught:
        parse_pass_list(text)
    assert caught.value.column == column


# -- the registry ----------------------------------------------------------------------------------


def test_the_registry_has_every_pass_of_the_table() -> None:
    found = pass_registry()
    assert {"canonicalize", "fold-constants", "fold-batchnorm"} <= set(found)
    for name, kind in found.items():
        assert kind.name == name
        assert kind.__doc__
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_every_pass_stands_in_the_table() -> None:
    folder = Path(manager.__file__).parent
    written = {path.stem for path in folder.glob("*.py") if "(Pass):" in path.read_text("utf-8")}
    assert written - {name.rpartition(".")[2] for name in PASS_MODULES} == set()


def test_two_passes_of_one_name_are_refused() -> None:
    @dataclass(frozen=True)
    class Other(Options):
        """Another one."""

    known: dict[str, type[Pass]] = {}
    manager._register(Options, known)
    with pytest.raises(ConfigError, match="Two passes are called 'options'"):
        manager._register(Other, known)


def test_the_manager_imports_nothing_heavy() -> None:
    code = "import sys, qcc.passes.manager; print({'onnx', 'onnxruntime'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


# -- running ---------------------------------------------------------------------------------------


def test_records_and_callbacks() -> None:
    printed: list[str] = []
    timed: list[PassRecord] = []
    graph = parse_graph(GRAPH)
    chosen = PassManager([Options(), Number()], True, printed.append, timed.append)
    records = chosen.run(graph)
    assert records == timed
    assert [(r.name, r.changes) for r in records] == [("options", 0), ("number", 2)]
    assert records[0].refusals == (("first", "nothing to do"),)
    assert all(r.seconds >= 0 for r in records)
    assert graph.stage is Stage.NUMBERED
    assert printed[0] == f"// after options\n{GRAPH}"
    assert printed[1] == f"// after number\n{print_graph(graph)}"


def test_the_stage_that_a_pass_requires() -> None:
    graph = parse_graph(GRAPH.replace("float", "lowered"))
    with pytest.raises(ConfigError, match="'number' needs a graph in stage float, and this one"):
        PassManager([Number()]).run(graph)


def test_an_invalid_result_names_pass_node_and_command() -> None:
    with pytest.raises(PassError) as caught:
        PassManager([Options(flag=True), Swap()], source="m.onnx").run(parse_graph(GRAPH))
    error = caught.value
    assert error.node == "second"
    assert "%a is used where it is not defined yet" in error.message
    assert "after pass 'swap'" in error.message
    assert "qcc opt -p 'options{flag=true},swap' m.onnx" in error.message
    lines = error.text.splitlines()
    at = next(index for index, line in enumerate(lines) if '"second"' in line)
    assert "^^^" in lines[at + 1]
    assert "is used where it is not defined yet" in lines[at + 2]
    assert isinstance(error, VerifyError)


def test_a_pass_that_raises_is_named() -> None:
    with pytest.raises(PassError, match=r"'crash' failed with KeyError: 'oops'.*qcc opt") as caught:
        PassManager([Crash()]).run(parse_graph(GRAPH))
    assert caught.value.text == GRAPH
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_invalid_input_is_no_passs_fault() -> None:
    graph = parse_graph(GRAPH)
    Swap().run(graph, Rewriter(graph))
    with pytest.raises(VerifyError) as caught:
        PassManager([Options()]).run(graph)
    assert not isinstance(caught.value, PassError)


def test_verification_can_be_left_out() -> None:
    PassManager([Swap()], verify=False).run(parse_graph(GRAPH))


def test_user_errors_of_a_pass_come_through(tmp_path: Path) -> None:
    graph = parse_graph(GRAPH)
    with pytest.raises(ConfigError, match="no dimension 'Q'"):
        PassManager(parse_pass_list("specialize{dimensions=[Q=1]}")).run(graph)
