"""Stored values as strided views over their logical axes."""

from __future__ import annotations

import math

from qcc.backends.llvm.buffers import Stored
from qcc.backends.llvm.kernels.nest import View, dense_view


def view_of(stored: Stored) -> View:
    """Where the elements of ``stored.shape`` lie, in bytes from its pointer."""
    size, shape, layout = stored.element_bytes, stored.shape, stored.layout
    if layout is None:
        return dense_view(shape, size)
    inner = (layout.image_bytes, layout.row_bytes, layout.channel_stride, 1)
    image, row, pixel, element = (stride * size for stride in inner)
    rank = len(shape)
    if rank < 4:
        strides = {0: (), 1: (element,), 2: (pixel, element), 3: (image, pixel, element)}[rank]
    else:
        leading = tuple(image * math.prod(shape[axis + 1 : -3]) for axis in range(rank - 3))
        strides = (*leading, row, pixel, element)
    return View(layout.interior_offset * size, strides)
