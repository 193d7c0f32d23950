"""Parts of an ONNX model: what some of its values need, from some of its values on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, shape_inference

from qcc.ir.core import Array
from tests.differential.models import Feeds

Arrays: TypeAlias = "list[dict[str, Array]]"
"""Values by name, feed by feed."""


def names_read(node: NodeProto) -> set[str]:
    """Every value that a node reads, in its subgraphs too."""
    read = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                read |= names_read(inner)
            read |= {output.name for output in graph.output}
    return read


def extract(
    model: ModelProto, outputs: Sequence[str], inputs: Sequence[ValueInfoProto] = ()
) -> ModelProto | None:
    """The nodes that ``outputs`` need, with further ``inputs``; None where none is left.

    The model itself is not changed; inputs and initializers that nothing reads are left out.
    """
    ready = {item.name for item in inputs}
    needed, kept = set(outputs), []
    for node in reversed(model.graph.node):
        if (needed - ready) & set(node.output):
            kept.append(node)
            needed |= names_read(node)
    fed = [item for item in model.graph.input if item.name in needed]
    more = [item for item in inputs if item.name in needed]
    if not kept or not (fed or more):
        return None
    made: ModelProto = ModelProto.FromString(model.SerializeToString())
    _replace(made.graph.node, reversed(kept))
    for node in made.graph.node:
        for index, name in enumerate(node.output):
            if name in ready:  # another result of the node is still needed
                node.output[index] = f"{name}_unused"
    _replace(made.graph.input, [*fed, *more])
    _replace(made.graph.output, _outputs(model, outputs))
    _replace(made.graph.initializer, [t for t in model.graph.initializer if t.name in needed])
    del made.graph.value_info[:]
    return made


def _replace(field: object, items: Iterable[object]) -> None:
    """New content of a repeated protobuf field."""
    found = list(items)
    del field[:]  # type: ignore[attr-defined]
    field.extend(found)  # type: ignore[attr-defined]


def _outputs(model: ModelProto, names: Sequence[str]) -> list[ValueInfoProto]:
    """Outputs with the types that follow from the nodes; declared shapes may be of larger ones."""
    bare = ModelProto.FromString(model.SerializeToString())
    del bare.graph.value_info[:]
    for item in bare.graph.output:
        item.type.tensor_type.ClearField("shape")
    try:
        graph = shape_inference.infer_shapes(bare, data_prop=True).graph
    except shape_inference.InferenceError:
        graph = bare.graph
    known = {item.name: item for item in (*graph.value_info, *graph.output)}
    return [known.get(name, ValueInfoProto(name=name)) for name in names]


def input_info(name: str, array: Array) -> ValueInfoProto:
    """An input of an array's type and shape."""
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
    )


def values_of(model: ModelProto, feeds: Sequence[Feeds]) -> Arrays:
    """Every value that a node computes, in onnxruntime without optimizations."""
    import onnxruntime as ort

    names = [name for node in model.graph.node for name in node.output if name]
    whole = ModelProto.FromString(model.SerializeToString())
    _replace(whole.graph.output, [ValueInfoProto(name=name) for name in dict.fromkeys(names)])
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        whole.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    asked = [output.name for output in session.get_outputs()]
    return [
        {k: np.asarray(v) for k, v in zip(asked, session.run(asked, dict(feed)), strict=True)}
        for feed in feeds
    ]
