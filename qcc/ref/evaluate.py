"""The reference evaluator: the oracle that every native kernel is held against.

Integer ops are evaluated by the numpy reference beside their definition; float ONNX nodes run in
onnxruntime, as many neighbours of the schedule at once as possible, so that the evaluator and the
runtime execute the same models.  Native float ops are evaluated by numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from qcc import numerics
from qcc.errors import DataError
from qcc.ir import ops
from qcc.ir.core import Array, Graph, Node, Stage, Value
from qcc.ir.integer.region import region_body
from qcc.ir.types import TensorType
from qcc.ref.float_ops import NATIVE_FLOAT_OPS, is_native_float

Environment: TypeAlias = "dict[Value, Array]"


def evaluate(graph: Graph, feeds: Mapping[str, Any]) -> dict[str, Array]:
    """All graph outputs, by name.

    ``feeds`` maps every input name to an array (the stored integers where the input is quantized).
    Works on every stage; raises :class:`DataError` when a name, rank or dtype does not fit.
    """
    found = _run(graph, feeds, graph.outputs)
    return {value.name: found[value] for value in graph.outputs}


def evaluate_values(
    graph: Graph, feeds: Mapping[str, Any], names: Iterable[str]
) -> dict[str, Array]:
    """The values called ``names`` (intermediate ones included), by name; see :func:`evaluate`."""
    by_name = {value.name: value for value in graph.values()}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise DataError(f"The graph has no value called {', '.join(missing)}; check the names.")
    wanted = [by_name[name] for name in names]
    found = _run(graph, feeds, wanted)
    return {value.name: found[value] for value in wanted}


def check_feeds(graph: Graph, feeds: Mapping[str, Any]) -> dict[Value, Array]:
    """The feeds as arrays by graph input; raises :class:`DataError` for anything that differs."""
    known = {value.name: value for value in graph.inputs}
    unknown = [name for name in feeds if name not in known]
    absent = [name for name in known if name not in feeds]
    if unknown or absent:
        parts = [f"unknown input {', '.join(map(repr, unknown))}"] if unknown else []
        parts += [f"missing input {', '.join(map(repr, absent))}"] if absent else []
        raise DataError(f"{'; '.join(parts)}: the model's inputs are {', '.join(known)}.")
    return {known[name]: _checked(known[name], feeds[name]) for name in feeds}


def _checked(value: Value, data: Any) -> Array:
    array = np.asarray(data)
    if not isinstance(value.type, TensorType):
        return array
    expected = numerics.storage_dtype(value.type.storage) if value.type.quant else None
    name = str(expected) if expected is not None else value.type.storage
    if name not in ("undefined", "string") and str(array.dtype) != name:
        raise DataError(f"Input '{value.name}' must be {name}, not {array.dtype}; convert it.")
    shape = value.type.shape
    if shape is None:
        return array
    fits = len(shape) == array.ndim and all(
        not isinstance(want, int) or want == have
        for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("?" if d is None else str(d) for d in shape)
        raise DataError(
            f"Input '{value.name}' must have the shape [{wanted}], not {list(array.shape)}."
        )
    return array


def _run(graph: Graph, feeds: Mapping[str, Any], wanted: Sequence[Value]) -> Environment:
    environment: Environment = dict(check_feeds(graph, feeds))
    for value in graph.constants.values():
        environment[value] = np.asarray(value.constant)
    pending: list[Node] = []
    keep = set(wanted)
    numpy_floats = graph.stage is Stage.LOWERED
    for node in graph.nodes:
        if _is_integer(node) or (numpy_floats and is_native_float(node)):
            _flush(pending, environment, keep)
            _step(node, environment)
        else:
            pending.append(node)
    _flush(pending, environment, keep)
    return environment


def _is_integer(node: Node) -> bool:
    return node.domain == "q"


def _step(node: Node, environment: Environment) -> None:
    """Evaluate one integer node, region or native float node."""
    arrays = [None if value is None else environment[value] for value in node.inputs]
    if node.op == "q.region":
        results = _run_region(node, [a for a in arrays if a is not None])
    elif node.op in NATIVE_FLOAT_OPS:
        found = NATIVE_FLOAT_OPS[node.op](node, arrays)
        results = list(found) if isinstance(found, tuple) else [found]
    else:
        definition = ops.definition(node.op)
        if definition is None:
            raise KeyError(f"the integer dialect has no op '{node.op}'")
        results = list(definition.evaluate(node, arrays))
    for value, array in zip(node.outputs, results, strict=True):
        environment[value] = array


def _run_region(node: Node, arrays: list[Array]) -> list[Array]:
    from qcc.ref.float_region import FloatRegion, region_model

    body = region_body(node)
    model = region_model(list(body.nodes), list(body.inputs), list(body.outputs))
    return FloatRegion(model).run(arrays)


def _flush(pending: list[Node], environment: Environment, keep: set[Value]) -> None:
    """Run the float nodes collected so far as one onnxruntime model."""
    if not pending:
        return
    from qcc.ref.float_region import FloatRegion, region_model

    inside = set(pending)
    inputs: dict[Value, None] = {}
    for node in pending:
        for value in captured_values(node):
            if value.producer not in inside and not value.is_constant:
                inputs[value] = None
    outputs = [
        value
        for node in pending
        for value in node.outputs
        if value in keep or value.is_output or any(u not in inside for u in value.users)
    ]
    if outputs:
        results = FloatRegion(region_model(pending, list(inputs), outputs)).run(
            [environment[value] for value in inputs]
        )
        environment.update(zip(outputs, results, strict=True))
    pending.clear()


def captured_values(node: Node) -> list[Value]:
    """The operands of ``node`` and every outer value that its subgraphs use, without repetition."""
    found: dict[Value, None] = {value: None for value in node.inputs if value is not None}
    for body in node.subgraphs:
        own = set(body.inputs) | set(body.constants.values())
        for inner in body.nodes:
            for value in captured_values(inner):
                if value not in own:
                    found[value] = None
            own.update(inner.outputs)
        for value in body.outputs:
            if value not in own:
                found[value] = None
    return list(found)
