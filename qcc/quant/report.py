"""What a compilation says about itself: one row a node, and a few sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class NodeReport:
    """How one node of the float model ended up.

    ``fused`` names the float nodes of the group (this one included); ``kernel`` and ``isa``
    are empty for export targets; ``reason`` says why a node is float (empty for int8 nodes);
    ``sqnr_db`` compares the group's quantized output with the float one on calibration samples.
    """

    name: str
    op: str
    dtype: str
    fused: tuple[str, ...] = ()
    kernel: str = ""
    isa: str = ""
    reason: str = ""
    output_scale: float | None = None
    output_zero_point: int | None = None
    sqnr_db: float | None = None

    @property
    def is_int8(self) -> bool:
        """Whether the node is quantized: to 8-bit integers, or to what was asked for instead."""
        return self.dtype != "float32"


@dataclass(frozen=True)
class CompileReport:
    """The whole compilation, for ``target``: an export target or names of instruction sets.

    Sizes are in bytes.  ``output_sqnr_db`` maps each float output to its signal-to-quantization-
    noise ratio on kept calibration samples.  ``notes`` are sentences about adjustments (raised
    weight scales, skipped corrections).
    """

    target: str
    nodes: tuple[NodeReport, ...] = ()
    model_bytes: int = 0
    output_bytes: int = 0
    weight_bytes: int = 0
    arena_bytes: int = 0
    output_sqnr_db: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def quantized_type(self) -> str:
        """What nodes are quantized to: ``int8``, or ``float8`` or ``int4`` where asked for."""
        return next((node.dtype for node in self.nodes if node.is_int8), "int8")

    @property
    def int8_nodes(self) -> int:
        """How many nodes are quantized."""
        return sum(node.is_int8 for node in self.nodes)

    @property
    def float_nodes(self) -> int:
        """How many nodes stay float."""
        return len(self.nodes) - self.int8_nodes

    def float_reasons(self) -> list[tuple[str, int]]:
        """Reasons why nodes are float, most frequent first."""
        return Counter(node.reason for node in self.nodes if not node.is_int8).most_common()

    def with_(self, **changes: Any) -> CompileReport:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the sums included."""
        data = asdict(self)
        data["output_sqnr_db"] = dict(self.output_sqnr_db)
        data["int8_nodes"], data["float_nodes"] = self.int8_nodes, self.float_nodes
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CompileReport:
        """The inverse of :meth:`to_dict`."""
        names = {f for f in cls.__dataclass_fields__ if f != "nodes"}
        nodes = tuple(
            NodeReport(**{**node, "fused": tuple(node["fused"])}) for node in data["nodes"]
        )
        kept = {key: value for key, value in data.items() if key in names}
        return cls(**{**kept, "nodes": nodes, "notes": tuple(kept.get("notes", ()))})

    def __str__(self) -> str:
        lines = [f"target {self.target}: {self.int8_nodes} nodes int8, {self.float_nodes} float"]
        for node in self.nodes:
            where = f"{node.kernel} {node.isa}".strip() or node.dtype
            detail = node.reason if not node.is_int8 else " + ".join(node.fused)
            lines.append(f"  {node.name:40} {node.op:20} {where:24} {detail}")
        return "\n".join(lines)
