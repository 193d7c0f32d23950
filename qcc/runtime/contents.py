"""What a ``.qcc`` file holds, whether or not this machine runs any of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qcc.backends.llvm.isa import best_for_host, can_run
from qcc.errors import ConfigError
from qcc.runtime.artifact import ArtifactFile, instruction_set_of


@dataclass(frozen=True)
class CodeRow:
    """Code for one instruction set and one set of input shapes.

    ``values`` are the inputs' values that it is made for (empty: all); ``runs`` says whether this
    machine can run it; sizes are in bytes; ``regions`` counts what onnxruntime runs.
    """

    instruction_set: str
    runs: bool
    shapes: tuple[tuple[int, ...], ...]
    values: tuple[tuple[str, int], ...]
    object_bytes: int
    weight_bytes: int
    arena_bytes: int
    regions: int


@dataclass(frozen=True)
class Contents:
    """A whole file.

    ``running`` is the instruction set of ``targets`` whose code runs on this machine (empty: none);
    ``inputs`` and ``outputs`` are names, numpy dtypes and shapes, in which None is free.
    """

    path: str
    qcc_version: str
    targets: tuple[str, ...]
    running: str
    inputs: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]
    code: tuple[CodeRow, ...]
    int8_nodes: int
    float_nodes: int
    file_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        does = f"{self.running} runs here" if self.running else "this machine runs none of it"
        return f"{self.path} holds code for {', '.join(self.targets)}; {does}"


def contents_of(path: Path | str) -> Contents:
    """Read the manifest of an artifact.

    Raises :class:`qcc.errors.ArtifactError` where the file is missing, damaged or too new.
    """
    file = ArtifactFile(Path(path))
    try:
        return _contents(file)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise file.invalid(error) from None


def _contents(file: ArtifactFile) -> Contents:
    manifest = file.manifest
    best = best_for_host(file.instruction_sets())
    report = manifest["report"]
    return Contents(
        path=str(file.path),
        qcc_version=str(manifest["qcc"]),
        targets=tuple(str(manifest["target"]).split(",")),
        running="" if best is None else best.name,
        inputs=tuple(manifest["inputs"]),
        outputs=tuple(manifest["outputs"]),
        code=tuple(_code_row(row, file) for row in manifest["variants"]),
        int8_nodes=int(report["int8_nodes"]),
        float_nodes=int(report["float_nodes"]),
        file_bytes=file.path.stat().st_size,
    )


def _code_row(row: Mapping[str, Any], file: ArtifactFile) -> CodeRow:
    isa = instruction_set_of(row)
    return CodeRow(
        instruction_set=isa.name,
        runs=can_run(isa),
        shapes=tuple(tuple(shape) for shape in row["shapes"]),
        values=tuple((str(name), int(value)) for name, value in row.get("values", ())),
        object_bytes=file.size(row["object"]),
        weight_bytes=file.size(row["weights"]),
        arena_bytes=int(row["arena_bytes"]),
        regions=len(row["regions"]),
    )
