"""The steps of quantization and lowering that read a BackendConfig, as passes of ``qcc opt``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcc.backends.llvm.native_float import has_native_kernel
from qcc.backends.registry import backend_config
from qcc.ir.core import Graph, Stage
from qcc.ir.rewrite import Rewriter
from qcc.passes.insert_observers import insert_observers, plan_observation
from qcc.passes.layout import convert_layout
from qcc.passes.lower import lower
from qcc.passes.manager import Pass
from qcc.passes.outline_float import outline_float
from qcc.passes.select_fusions import select_fusions


@dataclass(frozen=True)
class InsertObservers(Pass):
    """Choose the fusions of a backend and put a q.observe where a value will be quantized."""

    backend: str = "x86"

    name: ClassVar[str] = "insert-observers"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    produces: ClassVar[Stage | None] = Stage.OBSERVED
    exact: ClassVar[bool] = True

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` in place, with the backend's default QConfigMapping."""
        config = backend_config(self.backend)
        plan = select_fusions(graph, config, config.default_mapping)
        observation = plan_observation(plan)
        insert_observers(graph, plan, observation)
        graph.stage = Stage.OBSERVED
        rewriter.changes += len(observation.slots)


@dataclass(frozen=True)
class Lower(Pass):
    """Turn dequantize, float ops, quantize groups into the integer ops of a backend."""

    backend: str = "x86"

    name: ClassVar[str] = "lower"
    requires: ClassVar[Stage | None] = Stage.NUMBERED
    produces: ClassVar[Stage | None] = Stage.LOWERED

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` in place."""
        report = lower(graph, backend_config(self.backend).patterns)
        rewriter.changes += len(report.fused)


@dataclass(frozen=True)
class OutlineFloat(Pass):
    """Group the float nodes that have no native kernel into q.region nodes for onnxruntime."""

    name: ClassVar[str] = "outline-float"
    requires: ClassVar[Stage | None] = Stage.LOWERED
    exact: ClassVar[bool] = True

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` in place."""
        rewriter.changes += len(outline_float(graph, None, has_native_kernel))


@dataclass(frozen=True)
class Layout(Pass):
    """Bring images into NHWC order; transposes sink and cancel."""

    name: ClassVar[str] = "layout"
    requires: ClassVar[Stage | None] = Stage.LOWERED
    exact: ClassVar[bool] = True

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` in place."""
        rewriter.changes += convert_layout(graph)
