"""Make a failing model smaller while it fails with the same message (delta debugging).

After A. Zeller and R. Hildebrandt, "Simplifying and isolating failure-inducing input" (2002), with
candidates that know graphs: ask for one value instead of all outputs, take an inner value as an
input, leave a node out, drop an attribute or an optional operand, shrink a size everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from qcc.ir.core import Array
from tests.differential.models import Feeds
from tests.fuzzing.cases import Case, Failure
from tests.fuzzing.cutting import Arrays, extract, input_info, values_of
from tests.fuzzing.subjects import Subject

Check: TypeAlias = "Callable[[Subject], Failure | None]"
Candidates: TypeAlias = "Callable[[Subject], Iterator[Subject]]"


def reduce_subject(
    subject: Subject,
    check: Check,
    *,
    seconds: float = 600.0,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Subject, Failure]:
    """The smallest subject found that fails as ``subject`` does, and its failure.

    Candidates are tried until none fails that way or ``seconds`` are over.  Raises ValueError when
    ``subject`` does not fail.
    """
    failure = check(subject)
    if failure is None:
        raise ValueError("nothing fails here, so there is nothing to reduce")
    wanted, end = failure.signature, time.monotonic() + seconds

    def fails_alike(candidate: Subject) -> Failure | None:
        found = check(candidate) if time.monotonic() < end else None
        return found if found is not None and found.signature == wanted else None

    weight = None
    while weight != _weight(subject):
        weight = _weight(subject)
        for family in FAMILIES:
            smaller = _first(subject, family, fails_alike)
            while smaller is not None:
                subject, failure = smaller
                say(f"{len(model_of(subject).graph.node)} nodes after {_name(family)}")
                smaller = _first(subject, family, fails_alike)
    return subject, failure


def _first(subject: Subject, family: Candidates, check: Check) -> tuple[Subject, Failure] | None:
    """The family's first lighter candidate that fails."""
    for candidate in family(subject):
        failure = check(candidate) if _weight(candidate) < _weight(subject) else None
        if failure is not None:
            return candidate, failure
    return None


def _name(family: Candidates) -> str:
    return family.__name__.strip("_").replace("_", " ")


def _weight(subject: Subject) -> tuple[int, ...]:
    """What each step lowers, so that steps end: nodes first, then settings, values and bytes."""
    model = model_of(subject)
    values = len(model.graph.output) + len(model.graph.input)
    size = model.ByteSize()
    settings = 0
    if isinstance(subject, Case):
        size += sum(array.nbytes for feed in subject.feeds for array in feed.values())
        settings = len(subject.targets) + subject.threads + (subject.observer != "minmax")
    return len(model.graph.node), settings, values, size


def model_of(subject: Subject) -> ModelProto:
    """The subject's float model; ValueError where it has none."""
    if isinstance(subject, Case):
        return onnx.load_model_from_string(subject.model)
    for name, data in subject.files:
        if name == subject.model_name:
            return onnx.load_model_from_string(data)
    raise ValueError("the command has no .onnx file to reduce")


def _with(subject: Subject, model: ModelProto, values: Arrays | None = None) -> Subject:
    """The subject on another model; ``values`` feeds inputs that the old feeds do not hold."""
    data = model.SerializeToString()
    if not isinstance(subject, Case):
        return subject.with_model(data)
    names = [item.name for item in model.graph.input]
    feeds: list[Feeds] = []
    for index, feed in enumerate(subject.feeds):
        known = feed if values is None else {**feed, **values[index]}
        feeds.append({name: known[name] for name in names})
    return replace(subject, model=data, feeds=tuple(feeds))


# -- families of candidates, the boldest first -----------------------------------------------------


def _fewer_targets(subject: Subject) -> Iterator[Subject]:
    """One target, one thread, the plainest observer, half the feeds."""
    if not isinstance(subject, Case):
        return
    if len(subject.targets) > 1:
        for target in subject.targets:
            yield replace(subject, targets=(target,))
    if subject.threads > 1:
        yield replace(subject, threads=1)
    if subject.observer != "minmax":
        yield replace(subject, observer="minmax")
    count = len(subject.feeds)
    if count > 1:
        yield replace(subject, feeds=subject.feeds[: count // 2])
        yield replace(subject, feeds=subject.feeds[count // 2 :])


def _asking_for_one_value(subject: Subject) -> Iterator[Subject]:
    """One output, or an inner value instead; early values first, for they need few nodes."""
    model = model_of(subject)
    outputs = [item.name for item in model.graph.output]
    names = [name for node in model.graph.node for name in node.output if name]
    for name in dict.fromkeys(names):
        if outputs != [name]:
            yield from _if_whole(subject, extract(model, [name]))
    if len(outputs) > 1:
        for dropped in outputs:
            kept = [name for name in outputs if name != dropped]
            yield from _if_whole(subject, extract(model, kept))


def _inner_values_as_inputs(subject: Subject) -> Iterator[Subject]:
    """What computed a value is gone; the value itself is fed.  Late values first."""
    if not isinstance(subject, Case):
        return
    model = model_of(subject)
    try:
        values = values_of(model, subject.feeds)
    except Exception:  # a failure may be that onnxruntime does not run the model
        return
    outputs = [item.name for item in model.graph.output]
    for node in reversed(model.graph.node):
        for name in node.output:
            if name in values[0] and name not in outputs:
                info = input_info(name, values[0][name])
                yield from _if_whole(subject, extract(model, outputs, [info]), values)


def _leaving_nodes_out(subject: Subject) -> Iterator[Subject]:
    """A node's first operand in the place of its result."""
    model = model_of(subject)
    outputs = [item.name for item in model.graph.output]
    for node in model.graph.node:
        if len(node.output) == 1 and node.output[0] not in outputs and node.input:
            for operand in dict.fromkeys(node.input):
                if operand:
                    yield from _if_whole(subject, _bypassed(model, node, operand, outputs))


def _bypassed(
    model: ModelProto, node: NodeProto, operand: str, outputs: list[str]
) -> ModelProto | None:
    copy = ModelProto.FromString(model.SerializeToString())
    for other in copy.graph.node:
        for index, name in enumerate(other.input):
            if name == node.output[0]:
                other.input[index] = operand
    del copy.graph.value_info[:]
    return extract(copy, outputs)


def _fewer_details(subject: Subject) -> Iterator[Subject]:
    """A node without one of its attributes, or without its last operand."""
    model = model_of(subject)
    outputs = [item.name for item in model.graph.output]
    for index, node in enumerate(model.graph.node):
        for name in [attribute.name for attribute in node.attribute]:
            copy = ModelProto.FromString(model.SerializeToString())
            changed = copy.graph.node[index]
            kept = [a for a in node.attribute if a.name != name]
            del changed.attribute[:]
            changed.attribute.extend(kept)
            yield from _if_whole(subject, extract(copy, outputs))
        if len(node.input) > 1:
            copy = ModelProto.FromString(model.SerializeToString())
            copy.graph.node[index].input.pop()
            yield from _if_whole(subject, extract(copy, outputs))


def _smaller_sizes(subject: Subject) -> Iterator[Subject]:
    """A size becomes smaller wherever it occurs: in feeds, weights, shapes and groups."""
    if not isinstance(subject, Case):
        return
    model = model_of(subject)
    arrays = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    sizes = {n for a in (*arrays, *subject.feeds[0].values()) for n in np.shape(a) if n > 1}
    for old in sorted(sizes, reverse=True):
        for new in dict.fromkeys((1, old // 2, old - 1)):
            yield _resized(subject, model, old, new)


def _resized(case: Case, model: ModelProto, old: int, new: int) -> Case:
    copy = ModelProto.FromString(model.SerializeToString())
    for tensor in copy.graph.initializer:
        array = _cut(numpy_helper.to_array(tensor), old, new)
        if array.dtype == np.int64:
            array = np.where(array == old, new, array)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for item in copy.graph.input:
        for dim in item.type.tensor_type.shape.dim:
            if dim.dim_value == old:
                dim.dim_value = new
    for item in copy.graph.output:
        item.type.tensor_type.ClearField("shape")
    for node in copy.graph.node:
        for attribute in node.attribute:
            if attribute.name == "group" and attribute.i == old:
                attribute.i = new
    del copy.graph.value_info[:]
    feeds = tuple({k: _cut(a, old, new) for k, a in feed.items()} for feed in case.feeds)
    return replace(case, model=copy.SerializeToString(), feeds=feeds)


def _cut(array: Array, old: int, new: int) -> Array:
    """The first ``new`` entries along every axis of ``old``."""
    window = tuple(slice(0, new if size == old else size) for size in array.shape)
    return np.ascontiguousarray(array[window])


FAMILIES: tuple[Candidates, ...] = (
    _fewer_targets,
    _asking_for_one_value,
    _inner_values_as_inputs,
    _leaving_nodes_out,
    _fewer_details,
    _smaller_sizes,
)


def _if_whole(
    subject: Subject, model: ModelProto | None, values: Arrays | None = None
) -> Iterator[Subject]:
    if model is not None:
        yield _with(subject, model, values)
