"""A compiled model as something to call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from qcc.backends.llvm.isa import best_for_host, can_run, instruction_set
from qcc.backends.llvm.model import CompiledModel, TensorSpec
from qcc.errors import ConfigError, DataError
from qcc.ir.core import Array, Graph
from qcc.quant.report import CompileReport
from qcc.runtime.program import Program

if TYPE_CHECKING:
    from qcc.runtime.profile import Profile

Shapes: TypeAlias = "tuple[tuple[int, ...], ...]"
Values: TypeAlias = "tuple[tuple[str, int], ...]"
Compile: TypeAlias = "Callable[[Mapping[str, tuple[int, ...]]], CompiledModel]"
"""Compiles the model for concrete input shapes."""


@dataclass(frozen=True)
class Variant:
    """Code for one instruction set and, where shapes are symbolic, one set of input shapes.

    ``values`` are names and values of inputs that choose branches: the code is right for these
    values only.  Without any it is right for all.
    """

    shapes: Shapes
    model: CompiledModel
    values: Values = ()


class Executable:
    """Runs a compiled model on numpy arrays; several threads may call it at the same time.

    ``executable(x)`` takes the inputs in order (or by keyword) and gives the output, or a tuple of
    outputs; ``executable.run({"x": x})`` works with names.  A model with symbolic dimensions is
    compiled when it first meets a set of input shapes, and remembered.
    """

    engine = "qcc"

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        variants: Sequence[Variant],
        report: CompileReport,
        *,
        target: str = "",
        threads: int = 1,
        compile_for: Compile | None = None,
        graph: Graph | None = None,
        graph_text: bytes | None = None,
        floats: bool = False,
        other_variants: Callable[[], Sequence[Variant]] = tuple,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.report = report
        self.target = target
        self.threads = threads
        self.graph = graph
        self.graph_text = graph_text
        """The quantized graph as an artifact held it (``.qir``), or None."""
        self.floats = floats
        """Whether a graph without integers is compiled, too."""
        self.other_variants = other_variants
        """Reads the code for other CPUs that an artifact held, so that saving keeps it."""
        self._names = tuple(spec.name for spec in self.inputs)
        self._output_names = tuple(spec.name for spec in self.outputs)
        self._ready = tuple((spec.name, _dtype(spec), spec.shape) for spec in self.inputs)
        self._variants = list(variants)
        self._fixed = {variant.values for variant in variants if variant.values}
        chosen = {name for values in self._fixed for name, _ in values}
        self._steering = tuple(i for i, name in enumerate(self._names) if name in chosen)
        self._programs: dict[tuple[Shapes, Values], Program] = {}
        self._sole: Program | None = None
        """The program of all calls, once it is loaded, where there can be but one."""
        self._compile_for = compile_for
        self._lock = threading.Lock()

    # -- describing -------------------------------------------------------------------------------

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return self._names

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return self._output_names

    @property
    def input_types(self) -> dict[str, tuple[str, tuple[int | str | None, ...]]]:
        """numpy dtype name and shape of each input; None is a free dimension."""
        return {spec.name: (spec.dtype, tuple(spec.shape or ())) for spec in self.inputs}

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The code that exists so far."""
        return tuple(self._variants)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the instruction sets that the model is compiled for, the best first."""
        return tuple(name for name in self.target.split(",") if name)

    @property
    def running(self) -> str:
        """Name of the instruction set whose code runs on this machine; empty where none does."""
        sets = [variant.model.isa for variant in self._variants]
        best = best_for_host(sets or map(instruction_set, self.targets))
        return "" if best is None else best.name

    @property
    def has_free_dimensions(self) -> bool:
        """Whether some input dimension is not fixed."""
        return any(spec.shape is None or None in spec.shape for spec in self.inputs)

    def __repr__(self) -> str:
        def side(specs: Sequence[TensorSpec]) -> str:
            return ", ".join(f"{s.name}: {s.dtype}{list(s.shape or ())}" for s in specs)

        return f"<Executable {self.target} ({side(self.inputs)}) -> ({side(self.outputs)})>"

    # -- running ----------------------------------------------------------------------------------

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """All outputs by name.  Raises :class:`DataError` where an input does not fit."""
        arrays = self._checked(feeds)
        results = (self._sole or self._program(arrays)).run(arrays)
        return dict(zip(self._output_names, results, strict=True))

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """The output for inputs in order or by keyword; a tuple where there are several outputs."""
        if len(arrays) > len(self.inputs):
            raise DataError(f"The model has {len(self.inputs)} inputs, not {len(arrays)}.")
        feeds = dict(zip(self.input_names, arrays, strict=False))
        twice = [name for name in named if name in feeds]
        if twice:
            raise DataError(f"Input {twice[0]!r} is given twice; give it once.")
        outputs = tuple(self.run({**feeds, **named}).values())
        return outputs[0] if len(outputs) == 1 else outputs

    def profile(self, feeds: Mapping[str, Any], runs: int = 20) -> Profile:
        """Where the time of :meth:`run` goes, kernel by kernel, on one thread.

        Medians of ``runs`` calls.  Raises :class:`DataError` where an input does not fit.
        """
        from qcc.runtime.profile import profile_program

        arrays = self._checked(feeds)
        return profile_program(self._program(arrays), arrays, runs)

    def save(self, path: Path | str, *, weights_file: bool = False) -> None:
        """Write a ``.qcc`` artifact (atomically); see :mod:`qcc.runtime.artifact`.

        A path that ends in ``.o``, ``.so`` or ``.a`` becomes object code with a C interface, beside
        which a header and an example are written (:mod:`qcc.runtime.object_files`);
        ``weights_file`` keeps its weights in a file of their own.  Raises OutputError where a file
        cannot be written, ConfigError where the model has no such form.
        """
        from qcc.runtime.artifact import save
        from qcc.runtime.object_files import OBJECT_SUFFIXES, save_object

        if Path(path).suffix in OBJECT_SUFFIXES:
            save_object(self, path, weights_file)
            return
        if weights_file:
            raise ConfigError(
                f"only {' '.join(OBJECT_SUFFIXES)} have a separate file of weights, not {path}"
            )
        save(self, path)

    def close(self) -> None:
        """Let worker threads return; the executable may still be called."""
        with self._lock:
            programs, self._programs = list(self._programs.values()), {}
            self._sole = None
        for program in programs:
            program.close()

    # -- inside -----------------------------------------------------------------------------------

    def _checked(self, feeds: Mapping[str, Any]) -> list[Array]:
        # What most calls give can be read as it is; anything else takes the long way.
        fitting: list[Array] = []
        for name, dtype, shape in self._ready:
            array = feeds.get(name)
            if (
                type(array) is not np.ndarray
                or array.dtype is not dtype
                or not array.flags.c_contiguous
                or (array.shape != shape and not _suits(array.shape, shape))
            ):
                break
            fitting.append(array)
        if len(fitting) == len(self._ready) == len(feeds):
            return fitting
        names = self.input_names
        unknown = [name for name in feeds if name not in names]
        absent = [name for name in names if name not in feeds]
        if unknown or absent:
            parts = [f"unknown input {', '.join(map(repr, unknown))}"] if unknown else []
            parts += [f"missing input {', '.join(map(repr, absent))}"] if absent else []
            raise DataError(f"{'; '.join(parts)}: the model's inputs are {', '.join(names)}.")
        return [check_array(spec, feeds[spec.name]) for spec in self.inputs]

    def _program(self, arrays: Sequence[Array]) -> Program:
        key = tuple(array.shape for array in arrays), self._values(arrays)
        known = self._programs.get(key)
        if known is not None:
            return known
        with self._lock:
            found = self._programs.get(key)
            if found is None:
                found = Program(self._variant(*key).model, self.threads)
                self._programs[key] = found
            if not self._steering and not self.has_free_dimensions:
                self._sole = found
            return found

    def _values(self, arrays: Sequence[Array]) -> Values:
        """Those of the inputs that choose branches, where there is code for them."""
        if not self._steering:
            return ()
        values = tuple((self._names[i], int(arrays[i].item())) for i in self._steering)
        return values if values in self._fixed else ()

    def _variant(self, shapes: Shapes, values: Values) -> Variant:
        fitting = [
            variant
            for wanted in ((values, ()) if values else ((),))
            for variant in self._variants
            if variant.values == wanted
            and (variant.shapes == shapes or not self.has_free_dimensions)
        ]
        if fitting:
            return next((v for v in fitting if can_run(v.model.isa)), fitting[0])
        if self._compile_for is None:
            known = "; ".join(str([list(s) for s in v.shapes]) for v in self._variants)
            raise DataError(
                f"There is no code for the input shapes {[list(s) for s in shapes]}; "
                f"this artifact was compiled for {known or 'none'}."
            )
        model = self._compile_for(dict(zip(self.input_names, shapes, strict=True)))
        variant = Variant(shapes, model)
        self._variants.append(variant)
        return variant


def _dtype(spec: TensorSpec) -> np.dtype[Any] | None:
    """numpy's own object for a dtype, which arrays share; None where numpy has none."""
    try:
        return np.dtype(spec.dtype)
    except TypeError:
        return None


def _suits(have: tuple[int, ...], wanted: tuple[int | None, ...] | None) -> bool:
    if wanted is None or len(have) != len(wanted):
        return False
    return all(want is None or want == size for want, size in zip(wanted, have, strict=True))


def check_array(spec: TensorSpec, data: Any) -> Array:
    """``data`` as the contiguous array that native code reads; DataError where it does not fit."""
    array = np.asarray(data)
    if str(array.dtype) != spec.dtype:
        raise DataError(
            f"Input '{spec.name}' must be {spec.dtype}, not {array.dtype}; convert it with "
            f".astype('{spec.dtype}')."
        )
    if spec.shape is not None:
        fits = len(spec.shape) == array.ndim and all(
            want in (None, have) for want, have in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("?" if d is None else str(d) for d in spec.shape)
            raise DataError(
                f"Input '{spec.name}' must have the shape [{wanted}], not {list(array.shape)}."
            )
    # Not ascontiguousarray, which makes a scalar a vector of one.
    return np.asarray(array, order="C")
