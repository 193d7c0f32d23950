"""C programs on this machine give the bytes of Python, and touch nothing but what is theirs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qcc.runtime.executable import Executable
from tests.c_interface.building import (
    STRICT,
    Driving,
    Machine,
    assert_outputs,
    build_driver,
    drive,
    output_names,
    write_feeds,
)
from tests.c_interface.models import MODELS, CModel

HOST = Machine.of("host")


@pytest.fixture(scope="module", params=MODELS)
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CModel, Executable, Path]:
    """A model, its code, and a folder with ``model.o`` and what belongs to it."""
    model = MODELS[request.param]()
    folder = tmp_path_factory.mktemp(request.param)
    executable = model.compiled("host")
    executable.save(folder / "model.o")
    return model, executable, folder


Built = tuple[CModel, Executable, Path]


def test_the_example_compiles_strictly_and_gives_the_bytes_of_python(built: Built) -> None:
    model, executable, folder = built
    for language in ("-std=c89", "-std=c99", "-xc++"):
        flags = (language, "-pedantic", *STRICT)
        HOST.build(folder, ["model_example.c", "-xnone", "model.o"], "example", *flags)
        files = [*write_feeds(executable, model.feeds[0], folder), *output_names(executable)]
        HOST.run(folder, "./example", *files)
        assert_outputs(executable, executable.run(model.feeds[0]), folder)
        assert HOST.run(folder, "./example").stdout.count("\n") == len(executable.outputs)


def test_no_buffer_is_left_at_either_end(built: Built) -> None:
    model, executable, folder = built
    build_driver(HOST, folder)
    for feeds in model.feeds:
        wanted = executable.run(feeds)
        for side, fill in (("end", 0xA5), ("begin", 0xFF)):
            drive(HOST, executable, feeds, wanted, folder, Driving(side, fill))


def test_three_threads_in_two_workspaces_repeat_the_same_bytes(built: Built) -> None:
    model, executable, folder = built
    build_driver(HOST, folder)
    how = Driving(threads=3, repeats=200, workspaces=2)
    drive(HOST, executable, model.feeds[0], executable.run(model.feeds[0]), folder, how)


def test_the_interface_alone_is_seen_and_the_c_library_alone_is_needed(built: Built) -> None:
    _, _, folder = built
    listed = subprocess.run(["nm", "model.o"], cwd=folder, capture_output=True, text=True)
    rows = [line.split()[-2:] for line in listed.stdout.splitlines()]
    assert {name for kind, name in rows if kind == "U"} <= {
        "memset",
        "memmove",
        "memcpy",
        "syscall",
        "sched_yield",
    }
    seen = {name for kind, name in rows if kind.isupper() and kind != "U"}
    assert {name for name in seen if not name.startswith("model_")} == set()
    assert {"model_init", "model_run", "model_run_part", "model_error"} <= seen
    # Nothing that can be written: no state.
    assert not [name for kind, name in rows if kind in "bBcC"]
