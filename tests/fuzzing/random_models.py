"""Random float models as ONNX files: the ops that qcc quantizes, in random shapes and orders.

A model grows from its inputs: each step picks a value made so far and an op that fits its shape
(:mod:`tests.fuzzing.growers`).  Weights are scaled so that values keep about unit size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from qcc.ir.core import Array

OPSET = 21
MOST_ELEMENTS = 6000
"""Largest value that a step may give, in elements."""

SIDES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17)
CHANNELS = (1, 2, 3, 4, 6, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48)

T = TypeVar("T")


@dataclass(frozen=True)
class Made:
    """A float value of the model under construction."""

    name: str
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


class Unfit(Exception):
    """The step does not fit the value; another one is tried."""


class RandomModel:
    """A model under construction; ``pool`` holds its values, ``random`` makes every choice."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.pool: list[Made] = []
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, Array] = {}
        self._inputs: list[ValueInfoProto] = []
        self._free_batch = self.chance(0.2)

    # -- choices ----------------------------------------------------------------------------------

    def pick(self, options: Sequence[T]) -> T:
        if not options:
            raise Unfit
        return options[int(self.random.integers(len(options)))]

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def integer(self, low: int, high: int) -> int:
        """From ``low`` to ``high``, both included."""
        return int(self.random.integers(low, high + 1))

    def value(self, *ranks: int) -> Made:
        """A value of one of these ranks (any without them), mostly one of the latest."""
        fitting = [v for v in self.pool if not ranks or v.rank in ranks]
        return self.pick(fitting[-3:] if self.chance(0.8) else fitting)

    def like(self, shape: tuple[int, ...]) -> Made:
        """A value of this very shape."""
        return self.pick([v for v in self.pool if v.shape == shape])

    # -- parts ------------------------------------------------------------------------------------

    def input(self, *shape: int) -> Made:
        made = Made(f"x{len(self._inputs)}", shape)
        dims: list[int | str] = ["N", *shape[1:]] if self._free_batch else list(shape)
        self._inputs.append(helper.make_tensor_value_info(made.name, onnx.TensorProto.FLOAT, dims))
        self.pool.append(made)
        return made

    def constant(self, data: Any) -> str:
        name = f"c{len(self._constants)}"
        self._constants[name] = np.asarray(data)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        """A float constant; in some the channels differ much in size, a few are all zero."""
        data = self.random.normal(scale=scale, size=shape)
        if shape and self.chance(0.15):
            data *= np.exp(self.random.normal(size=(shape[0], *(1,) * (len(shape) - 1))))
        if shape and self.chance(0.05):
            data[self.integer(0, shape[0] - 1)] = 0
        return self.constant(data.astype(np.float32))

    def weight(self, *shape: int, fan_in: int) -> str:
        return self.normal(*shape, scale=float(fan_in) ** -0.5)

    def emit(
        self, op: str, *operands: Made | str | None, outputs: int = 1, **attributes: Any
    ) -> Made:
        """Add a node; gives its last result.  Raises Unfit where a result is empty or large."""
        names = ["" if v is None else v.name if isinstance(v, Made) else v for v in operands]
        results = [f"v{len(self._nodes)}_{i}" for i in range(outputs)]
        label = f"{op.lower()}_{len(self._nodes)}"
        node = helper.make_node(op, names, results, name=label, **attributes)
        known = {v.name: v.shape for v in operands if isinstance(v, Made)}
        made = [Made(name, self._shape(node, known, name)) for name in results]
        if any(not 0 < v.size <= MOST_ELEMENTS for v in made):
            raise Unfit
        self._nodes.append(node)
        self.pool += made
        return made[-1]

    def _shape(
        self, node: NodeProto, known: dict[str, tuple[int, ...]], name: str
    ) -> tuple[int, ...]:
        """What onnx infers for one result."""
        infos = [
            helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, shape)
            for key, shape in known.items()
        ]
        constants = [
            numpy_helper.from_array(self._constants[key], key)
            for key in dict.fromkeys(node.input)
            if key in self._constants
        ]
        graph = helper.make_graph([node], "g", infos, [ValueInfoProto(name=name)], constants)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True, strict_mode=True)
        dims = inferred.graph.output[0].type.tensor_type.shape.dim
        return tuple(d.dim_value for d in dims)

    # -- the whole --------------------------------------------------------------------------------

    def finish(self) -> ModelProto:
        """The model; what nothing reads becomes an output, and sometimes an inner value too."""
        read = {name for node in self._nodes for name in node.input}
        results = [name for node in self._nodes for name in node.output]
        outputs = [name for name in results if name not in read]
        if self.chance(0.2):
            outputs.append(self.pick(results))
        used = {k: v for k, v in self._constants.items() if k in read}
        graph = helper.make_graph(
            self._nodes,
            "random",
            self._inputs,
            [self._output(name) for name in dict.fromkeys(outputs)],
            [numpy_helper.from_array(data, name) for name, data in used.items()],
        )
        imports = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def _output(self, name: str) -> ValueInfoProto:
        """An output, with open dimensions where the batch size is free."""
        shape = next(made.shape for made in self.pool if made.name == name)
        dims = [None] * len(shape) if self._free_batch else list(shape)
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)

    def feeds(self, count: int) -> tuple[dict[str, Array], ...]:
        """Calibration batches, normal values whose size and offset are each input's own."""
        found: list[dict[str, Array]] = [{} for _ in range(count)]
        for made in self.pool[: len(self._inputs)]:
            scale, offset = 10 ** self.random.uniform(-1, 1), self.pick((0.0, 0.0, 1.0))
            for feed in found:
                data = scale * (self.random.normal(size=made.shape) + offset)
                feed[made.name] = data.astype(np.float32)
        return tuple(found)
