"""Packed weights in a file of their own: 64 bytes that say whose they are, then the weights.

::

    0   8 bytes   magic "QCCWGHT1"
    8   u64       identity of the model
    16  u64       bytes of the weights
    24  40 bytes  0
    64            the weights

Numbers are little endian.  The file is used where it lies: mapped, or read to a 64-byte boundary.
"""

from __future__ import annotations

import struct

from numpy import uint8
from numpy.typing import NDArray

MAGIC = b"QCCWGHT1"
_HEAD = struct.Struct("<8sQQ40x")
HEAD_BYTES = _HEAD.size


def weights_content(identity: int, weights: NDArray[uint8]) -> bytes:
    """The bytes of the file; ``identity`` is that of the interface which reads it."""
    return _HEAD.pack(MAGIC, identity, weights.size) + weights.tobytes()
