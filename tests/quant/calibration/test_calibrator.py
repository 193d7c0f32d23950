"""Streaming calibration: chunks, variable shapes, kept samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from qcc.errors import DataError
from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Array, Graph
from qcc.ir.types import float32
from qcc.quant.calibration.calibrator import Calibrator
from qcc.quant.calibration.spill import KeptSamples, Spill
from qcc.quant.observers import MinMaxObserver

SPEC = MinMaxObserver.with_args()


def chain() -> Graph:
    b = GraphBuilder()
    x = b.input("x", float32("N", 2, "H"))
    y = b.op.Mul(x, 2.0, _outputs=["y"])[0]
    z = b.op.Add(y, 1.0, _outputs=["z"])[0]
    return b.output(z)


def batches(count: int) -> Iterator[dict[str, Array]]:
    for index in range(count):
        yield {"x": np.full((1 + index % 2, 2, 3 + index), index, np.float32)}


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 28])
def test_every_value_is_seen_whatever_the_chunks(chunk_bytes: int) -> None:
    calibrator = Calibrator(chain(), dict.fromkeys("xyz", SPEC), chunk_bytes=chunk_bytes)
    assert calibrator.run(batches(5)) == 5
    tops = {name: calibrator.parameters(name).real_range[1][0] for name in "xyz"}
    assert tops == pytest.approx({"x": 4.0, "y": 8.0, "z": 9.0}, rel=1e-5)


def test_calibration_can_go_on() -> None:
    calibrator = Calibrator(chain(), {"y": SPEC})
    calibrator.run(batches(2))
    calibrator.run(batches(4))
    assert calibrator.parameters("y").real_range[1][0] == pytest.approx(6.0, rel=1e-5)


def test_progress_counts_batches() -> None:
    seen: list[tuple[str, int, int | None]] = []
    Calibrator(chain(), {"y": SPEC}).run(
        list(batches(3)), lambda stage, done, total: seen.append((stage, done, total))
    )
    assert seen == [("calibrate", done, 3) for done in range(4)]


def test_errors_name_the_batch_and_the_value() -> None:
    calibrator = Calibrator(chain(), {"y": SPEC})
    with pytest.raises(DataError, match="calibration batch 1 gives float64"):
        calibrator.run([next(batches(1)), {"x": np.zeros((1, 2, 3))}])
    with pytest.raises(DataError, match="'z' was not observed"):
        calibrator.parameters("z")


def test_kept_samples_are_a_bounded_choice_of_all() -> None:
    kept = KeptSamples(8)
    for index in range(100):
        kept.offer({"x": np.full(3, index, np.float32)})
    found = {int(kept[place]["x"][0]) for place in range(len(kept))}
    assert len(kept) == 8
    assert len(found) == 8
    assert max(found) > 30
    again = KeptSamples(8)
    for index in range(100):
        again.offer({"x": np.full(3, index, np.float32)})
    assert found == {int(again[place]["x"][0]) for place in range(8)}


def test_a_spill_gives_back_what_it_took_and_reuses_space() -> None:
    with Spill() as spill:
        arrays = [np.arange(4), np.float32(2.5), np.zeros((0, 3)), np.asarray([True, False])]
        for sample, array in enumerate(arrays):
            spill.put("a", sample, np.asarray(array))
        for sample, array in enumerate(arrays):
            found = spill.get("a", sample)
            assert found.dtype == np.asarray(array).dtype
            np.testing.assert_array_equal(found, array)
            assert found.shape == np.shape(array)
        size = spill.size
        spill.drop("a")
        with pytest.raises(KeyError):
            spill.get("a", 0)
        spill.put("b", 0, np.arange(4)[::-1])
        np.testing.assert_array_equal(spill.get("b", 0), [3, 2, 1, 0])
        assert spill.size == size
        spill.put("b", 0, np.asarray(["x", "yz"], object))
        assert list(spill.get("b", 0)) == ["x", "yz"]
