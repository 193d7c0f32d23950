"""From a laid-out LOWERED graph to kernel calls: buffers for values, calls for nodes.

Nodes are walked in schedule order; the selector of an op (:mod:`qcc.backends.llvm.select`) asks the
planner for the storage of operands and results and emits calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from qcc.backends.llvm.buffers import (
    HALO_PART,
    Buffer,
    Pointer,
    Stored,
    activation_layout,
    dense_bytes,
    element_bytes,
    is_activation,
    is_contiguous,
    native_quant,
    shift_of,
    takes_halo,
)
from qcc.backends.llvm.constants import ConstantPool
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Kernel, Packed
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.halo import FillHaloKernel
from qcc.backends.llvm.module import Call
from qcc.backends.llvm.placement import Placement
from qcc.ir.core import Graph, Node, Value

if TYPE_CHECKING:
    from qcc.backends.llvm.tuning import Chooser

Halo: TypeAlias = "tuple[int, int, int, int]"
"""Pixels around the image: top, left, bottom, right."""
Selector: TypeAlias = "Callable[[Planner, Node], None]"

NO_HALO: Halo = (0, 0, 0, 0)


@dataclass
class Segment:
    """A run of native calls, or one region (``calls`` is then empty)."""

    calls: list[Call] = field(default_factory=list)
    region: Node | None = None
    operands: list[Stored | Value] = field(default_factory=list)
    """For a region: where each operand is (a Value stands for the slot that holds it)."""


class Planner:
    """Collects what native code needs for one graph and one instruction set."""

    def __init__(
        self,
        graph: Graph,
        isa: InstructionSet,
        selectors: Mapping[str, Selector],
        chooser: Chooser | None = None,
    ) -> None:
        self.graph, self.isa, self.selectors = graph, isa, selectors
        self.chooser = chooser
        """Chooses the schedules of matrix kernels; the cost model does where it is None."""
        self.pool = ConstantPool()
        self.segments: list[Segment] = [Segment()]
        self.slots: dict[Value, int] = {value: i for i, value in enumerate(graph.inputs)}
        self.buffers: list[Buffer] = []
        self.fused: set[Node] = set()
        """Nodes whose work another node's kernel does."""
        self.turned: dict[Value, Value] = {}
        """Transposed values that are never stored: their only reader turns the original itself."""
        self.kernel_names: dict[Node, list[Kernel]] = {}
        self.written_outputs: set[int] = set()
        self._stored: dict[Value, Stored] = {}
        self.placement = Placement(graph)
        self._halos: dict[Value, Halo] = {}
        self._current: Node | None = None

    def run(self) -> None:
        """Plan every node and every graph output."""
        for node in self.graph.nodes:
            self._note_halos(node)
        for node in self.graph.nodes:
            self._current = node
            if node.op == "q.region":
                self._add_region(node)
            elif node not in self.fused:
                self.selectors[node.op](self, node)
        self._current = None
        for index, value in enumerate(self.graph.outputs):
            self._finish_output(index, value)

    # -- what selectors ask for -------------------------------------------------------------------

    def source(self, value: Value) -> Stored:
        """Where an operand is; constants are put into the weights, graph inputs are bound."""
        found = self._stored.get(value)
        if found is not None:
            return found
        if value.constant is not None:
            stored = self._store_constant(value)
        else:
            index = self.slots[value]
            buffer = Buffer(value.name, dense_bytes(value.tensor), "input", index=index)
            shape = value.tensor.static_shape
            stored = Stored(buffer, None, shape, element_bytes(value.tensor))
            if is_activation(value.tensor):
                stored = self._import_activation(value, stored)
        self._stored[value] = stored
        return stored

    def result(self, value: Value) -> Stored:
        """Memory for a result: its part of another value's, the graph output, or its own."""
        if self.placement.place(value) is not None:
            self._stored[value] = self.shared(value)
            return self._stored[value]
        if self.placement.is_root(value):
            return self._whole(value)
        type_ = value.tensor
        if is_activation(type_):
            layout = activation_layout(type_.static_shape, self.halo(value))
            dense = is_contiguous(layout) and layout.channels == layout.channel_stride
            direct = dense and not shift_of(type_)
            index = self._direct_output(value) if direct else None
            stored = self.activation(value.name, layout, type_.static_shape, index)
            if layout.has_halo:
                self._fill_halo(value, stored)
        elif self.halo(value) != NO_HALO:
            stored = self.float_image(value.name, type_.static_shape, self.halo(value))
        else:
            size = dense_bytes(type_)
            buffer = self._buffer(value.name, size, self._direct_output(value))
            stored = Stored(buffer, None, type_.static_shape, element_bytes(type_))
        self._stored[value] = stored
        return stored

    def float_image(self, name: str, shape: tuple[int, ...], halo: Halo) -> Stored:
        """Memory for a float32 image whose pixels lie apart; a halo is filled with +0."""
        layout = activation_layout(shape, halo)
        stored = self.activation(name, layout, shape, element=4)
        if halo == NO_HALO:
            return stored
        octets = replace(
            layout, channels=4 * layout.channels, channel_stride=4 * layout.channel_stride
        )
        kernel = FillHaloKernel(octets)
        place = replace(stored, part=HALO_PART).pointer
        self.emit(kernel, {"output": place}, kernel.pack(self.isa, zero_point=0))
        return stored

    def shared(self, value: Value) -> Stored:
        """The part of its family's memory that a value lies in."""
        place = self.placement.place(value)
        if place is None:
            raise ValueError(f"'{value.name}' has memory of its own")
        return self._whole(place.root).channels(place.channel, value.tensor.static_shape)

    def _whole(self, root: Value) -> Stored:
        """The memory of a family's root (:mod:`qcc.backends.llvm.placement`).

        Made when the first of the family is written; a graph input is there already.
        """
        if root.producer is None:
            return self.source(root)
        stored = self._stored.get(root)
        if stored is None:
            shape = root.tensor.static_shape
            if not is_activation(root.tensor):
                self._stored[root] = self.float_image(root.name, shape, self.halo(root))
                return self._stored[root]
            stored = self.activation(root.name, activation_layout(shape, self.halo(root)), shape)
            if stored.layout is not None and stored.layout.has_halo:
                self._fill_halo(root, replace(stored, part=HALO_PART))
            self._stored[root] = stored
        return stored

    def activation(
        self,
        name: str,
        layout: ActivationLayout,
        shape: tuple[int, ...],
        output: int | None = None,
        element: int = 1,
    ) -> Stored:
        """Memory for a temporary with ``layout`` (``element`` bytes an element)."""
        buffer = self._buffer(name, layout.size_bytes * element, output)
        return Stored(buffer, layout, shape, element)

    def dense(self, name: str, size: int, shape: tuple[int, ...], element: int) -> Stored:
        """``size`` bytes for a dense temporary of elements of ``element`` bytes."""
        return Stored(self._buffer(name, size, None), None, shape, element)

    def bind(self, value: Value, stored: Stored) -> None:
        """Say where a value is: a view of another one, or memory from :meth:`activation`."""
        self._stored[value] = stored

    def halo(self, value: Value) -> Halo:
        """The largest halo that a reader of ``value``, or of what shares its memory, wants."""
        return self._halos.get(self.placement.root(value), NO_HALO)

    def emit(
        self, kernel: Kernel, pointers: Mapping[str, Pointer], packed: Packed | None = None
    ) -> None:
        """Add a call for the current node; ``packed`` constants join the weights."""
        node = self._current
        bound = dict(pointers)
        for name, data in (packed or {}).items():
            bound[name] = self.pool.add(data, f"{kernel.name}.{name}")
        label = "" if node is None else node.label
        self.segments[-1].calls.append(Call(kernel, bound, label))
        if node is not None:
            self.kernel_names.setdefault(node, []).append(kernel)

    def only_user(self, value: Value, op: str) -> Node | None:
        """The node of ``op`` that alone reads ``value``, or None."""
        users = value.users
        if value.is_output or len(value.uses) != 1 or users[0].op != op:
            return None
        return users[0]

    # -- inside -----------------------------------------------------------------------------------

    def _buffer(self, name: str, size: int, output: int | None) -> Buffer:
        if output is not None:
            self.written_outputs.add(output)
            return Buffer(name, size, "output", index=output)
        buffer = Buffer(f"{name}#{len(self.buffers)}", size)
        self.buffers.append(buffer)
        return buffer

    def _direct_output(self, value: Value) -> int | None:
        """The graph output that ``value`` can be written to at once: nothing else reads it."""
        if len(value.uses) != 1 or not value.is_output:
            return None
        return next(i for i, v in enumerate(self.graph.outputs) if v is value)

    def _note_halos(self, node: Node) -> None:
        from qcc.backends.llvm.selectors.windows import wanted_halo

        wanted = wanted_halo(node, self.isa)
        if wanted is not None and wanted != NO_HALO and _has_room(node.operand(0)):
            value = self.placement.root(node.operand(0))
            before = self._halos.get(value, NO_HALO)
            top, left, bottom, right = (max(a, b) for a, b in zip(before, wanted, strict=True))
            self._halos[value] = (top, left, bottom, right)

    def _fill_halo(self, value: Value, stored: Stored) -> None:
        assert stored.layout is not None
        kernel = FillHaloKernel(stored.layout)
        _, zero = native_quant(value)
        self.emit(kernel, {"output": stored.pointer}, kernel.pack(self.isa, zero_point=zero))

    def _store_constant(self, value: Value) -> Stored:
        data, type_ = np.asarray(value.constant), value.tensor
        shape = type_.static_shape
        if not is_activation(type_):
            return Stored(self.pool.add(data, value.name).buffer, None, shape, data.itemsize)
        layout = activation_layout(shape)
        native = (data.astype(np.int16) + shift_of(type_)).astype(np.uint8)
        padded = np.zeros((math.prod(shape[:-1]), layout.channel_stride), np.uint8)
        padded[:, : layout.channels] = native.reshape(-1, layout.channels)
        return Stored(self.pool.add(padded, value.name).buffer, layout, shape, 1)

    def _import_activation(self, value: Value, dense: Stored) -> Stored:
        """Copy an 8-bit graph input into an activation buffer (with halo, as unsigned)."""
        from qcc.backends.llvm.selectors.moving import copy_into

        layout = activation_layout(dense.shape, self.halo(value))
        stored = self.activation(value.name, layout, dense.shape)
        copy_into(self, dense, stored)
        if shift_of(value.tensor):
            self._flip_sign(stored)
        if layout.has_halo:
            self._fill_halo(value, stored)
        return stored

    def _flip_sign(self, stored: Stored) -> None:
        from qcc.backends.llvm.selectors.elementwise import emit_table

        flipped = (np.arange(256) ^ 128).astype(np.uint8)
        emit_table(self, stored, stored, flipped)

    def _add_region(self, node: Node) -> None:
        operands: list[Stored | Value] = []
        for value in node.inputs:
            if value is None:
                continue
            in_slot = value in self.slots and value not in self._stored
            operands.append(value if in_slot else self.source(value))
        self.segments.append(Segment(region=node, operands=operands))
        self.segments.append(Segment())
        for value in node.outputs:
            self.slots[value] = len(self.slots)

    def _finish_output(self, index: int, value: Value) -> None:
        """Copy a value that was not written to the graph output directly."""
        if index in self.written_outputs or value in self.slots or value.is_constant:
            return
        from qcc.backends.llvm.selectors.moving import copy_into

        stored = self._stored[value]
        if shift_of(value.tensor):
            assert stored.layout is not None
            plain = self.activation(value.name, activation_layout(stored.shape), stored.shape)
            copy_into(self, stored, plain)
            self._flip_sign(plain)
            stored = plain
        self.written_outputs.add(index)
        buffer = Buffer(value.name, dense_bytes(value.tensor), "output", index=index)
        copy_into(self, stored, Stored(buffer, None, stored.shape, stored.element_bytes))


def _has_room(value: Value) -> bool:
    """Whether the memory of a value can have a halo."""
    return is_activation(value.tensor) or takes_halo(value)
