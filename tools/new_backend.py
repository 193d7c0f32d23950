"""Write the skeleton of a backend: its BackendConfig, its places in the project, its tests.

    python tools/new_backend.py tflite
    pytest tests/backends/tflite

The skeleton exports Q/DQ models (`qcc compile ... --target NAME -o OUT.onnx`) and claims a few
patterns; what it claims is tested against the native kernels that deliver it.  Change
``backends/NAME/config.py`` to what the backend can do: patterns from ``backends/patterns.py``, rows
from ``backends/entries.py``.  A backend outside the project needs no more than such a module and an
entry point in the group ``qcc.backends``.
"""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

CONFIG = '''"""What the {name} backend runs on integers."""

from __future__ import annotations

from qcc.backends import patterns as p
from qcc.backends.entries import gemm_axis, longest_first, movements, plain, sharing, weighted
from qcc.quant.backend_config import BackendConfig
from qcc.quant.qconfig import get_default_qconfig

_ROWS = (
    *weighted(p.CONV, "q.conv", 0, floats=False),
    *weighted(p.GEMM, "q.matmul", gemm_axis, floats=True),
    *plain(p.ADD, "q.add"),
    *sharing([p.MAX_POOL], "q.max_pool"),
    *movements(("Reshape", "Transpose")),
)

CONFIG = BackendConfig(
    "{name}", patterns=longest_first(_ROWS), default_qconfig=get_default_qconfig("{name}")
)
"""Unsigned (or signed) 8-bit activations, signed 8-bit weights per channel, int32 biases."""
'''

TEST = '''"""What the {name} backend claims."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import qcc
from qcc.backends.llvm.isa import host_instruction_set
from qcc.backends.registry import backend_config
from qcc.backends.{name}.config import CONFIG
from qcc.quant.backend_config import BackendPatternConfig
from tests.conformance.claims import check_claim

MODEL = """
    <ir_version: 10, opset_import: ["" : 21]>
    small (float[1, 1, 6, 6] x) => (float[1, 2, 4, 4] y)
    <float[2, 1, 3, 3] w = {{1, -2, 1, 0, 3, 0, 1, 1, -1, 2, 0, 1, 1, -1, 1, 0, 2, 1}}>
    {{ c = Conv(x, w)  y = Relu(c) }}"""


def test_it_is_registered() -> None:
    assert backend_config("{name}") is CONFIG


@pytest.mark.parametrize("config", CONFIG.patterns, ids=lambda config: config.name)
def test_entry(config: BackendPatternConfig) -> None:
    check_claim(CONFIG, config, host_instruction_set())


def test_it_quantizes_a_model() -> None:
    random = np.random.default_rng(0)
    feeds = [{{"x": random.normal(size=(1, 1, 6, 6)).astype(np.float32)}} for _ in range(4)]
    model = onnx.parser.parse_model(MODEL).SerializeToString()
    compiled = qcc.compile(model, feeds, target="{name}")
    assert compiled.report.int8_nodes == 2
    assert compiled.report.output_sqnr_db["y"] > 20
'''


@dataclass(frozen=True)
class Place:
    """A list in a file, found by a pattern; ``text`` joins it at the end, or in order."""

    path: str
    pattern: str
    text: str
    in_order: bool = False

    def with_backend(self, root: Path, name: str) -> str:
        """The file's new content; ValueError when the list is not there."""
        content = (root / self.path).read_text(encoding="utf-8")
        found = re.search(self.pattern, content)
        if found is None:
            raise ValueError(f"{self.path} has no list for {self.text.strip(', ')}")
        changed = found.group(0) + self.text.format(name=name)
        if self.in_order:
            changed = "".join(sorted(changed.splitlines(keepends=True)))
        return content[: found.start()] + changed + content[found.end() :]


PLACES = (
    Place(
        "backends/registry.py",
        r'BACKENDS = \{\n(    "[\w-]+": ".*",\n)+',
        '    "{name}": "qcc.backends.{name}.config",\n',
    ),
    Place(
        "qcc/quant/qconfig.py",
        r'    "tensorrt": QConfig\(.*\),\n',
        '    "{name}": QConfig(default_activation_observer, _CHANNELS),\n',
    ),
    Place(
        "pyproject.toml",
        r'(  "qcc\.backends[\w.]*",\n)+',
        '  "qcc.backends.{name}",\n',
        in_order=True,
    ),
    Place("pyproject.toml", r'modules = \["qcc\.backends\.x86"[^\]]*', ', "qcc.backends.{name}"'),
)
"""Where the project lists its backends."""


def write_backend(root: Path, name: str) -> list[str]:
    """Write and change what the backend needs; gives the paths, relative to ``root``.

    Raises ValueError in one sentence where the name cannot be used or a list is not found.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise ValueError(f"'{name}' is no name of a package: use lower-case letters, digits and _")
    code, tests = root / "backends" / name, root / "tests" / "backends" / name
    for folder in (code, tests):
        if folder.exists():
            raise ValueError(f"{folder} is there already")
    files = {
        code / "__init__.py": f'"""The {name} backend."""\n',
        code / "config.py": CONFIG.format(name=name),
        tests / "__init__.py": "",
        tests / "test_config.py": TEST.format(name=name),
    }
    code.mkdir()
    tests.mkdir()
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    for place in PLACES:
        (root / place.path).write_text(place.with_backend(root, name), encoding="utf-8")
    changed = dict.fromkeys(place.path for place in PLACES)
    return [*(path.relative_to(root).as_posix() for path in files), *changed]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="the backend's name, such as tflite")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project (default: this one)")
    chosen = parser.parse_args(arguments)
    try:
        written = write_backend(chosen.root, chosen.name)
    except ValueError as error:
        print(f"no backend was written: {error}", file=sys.stderr)
        return 1
    print("\n".join(written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
