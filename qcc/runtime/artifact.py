"""The ``.qcc`` file: one compiled model, loaded without compiling anything.

::

    0   8 bytes   magic "QCCMODEL"
    8   u32       format version
    12  u32       0
    16  u64       length of the manifest in bytes
    24  32 bytes  BLAKE2b-256 of the manifest
    56            manifest (JSON, UTF-8), then sections, each at a multiple of 64 bytes

The manifest lists every section with its offset, size and BLAKE2b-256.  Numbers are little endian.
Sections are object code (ELF) and packed weights for each variant, ONNX models of float regions,
and the zlib-compressed text of the quantized graph.  Weights are memory-mapped.  Nothing is
unpickled.  A file for several instruction sets has variants for each; a machine reads (and checks)
those of the best one that it has.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc import __version__
from qcc.backends.llvm.isa import InstructionSet, best_for_host, instruction_set, refusal
from qcc.backends.llvm.model import (
    ArraySource,
    CallRow,
    CompiledModel,
    KernelRow,
    NativeStep,
    RegionStep,
    TensorSpec,
)
from qcc.errors import ArtifactError, ConfigError
from qcc.files import atomic_file
from qcc.quant.report import CompileReport
from qcc.runtime.executable import Compile, Executable, Variant
from qcc.runtime.report import report_of_model

MAGIC = b"QCCMODEL"
FORMAT_VERSION = 2
"""Version 2 has code for given values of inputs, which earlier readers would use for all."""
_HEAD = struct.Struct("<8sIIQ32s")
_ALIGNMENT = 64


# -- writing -------------------------------------------------------------------------------------


class _Sections:
    """Collects the byte sections of a file; equal content is stored once."""

    def __init__(self) -> None:
        self.contents: list[bytes] = []
        self._known: dict[bytes, int] = {}

    def add(self, content: bytes) -> int:
        """The number of the section that holds ``content``."""
        digest = _digest(content)
        if digest not in self._known:
            self._known[digest] = len(self.contents)
            self.contents.append(content)
        return self._known[digest]


def save(executable: Executable, path: Path | str) -> None:
    """Write an artifact; whatever stood at ``path`` stays until the new file is complete.

    Raises :class:`qcc.errors.OutputError` where it cannot be written.
    """
    sections = _Sections()
    manifest = {
        "qcc": __version__,
        "target": executable.target,
        "inputs": [asdict(spec) for spec in executable.inputs],
        "outputs": [asdict(spec) for spec in executable.outputs],
        "report": executable.report.to_dict(),
        "variants": [_variant_data(v, sections) for v in _best_first(executable)],
        "graph": _graph_section(executable, sections),
        "floats": executable.floats,
    }
    head, body = _layout(manifest, sections.contents)
    with atomic_file(path) as file:
        file.write(head)
        for offset, content in body:
            file.write(b"\0" * (offset - file.tell()))
            file.write(content)


def _best_first(executable: Executable) -> list[Variant]:
    """All variants, also those that this machine does not run."""
    known = (*executable.variants, *executable.other_variants())
    return sorted(known, key=lambda variant: variant.model.isa.rank)


def _graph_section(executable: Executable, sections: _Sections) -> int | None:
    """The quantized graph as text, with its constants only where shapes are still free."""
    if executable.graph_text is not None:
        return sections.add(executable.graph_text)
    if executable.graph is None:
        return None
    from qcc.ir.print import print_graph

    text = print_graph(executable.graph, resources=executable.has_free_dimensions)
    return sections.add(zlib.compress(text.encode()))


def _variant_data(variant: Variant, sections: _Sections) -> dict[str, Any]:
    model = variant.model
    return {
        "shapes": [list(shape) for shape in variant.shapes],
        "values": [list(value) for value in variant.values],
        "isa": model.isa.name,
        "emulated": model.isa.emulated,
        "object": sections.add(model.object_code),
        "weights": sections.add(model.weights.tobytes()),
        "arena_bytes": model.arena_bytes,
        "slots": model.slots,
        "macs": model.macs,
        "steps": [_step_data(step) for step in model.steps],
        "regions": [sections.add(region) for region in model.regions],
        "inputs": [asdict(spec) for spec in model.inputs],
        "outputs": [asdict(spec) for spec in model.outputs],
        "output_sources": [asdict(source) for source in model.output_sources],
        "kernels": [asdict(row) for row in model.kernels],
    }


def _step_data(step: NativeStep | RegionStep) -> dict[str, Any]:
    kind = "native" if isinstance(step, NativeStep) else "region"
    return {"kind": kind, **asdict(step)}


def _layout(
    manifest: dict[str, Any], contents: Sequence[bytes]
) -> tuple[bytes, list[tuple[int, bytes]]]:
    """The head with the manifest, and ``(offset, content)`` of every section.

    Offsets are written relative to the first section, since they do not depend on the manifest's
    own length then.
    """
    offsets, relative = [], 0
    for content in contents:
        offsets.append(relative)
        relative += _aligned(len(content))
    table = [
        {"offset": offset, "size": len(content), "blake2b": _digest(content).hex()}
        for offset, content in zip(offsets, contents, strict=True)
    ]
    text = json.dumps({**manifest, "sections": table}, separators=(",", ":")).encode()
    head = _HEAD.pack(MAGIC, FORMAT_VERSION, 0, len(text), _digest(text)) + text
    first = _aligned(len(head))
    placed = [(first + o, content) for o, content in zip(offsets, contents, strict=True)]
    return head, placed


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=32).digest()


# -- reading -------------------------------------------------------------------------------------


def load(path: Path | str, *, threads: int = 1) -> Executable:
    """Open an artifact: map it, check it, link its object code for this CPU.

    Of several instruction sets the best that this CPU has is taken; the report speaks of it.
    Raises :class:`ArtifactError` where the file is missing, damaged, too new, or holds no code that
    this CPU runs.
    """
    file = ArtifactFile(Path(path))
    manifest = file.manifest
    try:
        target = str(manifest["target"])
        sets = file.instruction_sets()
        chosen = best_for_host(sets)
        if chosen is None:
            raise ArtifactError(refusal(f"{path} holds code for", sets))
        rows = [(instruction_set_of(row), row) for row in manifest["variants"]]
        variants = [_variant(row, file) for isa, row in rows if isa == chosen]
        others = [row for isa, row in rows if isa != chosen]
        inputs, outputs = (_specs(manifest[side]) for side in ("inputs", "outputs"))
        report = CompileReport.from_dict(manifest["report"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise file.invalid(error) from None
    plain = next((variant.model for variant in variants if not variant.values), None)
    if plain is not None:
        report = report_of_model(report, plain)
    return Executable(
        inputs,
        outputs,
        variants,
        report,
        target=target,
        threads=threads,
        compile_for=_compiler(file, manifest, target),
        graph_text=None if manifest["graph"] is None else file.content(manifest["graph"]),
        floats=bool(manifest.get("floats", False)),
        other_variants=lambda: [_variant(row, file) for row in others],
    )


def instruction_set_of(row: Mapping[str, Any]) -> InstructionSet:
    """The instruction set of a variant, as the manifest describes it; ConfigError if unknown."""
    isa = instruction_set(str(row["isa"]))
    return isa.for_emulation() if row["emulated"] else isa


class ArtifactFile:
    """A mapped artifact: what it reads is checked, the manifest first, a section when it is read.

    Raises :class:`ArtifactError` where the file is missing, no artifact, damaged or too new.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is empty"
            raise ArtifactError(f"{path} cannot be opened as an artifact: {reason}.") from None
        self.manifest = self._read_manifest()
        self._checked: set[int] = set()
        if any(len(self._view(n)) != row["size"] for n, row in enumerate(self._table)):
            raise self._damaged()

    def _read_manifest(self) -> dict[str, Any]:
        data = self._map
        if len(data) < _HEAD.size or data[: len(MAGIC)] != MAGIC:
            raise ArtifactError(f"{self.path} is not a .qcc artifact.")
        _, version, _, length, digest = _HEAD.unpack_from(data)
        if version > FORMAT_VERSION:
            raise ArtifactError(
                f"{self.path} has format version {version}, and this qcc reads up to "
                f"{FORMAT_VERSION}; use a newer qcc or compile the model again."
            )
        text = data[_HEAD.size : _HEAD.size + length]
        if len(text) != length or _digest(text) != digest:
            raise self._damaged()
        self._first = _aligned(_HEAD.size + length)
        manifest: dict[str, Any] = json.loads(text)
        return manifest

    def instruction_sets(self) -> tuple[InstructionSet, ...]:
        """Those that the file has code for or, where shapes are free, may be compiled for."""
        rows = [instruction_set_of(row) for row in self.manifest["variants"]]
        named = [instruction_set(name) for name in str(self.manifest["target"]).split(",")]
        return tuple(dict.fromkeys((*rows, *named)))

    def invalid(self, error: Exception) -> ArtifactError:
        """What to raise where the manifest does not say what it should."""
        return ArtifactError(
            f"{self.path} is not a valid artifact ({error}); compile the model again."
        )

    def _damaged(self) -> ArtifactError:
        return ArtifactError(
            f"{self.path} is damaged or cut off (a checksum does not match); compile it again."
        )

    @property
    def _table(self) -> list[dict[str, Any]]:
        table: list[dict[str, Any]] = self.manifest["sections"]
        return table

    def size(self, number: int) -> int:
        """Bytes of a section."""
        return int(self._table[number]["size"])

    def _view(self, number: int) -> memoryview:
        start = self._first + int(self._table[number]["offset"])
        return memoryview(self._map)[start : start + self.size(number)]

    def _verified(self, number: int) -> memoryview:
        view = self._view(number)
        if number not in self._checked:
            if _digest(view).hex() != self._table[number]["blake2b"]:
                raise self._damaged()
            self._checked.add(number)
        return view

    def content(self, number: int) -> bytes:
        """A section as bytes."""
        return bytes(self._verified(number))

    def array(self, number: int) -> NDArray[np.uint8]:
        """A section as a read-only view of the mapped file."""
        return np.frombuffer(self._verified(number), np.uint8)


def _variant(row: Mapping[str, Any], file: ArtifactFile) -> Variant:
    model = CompiledModel(
        isa=instruction_set_of(row),
        object_code=file.content(row["object"]),
        source="",
        weights=file.array(row["weights"]),
        arena_bytes=int(row["arena_bytes"]),
        steps=tuple(_step(step) for step in row["steps"]),
        regions=tuple(file.content(number) for number in row["regions"]),
        inputs=_specs(row["inputs"]),
        outputs=_specs(row["outputs"]),
        output_sources=tuple(_source(source) for source in row["output_sources"]),
        slots=int(row["slots"]),
        macs=int(row["macs"]),
        kernels=tuple(KernelRow(k["node"], k["op"], tuple(k["kernels"])) for k in row["kernels"]),
    )
    values = tuple((str(name), int(value)) for name, value in row.get("values", ()))
    return Variant(tuple(tuple(shape) for shape in row["shapes"]), model, values)


def _specs(rows: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(r["name"], r["dtype"], None if r["shape"] is None else tuple(r["shape"]))
        for r in rows
    )


def _source(row: Mapping[str, Any]) -> ArraySource:
    return ArraySource(**{**row, "shape": tuple(row["shape"])})


def _step(row: Mapping[str, Any]) -> NativeStep | RegionStep:
    if row["kind"] == "native":
        calls = (CallRow(c["node"], c["kernel"], c["macs"]) for c in row.get("calls", ()))
        return NativeStep(row["symbol"], tuple(calls))
    return RegionStep(
        model=row["model"],
        inputs=tuple(_source(source) for source in row["inputs"]),
        slots=tuple(row["slots"]),
        label=row["label"],
        reason=row["reason"],
    )


def _compiler(file: ArtifactFile, manifest: Mapping[str, Any], target: str) -> Compile | None:
    """Compiles for further shapes, from the graph that an artifact with free dimensions holds."""
    free = any(spec["shape"] is None or None in spec["shape"] for spec in manifest["inputs"])
    if not free or manifest["graph"] is None:
        return None

    def compile_for(shapes: Mapping[str, tuple[int, ...]]) -> CompiledModel:
        from qcc.backends.llvm.compile import compile_numbered
        from qcc.ir.parse import parse_graph
        from qcc.runtime.build import backend_of, target_instruction_set

        graph = parse_graph(zlib.decompress(file.content(manifest["graph"])).decode())
        isa = target_instruction_set(target)
        floats = bool(manifest.get("floats", False))
        patterns = backend_of(isa).patterns
        return compile_numbered(graph, isa, patterns, shapes, floats=floats).model

    return compile_for
