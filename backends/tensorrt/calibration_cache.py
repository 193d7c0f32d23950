"""The calibration cache of TensorRT 8 to 10: scales of a float model for implicit quantization.

Text: a line that names version and algorithm, then ``<tensor>: <hex>`` for each tensor, the hex
being its scale as a big-endian float32.  TensorRT 11 reads no such files; ModelOpt does
(``--calibration_cache_path``).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from qcc.errors import ConfigError

HEADER = "TRT-8501-EntropyCalibration2"
"""As TensorRT 8.5.1 writes it; readers look at the algorithm."""

SEPARATOR = ": "


def cache_text(scales: Mapping[str, float]) -> str:
    """The file's text for ``scales`` by tensor name.

    Raises ConfigError for a name that the format cannot hold.
    """
    bad = next((name for name in scales if SEPARATOR in name or "\n" in name), None)
    if bad is not None:
        raise ConfigError(
            f"the tensor '{bad}' cannot stand in a calibration cache, where ': ' ends a name: "
            "rename it in the model"
        )
    lines = [f"{name}{SEPARATOR}{struct.pack('>f', scale).hex()}" for name, scale in scales.items()]
    return "\n".join([HEADER, *lines, ""])
