"""Small models and ways to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

Array = NDArray[Any]


def _loads(opset: int) -> bool:
    """Whether onnxruntime loads the opset and has a kernel for its QuantizeLinear."""
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    scale = helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, [])
    node = helper.make_node("QuantizeLinear", ["x", "s"], ["y"])
    graph = helper.make_graph([node], "g", [x, scale], [ValueInfoProto(name="y")])
    imports = [helper.make_opsetid("", opset)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=10)
    try:
        ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    except (Fail, NoKernel):
        return False
    return True


RUNTIME_OPSET = next(opset for opset in (25, 24, 23, 22, 21) if _loads(opset))
"""The newest opset that this onnxruntime surely runs; models of newer ones go to onnx.reference.

onnxruntime 1.23, the last one for Python 3.10, has all kernels up to 22.
"""


def info(name: str, array: Array, shape: Sequence[Any] | None = None) -> ValueInfoProto:
    """An input or output of an array's type, with its shape unless told otherwise."""
    code = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, code, array.shape if shape is None else shape)


def model(
    nodes: Sequence[NodeProto],
    feeds: Mapping[str, Array],
    outputs: Sequence[str],
    opset: int,
    constants: Mapping[str, Array] | None = None,
    *,
    rank_only: bool = False,
    **kwargs: Any,
) -> ModelProto:
    """A model of ``nodes``; ``rank_only`` leaves all dimensions of the inputs open."""
    inputs = [
        info(name, array, [None] * array.ndim if rank_only else None)
        for name, array in feeds.items()
    ]
    initializers = [numpy_helper.from_array(a, name) for name, a in (constants or {}).items()]
    graph = helper.make_graph(
        list(nodes), "g", inputs, [ValueInfoProto(name=name) for name in outputs], initializers
    )
    imports = [helper.make_opsetid("", opset)]
    made = helper.make_model(
        graph,
        opset_imports=kwargs.pop("opset_imports", imports),
        ir_version=max(8, helper.find_min_ir_version_for(imports, ignore_unknown=True)),
        **kwargs,
    )
    return onnx.shape_inference.infer_shapes(made)


def run_in_runtime(
    proto: ModelProto | str,
    feeds: Mapping[str, Array],
    level: Any = ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
) -> list[Array]:
    """All outputs, by onnxruntime on one thread."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = level
    source = proto if isinstance(proto, str) else proto.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, dict(feeds))
    return outputs


def run(proto: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """All outputs, by onnxruntime or, for opsets that it does not know, by onnx.reference."""
    opset = next(item.version for item in proto.opset_import if not item.domain)
    if opset <= RUNTIME_OPSET:
        return run_in_runtime(proto, feeds)
    from onnx.reference import ReferenceEvaluator

    return [np.asarray(item) for item in ReferenceEvaluator(proto).run(None, dict(feeds))]


def assert_same(found: Sequence[Array], wanted: Sequence[Array], tolerance: float = 0.0) -> None:
    """Equal bytes, or equal within an absolute and relative tolerance."""
    assert len(found) == len(wanted)
    for have, want in zip(found, wanted, strict=True):
        assert have.dtype == want.dtype
        assert have.shape == want.shape
        if tolerance:
            np.testing.assert_allclose(have, want, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(have, want)
