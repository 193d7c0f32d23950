"""An exported model is loaded and run before it is given to anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qcc.errors import ModelError
from qcc.ir.core import Array, Graph, Stage
from qcc.runtime.comparison import sqnr_from_power

SAMPLES = 8
"""How many kept samples the exported model runs on."""

LEAST_AGREEMENT_DB = 20.0
"""Least SQNR of the exported model in onnxruntime against the reference evaluator.

Both round the same values; they may part by a step where a float sum falls on the edge between two,
and a later layer may carry such a step on, so agreement is far above this unless the file computes
something else than the graph.
"""


@dataclass(frozen=True)
class ExportCheck:
    """What was learnt from running an export.

    ``agreement_db``: the least SQNR of a float output against the reference evaluator;
    ``outputs`` and ``expected`` are all outputs in onnxruntime and in the evaluator, by sample.
    """

    model_bytes: int
    weight_bytes: int
    agreement_db: float | None
    outputs: tuple[Mapping[str, Array], ...] = field(repr=False, default=())
    expected: tuple[Mapping[str, Array], ...] = field(repr=False, default=())


def check_export(
    graph: Graph, path: Path, samples: Sequence[Mapping[str, Array]], *, rounded: bool = False
) -> ExportCheck:
    """Load the ONNX form of a NUMBERED ``graph``, at ``path``, and run it on ``samples``.

    Nothing else lies in its folder.

    Optimizations are off and Q/DQ nodes run as they are written, so that the file itself is what is
    tested; ``rounded`` says that it computes in another float type than the graph, so results may
    differ.  Raises ModelError when onnxruntime refuses the model, or computes something else.
    """
    from qcc.ref.evaluate import evaluate

    size = sum(file.stat().st_size for file in path.parent.iterdir())
    session = _session(path)
    names = [output.name for output in session.get_outputs()]
    outputs, expected = [], []
    least: float | None = None
    for feeds in samples:
        got = dict(zip(names, session.run(names, dict(feeds)), strict=True))
        outputs.append(got)
        # Graphs without integers are of onnxruntime's own ops: there is nothing to hold it against.
        expected.append(evaluate(graph, feeds) if graph.stage is Stage.NUMBERED else got)
        agreement = _agreement(expected[-1], got)
        least = agreement if least is None else min(least, agreement)
    if not rounded and least is not None and not least >= LEAST_AGREEMENT_DB:
        raise ModelError(
            f"the exported model differs from the quantized graph in onnxruntime ({least:.1f} dB "
            "SQNR): this is an error of the export or of onnxruntime; please report the model"
        )
    weights = sum(c.constant.nbytes for c in graph.constants.values() if c.constant is not None)
    return ExportCheck(size, weights, least, tuple(outputs), tuple(expected))


def _session(model: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"onnxruntime refuses the exported model: {reason}") from None


def _agreement(expected: Mapping[str, Array], got: Mapping[str, Array]) -> float:
    least = float("inf")
    for name, array in expected.items():
        if not np.issubdtype(np.asarray(array).dtype, np.floating):
            continue
        x, y = np.asarray(array, np.float64), np.asarray(got[name], np.float64)
        signal, noise = float((x * x).sum()), float(((x - y) ** 2).sum())
        least = min(least, sqnr_from_power(signal, noise))
    return least


def float_outputs(
    graph: Graph | None, samples: Sequence[Mapping[str, Array]]
) -> list[dict[str, Array]]:
    """All outputs of the float model for each sample; nothing where there is no float model."""
    if graph is None:
        return []
    from qcc.ref.evaluate import evaluate

    return [evaluate(graph, feeds) for feeds in samples]


def output_sqnr(
    expected: Sequence[Mapping[str, Array]], got: Sequence[Mapping[str, Array]]
) -> dict[str, float]:
    """SQNR in dB of each float output over samples: ``expected`` from the float model."""
    result = {}
    for name, array in (expected[0] if expected else {}).items():
        if not np.issubdtype(np.asarray(array).dtype, np.floating):
            continue
        pairs = [
            (np.asarray(a[name], np.float64), b[name]) for a, b in zip(expected, got, strict=True)
        ]
        signal = sum(float((x * x).sum()) for x, _ in pairs)
        noise = sum(float(((x - y) ** 2).sum()) for x, y in pairs)
        result[name] = sqnr_from_power(signal, noise)
    return result
