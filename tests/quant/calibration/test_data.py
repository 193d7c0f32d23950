"""Sample sources: each kind gives its batches, each mistake one clear sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qcc.errors import ConfigError, DataError
from qcc.quant.calibration.batches import InputSpec, check_batch, checked_batches
from qcc.quant.calibration.data import open_data
from qcc.quant.calibration.images import ImageOptions

IMAGE = InputSpec("x", ("N", 3, 4, 6), "float32")
FIXED = InputSpec("x", (2, 3), "float32")
SCALAR = InputSpec("rate", (), "int64")


def test_npz_is_cut_along_the_batch_axis(tmp_path: Path) -> None:
    data = np.arange(5 * 3 * 4 * 6, dtype=np.float32).reshape(5, 3, 4, 6)
    np.savez(tmp_path / "a.npz", x=data)
    source = open_data(tmp_path / "a.npz", [IMAGE])
    batches = list(source)
    assert source.count == 5
    assert [b["x"].shape for b in batches] == [(1, 3, 4, 6)] * 5
    np.testing.assert_array_equal(np.concatenate([b["x"] for b in batches]), data)


def test_npz_with_one_more_axis_holds_whole_feeds(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((7, 2, 3), np.float32))
    assert [b["x"].shape for b in open_data(tmp_path / "a.npz", [FIXED])] == [(2, 3)] * 7


def test_a_fixed_batch_size_cuts_into_pieces_of_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((6, 3), np.float32))
    assert len(list(open_data(tmp_path / "a.npz", [FIXED]))) == 3
    np.savez(tmp_path / "b.npz", x=np.zeros((5, 3), np.float32))
    with pytest.raises(DataError, match="multiple of its batch size 2"):
        open_data(tmp_path / "b.npz", [FIXED])


def test_a_scalar_input_is_repeated(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 3, 4, 6), np.float32), rate=np.int64(16000))
    batches = list(open_data(tmp_path / "a.npz", [IMAGE, SCALAR]))
    assert [int(b["rate"]) for b in batches] == [16000] * 4


def test_npy_and_unnamed_arrays_go_to_the_only_input(tmp_path: Path) -> None:
    data = np.zeros((2, 3, 4, 6), np.float32)
    np.save(tmp_path / "a.npy", data)
    np.savez(tmp_path / "b.npz", data)
    for name in ("a.npy", "b.npz"):
        assert len(list(open_data(tmp_path / name, [IMAGE]))) == 2
    with pytest.raises(DataError, match="takes 2 inputs"):
        list(open_data(tmp_path / "a.npy", [IMAGE, SCALAR]))


def test_a_folder_is_read_in_name_order_and_capped(tmp_path: Path) -> None:
    for index in (2, 0, 1):
        np.savez(tmp_path / f"{index}.npz", x=np.full((1, 3, 4, 6), index, np.float32))
    found = [float(b["x"].flat[0]) for b in open_data(tmp_path, [IMAGE], samples=2)]
    assert found == [0.0, 1.0]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_images_are_resized_and_normalized(tmp_path: Path, layout: str) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((9, 9, 3), 255, np.uint8)).save(tmp_path / "a.png")
    shape = ("N", 3, 4, 6) if layout == "nchw" else ("N", 4, 6, 3)
    options = ImageOptions(mean=(0.5,), std=(0.25,), layout=layout)
    source = open_data(tmp_path, [InputSpec("x", shape, "float32")], images=options)
    (batch,) = source
    assert batch["x"].shape == (1, *shape[1:])
    np.testing.assert_allclose(batch["x"], 2.0)


def test_uint8_images_are_not_scaled(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save(tmp_path / "a.png")
    (batch,) = open_data(tmp_path / "a.png", [InputSpec("x", (1, 3, 4, 6), "uint8")])
    assert batch["x"].dtype == np.uint8
    assert int(batch["x"].min()) == 200


def test_images_need_a_size_and_a_fitting_layout(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "a.png")
    free = InputSpec("x", ("N", 3, "H", "W"), "float32")
    with pytest.raises(DataError, match="--image-size"):
        list(open_data(tmp_path, [free]))
    assert len(list(open_data(tmp_path, [free], images=ImageOptions(size=(4, 4))))) == 1
    with pytest.raises(DataError, match="--layout"):
        list(open_data(tmp_path, [IMAGE], images=ImageOptions(layout="nhwc")))
    with pytest.raises(ConfigError, match="nchw or nhwc"):
        ImageOptions(layout="hwc")


def test_a_function_yields_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loader_of_batches.py").write_text(
        "import numpy as np\n"
        "def batches():\n    yield {'x': np.zeros((1, 3, 4, 6), np.float32)}\n"
        "def number():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(list(open_data("loader_of_batches:batches", [IMAGE]))) == 1
    with pytest.raises(DataError, match="has no function 'other'"):
        open_data("loader_of_batches:other", [IMAGE])
    with pytest.raises(DataError, match="must yield dicts"):
        list(open_data("loader_of_batches:number", [IMAGE]))
    with pytest.raises(DataError, match="cannot be imported"):
        open_data("no_such_module_here:f", [IMAGE])


def test_sources_that_are_not_there_or_are_not_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no calibration data at"):
        open_data(tmp_path / "missing.npz", [IMAGE])
    with pytest.raises(DataError, match=r"holds no \.npz"):
        open_data(tmp_path, [IMAGE])
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(DataError, match="cannot be read"):
        open_data(broken, [IMAGE])
    (tmp_path / "a.txt").write_text("no")
    with pytest.raises(DataError, match="no calibration file"):
        open_data(tmp_path / "a.txt", [IMAGE])


GOOD = np.zeros((1, 3, 4, 6), np.float32)


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        ([1, 2], "give a dict"),
        ({"y": GOOD}, "has 'y', which the model does not take and lacks the input 'x'"),
        ({"x": GOOD.astype(np.float64)}, r"convert it with astype\('float32'\)"),
        ({"x": GOOD[0]}, "has 4 dimensions"),
        ({"x": np.zeros((1, 3, 4, 5), np.float32)}, "dimension 3 must be 6"),
        ({"x": np.zeros((0, 3, 4, 6), np.float32)}, "empty array"),
        ({"x": np.full((1, 3, 4, 6), np.nan, np.float32)}, "holds NaN in the input 'x'"),
        ({"x": np.full((1, 3, 4, 6), np.inf, np.float32)}, "holds infinite values"),
    ],
)
def test_a_bad_batch_is_one_sentence(batch: object, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        check_batch(batch, [IMAGE], "calibration batch 3")
    assert str(caught.value).startswith("calibration batch 3")
    assert "\n" not in str(caught.value)


def test_no_batches_at_all() -> None:
    with pytest.raises(DataError, match="hold no samples"):
        list(checked_batches([], [IMAGE]))
