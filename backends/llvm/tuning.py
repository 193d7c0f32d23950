"""Schedules that are measured, not modelled: the fastest of a few for each distinct kernel.

Every schedule computes the same bytes, so the winner may depend on the machine's mood without
harm.  Winners are kept in a file by instruction set, CPU, compiler and kernel.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from qcc import __version__
from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import InstructionSet, can_run
from qcc.backends.llvm.kernels import READ_SLACK, Packed
from qcc.backends.llvm.kernels.conv import ConvKernel
from qcc.backends.llvm.kernels.conv_plan import ConvPlan
from qcc.backends.llvm.kernels.winograd import WinogradKernel
from qcc.backends.llvm.schedule import GemmSchedule
from qcc.errors import ConfigError, OutputError
from qcc.files import atomic_file

ROUNDS = 5
"""How often all candidates are measured in turns; the least time of each counts."""

TURN_SECONDS = 0.002
"""How long a candidate runs in one turn."""

WORTHWHILE = 0.98
"""A candidate replaces the cost model's choice where it takes at most this share of its time."""


def default_cache() -> Path:
    """``QCC_CACHE``, else ``qcc`` in the user's folder of caches; the file of schedules in it."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("QCC_CACHE") or Path(base) / "qcc") / "schedules.json"


Form: TypeAlias = "ConvKernel | WinogradKernel"
"""A kernel that can be measured."""

Pack: TypeAlias = Callable[[Any], Packed]


class Chooser(Protocol):
    """What may choose the schedule of a kernel."""

    def choose(
        self, kernel: ConvKernel, pack: Pack, transformed: WinogradKernel | None = None
    ) -> Form:
        """``kernel`` with its schedule, or ``transformed``; ``pack`` gives a form's constants."""
        ...


@dataclass
class Tuner:
    """Measures for at most ``seconds`` in all; what is known costs nothing.

    Raises ConfigError for an instruction set that this CPU does not run.
    """

    isa: InstructionSet
    seconds: float
    cache: Path = field(default_factory=default_cache)
    measured: int = 0
    known: int = 0
    skipped: int = 0

    def __post_init__(self) -> None:
        """Read what is known."""
        if self.isa.emulated or not can_run(self.isa):
            raise ConfigError(
                f"kernels for {self.isa.name} cannot be measured on this CPU: compile without "
                "tuning, or on a machine that runs them"
            )
        self._spent = 0.0
        self._found: dict[str, list[int]] = {}
        self._cached = _read(self.cache)
        self._machine = f"{self.isa.name} {machine.compiler_identity()} qcc {__version__}"

    def choose(
        self, kernel: ConvKernel, pack: Pack, transformed: WinogradKernel | None = None
    ) -> Form:
        """``kernel`` with the fastest schedule: known, or measured while there is time.

        ``transformed`` is the same convolution in Winograd's domain where that is possible.
        """
        key = self._key(kernel)
        stored = self._found.get(key, self._cached.get(key))
        if stored is not None and (stored or transformed is not None):
            self.known += 1
            if not stored and transformed is not None:
                return transformed
            return replace(kernel, schedule=GemmSchedule(*stored))
        preferred = transformed is not None and transformed.gains(self.isa)
        if self._spent >= self.seconds:
            self.skipped += 1
            return transformed if preferred and transformed is not None else kernel
        start = time.perf_counter()
        best = self._fastest(kernel, pack, transformed, preferred)
        self._found[key] = [] if best is transformed else list(astuple(_schedule(best)))
        self.measured += 1
        self._spent += time.perf_counter() - start
        return best

    def save(self) -> None:
        """Add what was found to the cache; a cache that cannot be written is left alone."""
        if not self._found:
            return
        try:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.cache, "w") as file:
                json.dump({**_read(self.cache), **self._found}, file, indent=0, sort_keys=True)
        except (OSError, OutputError):
            return

    @property
    def note(self) -> str:
        """What was done, in a sentence."""
        parts = [f"{self.measured} kernels were measured in {self._spent:.1f} s"]
        parts += [f"{self.known} were known"] if self.known else []
        parts += [f"{self.skipped} had no time left"] if self.skipped else []
        return "tuning: " + ", ".join(parts)

    def _key(self, kernel: ConvKernel) -> str:
        text = f"{self._machine} {replace(kernel, schedule=None)!r}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def _fastest(
        self, kernel: ConvKernel, pack: Pack, transformed: WinogradKernel | None, preferred: bool
    ) -> Form:
        schedules = ConvPlan.of(kernel, self.isa).alternatives()
        forms: list[Form] = [replace(kernel, schedule=schedule) for schedule in schedules]
        if transformed is not None:
            forms.insert(0 if preferred else 1, transformed)
        if len(forms) == 1:
            return forms[0]
        runs = [_Run(form, self.isa, pack(form)) for form in forms]
        least = np.full(len(runs), np.inf)
        for _ in range(ROUNDS):
            for place, run in enumerate(runs):
                least[place] = min(least[place], run.seconds())
        place = int(np.argmin(least))
        return forms[place if least[place] <= WORTHWHILE * least[0] else 0]


def _schedule(form: Form) -> GemmSchedule:
    assert isinstance(form, ConvKernel)
    assert form.schedule is not None
    return form.schedule


class _Run:
    """A compiled kernel with memory of its own."""

    def __init__(self, kernel: Form, isa: InstructionSet, packed: Packed) -> None:
        module = ir.Module("tuning")
        kernel.emit(module, isa, "kernel")
        compiled = machine.compile_module(module, isa)
        self._code = machine.load_object(compiled.object_code)
        random = np.random.default_rng(0)
        size = kernel.epilogue.element_bytes
        sizes = {"input": kernel.input.size_bytes, "output": size * kernel.output.size_bytes}
        if kernel.epilogue.residual is not None:
            sizes["residual"] = kernel.epilogue.residual.size_bytes
        self._buffers = {name: _aligned(data) for name, data in packed.items()}
        for name, count in sizes.items():
            self._buffers[name] = _aligned(random.integers(0, 256, count, np.uint8))
        self._pointers = [self._buffers[name].ctypes.data for name in kernel.operands]
        types = [ctypes.c_void_p] * len(self._pointers) + [ctypes.c_int] * 2
        self._function = ctypes.CFUNCTYPE(None, *types)(self._code.address("kernel"))

    def seconds(self) -> float:
        """The least time of one call, of those that fit into a turn."""
        best, end = float("inf"), time.perf_counter() + TURN_SECONDS
        while True:
            start = time.perf_counter()
            self._function(*self._pointers, 0, 1)
            now = time.perf_counter()
            best = min(best, now - start)
            if now >= end:
                return best


def _aligned(data: NDArray[Any]) -> NDArray[np.uint8]:
    """A copy at a 64-byte boundary, with the slack that kernels may read."""
    raw = np.zeros(data.nbytes + 64 + READ_SLACK, np.uint8)
    start = -raw.ctypes.data % 64
    view = raw[start : start + data.nbytes]
    view[:] = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return view


def _read(path: Path) -> dict[str, list[int]]:
    """What a cache holds: schedules, or nothing for a kernel that is better off in Winograd's
    domain.  It is empty where it is absent or damaged."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    fields = len(GemmSchedule.__dataclass_fields__)
    return {
        str(key): [int(number) for number in value]
        for key, value in (data.items() if isinstance(data, dict) else ())
        if isinstance(value, list)
        and len(value) in (0, fields)
        and all(isinstance(number, int) and number > 0 for number in value)
    }
