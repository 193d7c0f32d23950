"""The nets of a measurement: model files, calibration feeds, and feeds held out from these."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Feed = dict[str, Any]

HELD_OUT = 4
"""Feeds that no engine calibrates with; the first of them is the one that is timed."""

MADE_NETS = (
    "squeezenet11", "mobilenetv2", "mobilenetv3s", "efficientnet_lite0", "efficientnet_b0",
    "resnet18", "resnet20", "resnet50", "yolo320", "unet256", "dscnn_kws", "minilm", "bert_base",
    "lstm", "gru",
)  # fmt: skip
"""Names that ``make_nets.py`` knows."""


class Unavailable(Exception):
    """A net, its feeds or an engine cannot be had; the text is a sentence."""


@dataclass(frozen=True)
class Net:
    """One model file with the files of its feeds (see :func:`save_feeds`)."""

    name: str
    model: Path
    calibration: Path
    held_out: Path


def save_feeds(path: Path, feeds: Sequence[Feed]) -> None:
    """Write feeds as one ``.npz`` with members ``<index>:<input name>``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: Feed = {f"{i}:{name}": a for i, feed in enumerate(feeds) for name, a in feed.items()}
    np.savez(path, **arrays)


def load_feeds(path: Path) -> list[Feed]:
    """What :func:`save_feeds` wrote."""
    feeds: dict[int, Feed] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            index, name = key.split(":", 1)
            feeds.setdefault(int(index), {})[name] = file[key]
    return [feeds[index] for index in sorted(feeds)]


# -- nets with random weights ----------------------------------------------------------------------


def made_net(model: Path, work: Path, samples: int) -> Net:
    """A net with random weights and random feeds: normal floats, ids below the table's length."""
    feeds = random_feeds(model, samples + HELD_OUT)
    return _with_feeds(model.stem, model, feeds, work, samples)


def random_feeds(model: Path, count: int, seed: int = 0) -> list[Feed]:
    """``count`` feeds of the model's own input types; a free dimension is 1."""
    import onnx

    graph = onnx.load(str(model)).graph
    rng = np.random.default_rng(seed)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {}
    for value in graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        shape = tuple(d.dim_value or 1 for d in kind.shape.dim)
        makers[value.name] = (dtype, shape, _id_limit(graph, value.name, constants))
    return [
        {name: _random(rng, dtype, shape, limit) for name, (dtype, shape, limit) in makers.items()}
        for _ in range(count)
    ]


def _id_limit(graph: Any, name: str, constants: dict[str, Any]) -> int:
    """Rows of the table that input ``name`` indexes, or 2."""
    for node in graph.node:
        if node.op_type == "Gather" and node.input[1] == name and node.input[0] in constants:
            return int(constants[node.input[0]].dims[0])
    return 2


def _random(rng: Any, dtype: Any, shape: tuple[int, ...], limit: int) -> Any:
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, limit, shape).astype(dtype)


def make_missing(folder: Path, names: Sequence[str], script: Path, python: str) -> None:
    """Run ``make_nets.py`` for nets that ``folder`` lacks; Unavailable in one sentence."""
    missing = [name for name in names if not (folder / f"{name}.onnx").exists()]
    if not missing:
        return
    unknown = [name for name in missing if name not in MADE_NETS]
    if unknown:
        raise Unavailable(f"{folder} holds no {unknown[0]}.onnx, and make_nets.py makes none.")
    if subprocess.run([python, "-c", "import torch"], capture_output=True).returncode:
        raise Unavailable(
            f"{folder} lacks {', '.join(missing)}, and making nets needs torch, which {python} "
            "does not have; name a Python that has it with --torch-python."
        )
    if not script.exists():
        raise Unavailable(f"{script} does not exist; name the folder of the zoo with --zoo.")
    subprocess.run([python, str(script), str(folder), *missing], check=True, stdout=sys.stderr)


# -- real models -----------------------------------------------------------------------------------


def zoo_tasks(zoo: Path) -> Any:
    """``TASKS`` of the zoo's ``evalkit``: name to class."""
    sys.path.insert(0, str(zoo / "scripts"))
    return importlib.import_module("evalkit").TASKS


def zoo_net(task: Any, name: str, work: Path, samples: int, torch_python: str) -> Net:
    """A real model with feeds from its own calibration data, some of them held out."""
    model = Path(task.onnx())
    if not model.exists():
        raise Unavailable(f"{model} does not exist")
    if hasattr(task, "step"):
        task.step = 1  # items a feed
    try:
        feeds = list(task.calib())
    except ImportError as error:
        feeds = _feeds_of_another_python(name, task.root, work, torch_python, str(error.name))
    free = _free_first_dimension(model)
    feeds = [_one_item(feed, free) for feed in feeds]
    return _with_feeds(name, model, feeds, work, samples)


def _feeds_of_another_python(
    name: str, zoo: str, work: Path, python: str, package: str
) -> list[Feed]:
    """Calibration feeds made by ``python``, which has what this one lacks."""
    path = work / "feeds" / f"{name}-all.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [python, str(Path(__file__).resolve()), zoo, name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(
            f"the feeds of {name} need the package {package}; name a Python that has it with "
            "--torch-python"
        )
    return load_feeds(path)


def _free_first_dimension(model: Path) -> frozenset[str]:
    """Inputs whose first dimension is a symbol that all inputs share: a batch."""
    import onnx

    graph = onnx.load(str(model)).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    first = {value.name: list(value.type.tensor_type.shape.dim)[:1] for value in inputs}
    symbols = {dim[0].dim_param if dim else "" for dim in first.values()}
    return frozenset(first) if len(symbols) == 1 and all(symbols) else frozenset()


def _one_item(feed: Feed, free: frozenset[str]) -> Feed:
    return {name: array[:1] if name in free else array for name, array in feed.items()}


def _with_feeds(name: str, model: Path, feeds: list[Feed], work: Path, samples: int) -> Net:
    if len(feeds) < HELD_OUT + 1:
        raise Unavailable(f"{name} has {len(feeds)} feeds, too few to hold {HELD_OUT} out")
    calibration, held_out = split(feeds, samples)
    folder = work / "feeds" / f"{name}-{samples}"
    net = Net(name, model, folder / "calibration.npz", folder / "held_out.npz")
    save_feeds(net.calibration, calibration)
    save_feeds(net.held_out, held_out)
    return net


def split(feeds: list[Feed], samples: int) -> tuple[list[Feed], list[Feed]]:
    """At most ``samples`` feeds to calibrate with and HELD_OUT others, both spread over all."""
    count = min(samples + HELD_OUT, len(feeds))
    spread = [feeds[round(i * (len(feeds) - 1) / (count - 1))] for i in range(count)]
    places = {(2 * i + 1) * count // (2 * HELD_OUT) for i in range(HELD_OUT)}
    held_out = [spread[i] for i in sorted(places)]
    return [feed for i, feed in enumerate(spread) if i not in places], held_out


if __name__ == "__main__":
    folder, task_name, out = sys.argv[1:]
    save_feeds(Path(out), list(zoo_tasks(Path(folder))[task_name](folder).calib()))
