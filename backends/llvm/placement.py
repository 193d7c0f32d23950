"""Which values share memory: concatenations and slices along the channels that move nothing.

The operands of a concatenation can be written where the result wants them, and a slice can be read
where its operand lies: every pixel of the whole has a few more channels than the part needs, and
kernels step over those (``ActivationLayout.channel_stride``).  Values of one memory are a *family*;
its root is the value that holds all channels, and every other one begins at some channel of it.

This is decided before kernels are selected, on the laid-out graph.  A value joins a family where

* nothing has to be computed: it has the root's element type, scale and zero point included;
* it begins at a multiple of 4 channels, and its own are a multiple of 4 or the root's last (kernels
  write channels four at a time);
* its producer writes through :meth:`Planner.result`, and no reader would lose by the gaps
  (:func:`_reads_gaps`);
* it is an 8-bit activation, or a float32 value whose maker and readers step over gaps
  (:func:`qcc.backends.llvm.buffers.takes_halo`).
"""

from __future__ import annotations

from dataclasses import dataclass

from qcc.backends.llvm.buffers import is_activation, takes_halo
from qcc.ir.core import Graph, Node, Value
from qcc.ir.ops import attribute

GROUP = 4
"""Channels that kernels write together."""


@dataclass(frozen=True)
class Place:
    """Channels of ``root`` from ``channel`` on."""

    root: Value
    channel: int


class Placement:
    """Where the values of a laid-out graph lie that share memory."""

    def __init__(self, graph: Graph) -> None:
        families = _Families()
        self._views: set[Value] = set()
        for node in graph.nodes:
            if _is_part(node):
                is_view = all(_reads_gaps(reader, node.output) for reader in node.output.users)
                families.add_slice(node, stored=is_view)
                self._views |= {node.output} if is_view else set()
            elif node.op == "q.concat" and _on_channels(node):
                families.add_concat(node)
        self._stored, self._contents = families.stored, families.contents
        self._roots = {place.root for place in self._stored.values()}

    def place(self, value: Value) -> Place | None:
        """Where a value lies that is not in memory of its own."""
        return self._stored.get(value)

    def root(self, value: Value) -> Value:
        """The value whose memory holds ``value``; itself where it has memory of its own."""
        place = self.place(value)
        return value if place is None else place.root

    def is_root(self, value: Value) -> bool:
        """Whether other values lie in the memory of this one."""
        return value in self._roots

    def is_view(self, value: Value) -> bool:
        """Whether the value is a slice that is read where its operand lies."""
        return value in self._views

    def holds(self, whole: Value, first: int, part: Value) -> bool:
        """Whether channels ``first`` and on of ``whole`` are ``part`` without a copy.

        A slice that was copied for the sake of its readers still is where its operand lies.
        """
        place = self._stored.get(whole, Place(whole, 0))
        return self._contents.get(part) == Place(place.root, place.channel + first)


def _channels(value: Value) -> int:
    return value.tensor.static_shape[-1]


def _on_channels(node: Node) -> bool:
    rank = len(node.output.tensor.static_shape)
    return _has_gaps(node.output) and int(attribute(node, "axis")) % rank == rank - 1


def _has_gaps(value: Value) -> bool:
    """Whether the pixels of a value may lie apart."""
    return is_activation(value.tensor) or takes_halo(value)


def _is_part(node: Node) -> bool:
    """Whether the node is a slice of channels that could be read where its operand lies."""
    source, result = node.operand(0), node.output
    if node.op != "q.slice" or not (_has_gaps(result) and _has_gaps(source)):
        return False
    starts, steps = attribute(node, "starts"), attribute(node, "steps")
    return (
        source.constant is None
        and source.tensor.element == result.tensor.element
        and source.tensor.static_shape[:-1] == result.tensor.static_shape[:-1]
        and not any(int(i) for i in starts[:-1])
        and all(int(i) == 1 for i in steps)
        and int(starts[-1]) % GROUP == 0
    )


def _reads_gaps(reader: Node, value: Value) -> bool:
    """Whether a reader is as good with other channels between the pixels of ``value``.

    A convolution of several columns reads the pixels of a row as one run where they lie side by
    side; losing that costs about what a copy costs.  A reshape would have to copy.
    """
    if reader.op == "q.reshape":
        return False
    if reader.op != "q.conv" or reader.operand(0) is not value:
        return True
    grouped = int(attribute(reader, "group")) > 1
    return grouped or reader.operand(1).tensor.static_shape[3] == 1


def _is_written(value: Value) -> bool:
    """Whether the value's kernel can write it anywhere (a reshape may only rename memory)."""
    maker = value.producer
    if maker is None or maker.op in ("q.reshape", "q.region"):
        return False
    return maker.domain == "q" or takes_halo(value)


class _Families:
    """The places found so far: where values are stored, and where their contents are, too."""

    def __init__(self) -> None:
        self.stored: dict[Value, Place] = {}
        self.contents: dict[Value, Place] = {}
        self._members: dict[Value, list[Value]] = {}

    def add_slice(self, node: Node, *, stored: bool) -> None:
        """A slice's content lies in its operand's memory; it is ``stored`` there as a view."""
        place = _place(self.contents, node.operand(0))
        first = place.channel + int(attribute(node, "starts")[-1])
        self._join(node.output, Place(place.root, first), stored=stored)

    def add_concat(self, node: Node) -> None:
        """Move the families of operands into the result's memory, as far as they fit."""
        whole, first = node.output, 0
        firsts: list[tuple[Value, int]] = []
        for value in node.inputs:
            if value is not None:
                firsts.append((value, first))
                first += _channels(value)
        for value, first in firsts:
            place = _place(self.contents, value)
            start = first - place.channel
            if place.root is not whole and self._fits(place.root, start, whole, firsts):
                self._join(place.root, Place(whole, start), stored=True)

    def _fits(self, root: Value, start: int, whole: Value, firsts: list[tuple[Value, int]]) -> bool:
        """Whether ``root`` can lie at channel ``start`` of a concatenation."""
        end = start + _channels(root)
        if start < 0 or end > _channels(whole) or start % GROUP:
            return False
        if _channels(root) % GROUP and end != _channels(whole):
            return False
        if root.tensor.element != whole.tensor.element or not _is_written(root):
            return False
        if not _has_gaps(root):
            return False
        if not all(_reads_gaps(reader, root) for reader in root.users):
            return False
        return all(
            _place(self.contents, value) == Place(root, first - start)
            for value, first in firsts
            if first < end and first + _channels(value) > start
        )

    def _join(self, value: Value, place: Place, *, stored: bool) -> None:
        """``value`` and what lies in it get a place in a larger root."""
        for member in self._members.pop(value, []):
            for places in (self.stored, self.contents):
                if member in places:
                    channel = place.channel + places[member].channel
                    places[member] = Place(place.root, channel)
            self._members.setdefault(place.root, []).append(member)
        self._members.setdefault(place.root, []).append(value)
        self.contents[value] = place
        if stored:
            self.stored[value] = place


def _place(places: dict[Value, Place], value: Value) -> Place:
    """A value's place; a root lies in itself."""
    return places.get(value, Place(value, 0))
