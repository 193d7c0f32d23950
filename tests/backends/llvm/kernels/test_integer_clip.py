"""Integers between bounds."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.llvm.kernels.integer_clip import IntegerClipKernel
from qcc.errors import ConfigError
from tests.backends.llvm.kernels.buffers import FLOAT_ISAS, blank, bytes_of
from tests.backends.llvm.native import executable_form, run


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 65])
def test_clip(count: int, bits: int, isa: str) -> None:
    kind = np.dtype(f"int{bits}")
    x = np.random.default_rng(count).integers(-300, 600, count).astype(kind)
    x[0] = np.iinfo(kind).min
    x[-1] = np.iinfo(kind).max
    kernel = IntegerClipKernel(count, 32 if bits == 32 else 64, -1, 257)
    target = blank(x.nbytes)
    run(kernel, executable_form(isa), {"source": bytes_of(x), "target": target}, 2)
    assert target.tobytes() == np.clip(x, -1, 257).astype(kind).tobytes()


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="one element"):
        IntegerClipKernel(0, 32, 0, 1)
    with pytest.raises(ConfigError, match="int32"):
        IntegerClipKernel(1, 32, 0, 2**31)
